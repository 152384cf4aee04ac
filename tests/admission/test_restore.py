"""An engine that was thrown away after every step and restored from its records decides as if nothing had happened."""

import dataclasses
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.admission.engine import Engine
from gate.admission.limits.budget import Budgets
from gate.admission.model import MS, SECOND, Run, Verdict
from gate.limits import Per, Quota, Spec, StateError, Window
from gate.policy import Overflow, ServicePolicy, Tenants
from tests.admission.simulation import Simulation

START = 1_764_000_000 * SECOND
LIMITS = [1, 3, 10, 50, 130, 300]  # above 120, windows are kept in cells
LANES = [
    {"default": Fraction(1)},
    {"hi": Fraction(6), "default": Fraction(3), "low": Fraction(1)},
    {"default": Fraction(5, 2), "a": Fraction(1, 3)},
]


def random_spec(rng: random.Random) -> Spec:
    if rng.random() < 0.1:
        return Spec(None, 1, ())
    rate = Fraction(rng.choice([1, 2, 3, 7, 10, 50, 100]), rng.choice([1, 1, 1, 3, 60])) if rng.random() < 0.8 else None
    sizes = sorted(rng.sample([1, 5, 10, 60], rng.choice([0, 0, 1, 2]))) or ([] if rate else [10])
    windows = tuple(Window(rng.choice(LIMITS), s * SECOND) for s in sizes)
    quotas = (Quota(rng.choice([3, 50, 300]), rng.choice([Per.DAY, Per.MONTH]), "Europe/Berlin"),)
    return Spec(rate, rng.choice([1, 2, 5, 20]), windows, quotas if rng.random() < 0.3 else ())


def random_policy(rng: random.Random) -> ServicePolicy:
    rules = {}
    for tenant in ("t0", "t1", "t3"):
        spec = random_spec(rng)
        rules[tenant] = {
            "requests_per_second": spec.rate, "burst_size": spec.burst, "window_size": None, "windows": spec.windows,
            "quotas": spec.quotas,
        }  # fmt: skip
    return ServicePolicy(
        "svc",
        random_spec(rng),
        overflow=rng.choice([Overflow.DELAY] * 5 + [Overflow.HOLD, Overflow.REJECT]),
        max_delay=rng.choice([None, None, 5 * SECOND, 100 * SECOND]),
        lanes=rng.choice(LANES),
        max_in_flight=rng.choice([None] * 4 + [5, 50]),
        tenants=Tenants.of(rules) if rng.random() < 0.6 else None,
        shadow=rng.random() < 0.05,
    )


def random_batch(rng: random.Random, now: int) -> list[Run]:
    runs, first = [], 0
    for _ in range(rng.choice([0, 1, 1, 2, 3, 8])):
        first += rng.random() < 0.1  # a malformed request in between
        count = rng.choice([1, 1, 2, 3, 30, 200])
        by = None if rng.random() < 0.8 else now + rng.choice([-1, 0, 1, 5, 60]) * SECOND // rng.choice([1, 7])
        lane = rng.choice(["", "hi", "low", "default", "unknown", "a"])
        tenant = rng.choice(["", "t0", "t1", "t2", "t3"]) if rng.random() < 0.7 else ""
        runs.append(Run(first, count, lane, tenant, rng.choice([1, 1, 1, 1, 2, 5, 40]), by))
        first += count
    return runs


def command(rng: random.Random, sims: list[Simulation], now: int) -> None:
    """Something that is not a request: a new policy, a pause, a report of the workers."""
    kind = rng.random()
    if kind < 0.03:
        policy = random_policy(rng)
        for sim in sims:
            sim.set_policy(policy)
    elif kind < 0.08:
        until, tenant, pause = now + rng.choice([0, 1, 10]) * SECOND, rng.choice(["", "t0"]), kind < 0.06
        for sim in sims:
            sim.engine.pause(now, until, tenant) if pause else sim.engine.resume(now, tenant)
    elif kind < 0.14:
        lag = rng.choice([None, 0, 3, 100])
        for sim in sims:
            sim.engine.set_in_flight(now, lag)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32))
def test_the_same_with_and_without_a_restart_after_every_step(seed):
    rng = random.Random(seed)
    policy, partitions = random_policy(rng), rng.choice([1, 2])
    sims = [Simulation(policy, now=START, partitions=partitions, restart=restart) for restart in (False, True)]
    now = START
    for _ in range(50):
        command(rng, sims, now)
        wake, other = (sim.engine.wake_at() for sim in sims)
        assert wake == other
        later = now + rng.choice([0, 1, 3, 100, 1_000, 7_000, 70_000]) * MS
        now = max(now, wake) if wake is not None and wake < later and rng.random() < 0.4 else later
        runs = random_batch(rng, now) if rng.random() < 0.7 else []
        room = rng.choice([0, 1, 3, 1_000, 1_000])
        steps = []
        for sim in sims:
            sim.now = now
            steps.append(sim.submit(*runs, room=room))
        assert steps[0] == steps[1]
        assert [sim.engine.low_watermark(0) for sim in sims] == [sims[0].engine.low_watermark(0)] * 2
        told = [n for d in steps[0].decisions for n in range(d.first, d.first + d.count)]
        assert told == [n for run in runs for n in range(run.first, run.first + run.count)]
    assert sims[0].history.events == sims[1].history.events
    plain, restored = (dataclasses.replace(sim.engine.usage(now), tenants=0) for sim in sims)
    assert plain == restored


