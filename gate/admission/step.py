"""How an engine decides about one batch: all at once where nothing stands in the way, else by fair turns."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gate.admission import overflow
from gate.admission.decisions import decisions
from gate.admission.limits.service import Bound
from gate.admission.model import MS, Decision, Pull, Reason, Run, Step, Verdict
from gate.admission.queues.queue import Arrival, Lane, Queue, Tenant
from gate.admission.queues.sharing import is_shared, label
from gate.admission.queues.tenants import short
from gate.admission.scheduler import Tally, add_pull
from gate.policy import Overflow

if TYPE_CHECKING:
    from gate.admission.engine import Engine


def decide(engine: "Engine", now: int, runs: Sequence[Run], offered: int, room: int) -> Step:
    """Decide about a batch of `offered` requests, and pull at most `room` parked ones."""
    return _pass(engine, now, runs, offered, room) or _contend(engine, now, runs, room, set())


def _pass(engine: "Engine", now: int, runs: Sequence[Run], offered: int, room: int) -> Step | None:
    """Admit the whole batch if only tenants' own limits stand in its way: the usual case, cheap per run."""
    if (
        engine.waiting
        or engine.holding.again
        or engine.policy.shadow
        or engine.paused_until > now
        or engine.tenants.paused
    ):
        return None
    allowed = engine.allowed()
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
        if engine.policy.tenants is not None:
            by_tenant[run.tenant] = by_tenant.get(run.tenant, 0) + run.count * run.cost
    if units and not engine.limits.fit(now, 1, units):
        return None
    wanted: dict[Tenant, int] = {}
    for name, cost in by_tenant.items():
        tenant = engine.tenants.find(short(name), now)
        wanted[tenant] = wanted.get(tenant, 0) + cost
    # where requests are held the order of the batch is all: it passes as a whole, or is taken one by one
    if engine.policy.overflow is Overflow.HOLD and not _all_fit(now, wanted):
        return None
    granted = _grant(engine, now, wanted)
    if len(granted) < len(wanted):
        return _contend(engine, now, runs, room, granted)
    if units:
        engine.limits.charge(now, 1, units)
    for name, count in by_lane.items():
        engine.totals[_lane(engine, name, count).name, Verdict.ADMITTED, None, False] += count
    engine.forecast.admitted(now, units)
    if engine.tenants.crowded and wanted:
        names = [(engine.tenants.find(short(run.tenant), now).name, run.count) for run in runs]
        engine.tenants.shared_requests += sum(count for name, count in names if is_shared(name))
    _count_admitted(engine, now, offered, units)
    return Step(_admitted(runs), ())


def _all_fit(now: int, wanted: Mapping[Tenant, int]) -> bool:
    return all(tenant.limiter is None or tenant.limiter.fit(now, 1, units) for tenant, units in wanted.items())


def _grant(engine: "Engine", now: int, wanted: Mapping[Tenant, int]) -> set[Tenant]:
    """Charge the tenants whose own limits admit all that they want; the shared limits have room for everybody."""
    granted = set()
    for tenant, units in wanted.items():
        if tenant.limiter is not None:
            if tenant.limiter.try_take(now, units) is not None:
                continue
            engine.tenants.touch(tenant, now)
        granted.add(tenant)
    return granted


def _contend(engine: "Engine", now: int, runs: Sequence[Run], room: int, granted: set[Tenant]) -> Step:
    """Decide where requests compete for what the limits give; tenants in `granted` have paid their own already."""
    pulls: list[Pull] = []
    engine.forecast.notice(now)
    _drop(engine, now, pulls)
    engine.scheduler.unblock(now)
    start = max(now, engine.paused_until)
    arrivals = _arrive(engine, now, runs, granted)
    shadow = engine.policy.shadow
    tally = engine.scheduler.tally = Tally()
    if not shadow and engine.policy.overflow is not Overflow.HOLD:
        engine.scheduler.queue(arrival for arrival in arrivals if arrival.left and not arrival.late)
    blocked = Bound(Reason.PAUSED, engine.service) if engine.paused_until > now else None
    if shadow:
        engine.scheduler.release(room, pulls)
    elif blocked is None:
        blocked = engine.scheduler.serve(now, engine.limits, room, engine.allowed(), pulls)
    engine.forecast.admitted(now, tally.units)
    for lane, count in tally.pulled.items():
        engine.totals[lane, Verdict.ADMITTED, None, True] += count
    for arrival in arrivals:
        if arrival.late and engine.policy.overflow is not Overflow.HOLD:
            overflow.shed(engine.service, arrival, engine.forecast.estimate(arrival.queue, arrival.cost, now, start))
    left = [arrival for arrival in arrivals if arrival.left]
    if left:
        _settle(engine, now, left, blocked, start, engine.allowed(tally.requests))
    requests, units = _count(engine, now, arrivals)
    _count_admitted(engine, now, requests + sum(tally.pulled.values()), units + tally.pulled_units)
    engine.scheduler.rest(now, engine.limits)
    engine.forecast.stepped(now, start, admitted=bool(tally.requests))
    return Step(decisions(arrivals), tuple(pulls))


