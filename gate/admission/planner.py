"""Stamps requests that must wait with the time at which they will be admitted if nothing else comes.

All that waits in one queue is planned exactly (`plan`). Where several queues wait, a request's place in their order and
the moments of admission give its time (`horizon`); where that is an estimate and little waits, a rehearsal does.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from gate.admission.arrivals import Arrival
from gate.admission.horizon import Horizon, Positions
from gate.admission.lanes import Lane, Queue
from gate.admission.parked import Parked
from gate.admission.plan import Plan, ready_at
from gate.admission.rehearsal import MOST, Rehearsal
from gate.admission.scheduler import Scheduler
from gate.admission.shared import Limits
from gate.admission.tenants import Tenant
from gate.limits import NEVER, Limiter

Booked = tuple[list[int], int]  # the times of an arrival's requests, and that of the first that was not booked

_REPLAY: Final = 20_000  # parked requests that are planned anew when a plan is missing; for more, places are counted


class Planner:
    """The plan of one service."""

    def __init__(self, scheduler: Scheduler, parked: Parked, limits: Limits) -> None:
        self.plan: Plan | None = None  # charged with all that waits, if that is one queue; None: must be made
        self._outlook = _Outlook(limits)
        self._scheduler = scheduler
        self._parked = parked
        self._limits = limits

    def forget(self) -> None:
        """Plan anew: something else than time and admissions changed the future."""
        self.plan = None
        self._outlook = _Outlook(self._limits)

    def admitted(self, now: int, units: int) -> None:
        """Note how many units a step admitted."""
        self._outlook.admitted(now, units)

    def expired(self) -> None:
        """Note that requests left without being admitted: what was planned behind them comes earlier."""
        self.plan = None

    def book(self, arrivals: Sequence[Arrival], start: int, latest: Sequence[int]) -> list[Booked]:
        """Plan what is left of each arrival, which the scheduler counts as waiting already, from `start` on.

        Returns, per arrival, the times that are not after its latest one, and the time of the first that is. Requests
        that are not planned no longer count as waiting.
        """
        self._use_plan(arrivals, start)
        played = self._play(arrivals, start, latest)
        if played is not None:
            return played
        ahead = self._ahead(arrivals)
        positions = Positions(self._scheduler.lanes)
        owns: dict[Tenant, Limiter | None] = {}
        planned = []
        for arrival, limit in zip(arrivals, latest, strict=True):
            queue = arrival.queue
            if queue.tenant not in owns:
                owns[queue.tenant] = self._own(queue.tenant, start, ahead)
            own = owns[queue.tenant]
            if self.plan is not None:
                times, time = self.plan.book(arrival.left, arrival.cost, limit, own)
            else:
                times, time = [], start
                for _ in range(arrival.left):
                    time = self._time_of(self._outlook, positions, queue, ahead[queue], arrival.cost, start)
                    if own is not None:
                        time = ready_at([own], time, arrival.cost)
                    if time > limit:
                        break
                    if own is not None:
                        own.charge(time, arrival.cost)
                    times.append(time)
                    ahead[queue] += arrival.cost
            self._shed(arrival, len(times))
            planned.append((times, time))
        self._keep_promises(owns, () if self.plan is None else self.plan.limiters)
        return planned

    def _play(self, arrivals: Sequence[Arrival], start: int, latest: Sequence[int]) -> list[Booked] | None:
        """Plan by a rehearsal; None: there is a simpler way, or too much waits, or others draw on the budget."""
        budget = self._limits.budget
        if (
            self.plan is not None
            or self._parked.requests + sum(arrival.left for arrival in arrivals) > MOST
            or (budget is not None and budget.others(self._limits.service))
        ):
            return None
        counts = [arrival.left for arrival in arrivals]
        rehearsal = Rehearsal(self._scheduler, self._parked, arrivals, counts, latest)
        if rehearsal.plain:
            return None
        late: dict[int, int] = {}
        while True:
            shared = [_ahead_of(limiter) for limiter in self._limits.limiters()]
            times, shed = rehearsal.play(shared, start)
            if not shed:
                break
            late |= shed
            counts = [len(times.get(number, ())) for number in range(len(arrivals))]
            rehearsal = Rehearsal(self._scheduler, self._parked, arrivals, counts, latest)
        for arrival, count in zip(arrivals, counts, strict=True):
            self._shed(arrival, count)
        owns = {arrival.queue.tenant: rehearsal.own.get(arrival.queue.tenant) for arrival in arrivals}
        for tenant, own in owns.items():
            tenant.plan = own
        self._outlook = _Outlook(self._limits)  # the old one was copied from limiters that change now
        self._keep_promises(owns, shared)
        return [(times.get(number, []), late.get(number, start)) for number in range(len(arrivals))]

    def _shed(self, arrival: Arrival, planned: int) -> None:
        """Let what is not planned no longer count as waiting."""
        shed = arrival.left - planned
        if shed:
            self._scheduler.shrink(arrival.queue, shed, shed * arrival.cost)

    def _keep_promises(self, owns: Mapping[Tenant, Limiter | None], shared: Sequence[Limiter]) -> None:
        """Let the limiters compress what their plans have compressed, or they would admit before the time promised.

        `shared` are the plans of the shared limits, if there are any.
        """
        for tenant, own in owns.items():
            if own is not None and tenant.limiter is not None:
                tenant.limiter.follow(own)
        if shared:
            for limiter, ahead in zip(self._limits.limiters(), shared, strict=True):
                limiter.follow(ahead)
        self._outlook.keep_promises()

    def estimate(self, queue: Queue, cost: int, now: int, start: int) -> int:
        """Return when one more request, behind what waits in its queue, would be admitted from `start` on.

        Limiters are never asked about the future: they take the newest time that they hear of for the present.
        """
        own = queue.tenant.plan or queue.tenant.limiter
        if self._scheduler.waiting:
            positions = Positions(self._scheduler.lanes)
            time = self._time_of(self._outlook, positions, queue, queue.units, cost, start)
            self._outlook.keep_promises()
        else:
            time = max(start, ready_at(self._limits.limiters(), now, cost))
        return time if own is None else max(time, ready_at([own], now, cost))

    def lane_end(self, lane: Lane, now: int, start: int) -> int:
        """Return when the last of what waits in a lane is admitted if nothing else comes."""
        if not lane.units:
            return max(start, ready_at(self._limits.limiters(), now, 1))
        if self.plan is not None:
            return self.plan.at
        queue = max(lane.fair.flows(), key=lambda queue: queue.start + queue.units, default=None)
        if queue is None:
            return max(start, self._scheduler.next_unblocked() or start)
        # a look from aside: who only reports must not change what will be decided
        outlook = _Outlook(self._limits)
        return self._time_of(outlook, Positions(self._scheduler.lanes), queue, queue.units, 1, start)

    def end(self, now: int, start: int) -> int:
        """Return when the last of all that waits is admitted if nothing else comes."""
        if self.plan is not None and self._parked.requests:
            return self.plan.at
        return max((self.lane_end(lane, now, start) for lane in self._scheduler.all if lane.units), default=start)

    def _use_plan(self, arrivals: Sequence[Arrival], start: int) -> None:
        """Have a plan if all that waits is in one queue, else none."""
        new = {arrival.queue for arrival in arrivals}
        queue = next(iter(new), None)
        budget = self._limits.budget
        if (
            len(new) != 1
            or queue is None
            or self._scheduler.waiting > 1
            or (budget is not None and budget.others(self._limits.service))
        ):
            self.plan = None
            return
        start = max(start, queue.tenant.paused_until)
        coming = sum(arrival.left for arrival in arrivals)
        parked = self._parked.requests
        if self.plan is not None and parked:
            self.plan.at = max(self.plan.at, start)
            return
        if parked > _REPLAY:
            self.plan = None
            return
        assert queue.requests == parked + coming
        self.plan = Plan([_ahead_of(limiter) for limiter in self._limits.limiters()], start)
        own = None if queue.tenant.limiter is None else _ahead_of(queue.tenant.limiter)
        for count, cost, _ in self._parked.entries(queue):
            self.plan.book(count, cost, NEVER, own)
        queue.tenant.plan = own

    def _ahead(self, arrivals: Sequence[Arrival]) -> dict[Queue, int]:
        """Return how many units were parked in each queue before this step."""
        ahead = {arrival.queue: arrival.queue.units for arrival in arrivals}
        for arrival in arrivals:
            ahead[arrival.queue] -= arrival.left * arrival.cost
        return ahead

    def _own(self, tenant: Tenant, start: int, ahead: dict[Queue, int]) -> Limiter | None:
        """Return the plan of a tenant's own limit, made if it is missing."""
        if tenant.limiter is None:
            return None
        if tenant.plan is None or not any(ahead.get(queue, queue.units) for queue in tenant.queues.values()):
            plan = Plan([tenant.limiter.copy()], max(start, tenant.paused_until))
            for queue in sorted(tenant.queues.values(), key=lambda queue: queue.lane.order):
                for count, cost, _ in self._parked.entries(queue):
                    plan.book(count, cost, NEVER)
            tenant.plan = plan.limiters[0]
        return tenant.plan

    def _time_of(
        self, outlook: "_Outlook", positions: Positions, queue: Queue, ahead: int, cost: int, start: int
    ) -> int:
        units = positions.units_to(queue, ahead, cost)
        return max(outlook.time_of(units, start), queue.tenant.paused_until)


