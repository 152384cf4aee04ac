"""Spans: parked requests that are looked for, and cut out of the entries that hold them."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

Cursor = tuple[int, int]  # room, offset: all in front of it has been looked at
# Rooms of scheduled requests are numbered from here on: they come first, so that those whose time comes meanwhile are
# found where they wait then
FIRST_ROOM: Final = -(1 << 40)
BEGINNING: Final[Cursor] = (FIRST_ROOM, 0)
WAITING: Final[Cursor] = (0, 0)  # behind all that is scheduled
Cut = tuple[int, int, int]  # an entry, and which of its requests: from, to


@dataclass(frozen=True, slots=True)
class Span:
    """Parked requests that lie one behind the other in a partition."""

    partition: int
    offset: int
    count: int
    seq: int  # arrival number of the first

    @property
    def end(self) -> int:
        """The offset behind them."""
        return self.offset + self.count


def end_of(span: Span) -> int:
    """Return the offset behind a span, to look for it by."""
    return span.end


def cuts_of(firsts: Sequence[int], counts: Sequence[int], wanted: Sequence[Span]) -> Iterator[Cut]:
    """Yield what is wanted of entries of one partition; `wanted` is in the order of offsets."""
    for index, count in enumerate(counts):
        first = firsts[index]
        at = bisect_right(wanted, first, key=end_of) if count else len(wanted)
        while at < len(wanted) and wanted[at].offset < first + count:
            yield index, max(0, wanted[at].offset - first), min(count, wanted[at].end - first)
            at += 1


def rest_of(counts: Sequence[int], cuts: Sequence[Cut]) -> Iterator[tuple[int, int, int, bool]]:
    """Yield all that entries hold, in order, apart where it is cut: entry, from, to, whether it is cut."""
    by_entry: dict[int, list[tuple[int, int]]] = {}
    for index, low, high in cuts:
        by_entry.setdefault(index, []).append((low, high))
    for index, count in enumerate(counts):
        start = 0
        for low, high in by_entry.get(index, ()):
            if start < low:
                yield index, start, low, False
            yield index, low, high, True
            start = high
        if start < count:
            yield index, start, count, False
