"""Commands on what is parked: some of it is looked for, and leaves, or goes into another lane."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gate.admission.engine_state import EngineState
from gate.admission.fair_scheduler import add_pull
from gate.admission.model import MS, Pull, Reason, Verdict
from gate.admission.queues.queue import Lane, Queue
from gate.admission.queues.segment import NO_DEADLINE
from gate.admission.queues.selectable import Cursor, Span
from gate.admission.queues.sharing import is_shared
from gate.admission.queues.tenants import short


@dataclass(frozen=True, slots=True)
class Filter:
    """What an engine knows of parked requests; those are meant that fit all of it.

    Of tenants that share a limit it knows no names: all of them fit.
    """

    tenant: str | None = None
    lane: str | None = None
    deadline_before: int | None = None  # ns; a request without a deadline does not fit
    outside: str | None = None  # not in this lane


def names_tenants(state: EngineState) -> bool:
    """Tell whether the engine knows the tenant of each parked request."""
    return not state.tenants.crowded


def select(
    state: EngineState, fit: Filter, cursor: Cursor, end: int, entries: int, requests: int
) -> tuple[list[Span], Cursor | None]:
    """Look for parked requests as `SelectablePlaces.select` does."""
    tenant = None if fit.tenant is None else short(fit.tenant)
    latest = NO_DEADLINE if fit.deadline_before is None else fit.deadline_before // MS

    def wanted(queue: Queue, deadline: int) -> bool:
        lane, name = queue.lane.name, queue.tenant.name
        return (
            (tenant is None or name == tenant or is_shared(name))
            and fit.lane in {None, lane}
            and lane != fit.outside
            and (fit.deadline_before is None or deadline < latest)
        )

    return state.places.select(cursor, end, wanted, entries, requests)


def take_out(state: EngineState, now: int, spans: Sequence[Span], reason: Reason | None) -> list[Pull]:
    """Let parked requests go that are to be rejected for a `reason`; None: they are gone already, and forgotten.

    They take nothing of the limits, and those behind them come earlier. Not between `step` and `parked`.
    """
    pulls: list[Pull] = []
    queues: dict[Queue, None] = {}
    for queue, partition, offset, count, cost in state.places.take_out(spans):
        queues[queue] = None
        state.scheduler.shrink(queue, count, count * cost)
        queue.tenant.forecast = None
        state.tenants.touch(queue.tenant, now)
        if reason is None:
            state.gone += count
        else:
            state.totals[queue.lane.name, Verdict.REJECTED, reason, True] += count
            add_pull(pulls, Pull(partition, offset, count, Verdict.REJECTED, reason))
    if spans:
        _settle(state, now, queues)
    return pulls


def shift(state: EngineState, now: int, spans: Sequence[Span], lane: Lane) -> int:
    """Put parked requests into another lane, each where it would be had it come there; return how many."""
    shifted = 0
    sources: dict[Queue, None] = {}
    for source, target, count, cost in state.places.shift(spans, lambda queue: state.tenants.queue(queue.tenant, lane)):
        state.scheduler.shrink(source, count, count * cost)
        state.scheduler.grow(target, count, count * cost)
        state.scheduler.join(target)  # where its tenant's limit blocks it, the next step finds that out
        state.tenants.touch(target.tenant, now)
        target.tenant.forecast = None
        sources[source] = None
        shifted += count
    if shifted:
        state.forecast.forget()
        _settle(state, now, sources)
    return shifted


def _settle(state: EngineState, now: int, queues: Iterable[Queue]) -> None:
    """Bring turns and forecasts in line with what waits now; `queues` have lost some."""
    state.changed = True
    state.scheduler.hasten(queues, now)
    state.forecast.expired()
    state.scheduler.rest(now, state.limits)
    state.forecast.stepped(now, max(now, state.paused_until), admitted=True)
