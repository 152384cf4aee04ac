"""Scheduled requests: parked until the time their producer wants, without a turn, some 35 bytes each.

They lie in the delayed topic. A segment is one state record: up to 128 entries of one partition, each a run of
consecutive offsets whose requests are alike. Lanes and tenants are kept by name: which they are is asked when the time
comes, and by the policy of then.
"""

import heapq
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from gate.admission.queues.segment import COUNT_MAX, NO_DEADLINE, append, little
from gate.admission.queues.spans import FIRST_ROOM, Cursor, Span, cuts_of, rest_of
from gate.admission.state import VERSION, ScheduledRecord, encode
from gate.units import Ms

ENTRIES: Final = 128  # of a segment: what is rewritten when one of its requests leaves
COST_MAX: Final = 2**62  # no limit is so high; keeps hostile costs inside the columns
NEVER: Final = 2**63 - 1  # in ms
_KNOWN: Final = 4_096  # owners
_DELTA_MAX: Final = 2**32 - 1
_NAMES_MAX: Final = 2**15  # characters of the names in a segment: a record must fit into a message

Owner = tuple[str, str]  # lane and tenant, by name
_Row = tuple[Owner, int, int, int, int, int]  # owner, offset, count, cost, deadline, start


class Due(NamedTuple):
    """Requests whose time has come."""

    partition: int
    offset: int
    requests: int
    owner: Owner
    cost: int
    deadline: Ms  # NO_DEADLINE: none
    start: Ms


class _Segment:
    """The entries of one state record. An entry whose count is 0 has left."""

    __slots__ = (
        "base", "costs", "counts", "deadlines", "due", "first", "live", "names", "offsets", "order", "owner", "owners",
        "partition", "starts", "written",
    )  # fmt: skip

    def __init__(self, partition: int, base: int) -> None:
        self.partition = partition
        self.base = base  # the first offset ever in it: names the record
        self.owners: list[Owner] = []
        self.names = 0  # characters
        self.owner = array("B")  # index into owners
        self.offsets = array("I")  # above base
        self.counts = array("H")
        self.starts = array("q")  # ms
        self.costs: array[int] | None = None  # None: all 1
        self.deadlines: array[int] | None = None  # ms; None: none has one
        self.live = 0  # requests
        self.first = 0  # entries before it have left
        self.order: bytearray | None = None  # entries by their time, the first at the end; None: to be sorted
        self.due = NEVER  # the time under which it stands in the heap
        self.written = False  # there is a record of it

    def cost(self, index: int) -> int:
        return 1 if self.costs is None else self.costs[index]

    def deadline(self, index: int) -> int:
        return NO_DEADLINE if self.deadlines is None else self.deadlines[index]

    def next(self) -> int:
        """Return the index of the entry whose time comes first; the segment must be live."""
        order = self._ordered()
        while not self.counts[order[-1]]:
            order.pop()
        return order[-1]

    def until(self, moment: int) -> Iterator[tuple[int, int]]:
        """Yield the index and the time of each entry whose time comes until then, the first first."""
        starts, counts = self.starts, self.counts
        for index in reversed(self._ordered()):
            if starts[index] > moment:
                return
            if counts[index]:
                yield index, starts[index]

    def _ordered(self) -> bytearray:
        if self.order is None:
            starts = self.starts
            self.order = bytearray(sorted(range(len(starts)), key=lambda i: (starts[i], i), reverse=True))
        return self.order

    def oldest(self) -> int:
        """Return the lowest offset that is still parked; the segment must be live."""
        while not self.counts[self.first]:
            self.first += 1
        return self.base + self.offsets[self.first]

    def continues(self, owner: Owner, offset: int, count: int, cost: int, deadline: int, start: int) -> bool:
        """Tell whether places follow on the last entry and are like it."""
        last = len(self.counts) - 1
        return (
            last >= 0
            and 0 < self.counts[last] <= COUNT_MAX - count
            and self.base + self.offsets[last] + self.counts[last] == offset
            and self.starts[last] == start
            and self.owners[self.owner[last]] == owner
            and self.cost(last) == cost
            and self.deadline(last) == deadline
        )

    def append(self, owner: Owner, offset: int, count: int, cost: int, deadline: int, start: int) -> None:
        if owner not in self.owners:
            self.owners.append(owner)
            self.names += len(owner[0]) + len(owner[1])
        if cost != 1 and self.costs is None:
            self.costs = array("B", [1]) * len(self.counts)
        if deadline != NO_DEADLINE and self.deadlines is None:
            self.deadlines = array("q", [NO_DEADLINE]) * len(self.counts)
        self.owner.append(self.owners.index(owner))
        self.offsets.append(offset - self.base)
        self.counts.append(count)
        self.starts.append(start)
        if self.costs is not None:
            self.costs = append(self.costs, cost)
        if self.deadlines is not None:
            self.deadlines.append(deadline)
        self.order = None

    def trim(self) -> None:
        """Give back what the columns keep for growth: no more entries come."""
        for name in ("owner", "offsets", "counts", "starts", "costs", "deadlines"):
            column = getattr(self, name)
            if column is not None:
                setattr(self, name, column[:])

    def record(self) -> ScheduledRecord:
        """Return what is left, in the form in which it is kept."""
        left = [index for index, count in enumerate(self.counts) if count]

        def column(values: "array[int]") -> bytes:
            return little(array(values.typecode, [values[index] for index in left])).tobytes()

        return ScheduledRecord(
            base=self.base,
            owners=self.owners,
            owner=column(self.owner),
            offset=column(self.offsets),
            count=column(self.counts),
            start=column(self.starts),
            cost=None if self.costs is None else (self.costs.typecode, column(self.costs)),
            deadline=None if self.deadlines is None else column(self.deadlines),
        )

    def fill(self, record: ScheduledRecord) -> None:
        """Take the columns of a record."""
        self.owners = list(record.owners)
        self.names = sum(len(lane) + len(tenant) for lane, tenant in self.owners)
        self.owner = little(array("B", record.owner))
        self.offsets = little(array("I", record.offset))
        self.counts = little(array("H", record.count))
        self.starts = little(array("q", record.start))
        if record.cost is not None:
            self.costs = little(array(*record.cost))
        if record.deadline is not None:
            self.deadlines = little(array("q", record.deadline))
        self.live = sum(self.counts)
        self.written = True


