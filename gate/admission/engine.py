"""One service's engine: decides about batches of requests. Pure and mutable."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, Self

from gate.admission import overflow, records
from gate.admission.arrivals import Arrival, decisions
from gate.admission.breach import Beat, Breach, Meter, Situation
from gate.admission.budgets import Budgets
from gate.admission.lanes import Lane, Queue, lanes_of
from gate.admission.model import MS, SECOND, Decision, Event, Pull, Reason, Run, Step, Usage, Verdict
from gate.admission.overflow import FOREVER, Held
from gate.admission.parked import NO_DEADLINE, Parked
from gate.admission.plan import ready_at
from gate.admission.planner import Planner
from gate.admission.report import fullest, service_usage
from gate.admission.scheduler import Bound, Limits, Scheduler, Tally, add_pull
from gate.admission.tenants import Tenants, short
from gate.limits import Limiter
from gate.policy import Overflow, ServicePolicy

_RIVAL_POLL: Final = 10 * MS  # while a service that shares the budget is to take its turn first

TotalKey = tuple[str, Verdict, Reason | None, bool]  # lane, verdict, reason, pulled


class Engine:
    """Admission of one service's requests.

    Times are ns of unix time; a `now` before the newest one seen is taken as the newest one seen. After a step with
    DELAYED decisions `parked` must follow before the next step. Not thread-safe.
    """

    def __init__(
        self, service: str, policy: ServicePolicy, budgets: Budgets, now: int, version: str, *, beat: Beat | None = None
    ) -> None:
        self.service = service
        self.policy = policy
        self.version = version
        self.now = now
        self.budgets = budgets
        self.lanes = lanes_of(policy.lanes)
        self.limits = Limits(service, Limiter(policy.spec, now), budgets.get(policy.group))
        self.tenants = Tenants(service, policy.tenant, self.lanes)
        self.places = Parked(service)
        self.scheduler = Scheduler(self.lanes, self.places, self.tenants)
        self.planner = Planner(self.scheduler, self.places, self.limits)
        self.sequence = 0  # numbers all requests in the order of arrival
        self.paused_until = 0
        self.lag: int | None = None  # of the workers, as last reported
        self.admitted_since = 0  # that report
        self.purge = False  # a new policy may have made parked requests impossible
        self.held: Held | None = None
        self.breach = Breach(beat or Beat())
        self.totals: Counter[TotalKey] = Counter()
        self.unknown_lanes = 0
        self.refusal: tuple[int, Reason, str] | None = None
        self.offered, self.admitted, self.units = Meter(), Meter(), Meter()
        self.changed = True  # since the last call of `changes`
        self._events: list[Event] = []
        self._unplaced: list[tuple[Arrival, int, int]] = []  # delayed: with number in the batch and count
        self._base = 0  # the sequence of the batch's first request

    def step(self, now: int, runs: Sequence[Run], room: int) -> Step:
        """Decide about a batch, and pull at most `room` parked requests.

        ValueError: a run without requests, or with a cost below 1. RuntimeError: places of the last step are missing.
        """
        if self._unplaced:
            raise RuntimeError(f"{self.service}: step was called before parked, which it still expects")
        now = self.now = max(now, self.now)
        self.held, self.changed, self._base = None, True, self.sequence
        offered = 0
        for run in runs:
            if run.count < 1 or run.cost < 1:
                raise ValueError(f"{self.service}: a run needs requests and a cost of at least 1: {run}")
            offered += run.count
        if runs:
            self.offered.add(now, offered)
            self.sequence += runs[-1].first + runs[-1].count
        step = self._pass(now, runs, offered, room) or self._contend(now, runs, room, set())
        self._watch_breach(now)
        self.tenants.sweep(now)
        return step

    def parked(self, places: Sequence[tuple[int, int]]) -> None:
        """Take partition and offset of each request that the last step delayed, in the order of its decisions.

        ValueError: there are more or fewer places than delayed requests.
        """
        expected = sum(count for _, _, count in self._unplaced)
        if len(places) != expected:
            raise ValueError(f"{self.service}: {len(places)} places for {expected} delayed requests")
        at = 0
        for arrival, number, count in self._unplaced:
            deadline = NO_DEADLINE if arrival.deadline is None else min(arrival.deadline // MS, NO_DEADLINE)
            seq, end = self._base + number, at + count
            while at < end:
                partition, offset = places[at]
                length = 1
                while at + length < end and places[at + length] == (partition, offset + length):
                    length += 1
                self.places.add(arrival.queue, partition, offset, seq, length, arrival.cost, deadline)
                at, seq = at + length, seq + length
        self._unplaced.clear()
        self.scheduler.coming.clear()
        self.changed = True

    def wake_at(self) -> int | None:
        """Return when to call `step` again even if nothing arrives, in whole ms; None: not by itself."""
        now, times = self.now, []
        if self.waiting:
            if self.scheduler.more or self.policy.shadow or self.purge:
                return now
            times += self._ready_times(now)
            deadline = self.places.next_deadline()
            if deadline is not None:
                times.append((deadline + 1) * MS)
        if self.held is not None and (self.held.until is not None or self._allowed() != 0):
            times.append(self.held.until or now)
        due = self.breach.due(self.waiting)
        if due is not None:
            times.append(due)
        return max(now, -(-min(times) // MS) * MS) if times else None

    def low_watermark(self, partition: int) -> int | None:
        """Return the oldest parked offset of a partition of the delayed topic; None: nothing is parked there."""
        return self.places.low_watermark(partition)

    @property
    def waiting(self) -> int:
        """Parked requests."""
        return sum(lane.requests for lane in self.lanes.values())

    def pause(self, now: int, until: int, tenant: str = "") -> None:
        """Admit nothing, or nothing of one tenant, before `until`."""
        self._pause(now, min(until, FOREVER), tenant)

    def resume(self, now: int, tenant: str = "") -> None:
        """End a pause."""
        self._pause(now, 0, tenant)

    def set_in_flight(self, now: int, lag: int | None) -> None:
        """Report how many admitted requests the workers have not finished; None: not known, so nothing is held back."""
        self.now = max(now, self.now)
        if (self.lag, self.admitted_since) != (lag, 0):
            self.lag, self.admitted_since, self.changed = lag, 0, True

    def set_policy(self, now: int, policy: ServicePolicy, version: str) -> None:
        """Decide by another policy from now on: what was used stays counted, what is parked is planned anew."""
        now = self.now = max(now, self.now)
        records.change_policy(self, now, policy, version)

    def events(self) -> tuple[Event, ...]:
        """Return the breach events since the last call."""
        events, self._events = tuple(self._events), []
        return events

    def usage(self, now: int) -> Usage:
        """Return limits, rates, backlog and counters at one moment; decides nothing."""
        return service_usage(self, max(now, self.now))

    def changes(self) -> dict[str, bytes | None]:
        """Return the state records that changed since the last call; None: delete."""
        return records.changes(self)

    @classmethod
    def restore(
        cls,
        service: str,
        policy: ServicePolicy,
        budgets: Budgets,
        now: int,
        version: str,
        state: Mapping[str, bytes],
        *,
        beat: Beat | None = None,
    ) -> Self:
        """Return an engine that goes on where the writer of `state` ended. StateError: damaged, or too new."""
        engine = cls(service, policy, budgets, now, version, beat=beat)
        records.restore(engine, state)
        return engine

    def _pass(self, now: int, runs: Sequence[Run], offered: int, room: int) -> Step | None:
        """Admit the whole batch if only tenants' own limits stand in its way: the usual case, cheap per run."""
        if self.waiting or self.policy.shadow or self.paused_until > now or self.tenants.paused:
            return None
        allowed = self._allowed()
        if allowed is not None and allowed < offered:
            return None
        units = 0
        by_lane: dict[str, int] = {}
        by_tenant: dict[str, int] = {}
        for run in runs:
            if run.deadline is not None and run.deadline < now:
                return None
            units += run.count * run.cost
            by_lane[run.lane] = by_lane.get(run.lane, 0) + run.count
            if self.policy.tenants is not None:
                by_tenant[run.tenant] = by_tenant.get(run.tenant, 0) + run.count * run.cost
        if units and not self.limits.fit(now, 1, units):
            return None
        # where requests are held the order of the batch is all: it passes as a whole, or is taken one by one
        if self.policy.overflow is Overflow.HOLD and not self._all_fit(now, by_tenant):
            return None
        granted = self._grant(now, by_tenant)
        if len(granted) < len(by_tenant):
            return self._contend(now, runs, room, granted)
        if units:
            self.limits.charge(now, 1, units)
        for name, count in by_lane.items():
            self.totals[self._lane(name, count).name, Verdict.ADMITTED, None, False] += count
        self.planner.admitted(now, units)
        self._count_admitted(now, offered, units)
        return Step(_admitted(runs), ())

    def _all_fit(self, now: int, by_tenant: Mapping[str, int]) -> bool:
        limiters = ((self.tenants.find(short(name), now).limiter, wanted) for name, wanted in by_tenant.items())
        return all(limiter is None or limiter.fit(now, 1, wanted) for limiter, wanted in limiters)

    def _grant(self, now: int, by_tenant: Mapping[str, int]) -> set[str]:
        """Charge the tenants whose own limits admit all that they want; the shared limits have room for everybody."""
        granted = set()
        for name, wanted in by_tenant.items():
            tenant = self.tenants.find(short(name), now)
            if tenant.limiter is not None:
                if tenant.limiter.try_take(now, wanted) is not None:
                    continue
                self.tenants.touch(tenant, now)
            granted.add(name)
        return granted

    def _contend(self, now: int, runs: Sequence[Run], room: int, granted: set[str]) -> Step:
        """Decide where requests compete for what the limits give; tenants in `granted` have paid their own already."""
        pulls: list[Pull] = []
        self._drop(now, pulls)
        self.scheduler.unblock(now)
        start = max(now, self.paused_until)
        arrivals = self._arrive(now, runs, granted)
        shadow = self.policy.shadow
        tally = self.scheduler.tally = Tally()
        if not shadow and self.policy.overflow is not Overflow.HOLD:
            self.scheduler.queue(arrival for arrival in arrivals if arrival.left and not arrival.late)
        blocked = Bound(Reason.PAUSED, self.service) if self.paused_until > now else None
        if shadow:
            self.scheduler.release(room, pulls)
        elif blocked is None:
            blocked = self.scheduler.serve(now, self.limits, room, self._allowed(), pulls)
        self.planner.admitted(now, tally.units)
        for lane, count in tally.pulled.items():
            self.totals[lane, Verdict.ADMITTED, None, True] += count
        for arrival in arrivals:
            if arrival.late and self.policy.overflow is not Overflow.HOLD:
                overflow.shed(self.service, arrival, self.planner.estimate(arrival.queue, arrival.cost, now, start))
        left = [arrival for arrival in arrivals if arrival.left]
        if left:
            self._settle(now, left, blocked, start, self._allowed(tally.requests))
        requests, units = self._count(now, arrivals)
        self._count_admitted(now, requests + sum(tally.pulled.values()), units + tally.pulled_units)
        self.scheduler.rest(now, self.limits)
        return Step(decisions(arrivals), tuple(pulls))

    def _arrive(self, now: int, runs: Sequence[Run], granted: set[str]) -> list[Arrival]:
        """Bring the batch in; what can never be admitted is refused at once, but not past what may be held."""
        shared = self.limits.ceiling()
        in_order = self.policy.overflow is Overflow.HOLD and not self.policy.shadow
        never = Verdict.ADMITTED if self.policy.shadow else Verdict.REJECTED
        arrivals = []
        for run in runs:
            tenant = self.tenants.find(short(run.tenant), now)
            arrival = Arrival(run, self.tenants.queue(tenant, self._lane(run.lane, run.count)))
            arrivals.append(arrival)
            own = None if tenant.limiter is None else tenant.limiter.spec.ceiling
            if run.tenant in granted:
                self.limits.charge(now, run.count, run.cost)
                arrival.decide(run.count, Verdict.ADMITTED)
                continue
            if shared is not None and run.cost > shared[0]:
                arrival.never = shared[1]
            elif own is not None and run.cost > own:
                arrival.never = f"{self.service}.tenant.{tenant.name}"
            if arrival.never is not None and not in_order:
                arrival.decide(run.count, never, Reason.NEVER, arrival.never)
            else:
                arrival.late = run.deadline is not None and run.deadline < now and not self.policy.shadow
        return arrivals

    def _settle(self, now: int, left: list[Arrival], blocked: Bound | None, start: int, allowed: int | None) -> None:
        """Decide what becomes of requests that the scheduler left."""
        policy, limits, planner = self.policy, self.limits, self.planner

        def why(arrival: Arrival) -> Bound:
            tenant = arrival.queue.tenant
            if arrival.queue.until and self.paused_until <= now:
                reason = Reason.PAUSED if tenant.paused_until > now else Reason.TENANT
                return Bound(reason, f"{self.service}.tenant.{tenant.name}")
            return blocked or Bound(Reason.LANE, f"{self.service}.lane.{arrival.queue.lane.name}")

        if policy.shadow or policy.overflow is Overflow.HOLD:
            for arrival in left:
                self.tenants.touch(arrival.queue.tenant, now)
        if policy.shadow:
            overflow.watch_only(limits, left, now, allowed, blocked)
        elif policy.overflow is Overflow.HOLD:
            if blocked is None and self.waiting:
                blocked = Bound(Reason.LANE, self.service)
            self.held = overflow.hold(limits, planner, left, now, policy.max_delay, allowed, blocked, start)
        elif policy.overflow is Overflow.REJECT:
            self.scheduler.unqueue(left)
            overflow.reject(planner, left, now, why, start)
        else:
            self.scheduler.park(left)
            self._unplaced = overflow.delay(limits, planner, left, now, policy.max_delay, why, start)
            for arrival, _, _ in self._unplaced:
                self.scheduler.coming.setdefault(arrival.queue, arrival.cost)

    def _drop(self, now: int, pulls: list[Pull]) -> None:
        """Let go what is parked and can be of no use any more; it takes no capacity."""
        if not self.waiting:
            return
        dropped = [(Reason.DEADLINE, f"{self.service}.deadline", *entry) for entry in self.places.expire(now // MS)]
        if self.purge:
            self.purge = False
            shared = self.limits.ceiling()
            removed = self.places.remove(lambda queue, cost: _impossible(queue, cost, shared))
            dropped += [(Reason.NEVER, self.service, *entry) for entry in removed]
        dropped.sort(key=lambda drop: drop[3:5])
        for reason, limit, queue, partition, offset, count, cost in dropped:
            self.scheduler.shrink(queue, count, count * cost)
            queue.tenant.plan = None
            self.tenants.touch(queue.tenant, now)
            self.totals[queue.lane.name, Verdict.REJECTED, reason, True] += count
            add_pull(pulls, Pull(partition, offset, count, Verdict.REJECTED, reason, limit))
        if dropped:
            self.planner.expired()

    def _lane(self, name: str, count: int) -> Lane:
        lane = self.lanes.get(name)
        if lane is None:
            if name:
                self.unknown_lanes += count
            lane = self.lanes[self.policy.default_lane]
        return lane

    def _allowed(self, admitted: int = 0) -> int | None:
        """Return how many requests may go before workers fall too far behind; None: any number."""
        if self.policy.max_in_flight is None or self.lag is None:
            return None
        return max(0, self.policy.max_in_flight - self.lag - self.admitted_since - admitted)

    def _count(self, now: int, arrivals: Sequence[Arrival]) -> tuple[int, int]:
        """Count what was decided about fresh requests. Returns how many, and how many units, were admitted."""
        requests = units = 0
        for arrival in arrivals:
            for count, verdict, reason, limit, _ in arrival.outcomes:
                self.totals[arrival.queue.lane.name, verdict, reason, False] += count
                if verdict is Verdict.ADMITTED:
                    requests += count
                    units += count * arrival.cost
                if reason is not None and limit is not None:
                    self.refusal = (now, reason, limit)
                    self.breach.refuse(now, count, reason, limit)
        return requests, units

    def _count_admitted(self, now: int, requests: int, units: int) -> None:
        if requests:
            self.admitted_since += requests
            self.admitted.add(now, requests)
            self.units.add(now, units)

    def _watch_breach(self, now: int) -> None:
        """Collect the breach events of a step."""
        fill = fullest(self.limits, now)

        def situation() -> Situation:
            return Situation(
                service=self.service,
                policy=self.version,
                backlog=self.waiting,
                offered_per_second=self.offered.at(now),
                eta_seconds=(self.planner.end(now, max(now, self.paused_until)) - now) / SECOND,
                usage=0.0 if fill is None else fill.usage,
            )

        self._events += self.breach.events(now, self.waiting, situation)
        if fill is not None:
            self._events += self.breach.near(now, fill.usage, self.policy.near_limit, fill.name, fill.reason, situation)

    def _ready_times(self, now: int) -> list[int]:
        """Return when the queue whose turn it is, and those that their tenant's limit blocks, can go on."""
        times = []
        start = max(now, self.paused_until)
        head = self.scheduler.head()
        if head is not None and self._allowed() != 0:
            cost = self.scheduler.head_cost(head)
            ready = max(start, ready_at(self.limits.limiters(), now, cost))
            if ready <= now and not self.limits.fit(now, 1, cost):
                ready = now + _RIVAL_POLL
            times.append(ready)
        unblocked = self.scheduler.next_unblocked()
        if unblocked is not None:
            times.append(max(start, unblocked))
        return times

    def _pause(self, now: int, until: int, tenant: str) -> None:
        now = self.now = max(now, self.now)
        if tenant:
            self.scheduler.pause(self.tenants.find(short(tenant), now), until, now)
        else:
            self.paused_until = until
        self.planner.forget()
        for known in self.tenants:
            if known.plan is not None:
                known.plan = None
                self.tenants.touch(known, now)
        self.changed = True


def _admitted(runs: Sequence[Run]) -> tuple[Decision, ...]:
    """Admit all runs; those that follow on each other in one decision."""
    told: list[Decision] = []
    first = count = 0
    for run in runs:
        if count and run.first != first + count:
            told.append(Decision(first, count, Verdict.ADMITTED))
            count = 0
        if not count:
            first = run.first
        count += run.count
    if count:
        told.append(Decision(first, count, Verdict.ADMITTED))
    return tuple(told)


def _impossible(queue: Queue, cost: int, shared: tuple[int, str] | None) -> bool:
    """Tell whether a limit can never give so much."""
    own = None if queue.tenant.limiter is None else queue.tenant.limiter.spec.ceiling
    return (shared is not None and cost > shared[0]) or (own is not None and cost > own)
