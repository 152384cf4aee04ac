"""Places of parked requests: where in the delayed topic each one waits, in a few bytes.

A segment is one state record: up to 256 entries of one partition, each a run of consecutive offsets whose requests are
alike. Its columns are typed arrays, which are also what is written. A queue refers to its entries by number.
"""

import heapq
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from gate.admission.queues.queue import Queue
from gate.admission.queues.segment import COUNT_MAX, NO_DEADLINE, Segment
from gate.admission.state import VERSION, SegmentRecord, encode

LATE: Final = "late-"  # in the key of a late segment
ENTRIES: Final = 256  # of a segment: what is rewritten when one of its requests leaves
COST_MAX: Final = 2**62  # no limit is so high; keeps hostile costs inside the columns
_BELOW: Final = 2**31  # that offsets may lie before the first of a late segment
_DELTA_MAX: Final = 2**32 - 1
_NAMES_MAX: Final = 2**16  # characters of the names in a segment: a record must fit into a message


class ParkedPlaces:
    """All places of one service, first in first out in each queue."""

    def __init__(self, service: str) -> None:
        self.requests = 0
        self._prefix = f"parked/{service}/"
        self._segments: dict[int, Segment] = {}  # by number
        self._partitions: dict[int, deque[int]] = {}  # numbers, oldest offsets first; by `Segment.room`
        self._open: dict[int, dict[Queue, int]] = {}  # owners of the last segment of each, by `Segment.room`
        self._lows: dict[int, list[tuple[int, int]]] = {}  # of late ones, by partition: heap of (offset, number)
        self._late = 0  # the newest late segment
        self._deadlines: list[tuple[int, int]] = []  # heap of (earliest deadline, number): never late, may be stale
        self._numbers = 0
        self._changed: set[int] = set()
        self._gone: list[str] = []

    def add(
        self,
        queue: Queue,
        partition: int,
        offset: int,
        seq: int,
        count: int,
        cost: int,
        deadline: int,
        *,
        late: bool = False,
    ) -> None:
        """Append `count` consecutive places to a queue; deadline in ms.

        In a partition, offsets only grow, but for those who are `late`: they come to wait later than they came.
        """
        cost = min(cost, COST_MAX)
        self.requests += count
        while count:
            taken = min(count, COUNT_MAX)
            number = self._last_late(partition, offset, seq) if late else self._last(queue, partition, offset, seq)
            segment = self._segments[number]
            segment.live += taken
            self._changed.add(number)
            if segment.continues(queue, offset, seq, taken, cost, deadline):
                segment.counts[-1] += taken
            else:
                owner = self._own(segment, queue)
                queue.refs.append(number << 8 | segment.append(owner, offset, seq, taken, cost, deadline))
                self._watch(number, segment, deadline)
            offset, seq, count = offset + taken, seq + taken, count - taken

    def head(self, queue: Queue) -> tuple[int, int]:
        """Return count and cost of the oldest entry of a queue; a count of 0 where nothing is parked."""
        refs = queue.refs
        while queue.head < len(refs):
            ref = refs[queue.head]
            segment = self._segments.get(ref >> 8)
            if segment is not None:
                index = ref & 255
                count = segment.counts[index]
                if count:
                    return count, 1 if segment.costs is None else segment.costs[index]
            queue.head += 1
        if refs:
            queue.refs = array("Q")
            queue.head = 0
        return 0, 0

    def newest_cost(self, queue: Queue) -> int:
        """Return the cost of the newest request of a queue; 1 where none is known."""
        for ref in reversed(queue.refs):
            segment = self._segments.get(ref >> 8)
            if segment is not None and segment.counts[ref & 255]:
                return segment.cost(ref & 255)
        return 1

    def take(self, queue: Queue, count: int) -> tuple[int, int]:
        """Let the first `count` requests of the entry at the head go, and return partition and offset of the first."""
        ref = queue.refs[queue.head]
        segment = self._segments[ref >> 8]
        index = ref & 255
        place = segment.partition, segment.base + segment.offsets[index]
        segment.offsets[index] += count
        segment.seqs[index] += count
        self._leave(ref >> 8, segment, index, count)
        if not segment.counts[index]:
            queue.head += 1
            if queue.head > 1024 and queue.head * 2 > len(queue.refs):
                del queue.refs[: queue.head]
                queue.head = 0
        return place

    def entries(self, queue: Queue) -> Iterator[tuple[int, int, int]]:
        """Yield count, cost and deadline of what is parked in a queue, oldest first."""
        for ref in queue.refs[queue.head :]:
            segment = self._segments.get(ref >> 8)
            if segment is not None and segment.counts[ref & 255]:
                index = ref & 255
                yield segment.counts[index], segment.cost(index), segment.deadline(index)

    def expire(self, now: int) -> Iterator[tuple[Queue, int, int, int, int]]:
        """Remove what has a deadline before `now`, in ms; yield queue, partition, offset, count, cost of each entry."""
        while (due := self.next_deadline()) is not None and due < now:
            number = self._deadlines[0][1]
            segment = self._segments[number]
            for index, count in enumerate(segment.counts):
                if count and segment.deadline(index) < now:
                    yield (
                        segment.queues[segment.owners[index]],
                        segment.partition,
                        segment.base + segment.offsets[index],
                        count,
                        segment.cost(index),
                    )
                    self._leave(number, segment, index, count)

    def remove(self, unwanted: Callable[[Queue, int], bool]) -> Iterator[tuple[Queue, int, int, int, int]]:
        """Remove the entries of which `unwanted` says so, given queue and cost; yields what `expire` does."""
        for number, segment in list(self._segments.items()):
            for index, count in enumerate(segment.counts):
                queue, cost = segment.queues[segment.owners[index]], segment.cost(index)
                if count and unwanted(queue, cost):
                    yield queue, segment.partition, segment.base + segment.offsets[index], count, cost
                    self._leave(number, segment, index, count)

    def drop_below(self, partition: int, end: int) -> Iterator[tuple[Queue, int, int, int, int]]:
        """Remove what lies in a partition below `end`; yields what `expire` does."""
        for number in [*self._partitions.get(partition, ()), *self._partitions.get(~partition, ())]:
            segment = self._segments.get(number)
            if segment is None or segment.base >= end:
                continue
            for index, count in enumerate(segment.counts):
                first = segment.base + segment.offsets[index]
                below = min(count, end - first)
                if below > 0:
                    segment.offsets[index] += below
                    segment.seqs[index] += below
                    yield segment.queues[segment.owners[index]], partition, first, below, segment.cost(index)
                    self._leave(number, segment, index, below)

    def next_deadline(self) -> int | None:
        """Return the earliest deadline of all that is parked, in ms; None: none has one."""
        heap = self._deadlines
        while heap:
            due, number = heap[0]
            segment = self._segments.get(number)
            if segment is None or segment.due != due:
                heapq.heappop(heap)
                continue
            segment.due = segment.earliest()
            if segment.due == due:
                return due
            heapq.heappop(heap)
            if segment.due != NO_DEADLINE:
                heapq.heappush(heap, (segment.due, number))
        return None

    @property
    def partitions(self) -> list[int]:
        """The partitions in which something is parked, or was."""
        return list(dict.fromkeys(max(room, ~room) for room in self._partitions))

    def low_watermark(self, partition: int) -> int | None:
        """Return the lowest offset of a partition that is still parked; None: nothing is."""
        numbers = self._partitions.get(partition)
        while numbers:
            segment = self._segments.get(numbers[0])
            if segment is not None:
                late = self._lowest_late(partition)
                return segment.oldest() if late is None else min(segment.oldest(), late)
            numbers.popleft()
        return self._lowest_late(partition)

    def _lowest_late(self, partition: int) -> int | None:
        lows = self._lows.get(partition)
        while lows:
            low, number = lows[0]
            segment = self._segments.get(number)
            if segment is None:
                heapq.heappop(lows)
            elif (lowest := segment.lowest()) == low:
                return low
            else:
                heapq.heapreplace(lows, (lowest, number))
        return None

    def move(self, source: Queue, target: Queue) -> None:
        """Put what waits in one queue into another, in the order of arrival."""
        refs = [ref for queue in (target, source) for ref in queue.refs[queue.head :] if ref >> 8 in self._segments]
        refs.sort(key=lambda ref: self._segments[ref >> 8].seq(ref & 255))
        for number in {ref >> 8 for ref in source.refs[source.head :]} & self._segments.keys():
            segment = self._segments[number]
            segment.queues = [target if queue is source else queue for queue in segment.queues]
            self._changed.add(number)
        target.refs, target.head = array("Q", refs), 0
        source.refs, source.head = array("Q"), 0
        self._open.clear()  # their owners may be named twice now: the next request begins a new segment

    def drain_changes(self, version: int = VERSION) -> dict[str, bytes | None]:
        """Return the records that changed since the last call; None: delete."""
        records: dict[str, bytes | None] = dict.fromkeys(self._gone)
        for number in sorted(self._changed):
            segment = self._segments[number]
            records[self._key(segment)] = encode(segment.record(), version)
        self._changed.clear()
        self._gone.clear()
        return records

    def restore(
        self, records: Iterable[tuple[int, int, SegmentRecord]], queue_of: Callable[[str, str], Queue]
    ) -> Iterator[None]:
        """Take the segments of a partition each, by their bases; `queue_of` finds the queue of a lane and a tenant.

        Between partition and record stands which of the late ones it is; 0: none.

        In slices of one segment.
        """
        known: dict[tuple[str, str], Queue] = {}  # most are named in many segments
        newest: dict[Queue, int] = {}
        astray: dict[Queue, None] = {}  # what came earlier lies behind what came later
        for partition, late, record in records:
            segment = Segment(partition, record.base, record.sequence, late)
            segment.fill(record)
            self._late = max(self._late, late)
            for owner in record.owners:
                if owner not in known:
                    known[owner] = queue_of(*owner)
                segment.names += len(owner[0]) + len(owner[1])
            segment.queues = [known[owner] for owner in record.owners]
            number = self._enter(segment)
            if late:
                segment.low = segment.lowest()
                heapq.heappush(self._lows.setdefault(partition, []), (segment.low, number))
            self.requests += segment.live
            self._refer(number, segment, newest, astray)
            if segment.deadlines is not None:
                self._watch(number, segment, segment.earliest())
            yield
        for queue in astray:
            yield
            queue.refs = array("Q", sorted(queue.refs, key=lambda ref: self._segments[ref >> 8].seq(ref & 255)))

    @staticmethod
    def _refer(number: int, segment: Segment, newest: dict[Queue, int], astray: dict[Queue, None]) -> None:
        """Append the entries of a restored segment to their queues; note which of these are out of order."""
        seqs = [segment.sequence + seq for seq in segment.seqs]
        weights = segment.counts if segment.costs is None else map(int.__mul__, segment.counts, segment.costs)
        if len(segment.queues) == 1 and seqs:
            queue = segment.queues[0]
            queue.refs.extend(range(number << 8, (number << 8) + len(seqs)))
            queue.requests += segment.live
            queue.units += sum(weights)
            if seqs[0] < newest.get(queue, 0) or seqs != sorted(seqs):
                astray[queue] = None
            newest[queue] = seqs[-1]
            return
        rows = zip(segment.owners, seqs, segment.counts, weights, strict=True)
        for ref, (owner, seq, count, units) in enumerate(rows, number << 8):
            queue = segment.queues[owner]
            queue.refs.append(ref)
            queue.requests += count
            queue.units += units
            if seq < newest.get(queue, 0):
                astray[queue] = None
            newest[queue] = seq

    def _last(self, queue: Queue, partition: int, offset: int, seq: int) -> int:
        """Return the number of the segment that takes the next entry of a partition."""
        numbers = self._partitions.get(partition)
        owners = self._open.get(partition)
        if numbers and owners is not None:
            segment = self._segments.get(numbers[-1])
            if (
                segment is not None
                and len(segment.counts) < ENTRIES
                and offset - segment.base <= _DELTA_MAX - COUNT_MAX
                and seq - segment.sequence <= _DELTA_MAX - COUNT_MAX
                and (queue in owners or segment.names < _NAMES_MAX)
            ):
                return numbers[-1]
            if segment is not None:
                segment.trim()
        self._open[partition] = {}
        return self._enter(Segment(partition, offset, seq))

    def _last_late(self, partition: int, offset: int, seq: int) -> int:
        """Return the number of the segment that takes the next late entry of a partition."""
        numbers = self._partitions.get(~partition)
        segment = self._segments.get(numbers[-1]) if numbers and ~partition in self._open else None
        if (
            numbers
            and segment is not None
            and len(segment.counts) < ENTRIES
            and 0 <= offset - segment.base <= _DELTA_MAX - COUNT_MAX
            and seq - segment.sequence <= _DELTA_MAX - COUNT_MAX
            and segment.names < _NAMES_MAX
        ):
            number = numbers[-1]
        else:
            if segment is not None:
                segment.trim()
            if numbers and numbers[0] not in self._segments:
                self._partitions[~partition] = deque(number for number in numbers if number in self._segments)
            self._late += 1
            self._open[~partition] = {}
            number = self._enter(Segment(partition, max(0, offset - _BELOW), seq, self._late))
            segment = self._segments[number]
        if offset < segment.low:
            segment.low = offset
            heapq.heappush(self._lows.setdefault(partition, []), (offset, number))
        return number

    def _enter(self, segment: Segment) -> int:
        self._numbers += 1
        self._segments[self._numbers] = segment
        self._partitions.setdefault(segment.room, deque()).append(self._numbers)
        return self._numbers

    def _own(self, segment: Segment, queue: Queue) -> int:
        owners = self._open[segment.room]
        if queue not in owners:
            owners[queue] = len(segment.queues)
            segment.queues.append(queue)
            segment.names += len(queue.lane.name) + len(queue.tenant.name)
        return owners[queue]

    def _watch(self, number: int, segment: Segment, deadline: int) -> None:
        if deadline < segment.due:
            segment.due = deadline
            heapq.heappush(self._deadlines, (deadline, number))

    def _leave(self, number: int, segment: Segment, index: int, count: int) -> None:
        self.requests -= count
        segment.counts[index] -= count
        segment.live -= count
        if segment.live:
            self._changed.add(number)
        else:
            del self._segments[number]
            self._changed.discard(number)
            self._gone.append(self._key(segment))
            if self._partitions[segment.room][-1] == number:
                self._open.pop(segment.room, None)

    def _key(self, segment: Segment) -> str:
        return f"{self._prefix}{segment.partition}/{f'{LATE}{segment.late}' if segment.late else segment.base}"
