"""Records and places as they go in and out of a shard: values without behaviour."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, Protocol

Headers = Sequence[tuple[str, bytes | None]]


class Partition(NamedTuple):
    """A partition of a topic."""

    topic: str
    number: int


class Record(Protocol):
    """A record as it was read."""

    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def timestamp(self) -> int: ...  # noqa: D102 - ms; the producer's own in request topics, the time of the decision in others
    @property
    def key(self) -> bytes | None: ...  # noqa: D102
    @property
    def value(self) -> bytes | None: ...  # noqa: D102
    @property
    def headers(self) -> Headers: ...  # noqa: D102


class CommittedOffset(NamedTuple):
    """How far the group has decided a partition."""

    offset: int  # of the next request
    at_ms: int = 0  # by what time the batch was decided, unix ms; 0: it was not committed together with the state


class Outgoing(NamedTuple):
    """A record to be written. `timestamp` in ms; None: now. Who reads it unpacks it, see `Raw`."""

    key: bytes | None
    value: bytes | None
    timestamp: int | None
    headers: list[tuple[str, bytes | None]]


# The same without a name for its parts: half the time to make.
Raw = tuple[bytes | None, bytes | None, int | None, list[tuple[str, bytes | None]]]


@dataclass(slots=True)
class UnpackingCost:
    """What it takes to read records and does not show in the bytes that came, and how large they can be at most."""

    spent: int = 0  # bytes that were unpacked, or left out
    largest: int = 0  # bytes that no record of what was read so far is larger than, as it is written


@dataclass(frozen=True, slots=True)
class Sliced:
    """Records that are taken apart a slice at a time: few together, or a large one alone."""

    slices: Iterator[Sequence[Record]]
    effort: UnpackingCost
    batches: Collection[memoryview] = ()  # that are not come to yet, as they were written

    def __iter__(self) -> Iterator[Record]:
        return chain.from_iterable(self.slices)


@dataclass(frozen=True, slots=True)
class Fetched:
    """Consecutive committed records of one partition; `next_offset` is where reading goes on (gaps are legal).

    The records may be taken apart on the way: go through them once.
    """

    records: Iterable[Record]
    next_offset: int
    size: int  # bytes on the wire
    codec: int = 0  # how the producer compressed it, as in a batch's attributes (0: not at all)
    packed: bool = False  # some of it is compressed, so that its size tells nothing about its records
    cut: bool = False  # it has records of a transaction that ends behind all that is here


@dataclass(frozen=True, slots=True)
class Written:
    """What the broker answered to a produce: the offset of each record, and the log's timestamp (ms, -1: none)."""

    offsets: Sequence[int]
    timestamp: int


class Blocked(NamedTuple):
    """Why something that goes to a shard can't be read now; `wholly`: nothing of it can."""

    why: str
    wholly: bool


@dataclass(frozen=True, slots=True)
class RecoveredState:
    """What an owner finds when it has fenced its predecessor off."""

    state: Mapping[str, bytes]  # newest committed value per key
    marks: Mapping[Partition, CommittedOffset]  # the group's committed offsets; absent: none
