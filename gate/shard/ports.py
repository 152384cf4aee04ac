"""Ports of a shard: what it needs of the outside, as narrow protocols.

Real Kafka stands behind them in `gate run`; an in-memory log with a simulated clock and injected faults in the tests.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

from gate.shard.buffer import FetchBuffer
from gate.shard.records import Blocked, CommittedOffset, Outgoing, Partition, Raw, Record, RecoveredState, Written

MOST_READ: Final = 32 << 20  # bytes of records that are read for one batch
# A log that ends before a parked request has lost it, or is a leader's that was paused while another one went on
SETTLED: Final = 8.0


class PulledTooMuchError(Exception):
    """Parked requests that leave at once are larger together than is kept in memory: `count` of one partition."""

    def __init__(self, services: Sequence[str], count: int) -> None:
        super().__init__(f"{count} parked requests are too large to leave at once; fewer are tried")
        self.services = services
        self.count = count


class Session(Protocol):
    """The right to write for a shard: one transactional producer, good until its first error.

    Every method raises on failure, within its deadline; the session must then be discarded.
    """

    @property
    def atomic(self) -> bool:
        """Tell whether a batch is visible as a whole or not at all; else each write is visible at once."""

    @property
    def unfinished(self) -> bool:
        """Tell whether a batch was begun whose end is not known; readers of what is committed may wait for it."""

    @property
    def settling(self) -> float:
        """For how many seconds yet a next batch would be told to wait, as the last one is being ended."""

    @property
    def awaits(self) -> str | None:
        """Which broker has not answered which request for long; None: nothing is waited for."""

    @property
    def spent(self) -> str | None:
        """Why no further batch may be begun, although all is well so far; None: it may.

        What was sent twice, as its connection broke, may arrive once more, and would be taken for the next batch's.
        """

    async def fence(self) -> None:
        """Fence every earlier owner off, and end what it has left open."""

    async def claim(self, partitions: Sequence[Partition]) -> RecoveredState:
        """Fence, then read what the earlier owner has committed: its state, and the offsets of `partitions`."""

    def compress(self, codecs: Mapping[str, int]) -> None:
        """Compress what goes to these topics by these codecs from now on, if it is to be kept as it comes."""

    def scatter(self, topics: Collection[str]) -> None:
        """Write what goes to these topics in small batches from now on: it is read one by one later, in no order."""

    def weigh(self, topic: str, record: Outgoing | Raw, codec: int) -> int:
        """Return how many bytes a batch of this record alone has in a topic; `codec`: how it came."""

    def begin(self) -> None:
        """Start a batch."""

    async def produce(
        self,
        outputs: Mapping[Partition, Sequence[Outgoing | Raw]],
        marks: Mapping[Partition, CommittedOffset] | None = None,
    ) -> Mapping[Partition, Written]:
        """Write records, and the group's offsets with them; returns when the broker has it all.

        Raises `refusals.OutputError` where it does not take what goes to one of the partitions.
        """

    async def commit(self) -> None:
        """Make all of the batch visible, or nothing."""

    async def is_settled(self) -> bool:
        """Tell whether all that was committed is there for all to read; called between batches.

        Where it is not, a broker has left a batch half-done, and a further one would end it, one way or the other.
        """

    async def discard(self) -> None:
        """Give up without a trace; never raises."""


class UnavailableError(Exception):
    """What is to be had from Kafka can't be had now, and may be later."""


class Source(Protocol):
    """Where a shard reads."""

    def blocked(self, buffer: FetchBuffer) -> Blocked | None:
        """Return why some of what goes into a buffer is not read for longer than a moment; None: all of it is."""

    def follow(self, partition: Partition, offset: int | None, buffer: "FetchBuffer") -> None:
        """Read `partition` from `offset` on (None: its beginning) into `buffer`, until it is full."""

    def unfollow(self, buffer: "FetchBuffer") -> None:
        """Stop everything that reads into `buffer`."""

    def drop(self, partition: Partition) -> None:
        """Stop reading `partition`: its topic is gone."""

    def poke(self) -> None:
        """Look again: a buffer has room."""

    async def read(self, partition: Partition, offsets: Sequence[int]) -> Sequence[Record]:
        """Return the records at `offsets` (ascending), without those that are proven to be gone.

        Raises TimeoutError where that can't be told.
        """

    def prefetch(self, partition: Partition, offsets: Sequence[int]) -> None:
        """Have those that `read` is soon to be asked for at hand, the first first, as far as there is room for them.

        It is of no consequence where they are not read after all, or can't be: that is told by `read`.
        """

    async def look(self, partition: Partition, offset: int) -> Record | None:
        """Return the committed record at an offset that somebody has named; None: there is none, or no more.

        Raises UnavailableError, or TimeoutError, where that can't be told now.
        """

    def unreadable(self, buffer: "FetchBuffer") -> Mapping[Partition, str]:
        """Return what can't be read into a buffer for some time now, and why."""
