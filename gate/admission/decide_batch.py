"""Step of an engine: a batch is admitted at once where nothing stands in the way, else decided about by fair turns."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gate.admission import overdue, overflow, scheduled_requests
from gate.admission.decisions import decisions
from gate.admission.engine_state import EngineState
from gate.admission.fair_scheduler import StepCounts
from gate.admission.limits.service import Bound
from gate.admission.model import Decision, Pull, Reason, Run, Started, Step, Verdict
from gate.admission.queues.queue import Arrival, Tenant
from gate.admission.queues.sharing import is_shared
from gate.admission.queues.tenants import short
from gate.policy import Overflow


class StepResult(NamedTuple):
    """What a step decided, and what the next one is to know of it."""

    step: Step
    unplaced: Sequence[tuple[Arrival, int, int]] = ()  # delayed: with number in the batch and count
    held: overflow.Held | None = None


def decide(
    state: EngineState, now: int, runs: Sequence[Run], offered: int, room: int, due: Sequence[Arrival] = ()
) -> StepResult:
    """Decide about a batch of `offered` requests, and pull at most `room` parked ones.

    `due` were scheduled, and their time has come: each has its place among those who wait as if it came now.
    """
    if state.tenants.calls:
        state.tenants.offer(now, runs)
    later = [run for run in runs if run.start is not None and run.start > now]
    if not later:
        return (None if due else _pass(state, now, runs, offered, room)) or _contend(state, now, runs, room, set(), due)
    runs = [run for run in runs if run.start is None or run.start <= now]
    offered -= sum(run.count for run in later)
    passed = None if due else _pass(state, now, runs, offered, room)
    result = passed or _contend(state, now, runs, room, set(), due)
    step, unplaced, arrivals = scheduled_requests.postpone(state, now, later, result.step, result.unplaced)
    _count(state, now, arrivals)
    return StepResult(step, unplaced, result.held)


def _pass(state: EngineState, now: int, runs: Sequence[Run], offered: int, room: int) -> StepResult | None:
    """Admit the whole batch if only tenants' own limits stand in its way: the usual case, cheap per run."""
    if state.waiting or state.holding.again or state.policy.shadow or state.closed_until > now or state.tenants.paused:
        return None
    if state.limits.running.tracking:
        return None
    units = 0
    by_lane: dict[str, int] = {}
    by_tenant: dict[str, int] = {}
    for run in runs:
        if overdue.is_late(run, now):
            return None
        units += run.count * run.cost
        by_lane[run.lane] = by_lane.get(run.lane, 0) + run.count
        if state.policy.tenants is not None:
            by_tenant[run.tenant] = by_tenant.get(run.tenant, 0) + run.count * run.cost
    if not state.limits.fit_all(now, offered, units):
        return None
    wanted: dict[Tenant, int] = {}
    for name, cost in by_tenant.items():
        tenant = state.tenants.find(short(name), now)
        if tenant.blocked_until > now:
            return None
        wanted[tenant] = wanted.get(tenant, 0) + cost
    # where some are to wait, each takes its turn: who waits behind whom depends on all that went before
    if state.policy.overflow is not Overflow.REJECT and not _all_fit(now, wanted):
        return None
    granted = _grant(state, now, wanted)
    if len(granted) < len(wanted):
        return _contend(state, now, runs, room, granted)
    state.limits.charge_all(now, offered, units)
    for name, count in by_lane.items():
        state.totals[state.lane(name, count).name, Verdict.ADMITTED, None, False] += count
    state.forecast.admitted(now, units)
    if state.tenants.crowded and wanted:
        names = [(state.tenants.find(short(run.tenant), now).name, run.count) for run in runs]
        state.tenants.shared_requests += sum(count for name, count in names if is_shared(name))
    state.admit(now, offered, units)
    return StepResult(Step(_admitted(runs), ()))


def _all_fit(now: int, wanted: Mapping[Tenant, int]) -> bool:
    return all(tenant.limiter is None or tenant.fit(now, 1, units) for tenant, units in wanted.items())


