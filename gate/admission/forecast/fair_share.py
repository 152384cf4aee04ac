"""Forecast where several queues share the limits: when the n-th unit is admitted, and which unit a request is.

Limits that are never idle admit at times that do not depend on whose turn it is, if costs are equal. So the time of
a request follows from two steps: how many units go before it, from the tags of the lanes and tenants, and when the
last of them goes. Exact for costs of 1 and up to 64 waiting tenants per lane that have no limits of their own. Else,
where more waits than is `simulated`:
- mixed costs: off by at most one request of the largest cost per other queue;
- more tenants: an upper bound, late by at most one turn of all tenants, which beyond 1,024 tenants may be a turn of all
  that they have parked up to the request's own depth;
- tenants with limits: as if those that their limits block now stayed away, and the others used their share in full;
- a shared budget: as if each service that waits for it now used its share in full;
- further ahead than 1,024 moments: as the limits go on by themselves. Exact for a bucket; up to two cells early (a
  500th of its size) where a window is kept in cells; not exact where several windows bind in turn.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final, NamedTuple, Self

from gate.admission.forecast.single_queue import ready_at
from gate.admission.model import FOREVER, SECOND, whole_ms
from gate.admission.queues.fair_queue import COST_CAP, FairQueue
from gate.admission.queues.queue import Lane, Queue
from gate.limits import Limiter
from gate.limits.limit import Counted

_AHEAD: Final = 1024  # moments of admission that are looked at one by one; beyond them the pattern goes on
_MANY: Final = 2**40
_FEW: Final = 64  # tenants that are looked at one by one
_TENANTS: Final = 1024  # tenants that are looked at at all


class _BucketTail(NamedTuple):
    """A bucket as it drips: when it has given `units` from a moment on. Whole numbers: it is asked for each request."""

    tokens: int  # at that moment, in parts of a unit
    parts: int
    numerator: int  # ns in which a part drips
    denominator: int

    @classmethod
    def of(cls, limiter: Limiter, now: int) -> Self:
        """Take the bucket of a limiter that has one."""
        tokens, rate = limiter.tokens(now), limiter.spec.rate
        assert rate is not None
        return cls(tokens.numerator, tokens.denominator, rate.denominator * SECOND, rate.numerator * tokens.denominator)

    def wait(self, units: int) -> int:
        """Return after how many ns that many units have dripped."""
        return -(-max(0, units * self.parts - self.tokens) * self.numerator // self.denominator)


class _CountedTail:
    """A window or quota by itself: when it has let in `units`, at most its capacity, from a moment on."""

    __slots__ = ("_alone", "_now", "limit")

    def __init__(self, limiter: Limiter, limit: Counted, now: int) -> None:
        self.limit = limit
        self._alone = limiter.copy()
        self._alone.reconfigure(limiter.spec.only(limit), now)
        self._now = now

    def wait(self, units: int) -> int:
        """Return after how many ns."""
        return self._alone.ready_at(self._now, units) - self._now


class AdmissionTimes:
    """The moments at which limiters that are never idle admit units, found one by one as far as they are asked for."""

    __slots__ = ("_base", "_buckets", "_counted", "_done", "_ends", "_limiters", "_times", "at")

    def __init__(self, limiters: Sequence[Limiter], at: int) -> None:
        self._limiters = limiters  # copies: the forecast's own
        self.at = at
        self._times = array("q")
        self._ends = array("q")  # units admitted up to and with each moment
        self._done = 0  # moments that have passed
        self._base = 0  # units admitted by then
        self._buckets: list[_BucketTail] | None = None  # the buckets behind the last moment
        self._counted: list[_CountedTail] = []  # the other limits behind it

    @property
    def limiter(self) -> Limiter:
        """The first of the limiters, charged ahead."""
        return self._limiters[0]

    def time_of(self, units: int) -> int:
        """Return when the last of so many units, counted from now, is admitted."""
        target = self._base + units
        while not self._ends or self._ends[-1] < target:
            if len(self._times) - self._done >= _AHEAD:
                return self._beyond(target)
            self._look_on()
        return self._times[bisect_left(self._ends, target)]

    def follow(self, now: int) -> bool:
        """Go on to `now`; False where units were to be admitted before it of which nothing is known."""
        if self._done < len(self._times):
            return self._times[self._done] >= now
        self.at = max(self.at, now)
        return True

    def passed(self, now: int, units: int) -> bool:
        """Note what was admitted at `now`; False where that was not as foreseen, and the forecast is of no more use."""
        due = self._done < len(self._times) and self._times[self._done] <= now
        if not units:
            return not due
        if not due or self._times[self._done] != now or self._ends[self._done] - self._base != units:
            return False
        self._base = self._ends[self._done]
        self._done += 1
        if self._done >= _AHEAD:
            del self._times[: self._done], self._ends[: self._done]
            self._done = 0
        return True

    def _look_on(self) -> None:
        self._buckets = None
        self.at = ready_at(self._limiters, self.at, 1)
        if self.at >= FOREVER:  # nobody lives to see it
            self._times.append(FOREVER)
            self._ends.append(FOREVER)
            return
        units = min((limiter.fit(self.at, _MANY, 1) for limiter in self._limiters), default=_MANY)
        for limiter in self._limiters:
            limiter.charge(self.at, units)
        self._times.append(self.at)
        self._ends.append((self._ends[-1] if self._ends else self._base) + units)

    def _beyond(self, target: int) -> int:
        """Go on as the limits do by themselves: a bucket drips; the others let in again what they let in before."""
        last, units = self._times[-1], target - self._ends[-1]
        if self._buckets is None:
            self._buckets = [
                _BucketTail.of(limiter, last) for limiter in self._limiters if limiter.spec.rate is not None
            ]
            self._counted = [
                _CountedTail(limiter, limit, last) for limiter in self._limiters for limit in limiter.spec.counted
            ]
        wait = self._dripped(units)
        for tail in self._counted:
            rounds, rest = divmod(units - 1, tail.limit.capacity)
            first = max(tail.wait(rest + 1), self._dripped(rest + 1))
            wait = max(wait, tail.limit.again(last + first, rounds) - last)
        return min(whole_ms(last + wait), FOREVER)

    def _dripped(self, units: int) -> int:
        return max((bucket.wait(units) for bucket in self._buckets or ()), default=0)


class LaneOrder:
    """The tenants that wait in a lane, with their tags: how many units of the lane go before a given one."""

    __slots__ = ("_finish_sums", "_finishes", "_orders", "_rows", "_start_sums", "_starts")

    def __init__(self, queues: Iterable[Queue]) -> None:
        self._rows = [(queue.start, queue.order, queue.units) for queue in queues if queue.units]
        if len(self._rows) <= _FEW:
            return
        self._starts = sorted(start for start, _, _ in self._rows)
        self._finishes = sorted(start + units for start, _, units in self._rows)
        self._start_sums = list(accumulate(self._starts, initial=0))
        self._finish_sums = list(accumulate(self._finishes, initial=0))
        self._orders = sorted(order for _, order, _ in self._rows)

    def before(self, start: int, order: int, ahead: int) -> int:
        """Return how many units of the lane go before a request behind `ahead` units of its own queue."""
        tag = start + ahead
        if len(self._rows) <= _FEW:
            return sum(min(units, tag - other + (rank < order)) for other, rank, units in self._rows if other <= tag)
        started = bisect_left(self._starts, tag)
        finished = bisect_left(self._finishes, tag)
        units = started * tag - self._start_sums[started] - (finished * tag - self._finish_sums[finished])
        # of the tenants with a unit of this very tag, those of a lower order: all of them, as far as is known
        level = bisect_right(self._starts, tag) - bisect_right(self._finishes, tag)
        return units + min(level, bisect_left(self._orders, order))


class Places:
    """The place of a request in the order of all that waits now, counted in units."""

    def __init__(self, lanes: FairQueue[Lane]) -> None:
        self._virtual = lanes.virtual
        self._lanes = lanes.flows()
        self._orders: dict[str, LaneOrder] = {}

    def units_to(self, queue: Queue, ahead: int, cost: int) -> int:
        """Return how many units are admitted up to and with a request behind `ahead` units of its own queue."""
        lane = queue.lane
        before = self._before(queue, ahead, cost)
        tag = max(lane.start, self._virtual) + before * lane.stride
        units = before + cost
        for other in self._lanes:
            gap = tag - other.start
            if other is not lane and gap >= 0 and other.ready_units:
                if not other.stride:  # always the next
                    units += other.ready_units
                    continue
                turns, rest = divmod(gap, other.stride)
                units += min(other.ready_units, turns + (1 if rest or other.order < lane.order else 0))
        return units

    def _before(self, queue: Queue, ahead: int, cost: int) -> int:
        lane = queue.lane
        tenants = len(lane.fair)
        if tenants <= 1:
            return ahead
        if tenants > _TENANTS:
            return ahead + min(max(0, lane.ready_units - queue.units), (tenants - 1) * (ahead + min(cost, COST_CAP)))
        order = self._orders.get(lane.name)
        if order is None:
            order = self._orders[lane.name] = LaneOrder(lane.fair.flows())
        if queue.entry is not None or lane.remembers(queue):
            return order.before(max(queue.start, lane.fair.virtual), queue.order, ahead)
        return order.before(lane.fair.virtual, lane.orders + 1, ahead)
