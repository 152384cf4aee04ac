"""Forecast of one service: the time at which each request that must wait is admitted if nothing else comes.

All that waits in one queue is forecast exactly (`single_queue`). Where several queues wait, a request's place in their
order and the moments of admission give its time (`fair_share`); where that is an estimate and little waits, it is
`simulated`.
"""

from collections.abc import Mapping, Sequence
from heapq import nlargest
from itertools import islice
from typing import Final

from gate.admission.fair_scheduler import FairScheduler
from gate.admission.forecast.drift import REPLAY, Drift
from gate.admission.forecast.fair_share import Places
from gate.admission.forecast.shared_limits import DeepTenant, SharedLimits
from gate.admission.forecast.simulated import MOST, SimulatedQueues
from gate.admission.forecast.single_queue import SingleQueue, ready_at
from gate.admission.limits.service import Limits
from gate.admission.model import FOREVER, SECOND, UNTIL_RESUMED, whole_ms
from gate.admission.queues.parked_places import ParkedPlaces
from gate.admission.queues.queue import Arrival, Lane, Queue, Tenant
from gate.limits import NEVER, Limiter, Spec

Booked = tuple[list[int], int]  # the times of an arrival's requests, and that of the first that was not booked

_LOOKED_AT: Final = 4_096  # queues of which a report asks which ones wait longest for their tenants' own limits
_FEW: Final = 3  # of these, for which it is reckoned when they end


