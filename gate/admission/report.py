"""Usage of a service: limits, backlog, ETA and what binds, read from its state."""

from dataclasses import replace
from typing import Final, NamedTuple

from gate.admission.engine_state import EngineState
from gate.admission.forecast.shared_limits import SharedLimits
from gate.admission.limits.service import Bound, Limits
from gate.admission.model import (
    MS,
    SECOND,
    UNTIL_RESUMED,
    Binding,
    LaneUsage,
    LimitUsage,
    PausedTenant,
    Reason,
    Refusal,
    Total,
    Usage,
)
from gate.admission.overflow import tenant_bound
from gate.limits import NEVER, Limiter

_SHOWN: Final = 20  # paused tenants
_STANDSTILL: Final = 0.05  # requests per second; the rate of what has stopped sinks, but never to 0


class Fill(NamedTuple):
    """How full a limit is."""

    usage: float
    name: str
    reason: Reason


def fullest(limits: Limits, now: int) -> Fill | None:
    """Return the limit of which most is used; None: there is no limit."""
    most, found = -1.0, None
    for named in _named(limits):
        for limit, share in zip(named[0].spec.limits, named[0].shares(now), strict=True):
            if share > most:
                most, found = share, (limit, named)
    if found is None:
        return None
    limit, (_, name, reason) = found
    return Fill(most, f"{name}.{limit.name}", reason or Reason(limit.reason))


def limit_usage(limits: Limits, now: int) -> tuple[LimitUsage, ...]:
    """Return how full each limit is; of several of one name, the slowest stands for all, as full as the fullest."""
    told: dict[str, LimitUsage] = {}
    for limiter, name, _ in _named(limits):
        for limit, share, left, renews_at in limiter.fills(now):
            key = f"{name}.{limit.name}"
            usage = LimitUsage(key, limit.capacity, limit.per_second, share, left, renews_at)
            other = told.get(key)
            if other is not None:
                slower = usage if limit.per_second < other.per_second else other
                usage = replace(slower, usage=max(share, other.usage))
            told[key] = usage
    return tuple(told.values())


def _pause(until: int, now: int) -> int | None:
    if until <= now:
        return None
    return NEVER if until >= UNTIL_RESUMED else until


def eta_of_all(state: EngineState, now: int) -> float | None:
    """Return in how many seconds the last of all that waits is admitted if nothing else comes; None: not known."""
    start, held = max(now, state.closed_until), state.holding.total
    end = _held_end(state, start) if held else state.forecast.end(now, start)
    return _eta(state, end, now, state.waiting + held)


def _eta(state: EngineState, end: int, now: int, waiting: int) -> float | None:
    """Return the seconds until `end`, or as long as workers take as fast as they are now, where they hold it back."""
    if end >= UNTIL_RESUMED:
        return None
    eta = max(0, end - now) / SECOND
    if waiting and state.limits.closed(now) is not None:
        rate = state.admitted.at(now)
        return max(eta, waiting / rate) if rate > _STANDSTILL else None
    return eta


def _named(limits: Limits) -> list[tuple[Limiter, str, Reason | None]]:
    named: list[tuple[Limiter, str, Reason | None]] = [(limits.limiter, limits.service, None)]
    if limits.budget is not None:
        named.append((limits.budget.limiter, f"group.{limits.budget.name}", Reason.GROUP))
    return named


def binding(state: EngineState, now: int) -> Binding | None:
    """Return the limit that the next request waits for; None: nothing waits, and no breach is open."""
    if state.waiting and not state.scheduler.more:
        bound = _bound(state, now)
        return None if bound is None else Binding(*bound)
    if state.refusal is not None and (state.holding.seen or state.breach.since is not None):
        return Binding(*state.refusal[1:])
    return None


def _bound(state: EngineState, now: int) -> Bound | None:
    if closed := state.closed_by(now):
        return closed
    head = state.scheduler.head()
    if head is not None:
        return state.limits.bound(now, state.scheduler.head_cost(head))
    blocked = state.scheduler.next_blocked()
    if blocked is None:
        return None
    return tenant_bound(state.service, blocked.tenant, now)


