"""The promises, on random traffic: never over, never idle, in order, once, and at the time that was stamped."""

import random
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from gate.admission.breach_events import AlertSchedule
from gate.admission.forecast.simulated import MOST
from gate.admission.model import MS, SECOND, Run
from gate.limits import Per, Quota, Spec, Window
from gate.policy import ServicePolicy, Tenants
from tests.admission.simulation import Simulation

START = 1_764_000_000 * SECOND
ONE_LANE = {"default": Fraction(1)}
LANES = [
    {"hi": Fraction(6), "default": Fraction(3), "low": Fraction(1)},
    {"default": Fraction(5, 2), "x": Fraction(1, 3)},
]
RARE = AlertSchedule(slowest=400 * 86_400 * SECOND)  # a quota that is used up is no reason to wake thousands of times
SEEDS = st.integers(0, 2**32)


def random_spec(rng: random.Random) -> Spec:
    rate = Fraction(rng.choice([1, 2, 7, 10, 50, 333]), rng.choice([1, 1, 3, 60])) if rng.random() < 0.8 else None
    sizes = sorted(rng.sample([1, 5, 10, 60], rng.choice([0, 1, 1, 2]))) or ([] if rate else [10])
    windows = tuple(Window(rng.choice([5, 10, 50, 300]), s * SECOND) for s in sizes)
    return Spec(rate, rng.choice([5, 8, 20]), windows, random_quotas(rng))


def random_quotas(rng: random.Random) -> tuple[Quota, ...]:
    if rng.random() < 0.7:
        return ()
    quotas = [Quota(rng.choice([7, 30, 120]), rng.choice([Per.DAY, Per.WEEK]), rng.choice(["UTC", "Asia/Kathmandu"]))]
    return (*quotas, Quota(rng.choice([150, 1_000]), Per.MONTH, "Europe/Berlin"))[: rng.choice([1, 2])]


def random_runs(rng, lanes, tenants, costs, deadline=0.0, now=0):
    runs, first = [], 0
    for _ in range(rng.randrange(1, 6)):
        count = rng.choice([1, 2, 5, 30])
        by = now + rng.choice([0, 1, 5, 60]) * SECOND // rng.choice([1, 7]) if rng.random() < deadline else None
        runs.append(Run(first, count, rng.choice(lanes), rng.choice(tenants), rng.choice(costs), by))
        first += count
    return runs


def play(rng, policy, tenants, costs, deadline=0.0, late=0) -> tuple[Simulation, list[Run], int]:
    """Offer random batches, waking the engine in between (up to `late` ms too late), then drain."""
    sim = Simulation(policy, now=START, partitions=rng.choice([1, 3]), schedule=RARE)
    like, last = [], 0
    delay = (lambda: rng.randrange(late) * MS) if late else None
    for _ in range(rng.randrange(2, 12)):
        last = len(sim.history.submitted_at)
        runs = random_runs(rng, list(policy.lanes), tenants, costs, deadline, sim.now)
        sim.submit(*runs)
        like += [run for run in runs for _ in range(run.count)]
        if rng.random() < 0.7:
            sim.run_until(sim.now + rng.choice([1, 10, 500, 3_000, 20_000]) * MS, late=delay)
    last = len(sim.history.submitted_at)
    runs = random_runs(rng, list(policy.lanes), tenants, costs)
    sim.submit(*runs)
    like += [run for run in runs for _ in range(run.count)]
    while sim.engine.waiting:
        sim.run_until(sim.engine.wake_at(), late=delay)
    return sim, like, last


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_never_over_in_order_and_once(never_over, seed):
    rng = random.Random(seed)
    limits = random_spec(rng)
    own = random_spec(rng)
    windows = tuple(own.windows)
    tenants = Tenants.of(
        {
            "a": {
                "requests_per_second": own.rate,
                "burst_size": own.burst,
                "window_size": None,
                "windows": windows,
                "quotas": own.quotas,
            }
        }
    )
    policy = ServicePolicy("svc", limits, lanes=rng.choice([ONE_LANE, *LANES]), tenants=tenants)
    sim, like, _ = play(rng, policy, ["", "a", "b"], [1, 1, 2, 5], deadline=0.2, late=rng.choice([0, 50]))
    history = sim.history
    admitted = [(at, like[n].cost) for n, at in enumerate(history.admitted_at) if at]
    never_over(limits, admitted)
    if policy.tenant("a") is not None:
        never_over(
            policy.tenant("a"),
            [(at, like[n].cost) for n, at in enumerate(history.admitted_at) if at and like[n].tenant == "a"],
        )
    assert max(history.decisions) <= 2
    assert min(history.decisions) >= 1
    ends: dict[tuple[str, str], int] = {}
    for number, run in enumerate(like):
        assert bool(history.admitted_at[number]) != bool(history.rejected_at[number])  # exactly one end
        if history.admitted_at[number]:
            assert run.deadline is None or history.admitted_at[number] <= run.deadline
            assert history.admitted_at[number] >= ends.get((run.lane, run.tenant), 0)
            ends[run.lane, run.tenant] = history.admitted_at[number]


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_one_queue_is_stamped_exactly_for_any_mix_of_costs(seed):
    rng = random.Random(seed)
    sim, _, _ = play(rng, ServicePolicy("svc", random_spec(rng)), [""], [1, 1, 2, 5])
    for at, stamp in zip(sim.history.admitted_at, sim.history.not_before, strict=True):
        assert stamp in (0, at)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_lanes_and_tenants_are_stamped_exactly_while_nothing_else_comes(seed):
    rng = random.Random(seed)
    policy = ServicePolicy("svc", random_spec(rng), lanes=rng.choice(LANES))
    sim, _, last = play(rng, policy, ["", "a", "b", "c"], [1])
    for number in range(last, len(sim.history.submitted_at)):
        assert sim.history.not_before[number] in (0, sim.history.admitted_at[number])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(SEEDS)
