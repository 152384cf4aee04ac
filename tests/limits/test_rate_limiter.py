"""The library: threads, asyncio, clocks, idle keys, usage, hooks, snapshots."""

import asyncio
import math
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from gate import RateLimitConfig, RateLimiter, TokenBucket
from gate.limits import Limiter, StateError
from gate.limits.usage import Hooks

SECOND = 10**9
WALL = 1_764_025_123.4


class Clock:
    """Shows what the test sets, in ns."""

    def __init__(self, start: int = 10**18) -> None:
        self.now = start

    def __call__(self) -> int:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limiter(config: RateLimitConfig, *services: str, **options: object) -> RateLimiter:
    made = RateLimiter(**options)
    for service in services or ("api",):
        made.configure(service, config)
    return made


@contextmanager
def eager_threads() -> Iterator[None]:
    """Let threads change places as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def hammer(work: Callable[[], int], threads: int = 8) -> int:
    totals: list[int] = []
    start = threading.Barrier(threads)

    def run() -> None:
        start.wait()
        totals.append(work())

    crew = [threading.Thread(target=run) for _ in range(threads)]
    with eager_threads():
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
    return sum(totals)


async def test_the_example_of_the_documentation() -> None:
    subject = RateLimiter()
    await subject.configure_limit("api_service", RateLimitConfig(100, 150, 60))
    allowed, retry_after = await subject.check_rate_limit("api_service")
    assert (allowed, retry_after) == (True, None)
    usage = await subject.get_current_usage("api_service")
    assert usage is not None
    assert usage.as_dict()["window_used"] == 1


async def test_retry_after_is_the_truth_despite_floats() -> None:
    draw = random.Random(7)
    for start in (0.0, 0.1, 61.7, WALL, 4e9):
        subject = limiter(RateLimitConfig("7/3s", 5, 13, 20))
        now = start
        refused = 0
        while refused < 300:
            allowed, retry_after = await subject.check_rate_limit("api", now, draw.choice((1, 2, 5)))
            if allowed:
                now += draw.random() / 10
                continue
            refused += 1
            assert retry_after is not None
            data = subject.snapshot()
            cost = 1
            wait = subject.check("api", now, cost)[1]
            if wait is not None:
                early = RateLimiter()
                early.restore(data)
                assert not early.check("api", min(now + wait - 1e-9, math.nextafter(now + wait, 0)), cost)[0]
                assert subject.check("api", now + wait, cost) == (True, None)
                now += wait


async def test_an_unknown_service_is_allowed_unless_said() -> None:
    assert await RateLimiter().check_rate_limit("nobody") == (True, None)
    assert await RateLimiter(fail_open=False).check_rate_limit("nobody") == (False, math.inf)
    assert await RateLimiter().get_current_usage("nobody") is None


async def test_a_limit_can_be_changed_and_removed(clock: Clock) -> None:
    subject = limiter(RateLimitConfig(1, 10), clock=clock)
    assert sum(subject.check("api")[0] for _ in range(20)) == 10
    await subject.configure_limit("api", RateLimitConfig(10, 100))
    assert (await subject.check_rate_limit("api"))[0] is False  # no token came with the greater burst
    clock.pass_seconds(1)
    assert sum(subject.check("api")[0] for _ in range(20)) == 10
    await subject.remove_limit("api")
    assert await subject.check_rate_limit("api") == (True, None)
    with pytest.raises(TypeError, match="must be a RateLimitConfig"):
        await subject.configure_limit("api", {"requests_per_second": 1})  # type: ignore[arg-type]


@pytest.mark.parametrize("cost", [0, -1, True, 1.0, "1", None])
@pytest.mark.parametrize("service", ["api", "nobody"])
async def test_a_bad_cost_is_an_error_and_costs_nothing(service: str, cost: object) -> None:
    subject = limiter(RateLimitConfig(1, 1))
    with pytest.raises((ValueError, TypeError), match="cost must be"):
        await subject.check_rate_limit(service, cost=cost)  # type: ignore[arg-type]
    assert subject.check("api")[0]  # and the lock is free again


@pytest.mark.parametrize("time", [math.nan, math.inf, True, "now", 1e12])
async def test_a_bad_time_is_an_error_and_harms_nothing(time: object) -> None:
    subject = limiter(RateLimitConfig(1, 1))
    with pytest.raises((ValueError, TypeError), match="a time must be"):
        await subject.check_rate_limit("api", time)  # type: ignore[arg-type]
    assert subject.check("api")[0]


def test_the_fused_decision_is_the_limiters() -> None:
    """`RateLimiter` has the decision inlined: it must be the same, for any order of costs and times."""
    draw = random.Random(11)
    for windows in ((), ((30, 0.5),)):
        config = RateLimitConfig("100/3s", 40, 2, 60, windows)
        clock = Clock()
        subject, plain = limiter(config, clock=clock), Limiter(config.spec, clock.now)
        for _ in range(5000):
            clock.now += draw.choice((0, 1, 10**7, 10**8))
            cost = draw.choice((1, 1, 1, 7, 31, 41))
            ready = plain.try_take(clock.now, cost)
            wait = None if ready is None else math.inf if ready == 2**127 else (ready - clock.now) / SECOND
            assert subject.check("api", cost=cost) == (ready is None, wait)


class TestThreads:
    def test_threads_that_hammer_one_key_get_exactly_what_there_is(self, clock: Clock) -> None:
        subject = limiter(RateLimitConfig(1, 5000, 60, 4321), clock=clock)
        assert hammer(lambda: sum(subject.check("api")[0] for _ in range(1500))) == 4321

    def test_a_bucket_too(self, clock: Clock) -> None:
        bucket = TokenBucket(1, 4321, clock=clock)
        assert hammer(lambda: sum(bucket.try_consume() for _ in range(1500))) == 4321

    def test_threads_and_loops_share_a_key(self, clock: Clock) -> None:
        subject = limiter(RateLimitConfig(1, 3000, 60, 3000), clock=clock)

        async def in_loop() -> int:
            decisions = await asyncio.gather(*(subject.check_rate_limit("api") for _ in range(600)))
            return sum(allowed for allowed, _ in decisions)

        assert hammer(lambda: asyncio.run(in_loop())) == 3000

    def test_keys_that_come_and_go_under_threads_are_never_refilled_early(self, clock: Clock) -> None:
        names = [f"s{number}" for number in range(300)]
        subject = limiter(RateLimitConfig("1/h", 2, 60, 2), *names, clock=clock)

        def work() -> int:
            mine = random.sample(names, len(names))
            return sum(subject.check(name)[0] for name in mine for _ in range(2)) + 0 * subject.forget_idle()

        assert hammer(work) == 2 * len(names)

    async def test_a_lock_that_is_held_elsewhere_does_not_block_the_loop(self) -> None:
        subject = limiter(RateLimitConfig(1, 1))
        held, free = threading.Event(), threading.Event()

        def hold() -> None:
            with subject._lock:
                held.set()
                free.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        waiting = [
            asyncio.ensure_future(subject.check_rate_limit("api")),
            asyncio.ensure_future(subject.get_current_usage("api")),
            asyncio.ensure_future(subject.configure_limit("other", RateLimitConfig(1, 1))),
        ]
        for _ in range(100):
            await asyncio.sleep(0)  # the loop turns
        assert not any(task.done() for task in waiting)
        free.set()
        assert (await waiting[0])[0]
        await asyncio.gather(*waiting)
        thread.join()


class TestTime:
    def test_the_own_clock_does_not_follow_the_wall(self, monkeypatch: pytest.MonkeyPatch) -> None:
        subject = limiter(RateLimitConfig("1/h", 3, 60, 3))
        assert [subject.check("api")[0] for _ in range(4)] == [True, True, True, False]
        monkeypatch.setattr("time.time_ns", lambda: 4 * 10**18)
        monkeypatch.setattr("time.time", lambda: 4e9)
        assert not subject.check("api")[0]

    @pytest.mark.parametrize("step", [3600, 86_400 * 365])
    def test_a_clock_that_is_set_back_neither_starves_nor_mints(self, step: float) -> None:
        subject = limiter(RateLimitConfig(10, 10, 60))
        now, admitted = WALL, 0
        for tick in range(400):  # 40 s, with the clock set back in their middle
            if tick == 200:
                now -= step
            now += 0.1
            admitted += sum(subject.check("api", now)[0] for _ in range(3))
        # 10 at once and 399 in 39.9 s; at most the time since the last decision is lost, and what floats round off
        assert 10 + 399 - 2 <= admitted <= 10 + 399

    def test_threads_that_overtake_one_another_mint_nothing(self) -> None:
        subject = limiter(RateLimitConfig(10, 10, 60))
        admitted = sum(subject.check("api", WALL + 0.5 * (turn % 2))[0] for turn in range(1000))
        assert admitted == 1 + 10  # the one before the half second, and a bucket that was full again after it

    def test_a_clock_that_is_set_forward_gives_no_more_than_a_full_bucket(self) -> None:
        subject = limiter(RateLimitConfig(10, 10, 60))
        assert sum(subject.check("api", WALL)[0] for _ in range(50)) == 10
        assert sum(subject.check("api", WALL + 3600)[0] for _ in range(50)) == 10
        assert sum(subject.check("api", WALL)[0] for _ in range(50)) == 0

    def test_looking_ahead_moves_no_clock(self) -> None:
        subject = limiter(RateLimitConfig(1, 2))
        assert [subject.check("api", WALL)[0] for _ in range(3)] == [True, True, False]
        usage = subject.usage("api", WALL + 3600)
        assert usage is not None
        assert usage.tokens == 2
        assert not subject.check("api", WALL)[0]

    @pytest.mark.parametrize("own", [True, False])
    async def test_two_clocks_for_one_key_are_refused_at_the_first_mix(self, clock: Clock, own: bool) -> None:
        """Each switch lost or minted time, and after a few the time could not be kept."""
        subject = limiter(RateLimitConfig(1, 5), "api", "other", clock=clock)
        times = (None, clock.now / SECOND) if own else (clock.now / SECOND, None)
        assert subject.check("api", times[0], 3)[0]
        for _ in range(3):
            with pytest.raises(ValueError, match=r"'api' .* pass the time always or never for one service"):
                subject.check("api", times[1])
            with pytest.raises(ValueError, match=r"'api' .* pass the time always or never for one service"):
                await subject.check_rate_limit("api", times[1])
        assert [subject.check("api", times[0])[0] for _ in range(3)] == [True, True, False]
        assert subject.check("other", times[1])[0]  # each service for itself

    def test_a_question_of_another_clock_is_refused_too(self, clock: Clock) -> None:
        subject = limiter(RateLimitConfig(1, 5), clock=clock)
        subject.check("api")
        with pytest.raises(ValueError, match="pass the time always or never"):
            subject.usage("api", 5.0)

    def test_what_is_idle_may_be_told_the_time(self, clock: Clock) -> None:
        subject = limiter(RateLimitConfig(1, 1, 1), clock=clock)
        subject.check("api")
        clock.pass_seconds(2)
        assert subject.forget_idle() == 1
        assert [subject.check("api", 5.0)[0] for _ in range(2)] == [True, False]

    def test_a_restored_key_keeps_its_clock(self) -> None:
        subject, moved = limiter(RateLimitConfig(1, 1)), limiter(RateLimitConfig(1, 1))
        subject.check("api", 5.0)
        moved.restore(subject.snapshot())
        with pytest.raises(ValueError, match="pass the time always or never"):
            moved.check("api")


class TestIdleKeys:
    def test_they_are_forgotten_as_others_come(self, clock: Clock) -> None:
        names = [f"s{number}" for number in range(2000)]
        subject = limiter(RateLimitConfig(10, 10, 1), *names, clock=clock)
        for name in names:
            subject.check(name)
            clock.pass_seconds(0.1)  # each is idle after a second, so ten are not
        assert len(subject._awake) < 30

    def test_only_when_they_are_as_new(self, clock: Clock) -> None:
        names = [f"s{number}" for number in range(2000)]  # a rival that keeps 1,024 admits 10,000 of these 2,000
        subject = limiter(RateLimitConfig("1/h", 1, 3600), *names, clock=clock)
        assert sum(subject.check(name)[0] for _ in range(5) for name in names) == 2000
        assert subject.forget_idle() == 0
        clock.pass_seconds(3600)
        assert subject.forget_idle() == 2000
        assert sum(subject.check(name)[0] for _ in range(5) for name in names) == 2000

    def test_a_clock_of_ours_does_not_judge_keys_that_are_told_the_time(self) -> None:
        subject = limiter(RateLimitConfig(1, 1), "replay", "live", "more")
        assert subject.check("replay", 0.0)[0]
        assert subject.check("live")[0]
        assert subject.check("more")[0]
        assert not subject.check("replay", 0.5)[0]
        assert subject.forget_idle() == 0
        assert subject.forget_idle(3600.0) == 1


class TestUsage:
    async def test_it_tells_what_there_is(self, clock: Clock) -> None:
        subject = limiter(RateLimitConfig(10, 20, 10), clock=clock)
        fresh = await subject.get_current_usage("api")
        assert fresh is not None
        assert (fresh.tokens, fresh.window_used, fresh.window_limit, fresh.last_refusal) == (20, 0, 100, None)
        for _ in range(30):
            subject.check("api")
        clock.pass_seconds(0.5)
        usage = await subject.get_current_usage("api")
        assert usage is not None
        assert usage.as_dict() == {
            "requests_per_second": 20,
            "tokens": 5,
            "window_used": 20,
            "window_limit": 100,
            "window_fill": 0.2,
            "refused": 10,
            "breaches": 1,
            "last_refusal": 10**9,
        }

    async def test_a_breach_is_refusals_after_a_window_without_any(self, clock: Clock) -> None:
        subject = limiter(RateLimitConfig(1, 1, 10), clock=clock)
        for pause in (0.0, 0.1, 9.0, 11.0, 0.1, 100.0):
            clock.pass_seconds(pause)
            subject.check("api")
            subject.check("api")
        usage = subject.usage("api")
        assert usage is not None
        assert usage.breaches == 3


class Recorder(Hooks):
    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def on_decision(self, service_id: str, allowed: bool, cost: int, retry_after: float | None) -> None:
        self.told.append((service_id, allowed, cost, retry_after))

    def on_breach(self, service_id: str, retry_after: float) -> None:
        self.told.append(("breach", service_id, retry_after))

    def on_unknown(self, service_id: str, allowed: bool) -> None:
        self.told.append(("unknown", service_id, allowed))


class TestHooks:
    async def test_they_are_told_of_each_decision(self, clock: Clock) -> None:
        hooks = Recorder()
        subject = limiter(RateLimitConfig(1, 2), clock=clock, hooks=hooks)
        await subject.check_rate_limit("api", cost=2)
        subject.check("api")
        subject.check("api")
        subject.check("nobody")
        assert hooks.told == [
            ("api", True, 2, None),
            ("api", False, 1, 1.0),
            ("breach", "api", 1.0),
            ("api", False, 1, 1.0),
            ("unknown", "nobody", True),
        ]

    async def test_the_default_ones_do_nothing(self) -> None:
        class Nothing(Hooks):
            pass

        subject = limiter(RateLimitConfig(1, 1), hooks=Nothing())
        assert [subject.check("api")[0], subject.check("api")[0], subject.check("x")[0]] == [True, False, True]

    async def test_one_that_fails_is_logged_and_harms_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        class Broken(Hooks):
            def on_decision(self, service_id: str, allowed: bool, cost: int, retry_after: float | None) -> None:
                raise RuntimeError("no metrics today")

        subject = limiter(RateLimitConfig(1, 1), hooks=Broken())
        assert (await subject.check_rate_limit("api"))[0]
        assert "no metrics today" in caplog.text
        assert "decision about 'api' stands" in caplog.text

    def test_one_may_ask_the_limiter(self) -> None:
        class Curious(Hooks):
            def on_decision(self, service_id: str, allowed: bool, cost: int, retry_after: float | None) -> None:
                assert subject.usage(service_id) is not None

        subject = limiter(RateLimitConfig(1, 1))
        subject._hooks = Curious()
        assert subject.check("api")[0]


class TestSnapshots:
    def test_state_moves_to_another_process(self) -> None:
        subject = limiter(RateLimitConfig("1/h", 3, 60, 3), "a", "b", "idle")
        assert [subject.check(name)[0] for name in ("a", "a", "a", "b")] == [True] * 4
        moved = limiter(RateLimitConfig("1/h", 3, 60, 3), "a", "b", "idle")
        moved.restore(subject.snapshot())
        assert [moved.check(name)[0] for name in ("a", "b", "b", "b", "idle")] == [False, True, True, False, True]

    def test_a_host_whose_clock_is_behind_goes_on_from_there(self) -> None:
        here, there = Clock(2 * 10**18), Clock(10**18)
        subject = limiter(RateLimitConfig(1, 5), clock=here)
        assert sum(subject.check("api")[0] for _ in range(9)) == 5
        moved = limiter(RateLimitConfig(1, 5), clock=there)
        moved.restore(subject.snapshot())
        assert not moved.check("api")[0]
        there.pass_seconds(2)
        assert [moved.check("api")[0] for _ in range(3)] == [True, True, False]

    def test_limits_that_are_not_set_yet_come_along_and_can_be_changed(self) -> None:
        clock = Clock()
        subject = limiter(RateLimitConfig(1, 5), clock=clock)
        subject.check("api", cost=4)
        moved = RateLimiter(clock=clock)
        moved.restore(subject.snapshot())
        moved.configure("api", RateLimitConfig(1, 50))
        assert [moved.check("api")[0] for _ in range(2)] == [True, False]

    def test_times_that_were_told_stay_told(self) -> None:
        subject = limiter(RateLimitConfig(1, 1))
        subject.check("api", 5.0)
        moved = limiter(RateLimitConfig(1, 1))
        moved.restore(subject.snapshot())
        assert moved.check("api", 5.5) == (False, 0.5)

    def test_a_damaged_one_is_refused_as_a_whole(self) -> None:
        subject = limiter(RateLimitConfig(1, 1))
        subject.check("api")
        data = bytearray(subject.snapshot())
        data[-5] ^= 1
        moved = RateLimiter()
        with pytest.raises(StateError):
            moved.restore(bytes(data))
        assert moved.usage("api") is None


class TestTokenBucket:
    def test_it_gives_burst_and_rate(self, clock: Clock) -> None:
        bucket = TokenBucket(rate=10, burst_size=5, clock=clock)
        assert [bucket.try_consume() for _ in range(7)] == [True] * 5 + [False] * 2
        assert bucket.retry_after() == 0.1
        assert bucket.retry_after(3) == 0.3
        clock.pass_seconds(0.25)
        assert bucket.tokens == 2.5
        assert [bucket.try_consume(2), bucket.try_consume()] == [True, False]

    def test_more_than_the_burst_is_never(self, clock: Clock) -> None:
        bucket = TokenBucket("10/min", 5, clock=clock)
        assert bucket.try_consume(6) is False
        assert bucket.retry_after(6) == math.inf
        assert bucket.tokens == 5

    @pytest.mark.parametrize("tokens", [0, -1, True, 1.5])
    def test_a_bad_number_of_tokens_is_an_error(self, tokens: object) -> None:
        with pytest.raises((TypeError, ValueError), match="cost must be"):
            TokenBucket(1, 1).try_consume(tokens)  # type: ignore[arg-type]

    def test_the_real_clock_runs(self) -> None:
        bucket = TokenBucket(1e9, 1)
        assert bucket.try_consume()
        assert any(bucket.try_consume() for _ in range(1000))
