"""A queue waits for its tenant's own limit as long as its first request has to; once that one is gone, no longer."""

from fractions import Fraction

import pytest

from gate.admission.model import SECOND, Reason, Run
from gate.admission.parked_selection import Filter
from gate.admission.queues.spans import BEGINNING
from tests.admission.conftest import START
from tests.admission.simulation import Simulation

SOON, LATER = START + 1 * SECOND, START + 10 * SECOND
TENANTS = {"a": {"requests_per_second": Fraction(1), "burst_size": 10, "window_size": None}}
MOST = 1 << 40


@pytest.mark.parametrize(("changes", "deadline"), [({"max_delay": 5 * SECOND}, None), ({}, START + 5 * SECOND)])
@pytest.mark.parametrize("restart", [False, True])
def test_the_next_one_goes_at_its_time_where_the_first_is_refused_as_it_could_not_go_in_time(
    policy, changes, deadline, restart
):
    sim = Simulation(policy(tenants=TENANTS, **changes), now=START, restart=restart)
    sim.submit(Run(0, 1, tenant="a", cost=10), Run(1, 1, tenant="a", cost=10, deadline=deadline), Run(2, 1, tenant="a"))
    assert sim.history.rejected_at[1] == START
    assert list(sim.history.not_before[1:]) == [LATER, SOON]
    sim.drain()
    assert sim.history.admitted_at[2] == SOON


def wait_for_ten(policy):
    """Return a simulation in which one that costs ten waits in front of one that costs one."""
    sim = Simulation(policy(tenants=TENANTS, weights={"default": 1, "other": 1}), now=START)
    sim.submit(Run(0, 1, tenant="a", cost=10), Run(1, 1, tenant="a", cost=10), Run(2, 1, tenant="a"))
    assert list(sim.history.not_before[1:]) == [LATER, LATER + SECOND]
    return sim


def the_first(sim):
    spans, _ = sim.engine.select(Filter(), BEGINNING, MOST, MOST, 1)
    return spans


def test_the_next_one_goes_sooner_where_the_first_is_cancelled(policy):
    sim = wait_for_ten(policy)
    (pull,) = sim.engine.reject(sim.now, the_first(sim), Reason.CANCELLED)
    sim.left([1], pull, sim.now)
    sim.drain()
    assert sim.history.admitted_at[2] == SOON


def test_the_next_one_goes_sooner_where_the_first_was_deleted_by_somebody(policy):
    sim = wait_for_ten(policy)
    (span,) = the_first(sim)
    assert sim.engine.forget(sim.now, span.partition, span.offset + 1) == 1
    sim.run_until(SOON)
    assert sim.history.admitted_at[2] == SOON


def test_the_next_one_goes_sooner_where_the_first_is_moved_into_another_lane(policy):
    sim = wait_for_ten(policy)
    assert sim.engine.shift(sim.now, the_first(sim), "other") == 1
    sim.run_until(SOON)
    assert sim.history.admitted_at[2] == SOON
