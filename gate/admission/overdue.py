"""Overdue requests: those that come behind their deadline, and parked ones that have missed it while they waited."""

from gate.admission import overflow
from gate.admission.engine_state import EngineState
from gate.admission.fair_scheduler import add_pull
from gate.admission.model import MS, Pull, Reason, Run, Verdict
from gate.admission.queues.queue import Arrival


def is_late(request: Run | Arrival, now: int) -> bool:
    """Tell whether requests come behind their deadline. `now` is unix ns."""
    return request.deadline is not None and request.deadline < now


def drop(state: EngineState, now: int, pulls: list[Pull]) -> None:
    """Reject what is parked and overdue, or can never be admitted any more; it takes no capacity."""
    if not state.waiting:
        return
    dropped = [(Reason.DEADLINE, f"{state.service}.deadline", *entry) for entry in state.places.expire(now // MS)]
    if state.purge:
        state.purge = False
        shared = state.limits.ceiling()
        removed = state.places.remove(lambda queue, cost: overflow.never("", shared, queue.tenant, cost) is not None)
        dropped += [(Reason.NEVER, state.service, *entry) for entry in removed]
    dropped.sort(key=lambda drop: drop[3:5])
    for reason, limit, queue, partition, offset, count, cost in dropped:
        state.scheduler.shrink(queue, count, count * cost)
        queue.tenant.forecast = None
        state.tenants.touch(queue.tenant, now)
        state.totals[queue.lane.name, Verdict.REJECTED, reason, True] += count
        add_pull(pulls, Pull(partition, offset, count, Verdict.REJECTED, reason, limit))
    if dropped:
        state.scheduler.hasten(dict.fromkeys(queue for _, _, queue, *_ in dropped), now)
        state.forecast.expired()
