"""Promised times after the gate did not run: what a newcomer is told then is when it goes, if nothing else comes."""

import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.admission.forecast.single_queue import SingleQueue
from gate.admission.model import MS, SECOND, Run
from gate.limits import Spec, Window
from gate.policy import ServicePolicy, Tenants
from tests.admission.simulation import Simulation

START = 1_764_000_000 * SECOND
LANES = [{"default": Fraction(1)}, {"hi": Fraction(6), "default": Fraction(3), "low": Fraction(1)}]


def random_spec(rng: random.Random) -> Spec:
    rate = Fraction(rng.choice([1, 2, 7, 10, 50, 333]), rng.choice([1, 1, 3])) if rng.random() < 0.8 else None
    sizes = sorted(rng.sample([1, 5, 10, 60], rng.choice([0, 1, 1, 2]))) or ([] if rate else [10])
    return Spec(rate, rng.choice([1, 5, 8, 20]), tuple(Window(rng.choice([5, 10, 50]), s * SECOND) for s in sizes))


def stall(sim: Simulation, rng: random.Random) -> None:
    """Let time pass in which the engine is not asked, and perhaps its state finds another owner."""
    sim.now += rng.choice([1, 7, 500, 3_000, 30_000, 400_000]) * MS
    if rng.random() < 0.3:
        sim.reopen()


def told_and_when(sim: Simulation, rng: random.Random, come, most: int) -> None:
    """Have a backlog, stalls amid it, and a last newcomer whose time must be the one that it was told."""
    come(rng.choice([most, most // 3, 5]))
    for _ in range(rng.randrange(1, 4)):
        sim.run_until(sim.now + rng.choice([0, 10, 2_000, 20_000]) * MS)
        stall(sim, rng)
        if rng.random() < 0.7:
            come(rng.choice([1, 7]))
    first = len(sim.history.submitted_at)
    come(3)
    waits, end = sim.engine.waiting, sim.now + round(sim.engine.usage(sim.now).eta_seconds * SECOND)
    sim.drain()
    assert not waits or max(sim.history.admitted_at) == end
    for number in range(first, len(sim.history.submitted_at)):
        assert sim.history.not_before[number] in (0, sim.history.admitted_at[number])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_a_newcomer_behind_one_overdue_queue_is_told_when_it_goes(seed):
    rng = random.Random(seed)
    sim = Simulation(ServicePolicy("svc", random_spec(rng)), now=START)
    told_and_when(
        sim,
        rng,
        lambda count: sim.submit(
            *[
                Run(n, 1, cost=rng.choice([1, 1, 2, 5]) if sim.engine.state.limits.limiter.spec.burst > 1 else 1)
                for n in range(count)
            ]
        ),
        400,
    )


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_a_newcomer_behind_overdue_lanes_and_tenants_is_told_when_it_goes(seed):
    rng = random.Random(seed)
    sim = Simulation(ServicePolicy("svc", random_spec(rng), lanes=rng.choice(LANES)), now=START)
    lanes = list(sim.policy.lanes)
    told_and_when(
        sim, rng, lambda count: sim.submit(*[Run(n, 1, rng.choice(lanes), rng.choice("ab")) for n in range(count)]), 400
    )


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_a_newcomer_behind_a_tenants_overdue_queue_is_told_when_it_goes(seed):
    """One tenant's own limit binds; the service's own is wide."""
    rng = random.Random(seed)
    own = random_spec(rng)
    limits = {"requests_per_second": own.rate, "burst_size": own.burst, "window_size": None, "windows": own.windows}
    policy = ServicePolicy("svc", Spec(Fraction(100_000), 100_000, ()), tenants=Tenants.of({"default": limits}))
    sim = Simulation(policy, now=START)
    tenants = rng.choice(["a", "ab"])
    told_and_when(
        sim, rng, lambda count: sim.submit(*[Run(n, 1, tenant=rng.choice(tenants)) for n in range(count)]), 400
    )


@pytest.mark.parametrize("restored", [False, True])
def test_a_stall_of_thirty_seconds_delays_what_is_told_by_thirty_seconds(policy, spec, restored):
    sim = Simulation(policy(spec(1, 1)), now=START)
    sim.offer(101)
    sim.run_until(START + 5 * SECOND)
    sim.now += 30 * SECOND
    if restored:
        sim.reopen()
    told = sim.offer(1).decisions[0].not_before
    assert told == (sim.now + 95 * SECOND,)
    assert sim.engine.usage(sim.now).eta_seconds == 95.0
    sim.drain()
    assert sim.history.admitted_at[-1] == told[0]


@pytest.mark.parametrize("of", ["service", "tenant"])
def test_behind_more_than_is_planned_one_by_one_it_is_told_from_what_the_limit_holds(policy, spec, of):
    own = {"default": {"requests_per_second": Fraction(10), "burst_size": 10, "window_size": None}}
    wide = spec(100_000, 100_000)
    sim = Simulation(policy(wide, tenants=own) if of == "tenant" else policy(spec(10, 10)), now=START)
    for _ in range(25):
        sim.offer(1_000)
    sim.run_until(START + 5 * SECOND)
    sim.now += 600 * SECOND
    told = sim.offer(1).decisions[0].not_before[0]
    assert sim.engine.usage(sim.now).eta_seconds == (told - sim.now) / SECOND
    sim.drain()
    assert sim.history.admitted_at[-1] == told


def test_late_by_a_moment_all_the_time_costs_no_plan_each_time(policy, spec, monkeypatch):
    """At a high rate every batch comes some ms late; what is replayed then must not grow with what waits."""
    booked = []
    book = SingleQueue.book
    monkeypatch.setattr(
        SingleQueue, "book", lambda self, count, *rest: booked.append(count) or book(self, count, *rest)
    )
    sim = Simulation(policy(spec(1_000, 1_000, w60=60_000)), now=START)
    sim.offer(15_000)
    for _ in range(500):
        sim.now += 5 * MS
        sim.offer(10)
    assert sum(booked) < 15_000 + 500 * 10 + 20_000 + 4_000 * 2.5
    assert 1_000 * SECOND > sim.history.not_before[-1] - sim.now > 14 * SECOND
