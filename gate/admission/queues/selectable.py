"""Places of parked requests, some of which can be looked for, taken out of the midst, and put into other queues."""

import heapq
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from gate.admission.queues.parked_places import ENTRIES, ParkedPlaces
from gate.admission.queues.queue import Queue
from gate.admission.queues.segment import Segment
from gate.admission.queues.spans import Cursor, Cut, Span, cuts_of, rest_of

Wanted = Callable[[Queue, int], bool]  # given the queue, and the deadline in ms
Left = tuple[Queue, int, int, int, int]  # queue, partition, offset, count, cost
NO_ENDS: Final[Mapping[int, int]] = MappingProxyType({})
_Row = tuple[Queue, int, int, int, int, int]  # queue, offset, seq, count, cost, deadline


class SelectablePlaces(ParkedPlaces):
    """All places of one service. Spans are in the order in which `select` gives them."""

    def select(
        self,
        cursor: Cursor,
        end: int,
        wanted: Wanted,
        entries: int,
        requests: int,
        late_ends: Mapping[int, int] = NO_ENDS,
    ) -> tuple[list[Span], Cursor | None]:
        """Look from `cursor` on for requests that arrived before number `end`, at about so many entries at most.

        Of what came late also what lies before an offset of its partition in `late_ends`, whenever it came.
        Returns what was found, no more than `requests`, and where to go on; None: that was all.
        """
        found: list[Span] = []
        for room in sorted(self._partitions, key=_place_of):
            if _place_of(room) < _place_of(cursor[0]):
                continue
            start = cursor[1] if room == cursor[0] else 0
            for segment, index in self._rows(room, start):
                partition, count = segment.partition, segment.counts[index]
                first = segment.base + segment.offsets[index]
                entries -= 1
                if entries < 0:
                    return found, (room, max(first, start))
                skipped = max(0, start - first)
                seq = segment.seq(index) + skipped
                meant = end - seq
                if segment.late:
                    meant = max(meant, late_ends.get(partition, 0) - first - skipped)
                count = min(count - skipped, meant)
                if count <= 0 or not wanted(segment.queues[segment.owners[index]], segment.deadline(index)):
                    continue
                taken = min(count, requests)
                found.append(Span(partition, first + skipped, taken, seq))
                requests -= taken
                if not requests:
                    return found, (room, first + skipped + taken)
        return found, None

    def _rows(self, room: int, start: int) -> Iterator[tuple[Segment, int]]:
        """Yield the entries of a room of which something lies from `start` on, in the order of their offsets."""
        late: list[tuple[int, int, Segment]] = []
        for number in self._partitions[room]:
            segment = self._segments.get(number)
            if segment is None or (
                not segment.late and segment.base + segment.offsets[-1] + segment.counts[-1] <= start
            ):
                continue
            for index, count in enumerate(segment.counts):
                first = segment.base + segment.offsets[index]
                if count and first + count > start:
                    if segment.late:
                        late.append((first, index, segment))
                    else:
                        yield segment, index
        late.sort(key=lambda row: row[0])
        for _, index, segment in late:
            yield segment, index

    def take_out(self, spans: Sequence[Span]) -> Iterator[Left]:
        """Let these go, wherever they are in their queues."""
        moved: dict[Queue, list[int]] = {}
        for number, segment, cuts in self._cuts(spans):
            for index, low, high in cuts:
                queue = segment.queues[segment.owners[index]]
                first = segment.base + segment.offsets[index] + low
                yield queue, segment.partition, first, high - low, segment.cost(index)
            if _is_split(segment, cuts):
                self.requests -= sum(high - low for _, low, high in cuts)
                self._rebuild(number, segment, _rows(segment, cuts, None), moved)
                continue
            for index, low, high in cuts:
                if not low:
                    segment.offsets[index] += high
                    segment.seqs[index] += high
                self._leave(number, segment, index, high - low)
        self._line_up(moved)

    def shift(
        self, spans: Sequence[Span], target_of: Callable[[Queue], Queue]
    ) -> Iterator[tuple[Queue, Queue, int, int]]:
        """Put these into other queues, among what waits there by the order of arrival.

        Yields source, target, count and cost of each part.
        """
        moved: dict[Queue, list[int]] = {}
        for number, segment, cuts in self._cuts(spans):
            targets: dict[Queue, Queue] = {}
            for index, low, high in cuts:
                queue = segment.queues[segment.owners[index]]
                if queue not in targets:
                    targets[queue] = target_of(queue)
                yield queue, targets[queue], high - low, segment.cost(index)
            self._rebuild(number, segment, _rows(segment, cuts, targets), moved)
        self._line_up(moved)

    def _cuts(self, spans: Sequence[Span]) -> Iterator[tuple[int, Segment, list[Cut]]]:
        """Yield each segment that holds some of these, with its entries that do."""
        by_partition: dict[int, list[Span]] = {}
        for span in spans:
            by_partition.setdefault(span.partition, []).append(span)
        for partition, wanted in by_partition.items():
            wanted.sort(key=_offset_of)
            begin, end = wanted[0].offset, wanted[-1].end
            for number in [*self._partitions.get(partition, ()), *self._partitions.get(~partition, ())]:
                segment = self._segments.get(number)
                if segment is None or segment.base >= end:
                    continue
                if not segment.late and segment.base + segment.offsets[-1] + segment.counts[-1] <= begin:
                    continue
                cuts = list(cuts_of([segment.base + offset for offset in segment.offsets], segment.counts, wanted))
                if cuts:
                    yield number, segment, cuts

    def _rebuild(self, number: int, segment: Segment, rows: Sequence[_Row], moved: dict[Queue, list[int]]) -> None:
        """Have these entries instead of a segment's: in its place, so that segments lie one behind the other.

        The queues are to learn of them by `_line_up`.
        """
        numbers = self._partitions[segment.room]
        place = numbers.index(number)
        del self._segments[number], numbers[place]
        self._changed.discard(number)
        if not rows:
            self._gone.append(self._key(segment))
        if place == len(numbers):
            self._open.pop(segment.room, None)
        for part in range(0, len(rows), ENTRIES):
            chunk = rows[part : part + ENTRIES]
            base = chunk[0][1] if part and not segment.late else segment.base  # the first one takes the record's place
            self._late += bool(part and segment.late)
            late = self._late if part and segment.late else segment.late
            made = Segment(segment.partition, base, min(seq for _, _, seq, *_ in chunk), late)
            self._numbers += 1
            self._segments[self._numbers] = made
            numbers.insert(place, self._numbers)
            place += 1
            owners: dict[Queue, int] = {}
            for queue, offset, seq, count, cost, deadline in chunk:
                owner = owners.setdefault(queue, len(owners))
                index = made.append(owner, offset, seq, count, cost, deadline)
                made.live += count
                moved.setdefault(queue, []).append(self._numbers << 8 | index)
                self._watch(self._numbers, made, deadline)
            made.queues = list(owners)
            made.names = sum(len(queue.lane.name) + len(queue.tenant.name) for queue in owners)
            made.trim()
            if late:
                made.low = made.lowest()
                heapq.heappush(self._lows.setdefault(segment.partition, []), (made.low, self._numbers))
            self._changed.add(self._numbers)

    def _line_up(self, moved: Mapping[Queue, Sequence[int]]) -> None:
        """Put references into their queues, by the order of arrival, and those away that mean nothing any more."""
        segments = self._segments

        def seq_of(ref: int) -> int:
            return segments[ref >> 8].seq(ref & 255)

        for queue, new in moved.items():
            refs = array("Q", [ref for ref in queue.refs[queue.head :] if ref >> 8 in segments])
            seqs = [seq_of(ref) for ref in new]
            low = bisect_left(refs, min(seqs), key=seq_of)
            high = bisect_right(refs, max(seqs), lo=low, key=seq_of)
            refs[low:high] = array("Q", sorted([*refs[low:high], *new], key=seq_of))
            queue.refs, queue.head = refs, 0


def _place_of(room: int) -> tuple[bool, int]:
    """Return where a room comes: those of what came late come last."""
    return room < 0, max(room, ~room)


def _offset_of(span: Span) -> int:
    return span.offset


def _is_split(segment: Segment, cuts: Sequence[Cut]) -> bool:
    """Tell whether what is left of an entry is not one entry."""
    indexes = [index for index, _, _ in cuts]
    return len(set(indexes)) < len(indexes) or any(low and high < segment.counts[index] for index, low, high in cuts)


def _rows(segment: Segment, cuts: Sequence[Cut], targets: dict[Queue, Queue] | None) -> list[_Row]:
    """Return the entries of a segment without what is cut, or with that in other queues."""
    rows: list[_Row] = []
    for index, low, high, is_cut in rest_of(segment.counts, cuts):
        queue = segment.queues[segment.owners[index]]
        if is_cut:
            if targets is None:
                continue
            queue = targets[queue]
        offset, seq = segment.base + segment.offsets[index] + low, segment.seq(index) + low
        rows.append((queue, offset, seq, high - low, segment.cost(index), segment.deadline(index)))
    return rows
