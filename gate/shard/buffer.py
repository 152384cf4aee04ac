"""Buffers of what was fetched and is not decided yet, in packed form until it is taken, within bounds of memory."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final, Protocol

from gate.shard.records import Fetched, Partition, Record, Sliced, UnpackingCost

_HEADERS: Final = attrgetter("headers")


@dataclass(slots=True)
class MemoryPool:
    """How much all buffers of a gate may hold together, bytes. Each may hold `least` of it whatever the others do."""

    limit: int
    least: int
    size: int = 0


HEADER_WEIGHT: Final = 100  # bytes of memory that a header takes, which may be two on the wire
ANY_SIZE: Final = 1 << 62
SMALL_PACK: Final = 4 << 10  # bytes that can't become much
MOST_WEIGHT: Final = 2 << 20  # that is taken at a time
OWN_PART: Final = 4  # of the room is any topic's own while what waits for long takes the rest
MOST_IDLE: Final = 2  # times the pool, for all that waits


class _FetchRemainder:
    """What is left of a fetch: what is not looked at stays the bytes that it came in."""

    __slots__ = ("_effort", "_is_measured", "_slices", "ahead", "fetched")

    def __init__(self, fetched: Fetched) -> None:
        self.fetched = fetched
        self.ahead: Sequence[Record] = ()  # the next records, if they are known
        records = fetched.records
        self._is_measured = isinstance(records, Sliced)
        self._effort = records.effort if isinstance(records, Sliced) else UnpackingCost()
        self._slices = slices_of(records)

    @property
    def largest(self) -> int:
        """How many bytes no record is larger than of what was taken so far."""
        if self._is_measured:
            return self._effort.largest
        return ANY_SIZE if self.fetched.packed else self.fetched.size

    def take(self, room: int, weight: int) -> tuple[list[Record], int]:
        """Take up to `room` (at least one) records of about `weight` bytes in memory, and return what they weigh.

        `ahead` is empty then if these were the last.
        """
        records: list[Record] = []
        weighs = 0
        packed = self.fetched.packed and not self._is_measured
        while part := self.ahead or next(self._slices, ()):
            left = room - len(records)
            self.ahead = part[left:]
            records += part[:left]
            weighs += weight_of(part[:left], packed=packed) + self._effort.spent
            self._effort.spent = 0
            if weighs >= weight or len(records) >= room:
                break
        self.ahead = self.ahead or next(self._slices, ())
        return records, weighs


def slices_of(records: Iterable[Record]) -> Iterator[Sequence[Record]]:
    """Return records in the slices in which they are taken apart."""
    return records.slices if isinstance(records, Sliced) else ((record,) for record in records)


def weight_of(records: Sequence[Record], *, packed: bool = True) -> int:
    """Return about how many bytes of memory records take; if they are not `packed`, beyond those on the wire."""
    weight = HEADER_WEIGHT * sum(map(len, map(_HEADERS, records)))
    if packed:
        weight += sum([len(record.value or b"") + len(record.key or b"") for record in records])
        weight += sum([len(name) + len(value or b"") for record in records for name, value in record.headers])
    return weight


class Wake(Protocol):
    """Something that wakes its owner."""

    def __call__(self) -> None: ...  # noqa: D102


@dataclass(slots=True)
class FetchBuffer:
    """What has been fetched for a shard and not been decided yet. `wake` is called at each arrival."""

    limit: int  # bytes; full above it
    pool: MemoryPool
    wake: Wake
    waiting: dict[Partition, list[_FetchRemainder]] = field(default_factory=dict)
    size: int = 0
    closed: bool = False
    followed: set[Partition] = field(default_factory=set)
    held: set[Partition] = field(default_factory=set)  # not to be read on: their service holds
    stopped: set[Partition] = field(default_factory=set)  # the same, as where they go takes nothing now
    taken: int = 0  # bytes of memory that what was taken last weighs, beyond what it took on the wire
    largest: int = 0  # bytes that no record is larger than of what was taken last

    def has_work(self) -> bool:
        """Tell whether something waits that may be taken."""
        return any(map(self.may_go, self.waiting))

    def may_go(self, partition: Partition) -> bool:
        """Tell whether requests of a partition may be taken."""
        return partition not in self.held and partition not in self.stopped

    def is_packed(self) -> bool:
        """Tell whether what waits is compressed, and may become any size."""
        return any(
            waiting[0].fetched.packed and waiting[0].fetched.size > SMALL_PACK for waiting in self.waiting.values()
        )

    def put(self, partition: Partition, fetched: Fetched) -> None:
        """Add what was fetched."""
        if not self.closed:
            self.waiting.setdefault(partition, []).append(_FetchRemainder(fetched))
            self._grow(fetched.size)
            self.wake()

    def close(self) -> None:
        """Take nothing more, and hold nothing."""
        self.closed = True
        self.waiting.clear()
        self._grow(-self.size)

    def _grow(self, size: int) -> None:
        self.size += size
        self.pool.size += size

    def bytes_of(self, partition: Partition) -> int:
        """Return how many bytes wait of `partition`."""
        return sum(piece.fetched.size for piece in self.waiting.get(partition, ()))

    def codec(self, partition: Partition) -> int | None:
        """Return how what waits first in `partition` was compressed; None: nothing waits."""
        waiting = self.waiting.get(partition)
        return waiting[0].fetched.codec if waiting else None

    def take(self, partition: Partition, room: int, weight: int = MOST_WEIGHT) -> tuple[list[Record], int] | None:
        """Take up to `room` (at least one) records of `partition`, and the offset behind them. None: nothing waits.

        No more than weigh about `weight` bytes; `taken` tells what they do.
        """
        waiting = self.waiting.get(partition)
        if not waiting:
            return None
        records: list[Record] = []
        self.taken = self.largest = 0
        while waiting and len(records) < room and self.taken < weight:
            first = waiting[0]
            part, weighs = first.take(room - len(records), weight - self.taken)
            records += part
            self.taken += weighs
            self.largest = max(self.largest, first.largest)
            if first.ahead:
                return records, records[-1].offset + 1
            self._grow(-first.fetched.size)
            waiting.pop(0)
            end = first.fetched.next_offset
        if not waiting:
            del self.waiting[partition]
        return records, end

    def drop(self, partition: Partition) -> None:
        """Forget a partition that is not there any more."""
        self.followed.discard(partition)
        self.stopped.discard(partition)
        self.clear(partition)

    def clear(self, partition: Partition) -> None:
        """Hold nothing of a partition."""
        self.held.discard(partition)
        self._grow(-sum(piece.fetched.size for piece in self.waiting.pop(partition, ())))

    def give_back(self, partition: Partition, records: Sequence[Record], next_offset: int, codec: int = 0) -> None:
        """Put records that were taken and can't go yet in front again, and read no further. They may be of any size."""
        self.held.add(partition)
        self.waiting.setdefault(partition, []).insert(
            0, _FetchRemainder(Fetched(records, next_offset, 0, codec, packed=True))
        )

    def wants(self, partition: Partition) -> bool:
        """Tell whether `partition` may be read on.

        What may not go now, perhaps for hours, takes the room of its own topic and not that of others.
        """
        if self.closed or not self.may_go(partition):
            return False
        if self._has_room(self.size):
            return True
        going = self.size - sum(self.bytes_of(other) for other in self.waiting if not self.may_go(other))
        if going == self.size or self.pool.size >= MOST_IDLE * self.pool.limit or not self._has_room(going):
            return False
        own = sum(self.bytes_of(other) for other in self.waiting if other.topic == partition.topic)
        return own < self.limit // OWN_PART

    def _has_room(self, size: int) -> bool:
        return size < self.limit and (size < self.pool.least or self.pool.size < self.pool.limit)
