"""The broker's time is estimated within its bounds, never steps back, and never jumps while an owner lives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.shard.clock import SLEW, BrokerClock
from gate.units import MS

SECOND = 1_000 * MS
HOUR = 3_600 * SECOND
TRUE_OFFSET = 1_764_000_000 * SECOND


def observe(clock: BrokerClock, sent: int, there: int, back: int, offset: int = TRUE_OFFSET) -> int:
    """Let the broker stamp a record `there` ns after it was sent; its answer takes `back`. Returns the local time."""
    clock.observe(sent, sent + there + back, (sent + there + offset) // MS)
    return sent + there + back


def test_it_must_be_observed_first():
    clock = BrokerClock()
    with pytest.raises(RuntimeError, match="not been observed"):
        clock.now(0)
    with pytest.raises(RuntimeError, match="not been observed"):
        clock.advance_to(0, 0)


@given(st.lists(st.tuples(st.integers(0, 50 * MS), st.integers(0, 50 * MS), st.integers(0, SECOND)), min_size=1))
def test_the_truth_lies_within_the_error(trips):
    clock, local = BrokerClock(), 0
    for there, back, pause in trips:
        local = observe(clock, local, there, back) + pause
        slack = pause // 1000 + 1  # drift that the bounds allow for
        assert abs(clock.offset - TRUE_OFFSET) <= clock.error + slack


def test_many_observations_narrow_the_error():
    clock = BrokerClock()
    observe(clock, 0, 40 * MS, 40 * MS)
    wide = clock.error
    for i in range(1, 50):
        observe(clock, i * 100 * MS, 2 * MS, 3 * MS)
    assert clock.error <= 3 * MS < wide


@given(st.lists(st.tuples(st.integers(0, SECOND), st.integers(-HOUR, HOUR)), min_size=1, max_size=40))
def test_it_never_steps_back_nor_jumps_whatever_the_broker_says(steps):
    clock = BrokerClock()
    local = observe(clock, 0, MS, MS)
    before = clock.now(local)
    for pause, shift in steps:
        local += pause
        now = clock.now(local)
        assert pause - pause // SLEW - 1 <= now - before <= pause + pause // SLEW + 1
        before = now
        observe(clock, local, 0, 0, TRUE_OFFSET + shift)


def test_before_it_is_asked_it_may_be_set():
    clock = BrokerClock()
    observe(clock, 0, 20 * MS, 0)  # the middle is 10 ms off
    local = observe(clock, 100 * MS, MS, MS)
    assert abs(clock.now(local) - (local + TRUE_OFFSET)) <= MS


def test_a_small_error_is_steered_away():
    clock = BrokerClock()
    local = observe(clock, 0, 20 * MS, 0)  # the middle is 10 ms off
    clock.now(local)
    for _ in range(300):
        local = observe(clock, local + 100 * MS, 0, 0)
        clock.now(local)
    assert abs(clock.now(local) - (local + TRUE_OFFSET)) <= MS


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_step_of_the_brokers_clock_neither_mints_nor_starves(step):
    clock = BrokerClock()
    local = observe(clock, 0, MS, MS)
    start = clock.now(local)
    for i in range(1, 601):
        local = observe(clock, i * SECOND, MS, MS, TRUE_OFFSET + step)
        clock.now(local)
    assert abs(clock.now(local) - start - 600 * SECOND) <= 600 * SECOND // SLEW + 2 * MS


def test_a_new_owner_starts_no_earlier_than_the_last_one_decided():
    clock = BrokerClock()
    local = observe(clock, 0, MS, MS)
    ahead = clock.now(local) + 5 * SECOND
    clock.advance_to(ahead, local)
    assert clock.now(local) == ahead
    assert ahead < clock.now(local + SECOND) <= ahead + SECOND
    clock.advance_to(ahead - HOUR, local + SECOND)
    assert clock.now(local + SECOND) > ahead
