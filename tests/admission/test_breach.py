"""Breach events: one when it opens, a slow beat, one when it is over."""

from itertools import pairwise

from gate.admission.breach_events import AlertSchedule
from gate.admission.engine import Engine
from gate.admission.limits.budget import Budgets
from gate.admission.model import SECOND, EventKind, Reason, Run
from gate.policy import Overflow
from tests.admission.simulation import Simulation


def kinds(sim):
    return [event.kind for event in sim.history.events]


def test_a_flood_is_one_breach_with_a_slow_beat(policy, spec, start):
    sim = Simulation(policy(spec(10, 10)), now=start)
    for _ in range(100):
        sim.offer(10)
    sim.drain()
    sim.run_until(sim.now + 60 * SECOND)
    told = [(event.kind.value, (event.at - start) // SECOND) for event in sim.history.events]
    assert told.pop(0) == ("near_limit", 0)  # the burst went without a refusal
    assert told == [("opened", 0), ("ongoing", 10), ("ongoing", 30), ("ongoing", 70), ("resolved", 99)]
    opened, *_, resolved = sim.history.events[1:]
    assert (opened.service, opened.limit, opened.reason, opened.since) == ("svc", "svc.rate", Reason.RATE, start)
    assert (opened.refused, opened.backlog, opened.eta_seconds) == (10, 10, 1.0)
    assert (resolved.refused, resolved.backlog, resolved.eta_seconds) == (990, 0, 0.0)


def test_it_is_over_only_after_five_quiet_seconds_with_nothing_parked(policy, spec, start):
    sim = Simulation(policy(spec(10, 1)), now=start)
    for second in range(4):
        sim.run_until(start + 3 * second * SECOND)
        sim.offer(2)
    sim.run_until(start + 60 * SECOND)
    assert kinds(sim) == [EventKind.OPENED, EventKind.ONGOING, EventKind.RESOLVED]
    assert sim.history.events[-1].at == start + 14 * SECOND  # the last refusal was at 9 s


def test_refusals_count_as_a_breach_but_a_requests_own_fault_does_not(policy, spec, start):
    sim = Simulation(policy(spec(1, 1), overflow=Overflow.REJECT), now=start)
    sim.submit(Run(0, 1, cost=5), Run(1, 1, deadline=start - 1))
    assert kinds(sim) == []
    sim.offer(2)
    assert kinds(sim)[0] is EventKind.OPENED
    assert sim.history.events[0].refused == 1


def test_it_survives_a_restart_and_is_told_once(policy, spec, start):
    plain, restarted = (Simulation(policy(spec(10, 10)), now=start, restart=restart) for restart in (False, True))
    for sim in (plain, restarted):
        sim.offer(500)
        sim.drain()
        sim.run_until(sim.now + 30 * SECOND)
    assert plain.history.events == restarted.history.events


def test_near_limit_is_told_once_per_crossing_and_seldom(policy, spec, start):
    sim = Simulation(policy(spec(1, 10)), now=start)
    for tick in range(600):
        sim.run_until(start + tick * SECOND)
        sim.offer(1)
        if tick % 20 == 0:
            sim.offer(7)
        if tick % 20 == 1:
            sim.now += 8 * SECOND
    near = [event.at for event in sim.history.events if event.kind is EventKind.NEAR_LIMIT]
    assert len(near) >= 1
    assert all(later - earlier >= 60 * SECOND for earlier, later in pairwise(near))


def test_the_beat_can_be_set(policy, spec, start):
    schedule = AlertSchedule(calm=SECOND, first=2 * SECOND, slowest=2 * SECOND)
    engine = Engine("svc", policy(spec(1, 1)), Budgets(start, {}), start, "1", schedule=schedule)
    engine.step(start, [Run(0, 8)], 0)
    engine.parked([(0, n) for n in range(7)])
    told = list(engine.drain_events())
    while (wake := engine.wake_at()) is not None:
        engine.step(wake, [], 100)
        told += engine.drain_events()
    assert [(event.at - start) // SECOND for event in told] == [0, 2, 4, 6, 7]
