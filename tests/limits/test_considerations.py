"""The seed's "Testing Considerations", one by one."""

import math
import random
import threading
import time
import tracemalloc
from array import array
from collections import deque
from fractions import Fraction

import pytest

from gate import RateLimitConfig, RateLimiter, TokenBucket
from gate.limits import Limiter, Spec, Window

SECOND = 10**9
START = 1_764_025_123 * SECOND
WALL = 1_764_025_123.0


def test_rate_accuracy() -> None:
    """One request each 7 ms for ten minutes against 100 per second: at least 99.9 % of the ideal, at most one above."""
    limiter = RateLimiter()
    limiter.configure("api", RateLimitConfig(100, 150, 60, 6150))
    admitted = sum(limiter.check("api", WALL + step * 0.007)[0] for step in range(600 * 1000 // 7))
    assert 0.999 * 60_150 <= admitted <= 60_151


def test_burst_handling() -> None:
    limiter = RateLimiter()
    limiter.configure("api", RateLimitConfig(10, 25, 60))
    assert sum(limiter.check("api", WALL)[0] for _ in range(100)) == 25
    assert sum(limiter.check("api", WALL + 1)[0] for _ in range(100)) == 10
    assert sum(limiter.check("api", WALL + 30)[0] for _ in range(100)) == 25


def test_concurrent_requests() -> None:
    """Threads that share a key under a clock that stands get what there is, to the unit."""
    limiter = RateLimiter(clock=lambda: START)
    limiter.configure("api", RateLimitConfig(1, 1000, 60, 777))
    admitted: list[bool] = []
    crew = [
        threading.Thread(target=lambda: admitted.extend([limiter.check("api")[0] for _ in range(300)]))
        for _ in range(8)
    ]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    assert len(admitted) == 2400
    assert sum(admitted) == 777


def overload(limiter: Limiter, now: int) -> None:
    """Bursts of thousands, pauses of minutes, a steady stream: all that makes cells wide and many."""
    for step in range(2000):
        now += 30 * SECOND // 1000 if step < 1900 else 700 * SECOND
        limiter.take(now, 1000 if step % 100 else 3000)
    for _ in range(3000):
        now += 20 * SECOND // 1000
        limiter.take(now, 50)


@pytest.mark.parametrize("keys", [1, 10_000])
def test_memory_usage(keys: int) -> None:
    """At most 250 B for a cold key, 2.5 KB for a limiter in its worst state, and flat over simulated days."""
    spec = Spec(Fraction(1000), 3000, (Window(60_000, 60 * SECOND),))
    names = [f"service-{number}" for number in range(keys)]
    held: dict[str, Limiter] = dict.fromkeys(names)  # type: ignore[misc]
    tracemalloc.start()
    try:
        for name in names:
            held[name] = Limiter(spec, START)
            held[name].take(START, 1)
        cold = tracemalloc.get_traced_memory()[0] / keys
        traced = array("q", [0]) * 4  # which takes no memory later
        for day in range(4):
            overload(held[names[0]], START + day * 86_400 * SECOND)
            traced[day] = tracemalloc.get_traced_memory()[0]
        assert held[names[0]]._log is not None
        before = tracemalloc.get_traced_memory()[0]
        held[names[0]] = None  # type: ignore[assignment]
        hottest = before - tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert cold <= 250
    assert hottest <= 2560
    assert max(traced) - min(traced) <= 100


def test_memory_usage_of_the_library() -> None:
    config = RateLimitConfig(1000, 1500)
    names = [f"service-{number}" for number in range(10_000)]
    limiter = RateLimiter(clock=lambda: START)
    for name in names:
        limiter.configure(name, config)
    tracemalloc.start()
    try:
        for name in names:
            limiter.check(name)
        assert tracemalloc.get_traced_memory()[0] / len(names) <= 250
    finally:
        tracemalloc.stop()


async def test_error_scenarios() -> None:
    limiter = RateLimiter()
    await limiter.configure_limit("api", RateLimitConfig(1, 5))
    assert await limiter.check_rate_limit("unknown") == (True, None)
    assert await limiter.check_rate_limit("api", WALL, 6) == (False, math.inf)
    for cost in (0, -1, True, 1.5, "1"):
        with pytest.raises((TypeError, ValueError)):
            await limiter.check_rate_limit("api", WALL, cost)  # type: ignore[arg-type]
    for rate in (0, -1, math.nan, math.inf, "often"):
        with pytest.raises(ValueError, match="requests_per_second"):
            RateLimitConfig(rate, 5)
    assert await limiter.check_rate_limit("api", WALL, 5) == (True, None)  # none of it cost anything


def test_performance_impact() -> None:
    """A batch costs far less than its requests one by one; the figures are in `make bench`."""
    spec = Spec(Fraction(10**9), 10**9, (Window(10**12, 60 * SECOND),))
    at_once, singly = Limiter(spec, START), Limiter(spec, START)

    def cost(limiter: Limiter, batch: int) -> int:
        begun = time.thread_time_ns()
        for step in range(40):
            for _ in range(500 // batch):
                limiter.take(START + step, batch)
        return time.thread_time_ns() - begun

    rounds = [(cost(at_once, 500), cost(singly, 1)) for _ in range(5)]
    assert min(batch for batch, _ in rounds) <= min(single for _, single in rounds) / 30
    assert at_once.dump() == singly.dump()


@pytest.mark.parametrize("rate", [Fraction(1, 7), Fraction(10, 60), Fraction(3)])
def test_long_term_stability(rate: Fraction) -> None:
    """A year of overload under a simulated clock: within one unit of the ideal, for bucket and for window."""
    year, step = 365 * 86_400 * SECOND, 101 * SECOND + 7
    burst = math.ceil(rate * 200)
    limiter = Limiter(Spec(rate, burst, (Window(burst + math.ceil(rate * 3600), 3600 * SECOND),)), START)
    admitted = last = 0
    for elapsed in range(0, year, step):
        admitted += limiter.take(START + elapsed, 10 * burst)
        last = elapsed
    assert 0 <= burst + rate * last / SECOND - admitted < 1


def test_long_term_stability_of_a_window() -> None:
    hour = 3600 * SECOND
    limiter = Limiter(Spec(None, 1, (Window(1000, hour),)), START)
    now, admitted = START, 0
    while now < START + 365 * 24 * hour:
        admitted += limiter.take(now, 70)
        now = max(now + 1, limiter.ready_at(now))
    assert admitted == 365 * 24 * 1000


def test_long_term_stability_of_many_random_decisions() -> None:
    """Never over in any interval, against an exact log and a bucket of fractions; 10,000,000 are in `make bench`."""
    draw = random.Random(5)
    for limit, size in ((7, SECOND), (500, 60 * SECOND), (100_000, SECOND)):
        rate, burst = Fraction(limit * SECOND, size * 2), limit
        limiter = Limiter(Spec(rate, burst, (Window(limit, size),)), START)
        log: deque[tuple[int, int]] = deque()
        now, used, tokens, at = START, 0, Fraction(burst), START
        for _ in range(20_000):
            now += draw.choice((0, 1, size // limit, size // limit, size // 100))
            cost = draw.choice((1, 1, max(1, limit // 50)))
            if not limiter.take(now, 1, cost):
                continue
            while log and log[0][0] + size <= now:
                used -= log.popleft()[1]
            log.append((now, cost))
            used += cost
            tokens = min(Fraction(burst), tokens + rate * (now - at) / SECOND) - cost
            at = now
            assert used <= limit
            assert tokens >= 0


def test_a_bucket_alone_does_not_drift() -> None:
    now = [START]
    bucket = TokenBucket("1/3s", 10, clock=lambda: now[0])
    taken = sum(bucket.try_consume() for _ in range(10))
    for _ in range(100_000):
        now[0] += 333_333_333
        taken += bucket.try_consume()
    assert taken == 10 + 100_000 * 333_333_333 // (3 * SECOND)
