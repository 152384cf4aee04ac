"""The environment of a shard: what it gets from the gate around it, as protocols; tests/sim stands in too."""

from asyncio import Semaphore
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from gate.admission.model import Event, Usage
from gate.policy import ServicePolicy
from gate.protocol.headers import Malformed
from gate.protocol.topics import Names
from gate.shard.buffer import MemoryPool
from gate.shard.feedback_actions import FeedbackResult
from gate.shard.lease_reports import Ignored
from gate.shard.owner_views import Feedback
from gate.shard.ports import Session, Source
from gate.shard.records import CommittedOffset, Fetched, Outgoing, Partition
from gate.shard.stalled_partitions import StalledPartition
from gate.shard.topic_limits import TopicLimits
from gate.shard.traced_decisions import TracedDecision

Lag = tuple[float, str | None]  # seconds, and the recorded trace of the request, if it is part of one


class Observer(Protocol):
    """Who is told what a shard does. Of a batch it hears only after the commit."""

    def lagged(self, service: str, decision: Iterable[Lag], release: Iterable[Lag]) -> None: ...  # noqa: D102
    def refused(self, service: str, requests: Sequence[Malformed]) -> None: ...  # noqa: D102
    def decided(self, traced: Iterator[TracedDecision]) -> None:
        """Take the decisions about requests that are part of a trace; who wants none asks for none."""

    def heard(self, service: str, partition: Partition, followed: FeedbackResult) -> None: ...  # noqa: D102
    def known(self, service: str, policy: ServicePolicy) -> None: ...  # noqa: D102
    def forget(self, service: str) -> None: ...  # noqa: D102
    def committed(self, seconds: float) -> None: ...  # noqa: D102
    def failed(self, shard: int, error: BaseException, failures: int, stuck: float) -> None:
        """Take a failure, the how many-th since requests last advanced there, which is `stuck` seconds ago or more."""

    def advances(self, shard: int) -> None: ...  # noqa: D102
    def waiting(self, shard: int, waiting: Sequence[StalledPartition], source: str = ...) -> None: ...  # noqa: D102
    def clock(self, skew: float, error: float) -> None: ...  # noqa: D102
    def encode_event(self, event: Event) -> Outgoing: ...  # noqa: D102
    def encode_away(self, service: str, let_go: int, refused: int, at: int) -> Outgoing:
        """Return the alert of what processes did without an owner; `at` in ns."""

    def went_alone(self, service: str, let_go: int, refused: int) -> None: ...  # noqa: D102
    def unheard(self, shard: int, ignored: Sequence[Ignored]) -> None: ...  # noqa: D102
    def usage(self, usage: Usage, shard: int) -> Outgoing: ...  # noqa: D102


class Environment(Protocol):
    """What a shard gets from the gate around it: ways to Kafka, time, and the word that it still is the owner."""

    @property
    def names(self) -> Names: ...  # noqa: D102
    @property
    def source(self) -> Source: ...  # noqa: D102
    @property
    def hearing(self) -> Source:
        """Where feedback is read: apart, as it is rare, and requests are asked for all the time."""

    @property
    def observer(self) -> Observer: ...  # noqa: D102
    @property
    def pool(self) -> MemoryPool: ...  # noqa: D102
    @property
    def limits(self) -> TopicLimits: ...  # noqa: D102
    @property
    def large(self) -> Semaphore:
        """How many large batches may be under way: each takes ten times the memory of what was fetched for it."""

    @property
    def feedback(self) -> Feedback: ...  # noqa: D102
    @property
    def shards(self) -> int: ...  # noqa: D102
    @property
    def grants(self) -> int:
        """How many partitions the topic of grants has."""

    @property
    def lease_ns(self) -> int:
        """For how long processes hold parts of limits: longer than it takes until a shard has another owner."""

    def new_session(self, shard: int) -> Session: ...  # noqa: D102
    def local(self) -> int:
        """Return a monotonic time, ns."""

    def wall(self) -> int:
        """Return this host's idea of unix time, ns. For telling how wrong it is, nothing else."""

    def closed(self) -> None:
        """Hear that the state of a shard is closed: it is being moved to another generation."""

    def resharding(self) -> str | None:
        """Return how far somebody has come who moves the state; None: nobody does so now."""

    def give_way(self) -> None:
        """Raise GateError while the state is being moved: a take-over would fence off who moves it."""

    async def confirm(self, shard: int) -> None:
        """Return when the group's coordinator says that this member owns the shard; raise if it does not."""

    async def committed(self, partitions: Sequence[Partition]) -> Mapping[Partition, CommittedOffset]:
        """Return the group's committed offsets."""

    async def prepare(self, services: Collection[str]) -> None:
        """Make sure that the services' output topics are there; raise GateError that says which is missing."""

    async def retries(self, services: Collection[str]) -> Mapping[str, int]:
        """Return how many partitions the services' retries topics have, of those that have one."""

    async def widen(self, service: str, partitions: int) -> int:
        """See to it that a retries topic has so many partitions; return how many it has, which may be fewer.

        Raises GateError where it may not, UnavailableError or TimeoutError where it can't now.
        """

    async def extents(self, topic: str, since_ms: int) -> dict[int, tuple[int, int]]:
        """Return, by partition of any topic, the first offset since a time (0: of all), and its committed end.

        Raises GateError where there is none, or it may not be read; UnavailableError or TimeoutError where not now.
        """

    async def scan(self, partition: Partition, offset: int) -> Fetched:
        """Return committed records from an offset on, some of them at least. Raises as `extents`."""

    async def handed_over(self, partitions: Sequence[Partition]) -> Mapping[Partition, CommittedOffset]:
        """Return where to begin in partitions of retries topics of which the state knows nothing."""