class _Outlook:
    """The horizons of a service's shared limits. They save work only: new ones would say the same."""

    __slots__ = ("_budget", "_limits", "_own")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._own: Horizon | None = None
        self._budget: Horizon | None = None

    def admitted(self, now: int, units: int) -> None:
        """Go on with what a step admitted."""
        if self._own is not None and not self._own.passed(now, units):
            self._own = None
        self._budget = None  # others draw on it

    def time_of(self, units: int, start: int) -> int:
        """Return when the last of so many units is admitted, from `start` on."""
        limits = self._limits
        if self._own is None or not self._own.follow(start):
            self._own = Horizon([limits.limiter.copy()], start)
        time = max(start, self._own.time_of(units))
        if limits.budget is not None:
            if self._budget is None or not self._budget.follow(start):
                self._budget = Horizon([limits.budget.limiter.copy()], start)
            rivals = sum(min(waiting, units) for waiting in limits.budget.others(limits.service))
            time = max(time, self._budget.time_of(units + rivals))
        return time

    def keep_promises(self) -> None:
        """Let the limiters compress what was compressed to find times that were told."""
        if self._own is not None and self._limits.limiter.follow(self._own.limiter):
            self._own = None  # a new one would say otherwise
        if self._budget is not None and self._limits.budget is not None:
            self._limits.budget.limiter.follow(self._budget.limiter)


def _ahead_of(limiter: Limiter) -> Limiter:
    """Return a copy to charge ahead: from the first promise on both count in cells if the copy could come to it."""
    limiter.expect_many()
    return limiter.copy()
