# ruff: noqa: SLF001 - copies look into each other
"""The sliding window: never more than `limit` units in any interval of `size` ns."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from operator import sub
from typing import Final

from gate.limits.checks import bad_time
from gate.limits.codec import Reader, Writer
from gate.limits.spec import MOST, NEVER, Window
from gate.limits.window_log import CELL_MAX, LOG_RUNS, LastingRing, Log, Ring

BEFORE: Final = -NEVER  # the edge of no run at all


class SlidingWindow:
    """What one window counts. The newest run stays in the object itself, so that a key with little traffic is small.

    Times that are passed in must not step back; the limiter sees to that.
    """

    __slots__ = ("_edge", "_log", "_logged", "_tail", "_used", "_window")

    def __init__(self, window: Window) -> None:
        self._window = window
        self._used = 0  # units that count: those of the log and of the newest run
        self._logged = 0  # units of the log alone; the newest run has the rest
        self._edge = BEFORE  # of the newest run: units that come until then join it
        self._tail = BEFORE  # edge of the oldest run
        self._log: Log | Ring | None = None  # all runs but the newest

    def _add(self, now: int, units: int) -> None:
        """Count `units` at `now`, whether they fit or not."""
        if now > self._edge:
            self._open(now)
        elif self._tail <= now - self._window.size:  # or every question would look at what has expired
            self._expire(now)
        self._used += units

    def _add_each(self, times: Sequence[int], cost: int) -> None:
        """Count `cost` at each of `times`, in order, which has room for all of them.

        Those that have expired by the last one leave no trace but what they carry into the next cell.
        """
        window, log = self._window, self._log
        gone = bisect_right(times, times[-1] - 2 * window.size)
        if isinstance(log, LastingRing):
            # where a cell counts single units nothing is carried, and else as long as any run but the newest counts
            if gone > 1 and (window.limit <= CELL_MAX or max(map(sub, times[1:], times)) < window.size * 49 // 100):
                self._add(times[0], cost)
                self._add(times[gone - 1], (gone - 1) * cost + self._clear())
                times = times[gone:]
        elif not isinstance(log, Ring) and window.limit <= LOG_RUNS:  # else it might have gone over to cells
            times = times[gone:]
        for time, count in Counter(times).items():
            self._add(time, count * cost)

    def _clear(self) -> int:
        """Drop all; return the units that were in no cell yet."""
        log, units = self._log, self._used - self._logged
        self._used = self._logged = 0
        self._edge = self._tail = BEFORE
        self._log = None
        if isinstance(log, LastingRing):
            units += log._carry
            self._log = LastingRing(self._window)
        return units

    def _expire(self, now: int) -> None:
        """Drop what no longer counts at `now`."""
        horizon = now - self._window.size
        if self._tail > horizon:
            return
        if self._edge <= horizon:
            if self._edge != BEFORE:
                self._clear()
        elif self._log is not None:
            freed, tail = self._log.expire(horizon)
            self._used -= freed
            self._logged -= freed
            if tail is None:
                if self._log.kind == Log.kind:  # cells stay until the window is empty, see `_follow`
                    self._log = None
                tail = self._edge
            self._tail = tail

    def _open(self, now: int) -> None:
        """Begin a new run at `now`, after the edge of the newest."""
        if not -MOST <= now <= MOST:
            raise bad_time(now)
        if self._tail <= now - self._window.size:
            self._expire(now)
        count = self._used - self._logged
        if not count:
            self._edge = self._tail = now if self._log is None else self._log.point(now)
            return
        if count > MOST:  # charged without asking; what stays is still far above any limit
            count = MOST
            self._used = self._logged + count
        log = self._log
        if log is None:
            log = self._log = Log()
        elif log.full:
            log = self._log = self._compress(log)
        log.push(self._edge, count)
        self._logged = self._used
        self._edge = log.point(now)

    def _follow(self, ahead: "SlidingWindow") -> bool:
        """Go over to cells if `ahead`, a copy that was charged ahead, has: or units would leave before its promises.

        Tells whether that changed anything.
        """
        if not isinstance(ahead._log, Ring) or isinstance(self._log, type(ahead._log)):
            return False
        self._to_cells(type(ahead._log))
        return True

    def _to_cells(self, kind: type[Ring]) -> None:
        ring = self._compress(self._log or Log(), kind)
        if self._used > self._logged:
            self._edge = ring.point(self._edge)
        if self._used:
            self._tail = ring.tail if self._logged else self._edge
        self._log = ring

    def _compress(self, log: Log | Ring, kind: type[Ring] = Ring) -> Ring:
        ring = kind(self._window)
        for edge, count in log:
            ring.push(edge, count)
        return ring

    def _opens_at(self, now: int, units: int) -> int:
        """Return the earliest time from `now` on at which `units` fit, if nothing else comes."""
        limit = self._window.limit
        need = self._used + units - limit
        if need <= 0:
            return now
        if units > limit:
            return NEVER
        edge = self._log.reach(need) if self._log is not None else None  # what has expired is the oldest
        opens = (self._edge if edge is None else edge) + self._window.size
        return opens if opens > now else now  # noqa: FURB136 - max() takes thrice the time

    def _room(self, now: int) -> int:
        """Return how many units fit at `now`."""
        if self._tail <= now - self._window.size:
            return self._window.limit - self._counted(now)
        return self._window.limit - self._used

    def _counted(self, now: int) -> int:
        """Return the units that count at `now`."""
        horizon = now - self._window.size
        if self._tail > horizon:
            return self._used
        if self._edge <= horizon:
            return 0
        return self._used if self._log is None else self._used - self._log.expired(horizon)

    def _renews_at(self, now: int) -> int | None:  # noqa: ARG002 - as of every limit
        """Return None: units leave as they came."""
        return None

    def _empty(self, now: int) -> bool:
        """Tell whether nothing counts at `now`."""
        return self._edge <= now - self._window.size

    def _empties_at(self) -> int:
        """Return from when on nothing counts if nothing else comes."""
        return self._edge + self._window.size

    def _look_ahead(self) -> None:
        """Go over to cells, for good, if it may come to need them: all promises are by them from now on."""
        if self._window.limit > LOG_RUNS and not isinstance(self._log, LastingRing):
            self._to_cells(LastingRing)

    def _since(self, horizon: int) -> int:
        """Return the units of all runs whose edge is after `horizon`."""
        return sum(count for edge, count in self._runs() if edge > horizon)

    def _runs(self) -> Iterator[tuple[int, int]]:
        """Yield edge and units of every run, oldest first."""
        if self._log is not None:
            yield from self._log
        if self._used > self._logged:
            yield self._edge, self._used - self._logged

    def _adopt(self, other: "SlidingWindow", now: int) -> None:
        """Take over what `other` counts at `now`, under the limit and size of this window."""
        for edge, count in other._runs():
            self._add(min(edge, now), count)  # an edge on the grid may lie ahead; what came, came by now
        self._expire(now)

    def _write(self, out: Writer, last: int) -> None:
        """Write limit, size and the runs, their times relative to `last` or to one another."""
        log = self._log
        fresh = self._used - self._logged
        kind = log.kind if log is not None else 0
        out.encoded(self._window.encoded)
        out.numbers(fresh, self._edge - last if fresh else 0, kind)
        if log is not None:
            log.write(out, last)

    def _read(self, source: Reader, last: int) -> None:
        """Read what `_write` wrote into this new window."""
        self._used, edge, kind = source.numbers(3)
        if self._used:
            self._edge = self._tail = last + edge
        if kind:
            rings = {ring.kind: ring for ring in (Ring, LastingRing)}
            if kind != Log.kind and kind not in rings:
                raise ValueError(f"unknown kind of runs {kind}")
            log = Log() if kind == Log.kind else rings[kind](self._window)
            log.read(source, last)
            self._log = log
            self._logged = log.units
            self._used += self._logged
            if self._logged:
                self._tail = log.tail
        if not 0 <= self._logged <= self._used:
            raise ValueError(f"{self._used} units in a window")

    def _copy(self) -> "SlidingWindow":
        return self._copy_window(object.__new__(SlidingWindow))

    def _copy_window(self, twin: "SlidingWindow") -> "SlidingWindow":
        for name in SlidingWindow.__slots__:
            setattr(twin, name, getattr(self, name))
        if self._log is not None:
            twin._log = self._log.copy()
        return twin
