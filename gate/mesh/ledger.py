"""What an owner counts: units in a window that are told in any order, and a bucket that is charged ahead of time."""

from bisect import bisect_left, bisect_right
from typing import Final, NamedTuple

from gate.limits.part import UNIT

_CELLS: Final = 1000  # of a window; a unit counts for up to one cell longer than it must


class Slide(NamedTuple):
    """A limit on its way down."""

    end: int  # when all that counted at its begin no longer does
    counted: int  # at its begin
    target: int


class Ledger:
    """Units that count in a window of `size` ns, by when they were used; uses may lie ahead, and come in any order."""

    __slots__ = ("_grain", "_order", "_units", "counted", "limit", "size", "slide")

    def __init__(self, limit: int, size: int) -> None:
        self.limit = limit
        self.size = size
        self.counted = 0
        self.slide: Slide | None = None
        self._grain = max(1, size // _CELLS)
        self._order: list[int] = []  # cells with units, oldest first
        self._units: dict[int, int] = {}

    def add(self, at: int, units: int) -> None:
        """Count `units` that were used at `at` at the latest."""
        if units <= 0:
            return
        cell = -(-at // self._grain)
        if cell in self._units:
            self._units[cell] += units
        else:
            self._units[cell] = units
            self._order.insert(bisect_left(self._order, cell), cell)
        self.counted += units

    def expire(self, now: int) -> None:
        """Drop what no longer counts."""
        last = (now - self.size) // self._grain
        if self._order and self._order[0] <= last:
            gone = bisect_right(self._order, last)
            self.counted -= sum(self._units.pop(cell) for cell in self._order[:gone])
            del self._order[:gone]

    def until(self, time: int) -> int:
        """Return how many of the units that count will not at `time`."""
        last = (time - self.size) // self._grain
        if not self._order or self._order[0] > last:
            return 0
        return sum([self._units[cell] for cell in self._order[: bisect_right(self._order, last)]])

    def freed(self, units: int) -> int | None:
        """Return when so many of the units that count will not; None: there are not so many."""
        for cell in self._order:
            units -= self._units[cell]
            if units <= 0:
                return cell * self._grain + self.size
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

    def dump(self) -> tuple[tuple[int, int], ...]:
        """Return the newest time and the units of each cell."""
        return tuple([(cell * self._grain, self._units[cell]) for cell in self._order])


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