def _grant(state: EngineState, now: int, wanted: Mapping[Tenant, int]) -> set[Tenant]:
    """Charge the tenants whose own limits admit all that they want; the shared limits have room for everybody."""
    granted = set()
    for tenant, units in wanted.items():
        if tenant.limiter is not None:
            if tenant.calls is None:
                if tenant.limiter.try_take(now, units) is not None:
                    continue
            elif tenant.fit(now, 1, units):
                tenant.charge(now, 1, units)
            else:
                continue
            state.tenants.touch(tenant, now)
        granted.add(tenant)
    return granted


def _contend(
    state: EngineState,
    now: int,
    runs: Sequence[Run],
    room: int,
    granted: set[Tenant],
    due: Sequence[Arrival] = (),
) -> StepResult:
    """Decide where requests compete for what the limits give; tenants in `granted` have paid their own already."""
    pulls: list[Pull] = []
    state.forecast.notice(now)
    overdue.drop(state, now, pulls)
    state.scheduler.unblock(now)
    start = max(now, state.closed_until)
    scheduled_requests.begin(state, now, due)
    arrivals = _arrive(state, now, runs, granted)
    shadow = state.policy.shadow
    tally = state.scheduler.tally = StepCounts(tracking=state.limits.running.tracking)
    if not shadow:
        state.scheduler.queue(arrival for arrival in due if arrival.left and not arrival.late)
        if state.policy.overflow is not Overflow.HOLD:
            state.scheduler.queue(arrival for arrival in arrivals if arrival.left and not arrival.late)
    blocked = state.closed_by(now)
    if shadow:
        state.scheduler.release(room, pulls)
        state.limits.let_pass(now, sum(tally.pulled.values()))
    elif blocked is None:
        room = max(0, room - sum(arrival.count for arrival in due))
        blocked = state.scheduler.serve(now, state.limits, room, pulls)
    state.forecast.admitted(now, tally.units)
    if tally.units > tally.pulled_units and state.places.requests:
        state.forecast.overtaken(now)
    for lane, count in tally.pulled.items():
        state.totals[lane, Verdict.ADMITTED, None, True] += count
    for arrival in (*due, *arrivals):
        if arrival.late and (arrival.place is not None or state.policy.overflow is not Overflow.HOLD):
            overflow.shed(state.service, arrival, state.forecast.estimate(arrival.queue, arrival.cost, now, start))
    left = [arrival for arrival in (*due, *arrivals) if arrival.left]
    held: overflow.Held | None = None
    unplaced: Sequence[tuple[Arrival, int, int]] = ()
    if left:
        held, unplaced = _settle(state, now, left, blocked, start)
    if due:
        unplaced = scheduled_requests.place(state, unplaced)
        came, cost = scheduled_requests.leave(state, now, due, pulls)
        state.admit(now, came, cost)
    refused = (a.queue for a in left if a.outcomes and a.outcomes[-1][1] is Verdict.REJECTED)
    state.scheduler.hasten(dict.fromkeys(refused), now)
    requests, units = _count(state, now, arrivals)
    state.admit(now, requests + sum(tally.pulled.values()), units + tally.pulled_units)
    state.scheduler.rest(now, state.limits)
    state.forecast.stepped(now, start, admitted=bool(tally.requests))
    started = () if tally.started is None else (*_started((*due, *arrivals)), *tally.started)
    return StepResult(Step(decisions(arrivals), tuple(pulls), started), unplaced, held)


def _started(arrivals: Sequence[Arrival]) -> Iterator[Started]:
    """Yield the requests that came and run now; those that shadow let pass count for no tenant."""
    for arrival in arrivals:
        partition, first = (None, arrival.first) if arrival.place is None else arrival.place
        tenant = arrival.queue.tenant
        owner = None if tenant.limiter is None else tenant.name
        for count, verdict, reason, _, _ in arrival.outcomes:
            if verdict is Verdict.ADMITTED:
                yield Started(partition, first, count, owner if reason is None else None)
            first += count


