"""What an owner counts: units in a window that are told in any order, and a bucket that is charged ahead of time."""

from bisect import insort
from collections.abc import Iterable
from typing import Final, NamedTuple

from gate.limits import NEVER
from gate.limits.part import UNIT

_CELLS: Final = 1000  # of a window; a unit counts for up to one cell longer than it must
_BITS: Final = 5
CHUNK: Final = 1 << _BITS  # cells that are kept together
_MASK: Final = CHUNK - 1


class Slide(NamedTuple):
    """A limit on its way down."""

    end: int  # when all that counted at its begin no longer does
    counted: int  # at its begin
    target: int


class Ledger:
    """Units that count in a window of `size` ns, by when they were used; uses may lie ahead, and come in any order.

    They are counted by cells, and these kept in chunks: what is used changes one or two of them, and these alone are
    written again.
    """

    __slots__ = ("_grain", "_oldest", "_order", "chunks", "counted", "dirty", "limit", "size", "slide")

    def __init__(self, limit: int, size: int) -> None:
        self.limit = limit
        self.size = size
        self.counted = 0
        self.slide: Slide | None = None
        self.chunks: dict[int, list[int]] = {}  # the units of each cell, and last of all of them
        self.dirty: set[int] = set()  # chunks to which units came since this was cleared
        self._grain = max(1, size // _CELLS)
        self._order: list[int] = []  # chunks with units, oldest first
        self._oldest = NEVER  # before this cell there are none

    def add(self, at: int, units: int) -> None:
        """Count `units` that were used at `at` at the latest."""
        if units > 0:
            self.add_all(((at, units),))

    def add_all(self, uses: Iterable[tuple[int, int]]) -> None:
        """Count uses, each (at the latest when, units); all of them more than 0."""
        chunks, grain = self.chunks, self._grain
        last, chunk, counted = None, list[int](), 0
        for at, units in uses:
            cell = -(-at // grain)
            number = cell >> _BITS
            if number != last:
                last = number
                self.dirty.add(number)
                self._oldest = min(self._oldest, number << _BITS)
                if number in chunks:
                    chunk = chunks[number]
                else:
                    chunk = chunks[number] = [0] * (CHUNK + 1)
                    insort(self._order, number)
            chunk[cell & _MASK] += units
            chunk[CHUNK] += units
            counted += units
        self.counted += counted

    def expire(self, now: int) -> None:
        """Drop what no longer counts."""
        last = (now - self.size) // self._grain
        if last < self._oldest:
            return
        order, chunks = self._order, self.chunks
        while order and order[0] << _BITS <= last:
            number = order[0]
            if number < last >> _BITS or last & _MASK == _MASK:
                self.counted -= chunks.pop(number)[CHUNK]
                del order[0]
                continue
            chunk, end = chunks[number], (last & _MASK) + 1
            gone = sum(chunk[:end])
            if gone == chunk[CHUNK]:
                del chunks[number], order[0]
            else:
                chunk[:end] = [0] * end
                chunk[CHUNK] -= gone
            self.counted -= gone
            break
        self._oldest = last + 1 if order else NEVER

    def until(self, time: int) -> int:
        """Return how many of the units that count will not at `time`."""
        last = (time - self.size) // self._grain
        units = 0
        for number in self._order:
            if number >= last >> _BITS:
                return units + sum(self.chunks[number][: (last & _MASK) + 1]) if number == last >> _BITS else units
            units += self.chunks[number][CHUNK]
        return units

    def freed(self, units: int) -> int | None:
        """Return when so many of the units that count will not; None: there are not so many."""
        for number in self._order:
            chunk = self.chunks[number]
            if units > chunk[CHUNK]:
                units -= chunk[CHUNK]
                continue
            for place in range(CHUNK):
                units -= chunk[place]
                if chunk[place] and units <= 0:
                    return ((number << _BITS) + place) * self._grain + self.size
        return None

    def room(self, now: int) -> int:
        """Return how many units may be used now; below 0 where more count than may."""
        self.expire(now)
        limit = self.limit if self.slide is None else min(self.limit, self._slid(self.slide))
        return limit - self.counted

    def ready(self, now: int, units: int) -> int | None:
        """Return when so many units may be used, as it stands; None: never."""
        lack = units - self.room(now)
        if lack <= 0:
            return now
        if self.slide is not None:
            if units > self.slide.target:
                return None
            lack = min(self.counted, -(-lack * self.slide.counted // self.slide.target))
        return self.freed(lack) if units <= self.limit else None

    def lower(self, now: int, target: int) -> int:
        """Return the limit on its way down to `target`, which it reaches when what counts now no longer does.

        Cut at once, it would leave no room until so much of that is gone. So each unit that no longer counts is
        divided: a part of it leaves room here, and the others get theirs meanwhile.
        """
        self.expire(now)
        slide = None if self.slide is None else self.slide._replace(target=target)
        if self.counted > (target if slide is None else self._slid(slide)):
            slide = Slide(now + self.size + self._grain, self.counted, target)
        limit = target if slide is None else self._slid(slide)
        self.slide = slide if limit > target else None
        return limit

    def _slid(self, slide: Slide) -> int:
        return slide.target + max(0, slide.counted - slide.target) * self.until(slide.end) // slide.counted

    def cells(self, number: int) -> tuple[int, int, int, list[int]]:
        """Return of a chunk its number, the newest time of its first cell, how far apart cells are, and their units."""
        return number, (number << _BITS) * self._grain, self._grain, self.chunks[number][:CHUNK]


class Account:
    """A token bucket that is part of a larger one: resized in place, and charged for a use that may yet come."""

    __slots__ = ("burst", "charged", "full", "nano")

    def __init__(self, now: int, nano: int, burst: int, *, tokens: bool = False) -> None:
        self.nano = nano
        self.burst = burst
        self.charged = now  # the latest use that was charged
        self.full = now * nano + (0 if tokens else burst * UNIT)  # ticks of `UNIT` to a unit: as of `gate.limits.Part`

    def room(self, now: int) -> int:
        """Return how many whole tokens there are; below 0 where it was charged without asking."""
        return (self.burst * UNIT - max(0, self.full - now * self.nano)) // UNIT

    def ready(self, now: int, units: int) -> int | None:
        """Return from when on there are `units`; None: never, as it stands."""
        missing = self.full - now * self.nano - (self.burst - units) * UNIT
        if missing <= 0 and units <= self.burst:
            return now
        return now - (-missing // self.nano) if self.nano and units <= self.burst else None

    def charge(self, at: int, units: int) -> None:
        """Charge units that are used at `at` at the latest."""
        self.charged = max(self.charged, at)
        self.full = max(self.full, at * self.nano) + units * UNIT

    def resize(self, now: int, nano: int, burst: int) -> None:
        """Set rate and burst. Tokens are capped and never added."""
        if (nano, burst) == (self.nano, self.burst):
            return
        # A unit that may be used until later refills from then on only, by the new rate; what is there is there now.
        fulls = [at * nano + self._missing(at, burst) for at in (now, max(now, self.charged))]
        self.nano, self.burst, self.full = nano, burst, max(fulls)

    def _missing(self, at: int, burst: int) -> int:
        """Return the ticks that will be missing at a time from a bucket of `burst`."""
        tokens = self.burst * UNIT - max(0, self.full - at * self.nano)
        return burst * UNIT - min(tokens, burst * UNIT)
