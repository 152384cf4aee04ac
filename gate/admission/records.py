"""An engine as state records and back, and from one policy to another."""

from collections.abc import Generator
from fractions import Fraction
from typing import TYPE_CHECKING

from gate.admission.breach import Breach, Meter
from gate.admission.forecast.single_queue import SingleQueue
from gate.admission.model import FOREVER, Reason, Verdict
from gate.admission.overflow import Held
from gate.admission.queues.queue import Lane, Queue, lanes_of
from gate.admission.queues.tenants import SLICE
from gate.admission.state import LaneRecord, SegmentRecord, ServiceRecord, TotalRecord, decode, encode
from gate.limits import Limiter
from gate.policy import ServicePolicy

if TYPE_CHECKING:
    from gate.admission.engine import Engine


def changes(engine: "Engine") -> dict[str, bytes | None]:
    """Return the records that changed since the last call; None: delete."""
    changed: dict[str, bytes | None] = {}
    if engine.changed:
        engine.changed = False
        changed[f"service/{engine.service}"] = encode(_record(engine))
    return changed | engine.places.changes() | engine.tenants.changes() | engine.budgets.changes()


def restore(engine: "Engine", state: dict[str, bytes]) -> Generator[None, None, None]:
    """Bring a new engine to where the one was that wrote the records, in slices. They are taken out on the way.

    StateError: damaged, or from a newer gate.
    """
    key = f"service/{engine.service}"
    tenants, parked = f"tenant/{engine.service}/", f"parked/{engine.service}/"
    record = decode(key, state[key], ServiceRecord) if key in state else None
    if record is not None:
        _take(engine, record)
    segments, kept = [], {}
    for number, name in enumerate(list(state)):
        if name.startswith(tenants):
            kept[name.removeprefix(tenants)] = state.pop(name)
        elif name.startswith(parked):
            partition, _, base = name.removeprefix(parked).partition("/")
            segments.append((int(base), int(partition), name))
        if number % SLICE == 0:
            yield
    yield from engine.tenants.restore(kept)
    if record is not None and record.policy != engine.version:
        engine.tenants.forget_forecasts()
    places = ((partition, decode(name, state.pop(name), SegmentRecord)) for _, partition, name in sorted(segments))
    yield from engine.places.restore(places, lambda lane, tenant: _queue(engine, lane, tenant))
    yield from engine.scheduler.rebuild()
    for name, until in ({} if record is None else record.paused).items():
        engine.tenants.pause(engine.tenants.find(name, engine.now), until)
    if record is not None and record.policy != engine.version:
        yield from _follow(engine)
    engine.changed = False


def change_policy(engine: "Engine", now: int, policy: ServicePolicy, version: str) -> Generator[None, None, None]:
    """Take another policy, in slices: what was used stays counted, what waits stays in its order."""
    engine.policy, engine.version, engine.changed = policy, version, True
    engine.limits.limiter.reconfigure(policy.spec, now)
    if engine.limits.budget is not None:
        engine.limits.budget.wait(engine.service, 0, now)
    engine.limits.budget = engine.budgets.get(policy.group)
    yield from engine.tenants.reconfigure(policy, now)
    yield from _follow(engine)


def _follow(engine: "Engine") -> Generator[None, None, None]:
    """Bring lanes and what waits in them in line with the policy."""
    engine.purge = True
    policy = engine.policy
    for order, lane in enumerate(lanes_of(policy.lanes).values()):
        known = engine.lanes.setdefault(lane.name, lane)
        known.weight, known.stride, known.order = lane.weight, lane.stride, order
    heir = engine.lanes[policy.default_lane]
    removed = [name for name in engine.lanes if name not in policy.lanes]
    for number, tenant in enumerate(list(engine.tenants)):
        for name in removed:
            source = tenant.queues.pop(name, None)
            if source is not None and source.requests:
                target = engine.tenants.queue(tenant, heir)
                if not target.requests and not heir.remembers(target):
                    target.order = 0  # takes its place anew
                engine.places.move(source, target)
                target.requests += source.requests
                target.units += source.units
        for queue in tenant.queues.values():
            queue.until = 0
        engine.tenants.touch(tenant, engine.now)
        if number % SLICE == 0:
            yield
    kept = {name: engine.lanes[name] for name in policy.lanes}
    engine.lanes.clear()
    engine.lanes.update(kept)
    engine.scheduler.lanes.virtual = 0
    for lane in engine.lanes.values():
        lane.start = 0  # turns begin anew
    yield from engine.scheduler.rebuild()
    engine.forecast.forget()
    yield from engine.tenants.prepare()