@example(585425107)  # a deadline of what is parked passes while a lane that came later takes its turns
@example(58532)  # others go at once, before the only queue that waits
def test_little_that_waits_is_stamped_exactly_for_any_mix_of_costs_and_limits(seed):
    rng = random.Random(seed)
    own = random_spec(rng)
    limits = {
        "requests_per_second": own.rate, "burst_size": own.burst, "window_size": None, "windows": own.windows,
        "quotas": own.quotas,
    }  # fmt: skip
    tenants = Tenants.of({"a": limits, "b": limits}) if rng.random() < 0.7 else None
    policy = ServicePolicy(
        "svc", random_spec(rng), lanes=rng.choice([ONE_LANE, *LANES]), tenants=tenants,
        max_delay=rng.choice([None, None, 3 * SECOND]),
    )  # fmt: skip
    sim, _, last = play(rng, policy, ["", "a", "b", "c"], [1, 1, 2, 5], deadline=rng.choice([0, 0.3]))
    history = sim.history
    ends = [max(both) for both in zip(history.admitted_at, history.rejected_at, strict=True)]
    assume(sum(at >= history.submitted_at[last] for at in ends) <= MOST)  # also those that were shed at once
    for number in range(last, len(ends)):
        if history.rejected_at[number]:  # and told when it would have gone
            assert history.not_before[number] > history.submitted_at[number]
        else:
            assert history.not_before[number] in (0, history.admitted_at[number])