def test_only_what_changed_is_written(policy, spec):
    sim = Simulation(policy(spec(1, 1)), now=START)
    sim.offer(3)
    assert set(sim.engine.drain_changes()) == {"service/svc", "tenant/svc/", "parked/svc/0/0"}
    assert sim.engine.drain_changes() == {}
    sim.run_until(START + 2 * SECOND)
    assert sim.engine.drain_changes()["parked/svc/0/0"] is None


def test_a_segment_stays_small_enough_for_one_message(policy, spec):
    sim = Simulation(policy(spec(1, 1)), now=START)
    sim.submit(*[Run(n, 1, tenant=f"{n:0200d}", cost=1, deadline=START + n * SECOND + 10**15) for n in range(3_000)])
    records = [value for key, value in sim.engine.drain_changes().items() if key.startswith("parked/")]
    assert len(records) > 10
    assert max(map(len, records)) < 100_000


def test_idle_tenants_are_forgotten(policy, spec):
    tenants = {"default": {"requests_per_second": Fraction(1), "burst_size": 2, "window_size": None}}
    sim = Simulation(policy(spec(10**6, 10**6), tenants=tenants), now=START)
    sim.submit(*[Run(n, 1, tenant=f"t{n}") for n in range(500)])
    sim.save()
    assert len(sim.state) == 501
    for _ in range(40):
        sim.now += SECOND
        sim.offer(1)
    sim.save()
    assert len(sim.engine.state.tenants) <= 2
    assert not [key for key in sim.state if key.startswith("tenant/svc/t")]


def test_forgetting_goes_on_after_a_restart(policy, spec):
    tenants = {"default": {"requests_per_second": Fraction(1), "burst_size": 2, "window_size": None}}
    sim = Simulation(policy(spec(10**6, 10**6), tenants=tenants), now=START)
    sim.submit(*[Run(n, 1, tenant=f"t{n}") for n in range(500)])
    sim.reopen()
    for _ in range(60):
        sim.now += SECOND
        sim.offer(1)
    sim.save()
    assert not [key for key in sim.state if key.startswith("tenant/svc/t")]


def test_damaged_and_newer_records_are_refused(policy, spec):
    sim = Simulation(policy(spec(1, 1)), now=START)
    sim.offer(3)
    sim.save()
    for key, data in sim.state.items():
        for broken in (
            b"",
            data[:3],
            data[:-1],
            bytes([data[0] + 1]) + data[1:],
            data[:6] + bytes([data[6] ^ 1]) + data[7:],
        ):
            with pytest.raises(StateError):
                Engine.restore(
                    "svc", sim.policy, Budgets(START, {}), START, "1", {**sim.state, key: broken}
                ).tenants.find("", START)


def test_a_lane_that_went_away_while_no_gate_ran(policy, spec):
    sim = Simulation(policy(spec(1, 1), weights={"hi": 3, "default": 1}), now=START)
    sim.submit(Run(0, 1), Run(1, 3, "hi"), Run(4, 3))
    sim.save()
    new = policy(spec(1, 1))
    engine = Engine.restore("svc", new, Budgets(START, {}), START, "2", sim.state)
    assert {name: lane.requests for name, lane in engine.state.lanes.items()} == {"default": 6}
    offsets = []
    while engine.waiting:
        step = engine.step(engine.wake_at(), [], 1)
        offsets += [p.offset + n for p in step.pulls for n in range(p.count) if p.verdict is Verdict.ADMITTED]
    assert offsets == list(range(6))  # in the order of arrival


def test_a_million_parked_in_few_bytes(policy, spec):
    engine = Engine("svc", policy(spec(100, 1)), Budgets(START, {}), START, "1")
    state = {}
    for batch in range(25):
        step = engine.step(START, [Run(0, 4_000)], 0)
        parked = sum(d.count for d in step.decisions if d.verdict is Verdict.DELAYED)
        engine.parked([(0, batch * 4_001 + n) for n in range(parked)])
        state |= engine.drain_changes()
    assert engine.waiting >= 99_999
    assert sum(len(data) for data in state.values() if data) < 10_000
    restored = Engine.restore(
        "svc", engine.policy, Budgets(START, {}), START, "1", {k: v for k, v in state.items() if v}
    )
    assert restored.waiting == engine.waiting
    assert restored.low_watermark(0) == 0


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("overflow", [Overflow.HOLD, Overflow.DELAY])
@pytest.mark.parametrize("limits", [{}, {"rate": 10, "burst": 10}])
def test_requests_of_the_largest_cost_are_kept_like_others(policy, spec, start, overflow, limits, paused):
    """Whether held or parked: their sum is beyond any integer of a record."""
    said = policy(spec(**limits), overflow=overflow, max_delay=None)
    engine = Engine("svc", said, Budgets(start, {}), start, "v1")
    if paused:
        engine.pause(start, start + SECOND)
    step = engine.step(start, [Run(0, 19), Run(19, 9, cost=2**63 - 1)], 100)
    delayed = sum(d.count for d in step.decisions if d.verdict is Verdict.DELAYED)
    engine.parked([(0, i) for i in range(delayed)])
    records = {key: value for key, value in engine.drain_changes().items() if value is not None}
    again = Engine.restore("svc", said, Budgets(start, {}), start, "v1", records)
    assert again.usage(start).backlog == engine.usage(start).backlog
    assert again.step(start + SECOND, [], 100) == engine.step(start + SECOND, [], 100)
