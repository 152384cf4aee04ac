"""Overflow of a service: requests that cannot go now are parked, held back or refused, as its policy says."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from gate.admission.forecast.forecast import Forecast
from gate.admission.limits.service import Bound, Limits
from gate.admission.model import FOREVER, UNTIL_RESUMED, Reason, Verdict
from gate.admission.queues.queue import Arrival, Tenant
from gate.admission.queues.sharing import label
from gate.policy import Overflow, ServicePolicy

Why = Callable[[Arrival], Bound]  # the limit that an arrival waits for


class Held(NamedTuple):
    """When what was held can be tried again: at `until_ns`, or, if that is None, when workers or calls leave room."""

    until_ns: int | None


def latest(arrival: Arrival, now: int, max_delay: int | None) -> int:
    """Return the last moment at which it makes sense to admit an arrival."""
    came = now if arrival.came is None else arrival.came
    by_delay = FOREVER if max_delay is None else came + max_delay
    return by_delay if arrival.deadline is None else min(arrival.deadline, by_delay)


def never(service: str, shared: tuple[int, str] | None, tenant: Tenant, cost: int) -> str | None:
    """Name the limit that can never give so much, of those shared by all or the tenant's own; None: there is none."""
    if shared is not None and cost > shared[0]:
        return shared[1]
    own = None if tenant.limiter is None else tenant.limiter.spec.ceiling
    return f"{service}.{label(tenant.name)}" if own is not None and cost > own else None


def tenant_bound(service: str, tenant: Tenant, now: int) -> Bound:
    """Name what of a tenant's own makes it wait."""
    name = f"{service}.{label(tenant.name)}"
    if tenant.blocked_until > now:
        return Bound(Reason.BLOCKED, name)
    if tenant.paused_until > now:
        return Bound(Reason.PAUSED, name)
    return Bound(Reason.TENANT, name) if tenant.may_run(1) else Bound(Reason.RUNNING, f"{name}.running")


def blocked(policy: ServicePolicy, until: int, tenant: Tenant) -> Bound | None:
    """Name the limit of 0 that refuses what comes, as nobody knows its end; None: there is none, or it may wait."""
    if policy.overflow is not Overflow.DELAY or policy.shadow:
        return None
    if until >= UNTIL_RESUMED:
        return Bound(Reason.BLOCKED, policy.name)
    return (
        Bound(Reason.BLOCKED, f"{policy.name}.{label(tenant.name)}") if tenant.blocked_until >= UNTIL_RESUMED else None
    )


def shed(service: str, arrival: Arrival, time: int) -> None:
    """Refuse what is left of an arrival, which could be admitted at `time` at the earliest."""
    reason = Reason.DEADLINE if arrival.deadline is not None and time > arrival.deadline else Reason.MAX_DELAY
    arrival.decide(arrival.left, Verdict.REJECTED, reason, f"{service}.{reason}", [time] * arrival.left)


def delay(
    limits: Limits,
    forecast: Forecast,
    arrivals: Sequence[Arrival],
    now: int,
    max_delay: int | None,
    why: Why,
    start: int,
    waiting: int,
) -> list[tuple[Arrival, int, int]]:  # fmt: skip
    """Park what is left, as far as it can go in time. Returns arrival, number in the batch and count of each.

    So many requests wait then. No time is promised where some of them may have to wait for one that runs.
    """
    sure = not limits.running.tracking or limits.promises(now, waiting)
    booked = forecast.book(arrivals, start, [latest(arrival, now, max_delay) for arrival in arrivals])
    parked = []
    for arrival, (times, time) in zip(arrivals, booked, strict=True):
        if times:
            bound, tenant = why(arrival), arrival.queue.tenant
            promised = sure and (not limits.running.tracking or tenant.may_run(tenant.requests) == tenant.requests)
            parked.append((arrival, arrival.first + arrival.count - arrival.left, len(times)))
            told = times if promised else [UNTIL_RESUMED]
            arrival.decide(len(times), Verdict.DELAYED, bound.reason, bound.limit, told)
        if arrival.left:
            shed(limits.service, arrival, time)
    return parked


