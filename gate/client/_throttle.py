"""The throttle of a pipeline, whose backlog in the gate is to stay below a target. No I/O and no clock in here.

The law: with capacity C, a backlog L and a most B that it may be, a pipeline goes at C * (B - L) / L. It looks at the
backlog alone, which all pipelines share, so all go at the same rate whatever happened before, without knowing of each
other: n of them settle at L = B * n / (n + 1), one at half of what it may use. The other half is for a limit that is
cut, and for further pipelines. The backlog never runs dry, so nothing of the limit is lost; it never reaches B.
This is congestion control by explicit queue length, as in Vegas (Brakmo, Peterson 1995) and in the proof of fairness
by Kelly, Maulloo and Tan (1998): a price that all see, and a demand that falls with it.

The gate tells its backlog once a second. In between it is predicted from what this pipeline has released, what others
are taken to have released, and what the gate has admitted since.
"""

from collections import deque
from dataclasses import dataclass
from math import inf
from typing import Final, Literal, NamedTuple

WhenAway = Literal["wait", "go_on"]

RECHECK: Final = 0.1  # s: the longest time after which to ask again
_FASTEST: Final = 1.5  # times the capacity, while there is no backlog yet
_SLACK: Final = 0.1  # s that may be caught up after the pipeline or this process was late
_TRANSIT: Final = 0.1  # s from a release until the gate has decided, taken generously
_BEAT: Final = 1.0  # s: reports do not come faster
_LATE: Final = 3.0  # intervals between reports, for which the gate is taken to go on admitting; more: it may be away
_GAP: Final = 3.0  # intervals after which it certainly was
_INTERVALS: Final = 5  # of which the shortest is the gate's beat
_GRAIN: Final = 0.01  # s: releases are remembered together
_REMEMBERED: Final = 10_000  # grains
_LONGEST_IDLE: Final = 10.0  # s after which it does not matter any more what a pipeline might have released
_PROBE_RATE: Final = 10.0  # per second, before the first report: enough to be told the limits
_PROBE_MOST: Final = 100
_OFFSETS: Final = 60  # reports from which the broker's clock is known
_FADE: Final = 0.5  # of what arrived before, per report
_MOST_PIPELINES: Final = 1000.0
_SAMPLE: Final = 20  # admissions that make a rate


@dataclass(frozen=True, slots=True)
class Report:
    """What the gate says about the lane at one moment. Rates are per second; `arrived` and `admitted` only grow."""

    at: float  # s, by the gate's clock
    wait: float  # s, of a request that comes now; inf: not known
    backlog: int  # requests in the lane
    rate: float  # requests per second that the limits give it; inf: there is no limit
    arrived: int  # requests decided for the first time
    admitted: int
    paused: bool


class Estimate(NamedTuple):
    """What is known now: seconds that the next request will wait, and requests per second of this pipeline."""

    wait: float
    rate: float


