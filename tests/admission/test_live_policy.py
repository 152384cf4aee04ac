"""A policy that changes while requests wait."""

import dataclasses
from fractions import Fraction

from gate.admission.model import MS, SECOND, EventKind, Reason, Run, Verdict
from gate.policy import Overflow
from tests.admission.simulation import Simulation


def test_a_higher_limit_drains_at_once_and_a_lower_one_never_admits_more(policy, spec, never_over, start):
    sim = Simulation(policy(spec(100, 100, w10=1000)), now=start)
    for _ in range(5):
        sim.offer(1_000)
    sim.run_until(start + 5 * SECOND)
    slow = spec(10, 10, w10=100)
    sim.set_policy(policy(slow))
    before = len(sim.history.admissions)
    changed = sim.now
    sim.run_until(changed + 50 * SECOND)
    within = [(at, count) for at, _, count in sim.history.admissions[before:]]
    for window_start in range(changed, changed + 40 * SECOND, SECOND):
        assert sum(count for at, count in within if window_start <= at < window_start + 10 * SECOND) <= 100
    sim.set_policy(policy(spec(1_000, 1_000, w10=10_000)))
    assert sim.engine.wake_at() == sim.now
    left = sim.engine.waiting
    began = sim.now
    sim.drain()
    assert sim.now - began <= (left / 1_000 + 10) * SECOND


def test_what_waits_is_planned_anew(policy, spec, start):
    sim = Simulation(policy(spec(1, 1)), now=start)
    sim.offer(101)
    sim.set_policy(policy(spec(100, 1)))
    step = sim.offer(1)
    assert step.decisions[0].not_before == (start + 1_010 * MS,)
    sim.drain()
    assert sim.history.admitted_at[-1] == sim.history.not_before[-1]


def test_lanes_that_go_away_wait_in_the_default_lane(policy, spec, start):
    sim = Simulation(policy(spec(10, 1), weights={"hi": 6, "default": 3, "low": 1}), now=start, restart=True)
    sim.submit(*[Run(n, 1, lane) for n, lane in enumerate(["hi", "default", "low"] * 20)])
    sim.set_policy(policy(spec(10, 1), weights={"default": 3, "new": 5}))
    assert {name: lane.requests for name, lane in sim.engine.state.lanes.items()} == {"default": 59, "new": 0}
    sim.drain()
    assert [n for _, first, count in sim.history.admissions for n in range(first, first + count)] == list(range(60))


def test_what_can_never_go_any_more_is_refused_at_the_next_step(policy, spec, start):
    sim = Simulation(policy(spec(10, 10)), now=start)
    sim.submit(Run(0, 2, cost=9), Run(2, 2, cost=2), Run(4, 1, cost=8))
    sim.set_policy(policy(spec(10, 5)))
    assert sim.engine.wake_at() == start
    step = sim.submit()
    assert [(p.offset, p.verdict, p.reason) for p in step.pulls] == [
        (0, Verdict.REJECTED, Reason.NEVER),
        (3, Verdict.REJECTED, Reason.NEVER),
    ]
    sim.drain()
    assert list(map(bool, sim.history.admitted_at)) == [True, False, True, True, False]


def test_from_delay_to_hold_keeps_the_order(policy, spec, start):
    sim = Simulation(policy(spec(10, 1)), now=start)
    sim.offer(11)
    sim.set_policy(policy(spec(10, 1), overflow=Overflow.HOLD))
    assert sim.offer(1).decisions[0].verdict is Verdict.HELD
    sim.drain()
    assert sim.engine.wake_at() is not None


def test_a_tenant_with_a_new_limit_keeps_what_it_used(policy, spec, start):
    def limited(burst):
        return {"a": {"requests_per_second": Fraction(1), "burst_size": burst, "window_size": None}}

    sim = Simulation(policy(spec(1000, 1000), tenants=limited(10)), now=start, restart=True)
    sim.offer(10, tenant="a")
    sim.set_policy(policy(spec(1000, 1000), tenants=limited(20)))
    assert sim.offer(5, tenant="a").decisions[0].verdict is Verdict.DELAYED
    sim.set_policy(policy(spec(1000, 1000)))
    sim.run_until(sim.now)
    assert sim.engine.waiting == 0


def test_the_events_carry_the_policy_in_force(policy, spec, start):
    sim = Simulation(policy(spec(1, 1)), now=start)
    sim.offer(20)
    sim.set_policy(dataclasses.replace(sim.policy, near_limit=0.5))
    sim.run_until(start + 10 * SECOND)
    assert [(e.kind, e.policy) for e in sim.history.events] == [(EventKind.OPENED, "1"), (EventKind.ONGOING, "2")]


def test_a_reload_that_changes_no_limit_changes_no_eta(policy, spec, start):
    day = 86_400
    sim = Simulation(policy(spec(Fraction(1, 30 * day), 1)), now=start)
    sim.offer(4)
    before = sim.engine.usage(start).eta_seconds
    sim.set_policy(dataclasses.replace(sim.policy, near_limit=0.5))
    assert (before, sim.engine.usage(start).eta_seconds) == (90 * day, 90 * day)
    sim.set_policy(policy(spec(Fraction(1, 30 * day), 1), weights={"hi": 6, "default": 1}))
    assert sim.engine.usage(start).eta_seconds == 90 * day
