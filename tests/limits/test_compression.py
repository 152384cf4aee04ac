"""Cells instead of runs: never over, at most a thousandth lost, and nothing lost under saturation."""

import random

import pytest

from gate.limits import Limiter, Spec, Window
from gate.limits.window_log import Ring

MS = 10**6
SECOND = 10**9


def saturate(
    limit: int, size: int, step: int, windows: int, *, phase: int = 0
) -> tuple[Limiter, list[tuple[int, int]]]:
    """Ask at every `step` ns for all that fits."""
    limiter = Limiter(Spec(None, 1, (Window(limit, size),)), 0)
    admitted = []
    for now in range(phase, windows * size, step):
        most = max(1, limit * step // size * 3)  # so that the first window is filled in a third of its time
        if taken := limiter.take(now, most):
            admitted.append((now, taken))
    return limiter, admitted


def most_in_any_window(admitted: list[tuple[int, int]], size: int) -> int:
    most = current = first = 0
    for now, count in admitted:
        current += count
        while admitted[first][0] <= now - size:
            current -= admitted[first][1]
            first += 1
        most = max(most, current)
    return most


@pytest.mark.parametrize("limit", [1000, 6000, 65_535, 65_536, 1_000_000, 10**12])
@pytest.mark.parametrize(("size", "step"), [(SECOND, MS), (60 * SECOND, 50 * MS), (SECOND + 7, MS + 3)])
def test_saturation_is_never_over_and_loses_at_most_a_thousandth(limit: int, size: int, step: int) -> None:
    windows = 12
    limiter, admitted = saturate(limit, size, step, windows)
    assert isinstance(limiter._log, Ring)
    assert most_in_any_window(admitted, size) == limit
    assert sum(count for _, count in admitted) >= 0.999 * windows * limit


def test_whole_milliseconds_lose_nothing_in_a_window_of_a_second() -> None:
    _, admitted = saturate(3000, SECOND, MS, 10)
    assert sum(count for _, count in admitted) == 10 * 3000


@pytest.mark.parametrize("seed", range(6))
def test_a_unit_counts_for_its_size_and_at_most_a_thousandth_longer(seed: int) -> None:
    draw = random.Random(seed)
    size = draw.choice((5000, SECOND, 60 * SECOND + 1))
    limit = draw.choice((500, 3000, 200_000))
    limiter = Limiter(Spec(None, 1, (Window(limit, size),)), 0)
    admitted: list[tuple[int, int]] = []
    now = 0
    for _ in range(2500):
        now += draw.choice((1, size // 1500, size // 300))
        cost = draw.randint(1, limit // 250)
        exact = sum(count for time, count in admitted if time + size > now)
        longer = sum(count for time, count in admitted if time + size + size // 1000 + 1 > now)
        fits = limiter.take(now, 1, cost) == 1
        assert exact + cost <= limit if fits else longer + cost + limit / 65_535 > limit
        if fits:
            admitted.append((now, cost))
            admitted = [entry for entry in admitted if entry[0] + 2 * size > now]
    assert isinstance(limiter._log, Ring)


@pytest.mark.parametrize("limit", [1000, 200_000])
def test_retry_after_is_exact_in_cells_too(limit: int) -> None:
    draw = random.Random(limit)
    limiter = Limiter(Spec(None, 1, (Window(limit, SECOND),)), 0)
    now = 0
    waits = 0
    for _ in range(3000):
        now += draw.randint(0, MS)
        cost = draw.choice((1, limit // 500, limit // 2, limit))
        ready = limiter.ready_at(now, cost)
        if ready > now:
            waits += 1
            assert limiter.copy().fit(ready - 1, 1, cost) == 0
            assert limiter.copy().fit(ready, 1, cost) == 1
        limiter.take(now, draw.choice((1, limit // 400)))
    assert waits > 1000
    assert isinstance(limiter._log, Ring)


def test_a_copy_that_is_charged_alike_stays_alike() -> None:
    draw = random.Random(3)
    limiter = Limiter(Spec(None, 1, (Window(900, SECOND),)), 0)
    twins = [limiter]
    now = 0
    for step in range(2000):
        now += draw.randint(0, 2 * MS)
        if step % 400 == 399:
            twins += [limiter.copy(), Limiter.load(limiter.spec, limiter.dump())]
        assert len({(twin.take(now, 3), twin.ready_at(now, 5)) for twin in twins}) == 1
        assert len({twin.dump() for twin in twins}) == 1


def test_a_quiet_key_is_exact_again() -> None:
    limiter, _ = saturate(1000, SECOND, MS, 2)
    assert isinstance(limiter._log, Ring)
    assert limiter.take(4 * SECOND + 1, 3) == 3
    assert limiter.take(4 * SECOND + 2, 3) == 3
    assert not isinstance(limiter._log, Ring)
    assert limiter.ready_at(0, 1000) == 5 * SECOND + 2


@pytest.mark.parametrize("seed", range(5))
def test_a_change_of_limits_at_any_time_forgets_nothing(seed: int) -> None:
    draw = random.Random(seed)
    limiter = Limiter(Spec(None, 1, (Window(5000, SECOND),)), 0)
    now = 0
    for _ in range(3000):
        now += draw.randint(0, MS)  # within cells, so that the newest edge lies ahead
        limiter.take(now, 4)
        if draw.random() < 0.1:
            changed = limiter.copy()
            changed.reconfigure(Spec(None, 1, (Window(draw.choice((5000, 4000, 70_000)), SECOND),)), now)
            free = changed.spec.windows[0].limit - limiter.fullest(now)[0]
            assert changed.fit(now, 10**6) <= max(0, free)
    assert isinstance(limiter._log, Ring)


def test_what_fills_no_quantum_leaves_with_the_newest_cell() -> None:
    limiter = Limiter(Spec(None, 1, (Window(10**6, SECOND),)), 0)  # quanta of 16
    for step in range(1001):
        limiter.charge(step * MS, 1)
    assert isinstance(limiter._log, Ring)
    used, _ = limiter.fullest(1990 * MS)
    assert 11 <= used <= 11 + 16
    limiter.charge(1991 * MS, 1)
    assert limiter.fullest(2005 * MS) == (1, 10**6)
    assert limiter.idle(2992 * MS)


def test_cells_without_a_run_survive_a_restart():
    spec = Spec(None, 0, (Window(500, 1_000),))
    ahead, limiter = Limiter(spec, 0), Limiter(spec, 0)
    for time in range(200):
        ahead.charge(time, 1)
    limiter.charge(7, 1)
    limiter.follow(ahead)
    again = Limiter.load(spec, limiter.dump())
    assert again.dump() == limiter.dump()
    for one in (limiter, again):
        assert one.take(8, 600) == 499
        assert one.ready_at(8, 1) == 7 + 1_000
