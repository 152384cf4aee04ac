"""Selection of what is parked: it is looked for, and leaves, or goes into another lane, as an operator commands."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gate.admission.engine_state import EngineState
from gate.admission.fair_scheduler import add_pull
from gate.admission.model import MS, Pull, Reason, Verdict
from gate.admission.queues.queue import Lane, Queue
from gate.admission.queues.scheduled_places import Owner
from gate.admission.queues.segment import NO_DEADLINE
from gate.admission.queues.sharing import is_shared
from gate.admission.queues.spans import FIRST_ROOM, WAITING, Cursor, Span
from gate.admission.queues.tenants import short

LAST_ROOM: Final = FIRST_ROOM + (1 << 31)  # behind those of what is scheduled


@dataclass(frozen=True, slots=True)
class Filter:
    """What an engine knows of parked requests; those are meant that fit all of it.

    Of tenants that share a limit it knows no names: all of them fit.
    """

    tenant: str | None = None
    lane: str | None = None
    deadline_before: int | None = None  # ns; a request without a deadline does not fit
    outside: str | None = None  # not in this lane
    scheduled: Mapping[int, int] = field(
        default_factory=dict
    )  # of what is scheduled, that in front of these offsets, by partition


def names_tenants(state: EngineState) -> bool:
    """Tell whether the engine knows the tenant of each parked request."""
    return not state.tenants.crowded


def select(
    state: EngineState, fit: Filter, cursor: Cursor, end: int, entries: int, requests: int
) -> tuple[list[Span], Cursor | None]:
    """Look for parked requests as `SelectablePlaces.select` does."""
    tenant = None if fit.tenant is None else short(fit.tenant)
    latest = NO_DEADLINE if fit.deadline_before is None else fit.deadline_before // MS

    def fits(lane: str, name: str, deadline: int) -> bool:
        return (
            (tenant is None or name == tenant or is_shared(name))
            and fit.lane in {None, lane}
            and lane != fit.outside
            and (fit.deadline_before is None or deadline < latest)
        )

    def is_wanted(owner: Owner, deadline: int) -> bool:
        return fits(state.lane(owner[0], 0).name, owner[1], deadline)

    def wanted(queue: Queue, deadline: int) -> bool:
        return fits(queue.lane.name, queue.tenant.name, deadline)

    found: list[Span] = []
    if cursor[0] < LAST_ROOM:
        found, behind = state.scheduled.select(cursor, fit.scheduled, is_wanted, entries, requests)
        if behind is not None:
            return found, behind
        requests -= sum(span.count for span in found)
        cursor = WAITING
    more, behind = state.places.select(cursor, end, wanted, entries, requests, fit.scheduled)
    return [*found, *more], behind


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
    for (name, _), partition, offset, count, _ in state.scheduled.take_out(spans):
        if reason is None:
            state.gone += count
        else:
            state.totals[state.lane(name, 0).name, Verdict.REJECTED, reason, True] += count
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
    renamed = state.scheduled.rename(spans, lane.name)
    state.changed |= bool(renamed)
    return shifted + renamed


def _settle(state: EngineState, now: int, queues: Iterable[Queue]) -> None:
    """Bring turns and forecasts in line with what waits now; `queues` have lost some."""
    state.changed = True
    state.scheduler.hasten(queues, now)
    state.forecast.expired()
    state.scheduler.rest(now, state.limits)
    state.forecast.stepped(now, max(now, state.closed_until), admitted=True)