def _arrive(state: EngineState, now: int, runs: Sequence[Run], granted: set[Tenant]) -> list[Arrival]:
    """Bring the batch in; what can never be admitted is refused at once, but not past what may be held."""
    shared = state.limits.ceiling()
    in_order = state.policy.overflow is Overflow.HOLD and not state.policy.shadow
    never = Verdict.ADMITTED if state.policy.shadow else Verdict.REJECTED
    arrivals = []
    for run in runs:
        tenant = state.tenants.find(short(run.tenant), now)
        arrival = Arrival(run, state.tenants.queue(tenant, state.lane(run.lane, run.count)))
        arrivals.append(arrival)
        if tenant in granted:
            state.limits.charge(now, run.count, run.cost)
            arrival.decide(run.count, Verdict.ADMITTED)
            continue
        blocked = overflow.blocked(state.policy, state.blocked_until, tenant)
        if blocked is not None:
            arrival.decide(run.count, Verdict.REJECTED, *blocked)
            continue
        arrival.never = overflow.never(state.service, shared, tenant, run.cost)
        if arrival.never is not None and not in_order:
            arrival.decide(run.count, never, Reason.NEVER, arrival.never)
            if never is Verdict.ADMITTED:
                state.limits.let_pass(now, run.count)
        else:
            arrival.late = overdue.is_late(run, now) and not state.policy.shadow
    return arrivals


def _settle(
    state: EngineState, now: int, left: list[Arrival], blocked: Bound | None, start: int
) -> tuple[overflow.Held | None, list[tuple[Arrival, int, int]]]:
    """Decide what becomes of requests that the scheduler left. Returns when to try held ones again, and the parked."""
    policy, limits, forecast = state.policy, state.limits, state.forecast
    held: overflow.Held | None = None
    unplaced: list[tuple[Arrival, int, int]] = []

    def why(arrival: Arrival) -> Bound:
        tenant = arrival.queue.tenant
        if arrival.queue.until and state.closed_until <= now:
            return overflow.tenant_bound(state.service, tenant, now)
        return blocked or Bound(Reason.LANE, f"{state.service}.lane.{arrival.queue.lane.name}")

    if policy.shadow or policy.overflow is Overflow.HOLD:
        for arrival in left:
            state.tenants.touch(arrival.queue.tenant, now)
    if policy.shadow:
        overflow.watch_only(limits, left, now, blocked)
    elif policy.overflow is Overflow.HOLD:
        if due := [arrival for arrival in left if arrival.place is not None]:  # there is no topic to be held back in
            state.scheduler.park(due)
            unplaced = overflow.delay(limits, forecast, due, now, policy.max_delay, why, start, state.waiting)
            left = [arrival for arrival in left if arrival.place is None]
        if blocked is None and state.waiting:
            blocked = Bound(Reason.LANE, state.service)
        held = overflow.hold(limits, forecast, left, now, policy.max_delay, blocked, start)
    elif policy.overflow is Overflow.REJECT:
        state.scheduler.unqueue(left)
        overflow.reject(forecast, left, now, why, start)
    else:
        state.scheduler.park(left)
        unplaced = overflow.delay(limits, forecast, left, now, policy.max_delay, why, start, state.waiting)
        for arrival, _, _ in unplaced:
            state.scheduler.coming.setdefault(arrival.queue, arrival.cost)
    return held, unplaced


def _count(state: EngineState, now: int, arrivals: Sequence[Arrival]) -> tuple[int, int]:
    """Count what was decided about fresh requests. Returns how many, and how many units, were admitted."""
    requests = units = 0
    crowded = state.tenants.crowded
    for arrival in arrivals:
        if crowded and is_shared(arrival.queue.tenant.name):
            decided = (count for count, verdict, *_ in arrival.outcomes if verdict is not Verdict.HELD)
            state.tenants.shared_requests += sum(decided)
        first, lane = arrival.first, arrival.queue.lane.name
        for count, verdict, reason, limit, _ in arrival.outcomes:
            again = state.holding.count(lane, verdict, first, count, arrival.cost)
            first += count
            if count > again:
                state.totals[lane, verdict, reason, False] += count - again
            if again and verdict is not Verdict.HELD:
                state.totals[lane, verdict, reason, True] += again
            if verdict is Verdict.ADMITTED:
                requests += count
                units += count * arrival.cost
            if reason is not None and limit is not None:
                state.refuse(now, count - again, reason, limit)
    return requests, units


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
