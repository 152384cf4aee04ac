"""State records of an engine: written, read back, and carried over from one policy to another."""

from collections.abc import Generator

from gate.admission.engine_state import EngineState
from gate.admission.model import EXPEDITED
from gate.admission.queues.parked_places import LATE
from gate.admission.queues.queue import lanes_of
from gate.admission.queues.tenants import SLICE
from gate.admission.state import ScheduledRecord, SeenRecord, SegmentRecord, ServiceRecord, decode, encode
from gate.policy import ServicePolicy


def drain_changes(state: EngineState) -> dict[str, bytes | None]:
    """Return the records that changed since the last call; None: delete."""
    changed: dict[str, bytes | None] = {}
    version = state.budgets.version
    if state.changed:
        state.changed = False
        changed[f"service/{state.service}"] = encode(state.record(), version)
    changed |= state.places.drain_changes(version) | state.tenants.drain_changes(version)
    changed |= state.scheduled.drain_changes(version)
    changed |= state.limits.running.drain_changes(version)
    changed |= state.recent.drain_changes(version)
    return changed | state.budgets.drain_changes()


def restore(state: EngineState, records: dict[str, bytes]) -> Generator[None, None, None]:
    """Bring a new engine to where the one was that wrote the records, in slices. They are taken out on the way.

    StateError: damaged, or from a newer gate.
    """
    key = f"service/{state.service}"
    tenants, parked = f"tenant/{state.service}/", f"parked/{state.service}/"
    scheduled, runs = f"scheduled/{state.service}/", f"running/{state.service}/"
    seen = f"seen/{state.service}/"
    record = decode(key, records[key], ServiceRecord) if key in records else None
    if record is not None:
        state.restore(record)
    segments: list[tuple[int, int, int, str]] = []
    later: list[tuple[int, int, str]] = []
    running: dict[int, bytes] = {}
    kept = {}
    recent: dict[int, str] = {}
    for number, name in enumerate(list(records)):
        if name.startswith(tenants):
            kept[name.removeprefix(tenants)] = records.pop(name)
        elif name.startswith(runs):
            running[int(name.removeprefix(runs))] = records.pop(name)
        elif name.startswith(parked):
            partition, _, base = name.removeprefix(parked).partition("/")
            late = base.removeprefix(LATE)
            segments.append(
                (0, int(partition), int(late), name) if late != base else (int(base), int(partition), 0, name)
            )
        elif name.startswith(scheduled):
            partition, _, base = name.removeprefix(scheduled).partition("/")
            later.append((int(base), int(partition), name))
        elif name.startswith(seen):
            recent[int(name.removeprefix(seen))] = name
        if number % SLICE == 0:
            yield
    yield from state.tenants.restore(kept)
    if record is not None and record.policy != state.version:
        state.tenants.forget_forecasts()
    places = (
        (partition, late, decode(name, records.pop(name), SegmentRecord))
        for _, partition, late, name in sorted(segments)
    )
    yield from state.places.restore(places, state.queue)
    starts = ((partition, decode(name, records.pop(name), ScheduledRecord)) for _, partition, name in sorted(later))
    yield from state.scheduled.restore(starts)
    chunks = ((number, decode(name, records.pop(name), SeenRecord)) for number, name in sorted(recent.items()))
    yield from state.recent.restore(chunks)
    yield from state.scheduler.rebuild()
    state.limits.running.restore(running)
    for name in state.limits.running.tenants():
        state.tenants.find(name, state.now).running += 1
    for name, until in ({} if record is None else record.paused).items():
        state.tenants.pause(state.tenants.find(name, state.now), until)
    if record is not None and record.policy != state.version:
        yield from _follow(state)
    state.changed = False


def change_policy(state: EngineState, now: int, policy: ServicePolicy, version: str) -> Generator[None, None, None]:
    """Take another policy, in slices: what was used stays counted, what waits stays in its order."""
    state.take_policy(now, policy, version)
    yield from state.tenants.reconfigure(policy, now)
    yield from _follow(state)


def _follow(state: EngineState) -> Generator[None, None, None]:
    """Bring lanes and what waits in them in line with the policy."""
    state.purge = True
    policy = state.policy
    for order, lane in enumerate(lanes_of(policy.lanes).values()):
        known = state.lanes.setdefault(lane.name, lane)
        known.weight, known.stride, known.order = lane.weight, lane.stride, order
    heir = state.lanes[policy.default_lane]
    removed = [name for name in state.lanes if name not in policy.lanes and name != EXPEDITED]
    for number, tenant in enumerate(list(state.tenants)):
        for name in removed:
            source = tenant.queues.pop(name, None)
            if source is not None and source.requests:
                target = state.tenants.queue(tenant, heir)
                if not target.requests and not heir.remembers(target):
                    target.order = 0  # takes its place anew
                state.places.move(source, target)
                target.requests += source.requests
                target.units += source.units
        for queue in tenant.queues.values():
            queue.until = 0
        state.tenants.touch(tenant, state.now)
        if number % SLICE == 0:
            yield
    kept = [*policy.lanes, *({EXPEDITED} & state.lanes.keys())]
    state.take_lanes({name: state.lanes[name] for name in kept})
    yield from state.scheduler.rebuild()
    state.forecast.forget()
    yield from state.tenants.prepare(state.budgets.version)