class Scheduled:
    """All scheduled requests of one service."""

    def __init__(self, service: str) -> None:
        self.requests = 0
        self._prefix = f"scheduled/{service}/"
        self._segments: dict[int, _Segment] = {}  # by number
        self._partitions: dict[int, deque[int]] = {}  # numbers, oldest offsets first
        self._open: dict[int, int] = {}  # the segment of each partition that takes more
        self._times: list[tuple[int, int]] = []  # heap of (first time, number): never late, may be stale
        self._owners: dict[Owner, Owner] = {}  # the newest, so that they are not kept in each segment anew
        self._numbers = 0
        self._changed: dict[int, None] = {}
        self._gone: list[str] = []

    def add(self, owner: Owner, partition: int, offset: int, count: int, cost: int, deadline: int, start: int) -> None:
        """Take `count` consecutive places; `deadline` and `start` in ms. In a partition, offsets only grow."""
        cost = min(cost, COST_MAX)
        owner = self._owners.setdefault(owner, owner)
        if len(self._owners) > _KNOWN:
            self._owners.clear()
        self.requests += count
        while count:
            taken = min(count, COUNT_MAX)
            number = self._last(partition, offset)
            segment = self._segments[number]
            if segment.continues(owner, offset, taken, cost, deadline, start):
                segment.counts[-1] += taken
            else:
                segment.append(owner, offset, taken, cost, deadline, start)
                self._watch(number, segment, min(segment.due, start))
            segment.live += taken
            self._changed[number] = None
            offset, count = offset + taken, count - taken

    def next_start(self) -> int | None:
        """Return the earliest time of all, in ms; None: nothing is scheduled."""
        heap = self._times
        while heap:
            start, number = heap[0]
            segment = self._segments.get(number)
            if segment is not None and segment.due == start:
                return start
            heapq.heappop(heap)
        return None

    def upcoming(self, after: int, until: int, most: int) -> Iterator[tuple[int, int]]:
        """Yield partition and offset of those whose time comes later than `after` and not later than `until`, in ms.

        At most `most`, segment by segment in the order of their first times; nothing is taken out.
        """
        heap = self._times
        if not heap:
            return
        ahead = [(heap[0], 0)]  # a heap of the places in the other one of which nothing before was passed over
        seen: set[int] = set()  # a segment may stand in the heap twice under one time
        while ahead and ahead[0][0][0] <= until:
            (first, number), place = heapq.heappop(ahead)
            for below in range(2 * place + 1, min(2 * place + 3, len(heap))):
                heapq.heappush(ahead, (heap[below], below))
            segment = self._segments.get(number)
            if segment is None or segment.due != first or number in seen:
                continue
            seen.add(number)
            for index, start in segment.until(until):
                if start <= after:
                    continue
                low = segment.base + segment.offsets[index]
                count = min(segment.counts[index], most)
                for offset in range(low, low + count):
                    yield segment.partition, offset
                most -= count
                if not most:
                    return

    def take(self, now: int, most: int) -> Iterator[Due]:
        """Take out those whose time is up to `now`, in ms, in the order of their times; at most `most`."""
        while most and (start := self.next_start()) is not None and start <= now:
            number = self._times[0][1]
            segment = self._segments[number]
            index = segment.next()
            count = min(segment.counts[index], most)
            yield Due(
                segment.partition,
                segment.base + segment.offsets[index],
                count,
                segment.owners[segment.owner[index]],
                segment.cost(index),
                segment.deadline(index),
                start,
            )
            most -= count
            segment.offsets[index] += count
            self._leave(number, segment, index, count)
            if segment.live:
                self._watch(number, segment, segment.starts[segment.next()])

    def drop_below(self, partition: int, end: int) -> int:
        """Forget what lies in a partition below `end`; return how many requests."""
        gone = 0
        for number in list(self._partitions.get(partition, ())):
            segment = self._segments.get(number)
            if segment is None:
                continue
            if segment.base >= end:
                break
            for index, count in enumerate(segment.counts):
                below = min(count, end - segment.base - segment.offsets[index])
                if below > 0:
                    segment.offsets[index] += below
                    gone += below
                    self._leave(number, segment, index, below)
            if segment.live:
                self._watch(number, segment, segment.starts[segment.next()])
        return gone

    @property
    def ends(self) -> dict[int, int]:
        """By partition, the offset behind the newest of what is scheduled."""
        ends: dict[int, int] = {}
        for segment in self._segments.values():
            end = segment.base + segment.offsets[-1] + segment.counts[-1]
            ends[segment.partition] = max(end, ends.get(segment.partition, 0))
        return ends

    def select(
        self,
        cursor: Cursor,
        ends: Mapping[int, int],
        wanted: Callable[[Owner, int], bool],
        entries: int,
        requests: int,
    ) -> tuple[list[Span], Cursor | None]:
        """Look, as `SelectablePlaces.select` does, for what lies in front of `ends`. Arrival numbers are not known."""
        found: list[Span] = []
        for partition in sorted(self._partitions):
            room, end = FIRST_ROOM + partition, ends.get(partition, 0)
            if room < cursor[0]:
                continue
            start = cursor[1] if room == cursor[0] else 0
            for segment in [self._segments[n] for n in self._partitions[partition] if n in self._segments]:
                if segment.base >= end or segment.base + segment.offsets[-1] + segment.counts[-1] <= start:
                    continue
                for index, count in enumerate(segment.counts):
                    first = segment.base + segment.offsets[index]
                    if not count or first + count <= start:
                        continue
                    entries -= 1
                    first = max(first, start)
                    if entries < 0:
                        return found, (room, first)
                    meant = min(segment.base + segment.offsets[index] + count, end) - first
                    if meant <= 0 or not wanted(segment.owners[segment.owner[index]], segment.deadline(index)):
                        continue
                    taken = min(meant, requests)
                    found.append(Span(partition, first, taken, 0))
                    requests -= taken
                    if not requests:
                        return found, (room, first + taken)
        return found, None

    def take_out(self, spans: Sequence[Span]) -> Iterator[tuple[Owner, int, int, int, int]]:
        """Let these go without their time; yields owner, partition, offset, count and cost of each part."""
        yield from self._change(spans, None)

    def rename(self, spans: Sequence[Span], lane: str) -> int:
        """Have these come into another lane when their time has come; return how many."""
        return sum(count for _, _, _, count, _ in self._change(spans, lane))

    def _change(self, spans: Sequence[Span], lane: str | None) -> Iterator[tuple[Owner, int, int, int, int]]:
        by_partition: dict[int, list[Span]] = {}
        for span in spans:
            by_partition.setdefault(span.partition, []).append(span)
        for partition, wanted in by_partition.items():
            wanted.sort(key=lambda span: span.offset)
            for number in list(self._partitions.get(partition, ())):
                segment = self._segments.get(number)
                if segment is None or segment.base >= wanted[-1].end:
                    continue
                firsts = [segment.base + offset for offset in segment.offsets]
                cuts = list(cuts_of(firsts, segment.counts, wanted))
                for index, low, high in cuts:
                    owner = segment.owners[segment.owner[index]]
                    yield owner, partition, firsts[index] + low, high - low, segment.cost(index)
                if cuts:
                    self._rebuild(number, segment, list(_rows(segment, cuts, lane)))

    def _rebuild(self, number: int, segment: _Segment, rows: Sequence[_Row]) -> None:
        """Have these entries instead of a segment's, in its place."""
        numbers = self._partitions[segment.partition]
        place = numbers.index(number)
        del self._segments[number], numbers[place]
        self._changed.pop(number, None)
        self.requests -= segment.live
        if self._open.get(segment.partition) == number:
            del self._open[segment.partition]
        if segment.written and not rows:
            self._gone.append(self._key(segment))
        for part in range(0, len(rows), ENTRIES):
            made = _Segment(segment.partition, rows[part][1] if part else segment.base)
            made.written = segment.written and not part  # the first one takes the record's place
            for owner, offset, count, cost, deadline, start in rows[part : part + ENTRIES]:
                made.append(owner, offset, count, cost, deadline, start)
                made.live += count
            made.trim()
            self.requests += made.live
            self._numbers += 1
            self._segments[self._numbers] = made
            numbers.insert(place, self._numbers)
            place += 1
            self._watch(self._numbers, made, min(made.starts))
            self._changed[self._numbers] = None

    @property
    def partitions(self) -> list[int]:
        """The partitions in which something is scheduled, or was."""
        return list(self._partitions)

    def low_watermark(self, partition: int) -> int | None:
        """Return the lowest offset of a partition that is still scheduled; None: nothing is."""
        numbers = self._partitions.get(partition)
        while numbers:
            segment = self._segments.get(numbers[0])
            if segment is not None:
                return segment.oldest()
            numbers.popleft()
        return None

    def drain_changes(self, version: int = VERSION) -> dict[str, bytes | None]:
        """Return the records that changed since the last call; None: delete."""
        records: dict[str, bytes | None] = dict.fromkeys(self._gone)
        for number in self._changed:
            segment = self._segments[number]
            segment.written = True
            records[self._key(segment)] = encode(segment.record(), version)
        self._changed.clear()
        self._gone.clear()
        return records

    def restore(self, records: Iterable[tuple[int, ScheduledRecord]]) -> Iterator[None]:
        """Take the segments of a partition each, by their bases; in slices of one segment."""
        for partition, record in records:
            segment = _Segment(partition, record.base)
            segment.fill(record)
            self.requests += segment.live
            number = self._enter(segment)
            self._watch(number, segment, min(segment.starts))
            yield

    def _last(self, partition: int, offset: int) -> int:
        """Return the number of the segment that takes the next entry of a partition."""
        number = self._open.get(partition)
        segment = None if number is None else self._segments.get(number)
        if number is not None and segment is not None:
            if (
                len(segment.counts) < ENTRIES
                and offset - segment.base <= _DELTA_MAX - COUNT_MAX
                and segment.names < _NAMES_MAX
            ):
                return number
            segment.trim()
        number = self._open[partition] = self._enter(_Segment(partition, offset))
        return number

    def _enter(self, segment: _Segment) -> int:
        self._numbers += 1
        self._segments[self._numbers] = segment
        self._partitions.setdefault(segment.partition, deque()).append(self._numbers)
        return self._numbers

    def _watch(self, number: int, segment: _Segment, due: int) -> None:
        if due != segment.due:
            segment.due = due
            heapq.heappush(self._times, (due, number))

    def _leave(self, number: int, segment: _Segment, index: int, count: int) -> None:
        self.requests -= count
        segment.counts[index] -= count
        segment.live -= count
        if segment.live:
            self._changed[number] = None
            return
        del self._segments[number]
        self._changed.pop(number, None)
        if segment.written:
            self._gone.append(self._key(segment))

    def _key(self, segment: _Segment) -> str:
        return f"{self._prefix}{segment.partition}/{segment.base}"


def _rows(segment: _Segment, cuts: Sequence[tuple[int, int, int]], lane: str | None) -> Iterator[_Row]:
    """Yield the entries of a segment without what is cut, or with that in another lane."""
    for index, low, high, is_cut in rest_of(segment.counts, cuts):
        owner = segment.owners[segment.owner[index]]
        if is_cut:
            if lane is None:
                continue
            owner = lane, owner[1]
        offset = segment.base + segment.offsets[index] + low
        yield owner, offset, high - low, segment.cost(index), segment.deadline(index), segment.starts[index]