class Throttle:
    """Decides when the next requests may be released. Times are seconds of any clock that never steps back.

    `max_wait` is in seconds, `max_backlog` in requests; with both, the tighter one counts. The gate is away when
    nothing was heard for `away_after` seconds although something was released or waits for release. Then "wait"
    releases no more than fits below the target, and "go_on" goes on at the last known rate (without a limit, if none
    was ever known).
    """

    def __init__(
        self,
        *,
        max_wait: float | None = None,
        max_backlog: int | None = None,
        when_away: WhenAway = "wait",
        away_after: float = 10.0,
    ) -> None:
        if max_wait is None and max_backlog is None:
            raise ValueError("a pacer needs a target: give max_wait (seconds) or max_backlog (requests)")
        for name, value in {"max_wait": max_wait, "max_backlog": max_backlog, "away_after": away_after}.items():
            if value is not None and not 0 < value < inf:
                raise ValueError(f"{name} must be a positive number, not {value}")
        if when_away not in {"wait", "go_on"}:
            raise ValueError(f"when_away must be 'wait' or 'go_on', not {when_away!r}")
        self._max_wait = max_wait
        self._max_backlog = max_backlog
        self._goes_on = when_away == "go_on"
        self._away_after = away_after
        self._released = _Ledger()
        self._model = _Ledger()  # of a pipeline that releases all that the law gives it
        self._flow = _Flow()
        self._report: Report | None = None
        self._heard_at = -inf
        self._expecting: float | None = None  # since when something should have been heard
        self._advanced_to: float | None = None
        self._debt = 0.0  # requests released that the rate has not paid for yet
        self._capacity = inf  # requests per second
        self._most = inf  # requests that the backlog may be
        self._level = 0.0  # requests in the gate by the newest report

    @property
    def released(self) -> int:
        """How many requests were released."""
        return round(self._released.total)

    def take(self, now: float, count: int = 1) -> float:
        """Release `count` requests and return 0, or return after how many seconds to ask again.

        More at once than the target allows are released when one could be; what comes after them waits the longer.
        """
        rate = self._advance(now)
        if self._expecting is None:
            self._expecting = now
        if rate < inf:
            if self._debt > 0 or not rate:
                return min(self._debt / rate, RECHECK) if rate else RECHECK
            self._debt += count
        self._released.add(now, count)
        return 0.0

    def report(self, now: float, report: Report) -> bool:
        """Take a report; False for one that is not newer than the last, which is passed over."""
        last = self._report
        if last is not None and report.at <= last.at:
            return False
        self._advance(now)
        self._flow.take(now, report, self._released, self._model)
        self._report, self._heard_at, self._expecting = report, now, None
        self._capacity = min(report.rate, self._flow.capacity)
        self._level = float(report.backlog)
        self._most = inf if self._max_backlog is None else float(self._max_backlog)
        if self._max_wait is not None and self._capacity < inf:
            wait = max(report.wait, report.backlog / self._capacity if self._capacity else inf)
            allowed = self._max_wait * self._capacity
            # in requests of the scale of `allowed`, so that the fuller of both targets counts
            if self._max_backlog is None or wait / self._max_wait >= report.backlog / self._max_backlog:
                self._level, self._most = wait * self._capacity, allowed
        elif self._max_wait is not None and report.wait > self._max_wait:
            self._most = 0.0  # paused, and no limit to reckon with
        self._level += self._flow.unseen
        return True

    def level(self, now: float) -> float:
        """Return how many requests are taken to wait in the gate, or to be on their way."""
        report, flow = self._report, self._flow
        own = self._released.total - flow.counted
        if report is None:
            return own
        elapsed = min(max(0.0, now - flow.at), flow.beat * _LATE)
        others = max(flow.others_rate * elapsed, (flow.pipelines - 1) * (self._model.total - flow.modelled))
        stands = report.paused or report.wait == inf  # for all that is known, nothing goes
        drained = 0.0 if stands else self._capacity * elapsed
        return max(0.0, self._level + own + others - drained)

    def is_away(self, now: float) -> bool:
        """Tell whether the gate was not heard of for too long."""
        if self._expecting is None or (self._report is not None and self._report.paused):
            return False
        return now - max(self._heard_at, self._expecting) >= self._away_after

    def estimate(self, now: float) -> Estimate | None:
        """Return how long the next request will wait and how fast this pipeline goes; None: the gate did not say."""
        if self._report is None:
            return None
        if self._capacity == inf:
            return Estimate(0.0, inf)
        wait = inf if self._report.wait == inf or not self._capacity else self.level(now) / self._capacity
        return Estimate(wait, self._capacity / self._flow.pipelines)

    def _rate(self, now: float) -> float:
        if self._goes_on and self.is_away(now):
            return inf if self._report is None else self._capacity
        if self._report is None:
            return _PROBE_RATE if self._released.total < _PROBE_MOST else 0.0
        if self._capacity == inf and self._most == inf:
            return inf
        level, most = self.level(now), self._most
        if level >= most:
            return 0.0
        capacity = self._capacity if self._capacity < inf else most
        return capacity * (min(_FASTEST, (most - level) / level) if level else _FASTEST)

    def _advance(self, now: float) -> float:
        """Let time pass, and return the rate now: what it gives pays debts, and is what a model pipeline releases."""
        if self._advanced_to is None:
            self._advanced_to = now
        time, self._advanced_to = max(self._advanced_to, now - _LONGEST_IDLE), max(self._advanced_to, now)
        rate = self._rate(now)
        while time < now and rate < inf:
            step = min(now - time, RECHECK)
            time += step
            rate = self._rate(time)
            self._model.add(time, rate * step)
            self._debt = max(self._debt - rate * step, -rate * _SLACK)
        return rate


