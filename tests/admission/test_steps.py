"""What the engine answers, step by step."""

from fractions import Fraction

import pytest

from gate.admission.engine import Engine
from gate.admission.limits.budget import Budgets
from gate.admission.model import MS, SECOND, EventKind, Pull, Reason, Run, Verdict
from gate.policy import Overflow
from tests.admission.simulation import Simulation

A, D, R, H = Verdict.ADMITTED, Verdict.DELAYED, Verdict.REJECTED, Verdict.HELD


def table(step, start):
    """Shorten decisions to (first, count, verdict, reason, first time in ms after the start)."""
    return [
        (d.first, d.count, d.verdict, d.reason, d.not_before and (d.not_before[0] - start) // MS)
        for d in step.decisions
    ]


def test_admits_what_fits_and_parks_the_rest_with_exact_times(policy, spec, start):
    sim = Simulation(policy(spec(10, 2)), now=start)
    step = sim.offer(5)
    assert table(step, start) == [(0, 2, A, None, None), (2, 3, D, Reason.RATE, 100)]
    assert step.decisions[1].not_before == tuple(start + t * 100 * MS for t in (1, 2, 3))
    assert step.decisions[1].limit == "svc.rate"
    assert sim.engine.wake_at() == start + 100 * MS
    sim.now = start + 100 * MS
    assert sim.submit().pulls == (Pull(0, 0, 1, A),)


def test_names_the_window_where_that_binds(policy, spec, start):
    step = Simulation(policy(spec(100, 100, w10=3)), now=start).offer(5)
    assert table(step, start) == [(0, 3, A, None, None), (3, 2, D, Reason.WINDOW, 10_000)]
    assert step.decisions[1].limit == "svc.window"


def test_neighbours_that_fare_alike_share_a_decision(policy, start):
    step = Simulation(policy(), now=start).submit(Run(0, 2, tenant="a"), Run(2, 1, tenant="b"), Run(5, 1))
    assert table(step, start) == [(0, 3, A, None, None), (5, 1, A, None, None)]


def test_a_new_request_parks_behind_what_is_parked_even_if_it_would_fit(policy, spec, start):
    sim = Simulation(policy(spec(10, 10)), now=start)
    sim.submit(Run(0, 1, cost=10), Run(1, 1, cost=8))
    sim.now += 500 * MS  # 5 tokens: the parked one needs 8, the new one only 1
    step = sim.offer(1)
    assert table(step, start) == [(0, 1, D, Reason.RATE, 900)]


def test_what_can_never_go_is_refused_without_a_time(policy, spec, start):
    step = Simulation(policy(spec(10, 5)), now=start).submit(
        Run(0, 1, cost=6), Run(1, 1, cost=2**80), Run(2, 1, cost=5)
    )
    assert table(step, start) == [(0, 2, R, Reason.NEVER, None), (2, 1, A, None, None)]


def test_a_deadline_that_cannot_be_met_is_refused_with_the_time_it_would_have_taken(policy, spec, start):
    sim = Simulation(policy(spec(1, 1)), now=start)
    step = sim.submit(Run(0, 4, deadline=start + 2 * SECOND), Run(4, 1))
    assert table(step, start) == [
        (0, 1, A, None, None),
        (1, 2, D, Reason.RATE, 1000),
        (3, 1, R, Reason.DEADLINE, 3000),
        (4, 1, D, Reason.RATE, 3000),
    ]


def test_a_deadline_that_has_passed_takes_no_capacity(policy, spec, start):
    sim = Simulation(policy(spec(1, 1)), now=start)
    step = sim.submit(Run(0, 1, deadline=start - 1), Run(1, 1, deadline=-(2**70)), Run(2, 1, deadline=2**80), Run(3, 1))
    assert [row[2:4] for row in table(step, start)] == [(R, Reason.DEADLINE), (A, None), (D, Reason.RATE)]
    assert step.decisions[1].first == 2


def test_a_parked_request_whose_deadline_passes_is_refused_without_using_capacity(policy, spec, start):
    sim = Simulation(policy(spec(1, 1)), now=start)
    sim.submit(Run(0, 2), Run(2, 1, deadline=start + 2500 * MS), Run(3, 1))
    sim.engine.pause(start, start + 60 * SECOND)
    sim.run_until(start + 59 * SECOND)
    assert sim.history.rejected_at[2] == start + 2501 * MS
    assert sim.history.refusals[2] is Reason.DEADLINE
    sim.drain()
    assert [sim.history.admitted_at[n] - start for n in (1, 3)] == [60 * SECOND, 61 * SECOND]


def test_max_delay_sheds_what_would_wait_longer(policy, spec, start):
    step = Simulation(policy(spec(1, 1), max_delay=2 * SECOND), now=start).offer(5)
    assert table(step, start) == [
        (0, 1, A, None, None),
        (1, 2, D, Reason.RATE, 1000),
        (3, 2, R, Reason.MAX_DELAY, 3000),
    ]


def test_overflow_reject_says_when(policy, spec, start):
    sim = Simulation(policy(spec(1, 1), overflow=Overflow.REJECT), now=start)
    step = sim.offer(3)
    assert table(step, start) == [(0, 1, A, None, None), (1, 2, R, Reason.RATE, 1000)]
    assert step.decisions[1].not_before == (start + SECOND,) * 2


def test_overflow_hold_leaves_the_first_that_cannot_go_and_all_behind_it(policy, spec, start):
    sim = Simulation(policy(spec(1, 2), overflow=Overflow.HOLD, weights={"hi": 9, "default": 1}), now=start)
    step = sim.submit(Run(0, 3), Run(3, 1, "hi"))
    assert table(step, start) == [(0, 2, A, None, None), (2, 2, H, Reason.RATE, 1000)]
    assert sim.engine.wake_at() == start + SECOND


def test_hold_tells_when_to_try_again_while_workers_lag(policy, start):
    sim = Simulation(policy(overflow=Overflow.HOLD, max_in_flight=3), now=start)
    sim.engine.set_in_flight(start, 3)
    assert table(sim.offer(1), start)[0][2:4] == (H, Reason.IN_FLIGHT)
    beats = sim.engine.wake_at()
    assert beats is not None
    assert beats > start  # only the breach: nothing else can happen
    sim.engine.set_in_flight(start, 0)
    assert sim.engine.wake_at() == start


def test_room_bounds_the_pulls_of_a_step_and_the_rest_follows_at_once(policy, spec, start):
    sim = Simulation(policy(spec(10, 10)), now=start)
    sim.offer(20)
    sim.now += SECOND
    assert sum(pull.count for pull in sim.submit(room=4).pulls) == 4
    assert sim.engine.wake_at() == sim.now
    assert sum(pull.count for pull in sim.submit(room=100).pulls) == 6


def test_fresh_requests_without_room_in_front_wait_for_the_lane(policy, spec, start):
    sim = Simulation(policy(spec(10, 10)), now=start)
    sim.offer(12)
    sim.now += SECOND
    assert table(sim.offer(1), sim.now)[0][2] is A
    sim.offer(20)
    sim.now += SECOND
    assert table(sim.submit(Run(0, 1), room=0), sim.now)[0][2:4] == (D, Reason.LANE)


def test_pause_and_resume(policy, start):
    sim = Simulation(policy(), now=start)
    sim.engine.pause(start, start + 5 * SECOND)
    assert table(sim.offer(1), start) == [(0, 1, D, Reason.PAUSED, 5000)]
    assert sim.engine.wake_at() == start + 5 * SECOND
    assert sim.engine.usage(start).paused_until == start + 5 * SECOND
    sim.engine.resume(start + SECOND)
    assert sim.engine.wake_at() == start + SECOND


@pytest.mark.parametrize("tenant", ["", "acme"])
def test_of_several_pauses_the_longest_counts(policy, start, tenant):
    """A worker that was told to wait for a second must not end what an operator has asked for."""
    sim = Simulation(policy(), now=start)
    sim.engine.pause(start, start + 60 * SECOND, tenant)
    sim.engine.pause(start, start + SECOND, tenant)
    assert table(sim.submit(Run(0, 1, tenant="acme")), start) == [(0, 1, D, Reason.PAUSED, 60_000)]
    sim.engine.pause(start, start + 90 * SECOND, tenant)
    sim.run_until(start + 70 * SECOND)
    assert sim.history.admitted_at[0] == 0
    sim.engine.resume(start + 71 * SECOND, tenant)
    sim.run_until(start + 72 * SECOND)
    assert sim.history.admitted_at[0] == start + 71 * SECOND


def test_a_paused_tenant_blocks_nobody_else(policy, start):
    sim = Simulation(policy(), now=start)
    sim.engine.pause(start, start + 5 * SECOND, "acme")
    step = sim.submit(Run(0, 1, tenant="acme"), Run(1, 1, tenant="other"))
    assert table(step, start) == [(0, 1, D, Reason.PAUSED, 5000), (1, 1, A, None, None)]
    assert sim.engine.wake_at() == start + 5 * SECOND
    sim.engine.resume(start + SECOND, "acme")
    sim.run_until(start + 2 * SECOND)
    assert sim.history.admitted_at[0] == start + SECOND


def test_a_tenants_own_limit_blocks_only_that_tenant(policy, spec, start):
    tenants = {"default": {"requests_per_second": Fraction(1), "burst_size": 1, "window_size": None}}
    sim = Simulation(policy(spec(100, 100), tenants=tenants), now=start)
    step = sim.submit(Run(0, 3, tenant="a"), Run(3, 1, tenant="b"))
    assert table(step, start) == [(0, 1, A, None, None), (1, 2, D, Reason.TENANT, 1000), (3, 1, A, None, None)]
    assert step.decisions[1].limit == "svc.tenant.a"
    sim.drain()
    assert [sim.history.admitted_at[n] - start for n in (1, 2)] == [SECOND, 2 * SECOND]


def test_in_flight_stops_at_the_bound_and_goes_on_by_itself(policy, spec, start):
    sim = Simulation(policy(spec(1000, 1000), max_in_flight=10), now=start)
    sim.engine.set_in_flight(start, 4)
    step = sim.offer(20)
    assert [row[:4] for row in table(step, start)] == [(0, 6, A, None), (6, 14, D, Reason.IN_FLIGHT)]
    assert sim.engine.usage(start).in_flight == 10
    sim.engine.set_in_flight(start, 0)
    sim.run_until(start)
    assert sum(count for _, _, count in sim.history.admissions) == 16


def test_shadow_admits_all_and_says_what_it_would_have_done(policy, spec, start):
    sim = Simulation(policy(spec(1, 2), shadow=True), now=start)
    step = sim.submit(Run(0, 3), Run(3, 1, cost=5))
    assert table(step, start) == [(0, 2, A, None, None), (2, 1, A, Reason.RATE, None), (3, 1, A, Reason.NEVER, None)]
    assert [event.kind for event in sim.history.events][:1] == [EventKind.OPENED]


def test_shadow_lets_go_what_was_parked_before(policy, spec, start):
    sim = Simulation(policy(spec(1, 1)), now=start)
    sim.offer(5)
    sim.set_policy(policy(spec(1, 1), shadow=True))
    assert sim.engine.wake_at() == start
    sim.run_until(start)
    assert sim.engine.waiting == 0


def test_an_unknown_lane_is_the_default_one_and_counted(policy, start):
    sim = Simulation(policy(weights={"hi": 6, "default": 1}), now=start)
    sim.submit(Run(0, 2, "typo"), Run(2, 1))
    usage = sim.engine.usage(start)
    assert usage.unknown_lanes == 2
    assert {(total.lane, total.requests) for total in usage.totals} == {("default", 3)}


def test_a_step_without_places_is_refused(policy, spec, start):
    engine = Engine("svc", policy(spec(1, 1)), Budgets(start, {}), start, "1")
    engine.step(start, [Run(0, 3)], 10)
    assert engine.wake_at() == start + SECOND  # may be asked before the places are known
    with pytest.raises(RuntimeError, match="parked"):
        engine.step(start, [], 10)
    with pytest.raises(ValueError, match="1 places for 2"):
        engine.parked([(0, 0)])
    engine.parked([(0, 0), (0, 1)])


@pytest.mark.parametrize("run", [Run(0, 0), Run(0, 1, cost=0), Run(0, 1, cost=-1)])
def test_a_run_must_make_sense(policy, start, run):
    with pytest.raises(ValueError, match="run needs"):
        Engine("svc", policy(), Budgets(start, {}), start, "1").step(start, [run], 10)


def test_time_does_not_step_back(policy, spec, start):
    sim = Simulation(policy(spec(1, 1)), now=start)
    sim.offer(2)
    sim.now = start - 3600 * SECOND
    assert table(sim.offer(1), start) == [(0, 1, D, Reason.RATE, 2000)]


def test_low_watermark_is_the_oldest_place_of_each_partition(policy, spec, start):
    sim = Simulation(policy(spec(1, 1)), now=start, partitions=2)
    assert sim.engine.low_watermark(0) is None
    sim.offer(5)  # 1, 2, 3, 4 wait: 2 and 4 in partition 0, 1 and 3 in partition 1
    assert (sim.engine.low_watermark(0), sim.engine.low_watermark(1)) == (0, 0)
    sim.run_until(start + SECOND)
    assert (sim.engine.low_watermark(0), sim.engine.low_watermark(1)) == (0, 1)
    sim.drain()
    assert (sim.engine.low_watermark(0), sim.engine.low_watermark(1)) == (None, None)


def test_a_tenants_name_of_10_kb_is_kept_short_and_apart(policy, spec, start):
    sim = Simulation(policy(spec(1, 1)), now=start, restart=True)
    sim.submit(Run(0, 2, tenant="x" * 10_000 + "a"), Run(2, 1, tenant="x" * 10_000 + "b"))
    assert sim.engine.usage(start).lanes[0].tenants == 2
    assert max(map(len, sim.state)) < 300
    assert max(map(len, sim.state.values())) < 2_000
    sim.drain()