def _queue(engine: "Engine", lane: str, tenant: str) -> Queue:
    known = engine.lanes.get(lane)
    if known is None:  # the policy lost it while no gate ran
        known = engine.lanes[lane] = Lane(lane, Fraction(1), 1, len(engine.lanes))
    return engine.tenants.queue(engine.tenants.find(tenant, engine.now), known)


def _record(engine: "Engine") -> ServiceRecord:
    scheduler, plan = engine.scheduler, engine.forecast.single
    return ServiceRecord(
        policy=engine.version,
        now=engine.now,
        sequence=engine.sequence,
        limiter=engine.limits.limiter.dump(),
        plan=None if plan is None else [limiter.dump() for limiter in plan.limiters],
        plan_at=0 if plan is None else min(plan.at, FOREVER),
        virtual=scheduler.lanes.virtual,
        lanes=[
            LaneRecord(lane.name, lane.start, lane.epoch, lane.fair.virtual, lane.orders, lane.busy)
            for lane in engine.lanes.values()
        ],
        totals=[
            TotalRecord(lane, verdict, reason or "", pulled, requests)
            for (lane, verdict, reason, pulled), requests in sorted(engine.totals.items(), key=str)
        ],
        breach=engine.breach.record(),
        meters=[(meter.rate, meter.last) for meter in (engine.offered, engine.admitted, engine.units)],
        paused_until=engine.paused_until,
        paused=engine.tenants.paused,
        lag=engine.lag,
        admitted_since=engine.admitted_since,
        unknown_lanes=engine.unknown_lanes,
        refusal=engine.refusal,
        more=scheduler.more,
        purge=engine.purge,
        held=engine.held,
        anchor=engine.forecast.drift.record(),
        salt=engine.tenants.salt,
        shared_requests=engine.tenants.shared_requests,
        plans=engine.tenants.forecasts,
        renamed=list(engine.tenants.renamed),
        holding=engine.holding.record(),
        gone=engine.gone,
    )


def _take(engine: "Engine", record: ServiceRecord) -> None:
    """Take everything of a service's record but what hangs on its queues."""
    engine.now = max(engine.now, record.now)
    engine.sequence = record.sequence
    engine.limits.limiter = Limiter.load(engine.policy.spec, record.limiter)
    limiters = engine.limits.limiters()
    if record.plan is not None and record.policy == engine.version and len(record.plan) == len(limiters):
        ahead = [Limiter.load(own.spec, data) for own, data in zip(limiters, record.plan, strict=True)]
        engine.forecast.single = SingleQueue(ahead, record.plan_at)
    if record.holding is not None:
        engine.holding.restore(record.holding)
    if record.anchor is not None:
        engine.forecast.drift.restore(record.anchor)
    engine.scheduler.lanes.virtual = record.virtual
    engine.scheduler.more = record.more
    for kept in record.lanes:
        lane = engine.lanes.setdefault(kept.name, Lane(kept.name, Fraction(1), 1, len(engine.lanes)))
        lane.start, lane.epoch, lane.orders, lane.busy = kept.start, kept.epoch, kept.orders, kept.busy
        lane.fair.virtual = kept.virtual
    for total in record.totals:
        reason = Reason(total.reason) if total.reason else None
        engine.totals[total.lane, Verdict(total.verdict), reason, total.pulled] = total.requests
    engine.breach = Breach(engine.breach.beat, record.breach)
    engine.offered, engine.admitted, engine.units = (Meter(rate, last) for rate, last in record.meters)
    engine.paused_until, engine.lag, engine.admitted_since = record.paused_until, record.lag, record.admitted_since
    engine.unknown_lanes, engine.purge, engine.gone = record.unknown_lanes, record.purge, record.gone
    if record.refusal is not None:
        engine.refusal = record.refusal[0], Reason(record.refusal[1]), record.refusal[2]
    engine.tenants.salt = record.salt or engine.tenants.salt
    engine.tenants.shared_requests, engine.tenants.forecasts = record.shared_requests, record.plans
    engine.tenants.renamed = dict.fromkeys(record.renamed)
    engine.held = None if record.held is None else Held(*record.held)