class _Ledger:
    """How many requests were released until when."""

    def __init__(self) -> None:
        self.total = 0.0
        self._grains: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)  # from, released before

    def add(self, now: float, count: float) -> None:
        if not self._grains or now - self._grains[-1][0] >= _GRAIN:
            self._grains.append((now, self.total))
        self.total += count

    def until(self, time: float) -> float:
        """Return how many were released before a time."""
        for since, before in self._grains:
            if since >= time:
                return before
        return self.total

    def forget(self, time: float) -> None:
        """Forget what is not asked about again: times before this one."""
        while self._grains and self._grains[0][0] < time:
            self._grains.popleft()


class _Flow:
    """What reports say together: how the gate's clock stands to ours, who else is there, how fast the backlog goes."""

    def __init__(self) -> None:
        self.at = -inf  # of the newest report, by our clock
        self.counted = 0.0  # own releases that it knows of
        self.modelled = 0.0  # what a model pipeline had released by then
        self.unseen = 0.0  # own releases that have certainly not arrived: the gate was away
        self.pipelines = 1.0  # how many model pipelines would send what arrives
        self.others_rate = 0.0  # requests per second of the others among them, since the last report
        self.capacity = inf  # requests per second that left the backlog
        self.beat = _BEAT  # s between reports
        self._offsets: deque[float] = deque(maxlen=_OFFSETS)
        self._intervals: deque[float] = deque(maxlen=_INTERVALS)
        self._last: Report | None = None
        self._model = self._arrived = 0.0
        self._busy: deque[tuple[float, int]] = deque()  # at, admitted: since when there was a backlog at each report

    def take(self, now: float, report: Report, released: _Ledger, model: _Ledger) -> None:
        # The quickest of the last reports tells how the clocks stand; others came later than they were written.
        self._offsets.append(now - report.at)
        self.at = report.at + min(self._offsets)
        decided = self.at - _TRANSIT  # what was released before is in the report
        counted, modelled = max(self.counted, released.until(decided)), max(self.modelled, model.until(decided))
        if self._last is not None and report.arrived >= self._last.arrived:
            interval, arrived = report.at - self._last.at, report.arrived - self._last.arrived
            if self.unseen or interval > _GAP * self.beat:
                self.unseen = max(0.0, self.unseen + counted - self.counted - arrived)
            self._intervals.append(interval)
            self.beat = max(_BEAT, min(self._intervals))
            self._count_pipelines(arrived, modelled - self.modelled)
            self.others_rate = arrived / interval * (1 - 1 / self.pipelines)
        else:
            self.unseen = 0.0
        self._last, self.counted, self.modelled = report, counted, modelled
        self._measure(report)
        for ledger in (released, model):
            ledger.forget(decided - _BEAT)

    def _count_pipelines(self, arrived: int, model: float) -> None:
        if model > 0:  # else nobody who asks was allowed anything: what arrives tells nothing about their number
            self._arrived = self._arrived * _FADE + arrived
            self._model = self._model * _FADE + model
            self.pipelines = min(max(1.0, self._arrived / self._model), _MOST_PIPELINES)

    def _measure(self, report: Report) -> None:
        """Take what was admitted while there was a backlog all the time for the capacity."""
        busy = self._busy
        if not report.backlog or (busy and report.admitted < busy[-1][1]):
            busy.clear()
        if report.backlog:
            busy.append((report.at, report.admitted))
        while len(busy) > 2 and busy[-1][1] - busy[1][1] >= _SAMPLE:
            busy.popleft()
        admitted = busy[-1][1] - busy[0][1] if busy else 0
        self.capacity = admitted / (busy[-1][0] - busy[0][0]) if admitted >= _SAMPLE else inf