def _arrive(engine: "Engine", now: int, runs: Sequence[Run], granted: set[Tenant]) -> list[Arrival]:
    """Bring the batch in; what can never be admitted is refused at once, but not past what may be held."""
    shared = engine.limits.ceiling()
    in_order = engine.policy.overflow is Overflow.HOLD and not engine.policy.shadow
    never = Verdict.ADMITTED if engine.policy.shadow else Verdict.REJECTED
    arrivals = []
    for run in runs:
        tenant = engine.tenants.find(short(run.tenant), now)
        arrival = Arrival(run, engine.tenants.queue(tenant, _lane(engine, run.lane, run.count)))
        arrivals.append(arrival)
        own = None if tenant.limiter is None else tenant.limiter.spec.ceiling
        if tenant in granted:
            engine.limits.charge(now, run.count, run.cost)
            arrival.decide(run.count, Verdict.ADMITTED)
            continue
        if shared is not None and run.cost > shared[0]:
            arrival.never = shared[1]
        elif own is not None and run.cost > own:
            arrival.never = f"{engine.service}.{label(tenant.name)}"
        if arrival.never is not None and not in_order:
            arrival.decide(run.count, never, Reason.NEVER, arrival.never)
        else:
            arrival.late = run.deadline is not None and run.deadline < now and not engine.policy.shadow
    return arrivals


def _settle(
    engine: "Engine", now: int, left: list[Arrival], blocked: Bound | None, start: int, allowed: int | None
) -> None:
    """Decide what becomes of requests that the scheduler left."""
    policy, limits, forecast = engine.policy, engine.limits, engine.forecast

    def why(arrival: Arrival) -> Bound:
        tenant = arrival.queue.tenant
        if arrival.queue.until and engine.paused_until <= now:
            reason = Reason.PAUSED if tenant.paused_until > now else Reason.TENANT
            return Bound(reason, f"{engine.service}.{label(tenant.name)}")
        return blocked or Bound(Reason.LANE, f"{engine.service}.lane.{arrival.queue.lane.name}")

    if policy.shadow or policy.overflow is Overflow.HOLD:
        for arrival in left:
            engine.tenants.touch(arrival.queue.tenant, now)
    if policy.shadow:
        overflow.watch_only(limits, left, now, allowed, blocked)
    elif policy.overflow is Overflow.HOLD:
        if blocked is None and engine.waiting:
            blocked = Bound(Reason.LANE, engine.service)
        engine.held = overflow.hold(limits, forecast, left, now, policy.max_delay, allowed, blocked, start)
    elif policy.overflow is Overflow.REJECT:
        engine.scheduler.unqueue(left)
        overflow.reject(forecast, left, now, why, start)
    else:
        engine.scheduler.park(left)
        engine.unplaced = overflow.delay(limits, forecast, left, now, policy.max_delay, why, start)
        for arrival, _, _ in engine.unplaced:
            engine.scheduler.coming.setdefault(arrival.queue, arrival.cost)


def _drop(engine: "Engine", now: int, pulls: list[Pull]) -> None:
    """Let go what is parked and can be of no use any more; it takes no capacity."""
    if not engine.waiting:
        return
    dropped = [(Reason.DEADLINE, f"{engine.service}.deadline", *entry) for entry in engine.places.expire(now // MS)]
    if engine.purge:
        engine.purge = False
        shared = engine.limits.ceiling()
        removed = engine.places.remove(lambda queue, cost: _impossible(queue, cost, shared))
        dropped += [(Reason.NEVER, engine.service, *entry) for entry in removed]
    dropped.sort(key=lambda drop: drop[3:5])
    for reason, limit, queue, partition, offset, count, cost in dropped:
        engine.scheduler.shrink(queue, count, count * cost)
        queue.tenant.forecast = None
        engine.tenants.touch(queue.tenant, now)
        engine.totals[queue.lane.name, Verdict.REJECTED, reason, True] += count
        add_pull(pulls, Pull(partition, offset, count, Verdict.REJECTED, reason, limit))
    if dropped:
        engine.forecast.expired()


def _lane(engine: "Engine", name: str, count: int) -> Lane:
    lane = engine.lanes.get(name)
    if lane is None:
        if name:
            engine.unknown_lanes += count
        lane = engine.lanes[engine.policy.default_lane]
    return lane


def _count(engine: "Engine", now: int, arrivals: Sequence[Arrival]) -> tuple[int, int]:
    """Count what was decided about fresh requests. Returns how many, and how many units, were admitted."""
    requests = units = 0
    crowded = engine.tenants.crowded
    for arrival in arrivals:
        if crowded and is_shared(arrival.queue.tenant.name):
            decided = (count for count, verdict, *_ in arrival.outcomes if verdict is not Verdict.HELD)
            engine.tenants.shared_requests += sum(decided)
        first, lane = arrival.first, arrival.queue.lane.name
        for count, verdict, reason, limit, _ in arrival.outcomes:
            again = engine.holding.count(lane, verdict, first, count, arrival.cost)
            first += count
            if count > again:
                engine.totals[lane, verdict, reason, False] += count - again
            if again and verdict is not Verdict.HELD:
                engine.totals[lane, verdict, reason, True] += again
            if verdict is Verdict.ADMITTED:
                requests += count
                units += count * arrival.cost
            if reason is not None and limit is not None:
                engine.refusal = (now, reason, limit)
                engine.breach.refuse(now, count - again, reason, limit)
    return requests, units


def _count_admitted(engine: "Engine", now: int, requests: int, units: int) -> None:
    if requests:
        engine.admitted_since += requests
        engine.admitted.add(now, requests)
        engine.units.add(now, units)


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