class Forecast:
    """When each request of one service that waits will be admitted."""

    def __init__(self, scheduler: FairScheduler, parked: ParkedPlaces, limits: Limits) -> None:
        self.single: SingleQueue | None = None  # charged with all that waits, if that is one queue; None: must be made
        self.drift = Drift()
        self._shared = SharedLimits(limits)
        self._scheduler = scheduler
        self._parked = parked
        self._limits = limits

    def forget(self) -> None:
        """Plan anew: something else than time and admissions changed the future."""
        self.single = None
        self._shared = SharedLimits(self._limits)

    def notice(self, now: int) -> None:
        """Begin a step in which something waits: see whether what was foretold can still come true."""
        if self.single is not None:
            own = next((queue.tenant.limiter for queue in self._scheduler.working()), None)
            limiters = self._limits.limiters() if own is None else [*self._limits.limiters(), own]
            self.drift.notice(now, limiters, self.single.at)

    def stepped(self, now: int, start: int, *, admitted: bool) -> None:
        """End a step: note when the next of what waits can go."""
        head = self._scheduler.head()
        if head is None:
            due = self._scheduler.next_unblocked()
        else:
            due = ready_at(self._limits.limiters(), now, self._scheduler.head_cost(head))
        self.drift.stepped(now, None if due is None else min(max(start, due), FOREVER), admitted=admitted)

    def admitted(self, now: int, units: int) -> None:
        """Note how many units a step admitted."""
        self._shared.admitted(now, units)

    def expired(self) -> None:
        """Note that requests left without being admitted: what was foretold behind them comes earlier."""
        self.single = None

    def overtaken(self, now: int) -> None:
        """Note that requests went as they came, before what waits: what was foretold of that may come later.

        Where the shared limits still have room for all that waits, it waits for something else, and nothing changes.
        """
        units = sum(lane.units for lane in self._scheduler.all)
        if not all(limiter.fit(now, 1, units) for limiter in self._limits.limiters()):
            self.drift.stale = True

    def book(self, arrivals: Sequence[Arrival], start: int, latest: Sequence[int]) -> list[Booked]:
        """Plan what is left of each arrival, which the scheduler counts as waiting already, from `start` on.

        Returns, per arrival, the times that are not after its latest one, and the time of the first that is. Requests
        that get no time no longer count as waiting.
        """
        self._use_single(arrivals, start)
        played = self._play(arrivals, start, latest)
        if played is not None:
            return played
        ahead = self._ahead(arrivals)
        places = Places(self._scheduler.lanes)
        owns: dict[Tenant, Limiter | DeepTenant | None] = {}
        booked = []
        for arrival, limit in zip(arrivals, latest, strict=True):
            queue = arrival.queue
            if queue.tenant not in owns:
                owns[queue.tenant] = self._own(queue.tenant, start, ahead)
            own = owns[queue.tenant]
            if self.single is not None and not isinstance(own, DeepTenant):
                times, time = self.single.book(arrival.left, arrival.cost, limit, own)
            else:
                times, time = [], start
                for _ in range(arrival.left):
                    time = self._time_of(self._shared, places, queue, ahead[queue], arrival.cost, start)
                    if own is not None:
                        time = max(time, whole_ms(own.ready_at(time, arrival.cost)))
                    if time > limit:
                        break
                    if own is not None:
                        own.charge(time, arrival.cost)
                    times.append(time)
                    ahead[queue] += arrival.cost
            self._shed(arrival, len(times))
            booked.append((times, time))
        self._keep_promises(owns, () if self.single is None else self.single.limiters)
        return booked

    def _play(self, arrivals: Sequence[Arrival], start: int, latest: Sequence[int]) -> list[Booked] | None:
        """Plan by a simulated; None: there is a simpler way, or too much waits, or others draw on the budget."""
        budget = self._limits.budget
        if (
            self.single is not None
            or self._limits.calls is not None
            or self._parked.requests + sum(arrival.left for arrival in arrivals) > MOST
            or (budget is not None and budget.others(self._limits.service))
        ):
            return None
        counts = [arrival.left for arrival in arrivals]
        simulated = SimulatedQueues(self._scheduler, self._parked, arrivals, counts, latest)
        if simulated.plain:
            return None
        late: dict[int, int] = {}
        while True:
            shared = [_ahead_of(limiter) for limiter in self._limits.limiters()]
            times, shed = simulated.play(shared, start)
            if not shed:
                break
            late |= shed
            counts = [len(times.get(number, ())) for number in range(len(arrivals))]
            simulated = SimulatedQueues(self._scheduler, self._parked, arrivals, counts, latest)
        for arrival, count in zip(arrivals, counts, strict=True):
            self._shed(arrival, count)
        owns = {arrival.queue.tenant: simulated.own.get(arrival.queue.tenant) for arrival in arrivals}
        for tenant, own in owns.items():
            tenant.forecast, tenant.forecast_stale = own, False
        self._shared = SharedLimits(self._limits)  # the old one was copied from limiters that change now
        self._keep_promises(owns, shared)
        return [(times.get(number, []), late.get(number, start)) for number in range(len(arrivals))]

    def _shed(self, arrival: Arrival, booked: int) -> None:
        """Let what is not booked no longer count as waiting."""
        shed = arrival.left - booked
        if shed:
            self._scheduler.shrink(arrival.queue, shed, shed * arrival.cost)

    def _keep_promises(self, owns: Mapping[Tenant, Limiter | DeepTenant | None], shared: Sequence[Limiter]) -> None:
        """Let the limiters compress what their copies have compressed, or they would admit before the time promised.

        `shared` are the copies of the shared limits, charged ahead, if there are any.
        """
        for tenant, own in owns.items():
            if own is not None and tenant.limiter is not None:
                tenant.limiter.follow(own.limiter if isinstance(own, DeepTenant) else own)
        if shared:
            for limiter, ahead in zip(self._limits.limiters(), shared, strict=True):
                limiter.follow(ahead)
        self._shared.keep_promises()

    def estimate(self, queue: Queue, cost: int, now: int, start: int) -> int:
        """Return when one more request, behind what waits in its queue, would be admitted from `start` on.

        Limiters are never asked about the future: they take the newest time that they hear of for the present.
        """
        own = queue.tenant.forecast or queue.tenant.limiter
        if self._scheduler.waiting:
            places = Places(self._scheduler.lanes)
            time = self._time_of(self._shared, places, queue, queue.units, cost, start)
            self._shared.keep_promises()
        else:
            time = max(start, ready_at(self._limits.limiters(), now, cost))
            if self._limits.calls is not None:
                time = whole_ms(self._limits.calls.time_of(time, cost))
        return time if own is None else max(time, ready_at([own], now, cost))

    def lane_end(self, lane: Lane, now: int, start: int) -> int:
        """Return when the last that waits in a lane is admitted if nothing else comes; if none, when one that comes is.

        What waits for a tenant that is paused without an end counts only where nothing else waits.
        """
        if not lane.units:
            return max(start, ready_at(self._limits.limiters(), now, 1))
        if self.single is not None and not self.drift.wrong:
            return max(start, self.single.at)
        # a look from aside: who only reports must not change what will be decided
        shared = SharedLimits(self._limits)
        ends = []
        queue = max(lane.fair.flows(), key=lambda queue: (queue.start + queue.units, queue.order), default=None)
        if queue is not None and queue.units:
            last = self._parked.newest_cost(queue)
            places = Places(self._scheduler.lanes)
            ends.append(self._time_of(shared, places, queue, queue.units - last, last, start))
        ends += self._own_ends(lane, start)
        return max([end for end in ends if end < UNTIL_RESUMED] or ends, default=start)

    def _own_ends(self, lane: Lane, start: int) -> list[int]:
        """Return when the last is admitted that waits in a lane for its tenant's own limit or the end of its pause."""
        waits: dict[Tenant, float] = {}
        for queue in islice(self._scheduler.working(), _LOOKED_AT):
            tenant = queue.tenant
            if queue.lane is lane and queue.requests and (tenant.limiter is not None or tenant.closed_until > start):
                long = 0.0 if tenant.limiter is None else queue.units * _longest(tenant.limiter.spec)
                waits[tenant] = max(start, tenant.closed_until) + long
        finite = [tenant for tenant in waits if tenant.closed_until < UNTIL_RESUMED]
        ends = [UNTIL_RESUMED] if waits and not finite else []
        for tenant in nlargest(_FEW, finite, key=waits.__getitem__):
            begin = max(start, tenant.closed_until)
            units = sum(queue.units for queue in tenant.queues.values())
            ends.append(
                begin if tenant.limiter is None else DeepTenant(tenant.limiter, 0, begin).ready_at(begin, units)
            )
        return ends

    def end(self, now: int, start: int) -> int:
        """Return when the last of all that waits is admitted if nothing else comes."""
        ends = [self.lane_end(lane, now, start) for lane in self._scheduler.all if lane.units]
        return max([end for end in ends if end < UNTIL_RESUMED] or ends, default=start)

    def _use_single(self, arrivals: Sequence[Arrival], start: int) -> None:
        """Have a single-queue forecast if all that waits is in one queue, else none."""
        new = {arrival.queue for arrival in arrivals}
        queue = next(iter(new), None)
        budget = self._limits.budget
        if (
            len(new) != 1
            or queue is None
            or self._scheduler.waiting > 1
            or self._limits.calls is not None
            or (budget is not None and budget.others(self._limits.service))
        ):
            self.single = None
            return
        start = max(start, queue.tenant.closed_until)
        coming = sum(arrival.left for arrival in arrivals)
        parked = self._parked.requests
        drift = self.drift
        if self.single is not None and parked and not drift.stale:
            self.single.at = max(self.single.at, start)
            return
        if parked > REPLAY or not drift.affords(parked):
            if self.single is not None and not drift.wrong:
                self.single.at = max(self.single.at, start)
            else:
                self.single = None
            return
        assert queue.requests == parked + coming
        self.single = SingleQueue([_ahead_of(limiter) for limiter in self._limits.limiters()], start)
        drift.made(start)
        own = None if queue.tenant.limiter is None else _ahead_of(queue.tenant.limiter)
        for count, cost, _ in self._parked.entries(queue):
            self.single.book(count, cost, NEVER, own)
        queue.tenant.forecast, queue.tenant.forecast_stale = own, False

    def _ahead(self, arrivals: Sequence[Arrival]) -> dict[Queue, int]:
        """Return how many units were parked in each queue before this step."""
        ahead = {arrival.queue: arrival.queue.units for arrival in arrivals}
        for arrival in arrivals:
            ahead[arrival.queue] -= arrival.left * arrival.cost
        return ahead

    def _own(self, tenant: Tenant, start: int, ahead: dict[Queue, int]) -> Limiter | DeepTenant | None:
        """Return the forecast of a tenant's own limit, made if it is missing or can't come true any more."""
        if tenant.limiter is None:
            return None
        units = sum(ahead.get(queue, queue.units) for queue in tenant.queues.values())
        missing = tenant.forecast is None or not units
        if missing or tenant.forecast_stale:
            start = max(start, tenant.closed_until)
            if tenant.requests > REPLAY:
                self.single, tenant.forecast = None, None
                return DeepTenant(tenant.limiter, units, start)
            if self.drift.affords(tenant.requests) or missing:
                single = SingleQueue([tenant.limiter.copy()], start)
                for queue in sorted(tenant.queues.values(), key=lambda queue: queue.lane.order):
                    for count, cost, _ in self._parked.entries(queue):
                        single.book(count, cost, NEVER)
                tenant.forecast, tenant.forecast_stale = single.limiters[0], False
        return tenant.forecast

    def _time_of(self, shared: SharedLimits, places: Places, queue: Queue, ahead: int, cost: int, start: int) -> int:
        units = places.units_to(queue, ahead, cost)
        return max(shared.time_of(units, start), queue.tenant.closed_until)


def _longest(spec: Spec) -> float:
    """Return how many ns a unit takes in the long run."""
    return max((SECOND / limit.per_second for limit in spec.limits), default=0.0)


def _ahead_of(limiter: Limiter) -> Limiter:
    """Return a copy to charge ahead: from the first promise on both count in cells if the copy could come to it."""
    limiter.expect_many()
    return limiter.copy()