@pytest.mark.parametrize(
    ("rate", "burst", "limit", "cells"),
    [(7, 3, None, 0), (100, 150, 6_000, 2), (100, 10, 5_000, 2), (Fraction(1_000, 7), 20, 60 * 120, 2)],
)
def test_lanes_are_stamped_far_ahead_within_what_is_documented(policy, spec, rate, burst, limit, cells):
    """Deeper than the moments that are looked at one by one: exact for a bucket, up to two cells early for a window."""
    limits = spec(rate, burst) if limit is None else spec(rate, burst, w60=limit)
    sim = Simulation(policy(limits, weights={"hi": 6, "default": 3, "low": 1}), now=START)
    sim.submit(*[Run(n * 400, 400, lane) for n, lane in enumerate(["hi", "default", "low"] * 8)])
    sim.drain()
    pairs = zip(sim.history.admitted_at, sim.history.not_before, strict=True)
    assert all(0 <= at - stamp <= cells * 60 * MS for at, stamp in pairs if stamp)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_never_idle(seed):
    """Whatever waits, the engine asks to be woken the very millisecond at which the limits let something go."""
    rng = random.Random(seed)
    limits = random_spec(rng)
    sim = Simulation(ServicePolicy("svc", limits, lanes=rng.choice(LANES)), now=START, schedule=RARE)
    total = 200
    sim.submit(*[Run(n * 4, 4, rng.choice(list(sim.policy.lanes)), rng.choice("abc")) for n in range(total // 4)])
    sim.drain()
    ideal = Simulation(ServicePolicy("svc", limits), now=START, schedule=RARE)
    ideal.offer(total)
    ideal.drain()
    assert sorted(sim.history.admitted_at) == sorted(ideal.history.admitted_at)


@pytest.mark.parametrize("rate", [Fraction(10, 60), Fraction(100)])
def test_ten_thousand_requests_in_the_ideal_time(policy, spec, never_over, rate):
    limits = spec(rate, 10, w60=max(10, int(60 * rate)))
    sim = Simulation(policy(limits), now=START)
    for _ in range(10):
        sim.offer(1_000)
    sim.drain()
    history = sim.history
    ideal = START + int((10_000 - 10) / rate * SECOND)
    assert history.admitted_at[-1] <= ideal + SECOND
    assert max(history.decisions) == 2
    assert all(stamp in (0, at) for at, stamp in zip(history.admitted_at, history.not_before, strict=True))
    assert list(history.admitted_at) == sorted(history.admitted_at)
    never_over(limits, ((at, count) for at, _, count in history.admissions))


def shares(sim: Simulation, names: list[str], most: int) -> list[int]:
    """Count the first `most` parked requests that went, by whose they were."""
    counts = dict.fromkeys(names, 0)
    for _, first, count in sim.history.admissions:
        for number in range(first, first + count):
            if most and sim.history.decisions[number] == 2:
                most -= 1
                counts[names[number % len(names)]] += 1
    return [counts[name] for name in names]


def test_weights_hold_within_one_percent_over_a_thousand_admissions(policy, spec):
    weights = {"hi": 6, "default": 3, "low": 1}
    sim = Simulation(policy(spec(100, 10), weights=weights), now=START)
    sim.submit(*[Run(n, 1, name) for n, name in enumerate(list(weights) * 1_500)])
    sim.run_until(START + 20 * SECOND)
    for share, ideal in zip(shares(sim, list(weights), 1_000), (600, 300, 100), strict=True):
        assert abs(share - ideal) <= 10


def test_weights_count_cost_and_not_requests(policy, spec):
    sim = Simulation(policy(spec(100, 100), weights={"default": 1, "big": 1}), now=START)
    sim.submit(*[Run(n, 1, lane, cost=cost) for n, (lane, cost) in enumerate([("default", 1), ("big", 10)] * 500)])
    sim.run_until(START + 5 * SECOND)
    small, big = (len([n for n in range(k, 1000, 2) if sim.history.admitted_at[n]]) for k in (0, 1))
    assert abs(small - 10 * big) <= 20


def test_an_idle_lanes_share_is_used_by_others_and_comes_back_at_once(policy, spec):
    sim = Simulation(policy(spec(100, 1), weights={"hi": 9, "default": 1}), now=START)
    sim.offer(3_000)
    sim.run_until(START + 10 * SECOND)
    assert sum(count for _, _, count in sim.history.admissions) >= 1_001 * 0.999
    sim.offer(1, lane="hi")
    sim.run_until(START + 11 * SECOND)
    assert sim.history.admitted_at[3_000] - sim.history.submitted_at[3_000] <= 20 * MS


def test_a_flood_does_not_delay_another_tenant_by_more_than_two_turns(policy, spec):
    sim = Simulation(policy(spec(100, 1)), now=START)
    for _ in range(20):
        sim.offer(1_000, tenant="flood")
    sim.run_until(START + 5 * SECOND)
    sim.offer(1, tenant="calm")
    sim.run_until(START + 6 * SECOND)
    assert sim.history.admitted_at[20_000] - sim.history.submitted_at[20_000] <= 2 * 2 * 10 * MS


def test_coming_back_one_by_one_does_not_gain_turns(policy, spec):
    """A tenant that always offers one more, just served, must not get more than those who wait all the time."""
    sim = Simulation(policy(spec(100, 1)), now=START)
    sim.submit(*[Run(n, 1, tenant=f"t{n % 20}") for n in range(4_000)])
    sly = []
    for tick in range(1, 1_001):
        sim.run_until(START + tick * 10 * MS)
        if not sly or sim.history.admitted_at[sly[-1]]:
            sly.append(len(sim.history.submitted_at))
            sim.offer(1, tenant="sly")
    served = sum(1 for number in sly if sim.history.admitted_at[number])
    assert served <= 1_000 / 21 * 1.1 + 2


def test_tenants_are_served_evenly(policy, spec):
    sim = Simulation(policy(spec(1000, 1)), now=START)
    tenants = 200
    sim.submit(*[Run(n, 1, tenant=f"t{n % tenants}") for n in range(tenants * 20)])
    sim.run_until(START + 2 * SECOND)
    counts = [0] * tenants
    for number, at in enumerate(sim.history.admitted_at):
        counts[number % tenants] += bool(at)
    assert sum(counts) ** 2 / (tenants * sum(count * count for count in counts)) >= 0.99