def reject(forecast: Forecast, arrivals: Sequence[Arrival], now: int, why: Why, start: int) -> None:
    """Refuse what is left, and say when it would have been admitted."""
    for arrival in arrivals:
        bound = why(arrival)
        time = max(forecast.estimate(arrival.queue, arrival.cost, now, start), _opens_at(arrival, now))
        if bound.reason is Reason.RUNNING:
            time = UNTIL_RESUMED
        arrival.decide(arrival.left, Verdict.REJECTED, bound.reason, bound.limit, [time] * arrival.left)


def _opens_at(arrival: Arrival, now: int) -> int:
    """Return until when nothing of its tenant goes, by a pause, a limit of 0 or calls that have what it is to have."""
    tenant = arrival.queue.tenant
    return tenant.closed_until if tenant.calls is None else max(tenant.closed_until, tenant.ready_at(now, arrival.cost))


def admit_in_order(limits: Limits, arrival: Arrival, now: int) -> None:
    """Admit the first of an arrival, as many as the limits allow, whoever else waits."""
    count = arrival.left
    tenant = arrival.queue.tenant
    if tenant.limiter is not None:
        count = tenant.may_run(tenant.fit(now, count, arrival.cost))
    count = limits.fit(now, count, arrival.cost) if count else 0
    if count:
        limits.charge(now, count, arrival.cost)
        if tenant.limiter is not None:
            tenant.charge(now, count, arrival.cost)
            if limits.running.tracking:
                tenant.running += count
        arrival.decide(count, Verdict.ADMITTED)


def bound_in_order(limits: Limits, arrival: Arrival, now: int) -> Bound:
    """Name the limit that stopped `admit_in_order`."""
    closed = limits.closed(now)
    if closed is not None:
        return closed
    tenant = arrival.queue.tenant
    if tenant.closed_until > now:
        return tenant_bound(limits.service, tenant, now)
    if tenant.limiter is not None and not tenant.may_run(tenant.fit(now, 1, arrival.cost)):
        return tenant_bound(limits.service, tenant, now)
    return limits.bound(now, arrival.cost) or Bound(Reason.LANE, limits.service)


def hold(
    limits: Limits, forecast: Forecast, arrivals: Sequence[Arrival], now: int, max_delay: int | None,
    blocked: Bound | None, start: int,
) -> Held | None:  # fmt: skip
    """Admit in the order of the batch; the first request that cannot go, and all behind it, stay in their topic.

    `blocked` says why nothing can go at all. Lanes cannot overtake here: the order of a topic is the order of a topic.
    """
    held: Held | None = None
    bound, time = Bound(Reason.LANE, limits.service), start
    for arrival in arrivals:
        if held is None and arrival.never is not None:
            arrival.decide(arrival.left, Verdict.REJECTED, Reason.NEVER, arrival.never)
        elif held is None and arrival.late:
            shed(limits.service, arrival, forecast.estimate(arrival.queue, arrival.cost, now, start))
        elif held is None and blocked is None and arrival.queue.tenant.closed_until <= now:
            admit_in_order(limits, arrival, now)
        if not arrival.left:
            continue
        if held is None:
            bound = blocked or bound_in_order(limits, arrival, now)
            time = max(forecast.estimate(arrival.queue, arrival.cost, now, start), _opens_at(arrival, now))
            if time > latest(arrival, now, max_delay):
                shed(limits.service, arrival, time)
                continue
            if bound.reason is Reason.RUNNING:
                time = UNTIL_RESUMED  # or until a request is done
            told = bound.reason is not Reason.IN_FLIGHT and not limits.closed_by_calls(now)
            held = Held(max(time, now + 1) if told else None)
        arrival.decide(arrival.left, Verdict.HELD, bound.reason, bound.limit, [time] * arrival.left)
    return held


def watch_only(limits: Limits, arrivals: Sequence[Arrival], now: int, blocked: Bound | None) -> None:
    """Shadow: admit all, charge what the limits allow, and give the rest the reason for which it would have waited."""
    for arrival in arrivals:
        if blocked is None and arrival.queue.tenant.closed_until <= now:
            admit_in_order(limits, arrival, now)
        if arrival.left:
            bound = blocked or bound_in_order(limits, arrival, now)
            limits.let_pass(now, arrival.left)
            arrival.decide(arrival.left, Verdict.ADMITTED, bound.reason, bound.limit)
