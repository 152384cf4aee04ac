"""One decision of ours, bucket and window at once, beside one algorithm of the peers; batches; memory; the oracle.

    python -m bench.decision [--decisions 10000000]

Each peer decides about one hot key with its own clock and store, as its documentation says; ours likewise.
"""

import argparse
import itertools
import random
import statistics
import sys
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction

import limits
import pyrate_limiter
import throttled

from bench.results import Result, from_rounds, measure, write
from gate import RateLimitConfig, RateLimiter
from gate.limits import Limiter, Spec, Window

SECOND = 10**9
OURS = "gate: bucket + window"


def repeat(decide: Callable[[], object]) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in itertools.repeat(None, count):
            decide()

    return run


def contenders(limit: int) -> Iterator[tuple[str, Callable[[int], None]]]:
    """Yield (name, run) of every algorithm, each with `limit` requests in 60 s."""
    ours = RateLimiter()
    ours.configure("hot", RateLimitConfig(Fraction(limit, 60), limit))
    yield OURS, repeat(lambda: ours.check("hot"))

    item, memory = limits.RateLimitItemPerMinute(limit), limits.storage.MemoryStorage()
    for kind in ("FixedWindow", "MovingWindow", "SlidingWindowCounter"):
        strategy = getattr(limits.strategies, f"{kind}RateLimiter")(memory)
        yield f"limits: {kind}", repeat(lambda strategy=strategy: strategy.hit(item, "hot"))

    rate = pyrate_limiter.Rate(limit, pyrate_limiter.Duration.MINUTE)
    buckets = {
        "SlidingWindowLog": pyrate_limiter.InMemoryBucket([rate]),
        "TokenBucket": pyrate_limiter.StateBucket([rate], pyrate_limiter.TokenBucket()),
        "GCRA": pyrate_limiter.StateBucket([rate], pyrate_limiter.GCRA()),
        "FixedWindow": pyrate_limiter.InMemoryBucket([rate], pyrate_limiter.FixedWindow()),
    }
    for name, bucket in buckets.items():
        limiter = pyrate_limiter.Limiter(bucket)
        yield f"pyrate-limiter: {name}", repeat(lambda limiter=limiter: limiter.try_acquire("hot", blocking=False))

    for kind in throttled.RateLimiterType:
        throttle = throttled.Throttled(using=kind.value, quota=throttled.per_min(limit), store=throttled.MemoryStore())
        yield f"throttled-py: {kind.value}", repeat(lambda throttle=throttle: throttle.limit("hot"))


def against_peers(title: str, name: str, limit: int, rounds: int, count: int) -> Result:
    costs = measure(dict(contenders(limit)), rounds, count)
    typical = {contender: statistics.median(costs[contender]) for contender in costs}
    best = min((contender for contender in costs if contender != OURS), key=typical.__getitem__)
    print(f"\n{title}: CPU per decision, median of {rounds} rounds of {count:,}")
    for contender in sorted(typical, key=typical.__getitem__):
        print(f"  {contender:38} {typical[contender]:8,.0f} ns   {typical[OURS] / typical[contender]:6.2f}x")
    return from_rounds(name, costs[OURS], costs[best], f"CPU of gate / {best}")


def batch(rounds: int, count: int) -> Result:
    """500 requests at one `now`, decided at once and one by one."""
    spec = Spec(Fraction(10**9), 10**9, (Window(10**12, 60 * SECOND),))
    start, size = time.time_ns(), 500
    at_once, singly = Limiter(spec, start), Limiter(spec, start)

    def run_at_once(decisions: int) -> None:
        for step in range(decisions // size):
            at_once.take(start + step, size)

    def run_singly(decisions: int) -> None:
        for step in range(decisions // size):
            now = start + step
            for _ in itertools.repeat(None, size):
                singly.take(now, 1)

    costs = measure({"batch": run_at_once, "single": run_singly}, rounds, count)
    print(f"\nA batch of {size} at one now: CPU per request")
    for name in costs:
        print(f"  {name:38} {statistics.median(costs[name]):8,.1f} ns")
    return from_rounds(
        "decision/batch", costs["batch"], costs["single"], f"CPU of a batch of {size} / single decisions"
    )


def memory() -> None:
    print("\nMemory of RateLimiter by tracemalloc, per key (its name and limits not counted)")
    for per_second, cells in ((100, "one byte a cell"), (10_000, "two bytes a cell")):
        config, now = RateLimitConfig(per_second, per_second * 2), 1_764_025_123.0
        for keys in (1, 10_000):
            names = [f"service-{number}" for number in range(keys)]
            limiter = RateLimiter()
            for name in names:
                limiter.configure(name, config)
            tracemalloc.start()
            for name in names:
                limiter.check(name, now)
            cold = tracemalloc.get_traced_memory()[0] / keys
            for step in range(40_000):
                limiter.check(names[0], now + step / 500, per_second // 100)
            full = tracemalloc.get_traced_memory()[0]
            del limiter._keys[names[0]]
            hottest = full - tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            print(f"  {keys:6,} keys at {per_second:6,}/s: cold {cold:5,.0f} B, hottest {hottest:5,} B ({cells})")


def oracle(decisions: int) -> int:
    """Decide at random; count what an exact log of each window and an exact bucket would not have admitted."""
    draw, over, done = random.Random(20_261_124), 0, 0
    start, used = time.process_time(), time.time_ns()
    while done < decisions:
        size = draw.choice((1000, SECOND, 60 * SECOND, 3600 * SECOND))
        limit = draw.choice((1, 7, 100, 1000, 50_000, 1_000_000))
        rate = Fraction(draw.randint(1, 3 * limit) * SECOND, size * draw.randint(1, 7))
        burst = draw.randint(1, 2 * limit)
        limiter = Limiter(Spec(rate, burst, (Window(limit, size),)), used)
        now, log, in_window = used, deque(), 0
        full, unit, tick = now * rate.numerator, rate.denominator * SECOND, rate.numerator  # when the bucket is full
        gap, most = size // limit + 1, max(1, limit // 20)
        for _ in range(min(100_000, decisions - done)):
            kind = draw.random()
            now += 0 if kind < 0.3 else int(kind * 2 * gap) if kind < 0.999 else size // 3
            cost = 1 if kind < 0.9 else draw.randint(1, most)
            if limiter.take(now, 1, cost):
                while log and log[0][0] + size <= now:
                    in_window -= log.popleft()[1]
                log.append((now, cost))
                in_window += cost
                full = max(full, now * tick) + cost * unit
                over += in_window > limit or full > now * tick + burst * unit
            done += 1
    print(f"\nOver-admissions in {done:,} randomised decisions: {over} ({time.process_time() - start:,.0f} s)")
    return over


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=10_000_000, help="against the oracle; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    results = [
        against_peers("Hot key under its limit", "decision/best-peer", 10**8, arguments.rounds, 10_000),
        against_peers("Hot key over its limit", "decision/best-peer/over-limit", 600, arguments.rounds, 10_000),
        batch(arguments.rounds, 50_000),
    ]
    print()
    for result in results:
        print(f"{result.name:30} {result.ratio:.4f} ({result.min:.4f} to {result.max:.4f})  {result.unit}")
    write(results)
    memory()
    return 1 if arguments.decisions and oracle(arguments.decisions) else 0


if __name__ == "__main__":
    sys.exit(main())
