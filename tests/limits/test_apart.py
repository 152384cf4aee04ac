"""Requests that are charged one behind the other in one go are charged as each by itself."""

from fractions import Fraction

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from gate.limits import NEVER, Limiter, Spec, Window

MS = 10**6
SECOND = 10**9
START = 1_764_000_000 * SECOND + 123_456

sizes = st.sampled_from([1, 7 * MS, SECOND, SECOND + 7, 60 * SECOND, 86_400 * SECOND])
window_limits = st.sampled_from([1, 20, 119, 120, 121, 3000, 65_535, 65_536, 200_000, 10**7])
windows = st.lists(st.builds(Window, window_limits, sizes), max_size=2).map(tuple)
rates = st.sampled_from([Fraction(1, 3600), Fraction(1), Fraction(1000, 7), Fraction(1000), Fraction(5000), None])
specs = st.builds(Spec, rates, st.sampled_from([1, 5, 300, 60_000]), windows)
gaps = st.sampled_from([0, 1, MS, 50 * MS, 10 * SECOND, 3600 * SECOND, 3 * 86_400 * SECOND])
steps = st.lists(
    st.tuples(gaps, st.sampled_from([1, 3, 50, 2000]), st.sampled_from([1, 1, 2, 21]), gaps | st.just(NEVER)),
    min_size=1, max_size=6,
)  # fmt: skip


def one_by_one(limiter: Limiter, now: int, count: int, cost: int, latest: int) -> list[int]:
    times: list[int] = []
    for _ in range(count):
        ready = limiter.ready_at(now, cost)
        now = -(-ready // MS) * MS
        if ready == NEVER or now > latest:
            break
        limiter.charge(now, cost)
        times.append(now)
    return times


@given(specs, st.integers(0, 70_000), steps, st.booleans())
def test_they_are_charged_as_each_by_itself(spec, used, steps, promised):
    ours = Limiter(spec, START)
    if promised:
        ours.expect_many()
    ours.take(START, used)
    theirs = ours.copy()
    now = START
    for gap, count, cost, wait in steps:
        now = max(now + gap, ours.last)
        latest = now + wait
        times = ours.take_apart(now, count, cost, MS, latest)
        assert one_by_one(theirs, now, len(times), cost, latest) == times
        event("all" if len(times) == count else "some" if times else "none")
        for other in (1, 2, 50):
            assert ours.ready_at(ours.last, other) == theirs.ready_at(theirs.last, other)
        after = ours.last + MS
        for limiter in (ours, theirs):
            limiter.take(after, 7)
        assert ours.fit(after, 10**7) == theirs.fit(after, 10**7)
        for window, other_window in zip(ours._windows(), theirs._windows(), strict=True):
            assert list(window._runs()) == list(other_window._runs())


@pytest.mark.parametrize("limit", [65_535, 65_536, 200_000, 10**7])
@pytest.mark.parametrize("size", [60 * SECOND, 3 * SECOND - 7, 3001 * MS, 3002 * MS + 400_000, 3004 * MS, 4 * SECOND])
@pytest.mark.parametrize("gap", [Fraction(15_005, 10_000), Fraction(1501, 1000)])
def test_what_fills_no_cell_is_carried_on_until_the_window_is_empty(limit, size, gap):
    ours = Limiter(Spec(3 / gap, 60_000, (Window(limit, size),)), START)
    ours.expect_many()
    ours.take(START, 60_000)
    theirs = ours.copy()
    for count in (*range(3, 40), 1000):
        now = ours.last
        times = ours.take_apart(now, count, 3, MS, NEVER)
        assert one_by_one(theirs, now, len(times), 3, NEVER) == times
        assert len(times) == count
        assert list(ours._runs()) == list(theirs._runs())


def test_they_stop_where_a_window_could_refuse_and_at_the_latest_time():
    limiter = Limiter(Spec(Fraction(1000), 1, (Window(5, SECOND),)), 0)
    assert limiter.take_apart(0, 9, 1, MS, 2 * MS) == [0, MS, 2 * MS]
    assert limiter.take_apart(0, 9, 1, MS, NEVER) == [3 * MS, 4 * MS]
    assert limiter.take_apart(0, 9, 1, MS, NEVER) == []
    assert limiter.take_apart(0, 9, 2, MS, NEVER) == [], "what the burst does not hold is never admitted"


@pytest.mark.parametrize("cost", [0, -1, 1.0, True])
def test_a_cost_that_is_none_is_refused(cost):
    with pytest.raises((TypeError, ValueError), match="cost must be"):
        Limiter(Spec(Fraction(1), 1, ()), 0).take_apart(0, 1, cost, 1, NEVER)
