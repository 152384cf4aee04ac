"""Scheduling: requests that are not to go before a time are parked without a turn, and come when it has come."""

from collections.abc import Sequence

from gate.admission import overdue, overflow
from gate.admission.decisions import decisions
from gate.admission.engine_state import EngineState
from gate.admission.fair_scheduler import add_pull
from gate.admission.model import MS, UNTIL_RESUMED, Pull, Reason, Run, Step, Verdict
from gate.admission.queues.queue import Arrival
from gate.admission.queues.segment import NO_DEADLINE
from gate.admission.queues.tenants import short

Unplaced = Sequence[tuple[Arrival, int, int]]  # delayed requests: with number in the batch and count


def postpone(
    state: EngineState, now: int, runs: Sequence[Run], step: Step, unplaced: Unplaced
) -> tuple[Step, Unplaced, list[Arrival]]:
    """Decide about requests that are not to go before a later time, beside a `step` about all others of the batch.

    Behind a request that is held back in its topic they are held too. Returns the step as a whole, what is to be
    placed, and what was decided here.
    """
    shared, start = state.limits.ceiling(), max(now, state.closed_until)
    held = next((decision for decision in step.decisions if decision.verdict is Verdict.HELD), None)
    earliest: dict[tuple[str, str, int], int] = {}
    arrivals, placed = [], [*unplaced]
    limits, ahead = state.limits, state.waiting + state.scheduled.requests
    for run in runs:
        assert run.start is not None
        tenant = state.tenants.find(short(run.tenant), now)
        arrival = Arrival(run, state.tenants.queue(tenant, state.lane(run.lane, run.count)))
        arrivals.append(arrival)
        if held is not None and held.first < run.first:
            time = max(run.start, held.not_before[0] if held.not_before else now)
            arrival.decide(run.count, Verdict.HELD, held.reason, held.limit, [time] * run.count)
            continue
        if not state.policy.shadow and (never := overflow.never(state.service, shared, tenant, run.cost)) is not None:
            arrival.decide(run.count, Verdict.REJECTED, Reason.NEVER, never)
            continue
        key = arrival.queue.lane.name, tenant.name, run.cost
        if key not in earliest:
            earliest[key] = max(state.forecast.estimate(arrival.queue, run.cost, now, start), tenant.closed_until)
        if run.deadline is not None and run.deadline < run.start and not state.policy.shadow:
            overflow.shed(state.service, arrival, max(run.start, earliest[key]))
            continue
        arrival.start = run.start
        placed.append((arrival, run.first, run.count))
        ahead += run.count
        sure = not limits.running.tracking or limits.promises(now, ahead)
        times = [max(run.start, earliest[key]) if sure else UNTIL_RESUMED] * run.count
        arrival.decide(run.count, Verdict.DELAYED, Reason.SCHEDULED, None, times)
    told = sorted((*step.decisions, *decisions(arrivals)), key=lambda decision: decision.first)
    placed.sort(key=lambda entry: entry[1])
    return Step(tuple(told), step.pulls, step.started), placed, arrivals


def take_due(state: EngineState, now: int, room: int) -> list[Arrival]:
    """Take those whose time has come, the first first; they count as come then, before what comes now.

    Half of the room is theirs at most: what waits has its turn too.
    """
    due = []
    for entry in state.scheduled.take(now // MS, -(-room // 2)):
        lane, tenant = entry.owner
        deadline = None if entry.deadline == NO_DEADLINE else entry.deadline * MS
        queue = state.tenants.queue(state.tenants.find(tenant, now), state.lane(lane, 0))
        arrival = Arrival(Run(state.sequence, entry.requests, lane, tenant, entry.cost, deadline), queue)
        arrival.came = entry.start * MS
        arrival.place = entry.partition, entry.offset
        state.sequence += entry.requests
        due.append(arrival)
    return due


def begin(state: EngineState, now: int, due: Sequence[Arrival]) -> None:
    """Refuse what can't be admitted any more, by the limits of now."""
    if state.policy.shadow:
        return
    shared = state.limits.ceiling()
    for arrival in due:
        limit = overflow.never(state.service, shared, arrival.queue.tenant, arrival.cost)
        if limit is not None:
            arrival.decide(arrival.count, Verdict.REJECTED, Reason.NEVER, limit)
        else:
            arrival.late = overdue.is_late(arrival, now)


def place(state: EngineState, unplaced: Unplaced) -> Unplaced:
    """Let those who were scheduled, and can't go now, wait where they lie; return the others."""
    others = []
    for arrival, number, count in unplaced:
        if arrival.place is None:
            others.append((arrival, number, count))
            continue
        partition, offset = arrival.place
        deadline = NO_DEADLINE if arrival.deadline is None else min(arrival.deadline // MS, NO_DEADLINE)
        state.places.add(
            arrival.queue, partition, offset + number - arrival.first, number, count, arrival.cost, deadline, late=True
        )
        state.scheduler.coming.pop(arrival.queue, None)
    return others


def leave(state: EngineState, now: int, due: Sequence[Arrival], pulls: list[Pull]) -> tuple[int, int]:
    """Pull what was decided about those whose time has come. Returns how many, and how many units, were admitted."""
    requests = units = 0
    for arrival in due:
        assert arrival.place is not None
        partition, offset = arrival.place
        lane = arrival.queue.lane.name
        for count, verdict, reason, limit, times in arrival.outcomes:
            if verdict is Verdict.ADMITTED:
                requests += count
                units += count * arrival.cost
            if verdict is not Verdict.DELAYED:
                state.totals[lane, verdict, reason, True] += count
                told = None if times is None or verdict is Verdict.ADMITTED else tuple(times)
                add_pull(pulls, Pull(partition, offset, count, verdict, reason, limit, told))
            if reason is not None and limit is not None:
                state.refuse(now, count, reason, limit)
            offset += count
    return requests, units
