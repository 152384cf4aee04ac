"""Snapshots of a shard for what watches it, and what those who watch tell it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from gate.protocol import control
from gate.shard.records import Partition
from gate.units import Ms


class OwnedService(NamedTuple):
    """A service, and how far its owner has decided its request partitions; None: the owner does not know."""

    shard: int
    service: str
    positions: Mapping[Partition, int | None]


class Parking(NamedTuple):
    """What a shard takes for parked."""

    shard: int
    session: int  # another one after each take-over
    lowest: Mapping[Partition, int]  # the oldest parked offset of each partition
    missed: frozenset[Partition]  # from which a request was gone when its turn came


class RetainedOffsets(NamedTuple):
    """What of a shard still waits, as of a commit."""

    now_ns: int  # by which it was decided: the broker's time, by which what waits is dated as well
    since_ns: int  # from when on the state knows: what was parked before was forgotten, and may be wanted by somebody
    floors: Mapping[Partition, int | None]  # the oldest offset that waits; None: nothing does. Others are not known


class Watched(NamedTuple):
    """A service whose workers are watched, and how many requests its owner has admitted so far."""

    service: str
    worker_group: str
    partitions: tuple[Partition, ...]  # of the admitted topic
    admitted: int
    counted_by: object = None  # who counts these: each take-over begins anew


class Lag(NamedTuple):
    """How many admitted requests wait for a worker, measured when the owner had admitted so many."""

    requests: int
    admitted: int
    counted_by: object = None  # see `Watched`: says nothing to who counts from another beginning


class Received(NamedTuple):
    """A command and its place in the control topic."""

    offset: int
    service: str
    command: control.Command
    by_operator: bool = True
    id: str = ""  # by which the command is told from all others
    who: str = ""  # commands, as he says
    reason: str = ""
    at: Ms = 0  # timestamp of the record; 0: not known


class Feedback(Protocol):
    """What comes back to a shard: commands of operators, and how far workers are behind."""

    @property
    def lags(self) -> Mapping[str, Lag]:
        """Per service, if its workers are watched."""

    def since(self, offset: int) -> Sequence[Received]:
        """Return the commands from `offset` of the control topic on, oldest first."""

    async def measure(self, services: Iterable[Watched]) -> bool:
        """Ask how far the workers of services are behind; return whether anything has changed."""
