"""What an engine says about itself: the limit that binds what waits, and who is paused."""

from fractions import Fraction

import pytest

from gate.admission.model import SECOND, Binding, PausedTenant, Reason, Run
from gate.limits import NEVER
from gate.policy import Overflow
from tests.admission.simulation import Simulation

OWN = {"acme": {"requests_per_second": Fraction(1), "burst_size": 1, "window_size": None}}


def test_it_names_the_tenants_limit_where_that_binds_and_not_the_fullest(policy, spec, start):
    sim = Simulation(policy(spec(100, 100, w60=500), tenants=OWN), now=start)
    sim.submit(Run(0, 60, tenant="other"), Run(60, 20, tenant="acme"))
    usage = sim.engine.usage(start)
    assert max(usage.limits, key=lambda limit: limit.usage).name == "svc.rate"
    assert usage.binding == Binding(Reason.TENANT, "svc.tenant.acme")


def test_it_names_what_the_next_one_waits_for(policy, spec, start):
    sim = Simulation(policy(spec(100, 100, w60=10), max_in_flight=20), now=start)
    assert sim.engine.usage(start).binding is None
    sim.offer(30)
    assert sim.engine.usage(start).binding == Binding(Reason.WINDOW, "svc.window")
    sim.engine.set_in_flight(start, 20)
    assert sim.engine.usage(start).binding == Binding(Reason.IN_FLIGHT, "svc.in-flight")
    sim.engine.pause(start, start + SECOND)
    assert sim.engine.usage(start).binding == Binding(Reason.PAUSED, "svc")


@pytest.mark.parametrize("overflow", [Overflow.REJECT, Overflow.HOLD])
def test_it_names_what_refused_last_where_nothing_is_parked(policy, spec, start, overflow):
    sim = Simulation(policy(spec(100, 100, w60=10), overflow=overflow), now=start)
    sim.offer(30)
    assert sim.engine.usage(start).binding == Binding(Reason.WINDOW, "svc.window")


def test_in_flight_makes_the_end_a_matter_of_the_workers(policy, spec, start):
    sim = Simulation(policy(spec(1000, 1000), max_in_flight=20), now=start)
    sim.engine.set_in_flight(start, 0)
    sim.offer(9_020)
    sim.run_until(start + 5 * SECOND)
    usage = sim.engine.usage(sim.now)
    assert usage.eta_seconds == pytest.approx(9_000 / usage.requests_per_second)
    assert sim.engine.usage(start + 300 * SECOND).eta_seconds is None  # they have stopped


@pytest.mark.parametrize("weights", [{"default": 1}, {"hi": 6, "default": 1}])
@pytest.mark.parametrize("restart", [False, True])
def test_what_is_gone_from_the_delayed_topic_keeps_no_turn(policy, spec, start, weights, restart):
    day = 86_400 * SECOND
    sim = Simulation(policy(spec(Fraction(1, 30 * 86_400), 1), weights=weights), now=start, restart=restart)
    sim.submit(Run(0, 1), Run(1, 4), Run(5, 2, tenant="a", cost=1))
    assert (sim.engine.waiting, sim.engine.low_watermark(0)) == (6, 0)
    assert sim.engine.forget(start, 0, 2) == 2
    assert (sim.engine.waiting, sim.engine.low_watermark(0), sim.engine.usage(start).gone) == (4, 2, 2)
    assert sim.engine.forget(start, 0, 2) == sim.engine.forget(start, 1, 99) == 0
    assert sim.engine.usage(start).eta_seconds == 4 * 30 * 86_400
    assert sim.engine.forget(start, 0, 6) == 4
    sim.reopen()
    assert (sim.engine.waiting, sim.engine.low_watermark(0), sim.engine.usage(start).gone) == (0, None, 6)
    assert sim.offer(1).decisions[0].not_before == (start + 30 * day,)
    sim.drain()
    assert sim.now == start + 30 * day


def test_paused_tenants_are_told(policy, spec, start):
    sim = Simulation(policy(spec(100, 100)), now=start)
    sim.engine.pause(start, start + 5 * SECOND, "acme")
    sim.engine.pause(start, NEVER, "beta")
    usage = sim.engine.usage(start)
    assert usage.paused_tenants == (PausedTenant("acme", start + 5 * SECOND), PausedTenant("beta", None))
    for number in range(30):
        sim.engine.pause(start, NEVER, f"t{number}")
    usage = sim.engine.usage(start + 6 * SECOND)
    assert (usage.tenants_paused, len(usage.paused_tenants)) == (31, 20)
    sim.engine.resume(start, "beta")
    assert "beta" not in [paused.tenant for paused in sim.engine.usage(start).paused_tenants]


def test_it_tells_when_the_next_one_may_go(policy, spec, start):
    sim = Simulation(policy(spec(10, 10), max_in_flight=20), now=start)
    assert sim.engine.usage(start).next_slot == start, "one that came now would go at once"
    sim.submit(Run(0, 15, cost=2))
    assert sim.engine.usage(start).next_slot == start + SECOND // 5, "two tokens at ten a second"
    sim.engine.pause(start, start + 7 * SECOND)
    assert sim.engine.usage(start).next_slot == start + 7 * SECOND
    sim.engine.set_in_flight(start, 20)
    assert sim.engine.usage(start).next_slot is None, "nobody knows when a worker is done"


def test_nobody_can_tell_when_a_pause_without_an_end_is_over(policy, spec, start):
    sim = Simulation(policy(spec(10, 10)), now=start)
    sim.engine.pause(start, NEVER)
    assert sim.engine.usage(start).next_slot is None


def test_the_next_one_waits_for_its_tenant_where_nobody_else_does(policy, spec, start):
    sim = Simulation(policy(spec(100, 100), tenants=OWN), now=start)
    sim.submit(Run(0, 3, tenant="acme"))
    assert sim.engine.usage(start).next_slot == start + SECOND