def next_slot(state: EngineState, now: int) -> int | None:
    """Return when the next request may go, ns; None: not before somebody is done, resumes it or changes the policy."""
    start = max(now, state.paused_until)
    if start >= UNTIL_RESUMED or state.limits.closed(now) is not None:
        return None
    head = state.scheduler.head()
    if head is None and (blocked := state.scheduler.next_blocked()) is not None:
        start = max(start, blocked.until)
    cost = 1 if head is None else state.scheduler.head_cost(head)
    ready = max(limiter.ready_at(start, cost) for limiter in state.limits.limiters())
    return None if ready >= UNTIL_RESUMED else ready


def _held_end(state: EngineState, start: int) -> int:
    """Return when the last of what is held is admitted, in the order of its topic and behind what is parked."""
    units = state.holding.total_units + sum(lane.units for lane in state.lanes.values())
    end = SharedLimits(state.limits).time_of(units, start)
    until = None if state.held is None else state.held.until_ns
    return end if until is None else max(end, until)


def _lanes(state: EngineState, now: int) -> tuple[LaneUsage, ...]:
    start, holding = max(now, state.closed_until), state.holding
    held = holding.total
    held_end = _held_end(state, start) if held else None
    unseen = held - holding.requests.total()
    lanes = []
    for lane in state.lanes.values():
        here, units = holding.requests[lane.name], holding.units[lane.name]
        if unseen and lane.name == state.policy.default_lane:  # which lanes they name is not known yet
            here, units = here + unseen, units + holding.total_units - holding.units.total()
        end = state.forecast.lane_end(lane, now, start) if held_end is None else held_end
        lanes.append(
            LaneUsage(
                name=lane.name,
                weight=float(lane.weight),
                backlog=lane.requests + here,
                backlog_units=lane.units + units,
                tenants=lane.waiting,
                eta_seconds=_eta(state, end, now, lane.requests + held),
            )
        )
    return tuple(lanes)


def _paused_tenants(state: EngineState, now: int) -> list[PausedTenant]:
    paused = sorted((name, until) for name, until in state.tenants.paused.items() if until > now)
    return [PausedTenant(name, None if until >= UNTIL_RESUMED else until) for name, until in paused]


def service_usage(state: EngineState, now: int) -> Usage:
    """Return one service's usage."""
    limiter = state.limits.limiter
    paused = _paused_tenants(state, now)
    refusal = state.refusal
    in_flight = state.limits.in_flight
    watched = in_flight.limit is not None and in_flight.lag is not None
    return Usage(
        service=state.service,
        at=now,
        policy=state.version,
        limits=limit_usage(state.limits, now),
        requests_per_second=state.admitted.at(now),
        units_per_second=state.units.at(now),
        offered_per_second=state.offered.at(now),
        tokens=None if limiter.spec.rate is None else float(limiter.tokens(now)),
        window_fill=limiter.window_fill(now) if limiter.spec.windows else 0.0,
        lanes=_lanes(state, now),
        totals=tuple(
            Total(lane, verdict, reason, pulled, requests)
            for (lane, verdict, reason, pulled), requests in sorted(state.totals.items(), key=str)
        ),
        breach_since=state.breach.since,
        last_refusal=None if refusal is None else Refusal(*refusal),
        paused_until=_pause(state.paused_until, now),
        in_flight=in_flight.used if watched else None,
        tenants=len(state.tenants),
        unknown_lanes=state.unknown_lanes,
        shared_tenants=state.tenants.sharing,
        shared_tenant_requests=state.tenants.shared_requests,
        binding=binding(state, now),
        paused_tenants=tuple(paused[:_SHOWN]),
        tenants_paused=len(paused),
        held=state.holding.total,
        gone=state.gone,
        scheduled=state.scheduled.requests,
        remembered=None if state.recent.rules is None else len(state.recent),
        forgotten=state.recent.forgotten,
        next_start=None if (start := state.scheduled.next_start()) is None else start * MS,
        running=state.limits.running.used if state.limits.running.tracking else None,
        next_slot=next_slot(state, now),
        blocked_until=None if state.policy.shadow else _pause(state.blocked_until, now),
    )
