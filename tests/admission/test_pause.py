"""A pause that has no end but `resume`: what comes meanwhile waits, whoever is paused and whatever waits already."""

import pytest

from gate.admission.model import MS, SECOND, Run
from gate.limits import NEVER
from gate.policy import parse_policy
from tests.admission.simulation import Simulation

START = 1_764_000_000_000 * MS
FOREVER_MS = 2**53 - 1  # as the command says it
OWN = "priorities: {hi: 6, default: 1}, tenants: {default: {requests_per_second: 3, burst_size: 3}}"


@pytest.mark.parametrize("tenant", ["", "a"])
@pytest.mark.parametrize("backlog", [0, 30, 300])
@pytest.mark.parametrize("window", ["window_size: null", "window_size: 10, window_limit: 200"])
def test_what_comes_during_an_endless_pause_waits_for_its_end(tenant, backlog, window):
    text = f"services: {{pay: {{requests_per_second: 10, burst_size: 10, {window}, {OWN}}}}}"
    sim = Simulation(parse_policy(text).service("pay"), now=START)

    def come(count):
        sim.submit(*[Run(n, 1, ["hi", "default"][n % 2], "abc"[n % 3], 1 + n % 2) for n in range(count)])

    if backlog:
        come(backlog)
    sim.engine.pause(START, FOREVER_MS * MS, tenant)
    sim.run_until(START + 5 * SECOND)
    come(12)
    sim.offer(1)
    assert (sim.engine.usage(sim.now).paused_until == NEVER) is (tenant == "")
    usage = sim.engine.usage(sim.now)
    assert usage.backlog > 0
    assert usage.eta_seconds is None or (tenant and usage.eta_seconds < 3_600)
    sim.run_until(START + 60 * SECOND)
    sim.engine.resume(sim.now, tenant)
    sim.drain()
    assert not any(sim.history.rejected_at)
    assert all(sim.history.admitted_at)


@pytest.mark.parametrize("overflow", ["delay", "reject", "hold"])
def test_nobody_is_told_a_time_that_nobody_knows(overflow):
    text = f"services: {{pay: {{requests_per_second: 10, burst_size: 10, overflow: {overflow}, near_limit: 0.5}}}}"
    sim = Simulation(parse_policy(text).service("pay"), now=START)
    sim.engine.pause(START, FOREVER_MS * MS)
    assert sim.offer(3).decisions[0].not_before is None
    sim.run_until(START + 20 * SECOND)
    assert {event.eta_seconds for event in sim.history.events} <= {None}
    assert sim.engine.usage(sim.now).eta_seconds in (None, 0.0)
    assert all(lane.eta_seconds is None for lane in sim.engine.usage(sim.now).lanes)
