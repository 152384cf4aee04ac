"""Waiting in one process: no herd, exactly what the limits give, threads and loops in one line, changes, forks."""

import asyncio
import contextlib
import math
import random
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

import pytest

from gate import NeverAdmittedError, RateLimitConfig, RateLimiter, SyncRateLimiter
from gate.limits.waiting import LoopWaiter
from tests.limits.simulated import SECOND, SimulatedLoop, simulate


def simulated_limiter(**limits: RateLimitConfig) -> RateLimiter:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    made = RateLimiter(clock=loop.clock)
    for service, config in limits.items():
        made.configure(service, config)
    return made


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


def waiting(limiter: RateLimiter, service: str = "api") -> int:
    with limiter._lock:
        line = limiter._lines.line(service)
        return 0 if line is None else len(line)


class TestOneLoop:
    def test_one_wakes_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        wakes = 0
        sleep = LoopWaiter.sleep

        async def counted(self: LoopWaiter, seconds: float) -> None:
            nonlocal wakes
            await sleep(self, seconds)
            wakes += 1

        monkeypatch.setattr(LoopWaiter, "sleep", counted)

        async def work() -> None:
            limiter = simulated_limiter(api=RateLimitConfig(100, 1, 1))
            await asyncio.gather(*[limiter.acquire("api") for _ in range(1000)])

        simulate(work())
        assert 999 <= wakes <= 2 * 1000  # one to learn that it is next, one when its time has come

    @pytest.mark.parametrize("seed", range(60))
    def test_whatever_is_cancelled_nothing_goes_over_and_nothing_is_lost(self, seed: int) -> None:
        draw = random.Random(seed)
        rate, burst, size, most = draw.choice((5, 50)), draw.choice((3, 20)), draw.choice((1, 7)), draw.choice((20, 90))
        admitted: list[tuple[int, int]] = []

        async def one(limiter: RateLimiter, at: float) -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, SimulatedLoop)
            await asyncio.sleep(at)
            cost, tenant = draw.choice((1, 1, 1, 2, 3)), draw.choice(("", "", "a", "b"))
            with contextlib.suppress(TimeoutError):
                await limiter.acquire("api", cost, draw.choice((None, None, 0, 0.1, 1, 3)), tenant=tenant)
                admitted.append((loop.clock(), cost))

        async def work() -> None:
            limiter = simulated_limiter(api=RateLimitConfig(rate, burst, size, most))
            limiter.configure("api", RateLimitConfig(2, 3, 2), tenant="a")
            tasks = [asyncio.ensure_future(one(limiter, draw.random() * 10)) for _ in range(200)]
            for _ in range(40):
                await asyncio.sleep(draw.random() / 2)
                draw.choice(tasks).cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(result) for result in done} <= {type(None), asyncio.CancelledError}
            assert waiting(limiter) == 0
            assert not limiter._book.waited
            # what is charged is what was admitted: so nobody that was cancelled has taken anything
            now = asyncio.get_running_loop().clock()
            counted = sum(cost for at, cost in admitted if at > now - size * SECOND)
            assert limiter.usage("api").window_used == counted

        simulate(work())
        window: deque[tuple[int, int]] = deque()
        tokens, last, used = burst * SECOND, 0, 0
        for at, cost in admitted:
            tokens = min(burst * SECOND, tokens + (at - last) * rate) - cost * SECOND
            last = at
            window.append((at, cost))
            used += cost
            while window[0][0] <= at - size * SECOND:
                used -= window.popleft()[1]
            assert tokens >= 0
            assert used <= most

    def test_under_saturation_nothing_is_lost(self) -> None:
        async def work() -> None:
            limiter = simulated_limiter(api=RateLimitConfig(100, 7, 1))
            loop = asyncio.get_running_loop()
            tasks = [asyncio.ensure_future(limiter.acquire("api")) for _ in range(3000)]
            await asyncio.sleep(10)
            assert sum(task.done() for task in tasks) >= 0.999 * 1000
            assert loop.time() == pytest.approx(10)
            for task in tasks:
                task.cancel()

        simulate(work())

    def test_limits_that_change_reach_those_who_wait(self) -> None:
        async def work() -> None:
            slow, quick = RateLimitConfig("1/h", 5, 1, 5), RateLimitConfig(1000, 5, 1)
            limiter = simulated_limiter(api=slow)
            for change in (
                lambda: limiter.configure_limit("api", quick),
                lambda: limiter.remove_limit("api"),
                lambda: limiter.reset("api"),
            ):
                limiter.configure("api", slow)
                limiter.clear("api")
                await limiter.acquire("api", 5)
                tasks = [asyncio.ensure_future(limiter.acquire("api")) for _ in range(5)]
                await asyncio.sleep(1)
                assert not any(task.done() for task in tasks)
                await change()
                await asyncio.wait_for(asyncio.gather(*tasks), 1)

        simulate(work())

    def test_a_limit_that_is_lowered_below_a_cost_is_said_to_who_waits_with_it(self) -> None:
        async def work() -> None:
            limiter = simulated_limiter(api=RateLimitConfig("1/h", 5, 1, 5))
            await limiter.acquire("api", 5)
            first, second = (asyncio.ensure_future(limiter.acquire("api", cost)) for cost in (1, 5))
            await asyncio.sleep(1)
            limiter.configure("api", RateLimitConfig("1/min", 3, 1, 5))
            await asyncio.sleep(0.001)
            with pytest.raises(NeverAdmittedError, match="at most 3"):
                second.result()
            await asyncio.wait_for(first, 60)

        simulate(work())

    def test_a_service_whose_callers_pass_the_time_can_not_be_waited_for(self) -> None:
        async def work() -> None:
            limiter = simulated_limiter(api=RateLimitConfig(1, 5))
            assert limiter.check("api", 5.0)[0]
            with pytest.raises(ValueError, match="pass the time always or never"):
                await limiter.acquire("api")

        simulate(work())

    def test_where_what_has_no_limits_is_refused_nobody_waits_for_it(self) -> None:
        async def work() -> None:
            with pytest.raises(NeverAdmittedError, match="'nobody' has no limits"):
                await RateLimiter(fail_open=False).acquire("nobody")

        simulate(work())

    def test_hooks_are_told_once(self) -> None:
        told = []

        class Recorder:
            def on_decision(self, *what: object) -> None:
                told.append(what)

            def on_breach(self, *what: object) -> None:
                told.append(("breach", *what))

        async def work() -> None:
            limiter = simulated_limiter(api=RateLimitConfig(1, 1))
            limiter._hooks = Recorder()
            await asyncio.gather(limiter.acquire("api"), limiter.acquire("api"))
            with pytest.raises(TimeoutError):
                await limiter.acquire("api", timeout=0.25)

        simulate(work())
        assert told == [
            ("api", True, 1, None),
            ("api", True, 1, None),
            ("api", False, 1, 0.75),
            ("breach", "api", 0.75),
        ]

    def test_one_whose_loop_is_busy_is_overtaken(self) -> None:
        now = [10**18]
        limiter = RateLimiter(clock=lambda: now[0])
        limiter.configure("api", RateLimitConfig(1, 1))
        loop = asyncio.new_event_loop()
        tasks = [loop.create_task(limiter.acquire("api")) for _ in range(2)]
        loop.run_until_complete(asyncio.sleep(0))
        assert waiting(limiter) == 1
        now[0] += SECOND + SECOND // 10
        assert not limiter.check("api")[0]  # it is about to go
        now[0] += SECOND // 4
        assert limiter.check("api")[0]  # it does not come: its loop does something else
        tasks[1].cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()
        assert waiting(limiter) == 0

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_a_loop_that_was_closed_holds_nobody_up(self) -> None:
        limiter = RateLimiter()
        limiter.configure("api", RateLimitConfig(1000, 1))
        loop = asyncio.new_event_loop()
        task = loop.create_task(_wait_for_much(limiter))
        loop.run_until_complete(asyncio.sleep(0))
        assert waiting(limiter) == 1
        loop.close()
        with limiter._lock:
            limiter._book.reset("api")  # there is room, and nobody was told
        limiter.sync.acquire("api", timeout=60)
        task._log_destroy_pending = False


async def _wait_for_much(limiter: RateLimiter) -> None:
    await limiter.acquire("api")
    limiter.configure("api", RateLimitConfig("1/h", 1))
    await limiter.acquire("api")


class TestThreads:
    def test_threads_get_what_there_is_in_time(self) -> None:
        limiter = SyncRateLimiter()
        limiter.configure_limit("api", RateLimitConfig(2000, 1, 1))
        began = time.monotonic()
        crew = [
            threading.Thread(target=lambda: [limiter.acquire("api", timeout=60) for _ in range(25)]) for _ in range(8)
        ]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
        assert time.monotonic() - began >= 199 / 2000
        assert limiter.get_current_usage("api").refused == 0

    def test_threads_and_a_loop_stand_in_one_line(self) -> None:
        limiter = RateLimiter()
        limiter.configure("api", RateLimitConfig("1/h", 1))
        limiter.check("api")
        order: list[str] = []

        def in_thread(name: str) -> None:
            limiter.sync.acquire("api")
            order.append(name)

        async def in_loop(name: str) -> None:
            await limiter.acquire("api")
            order.append(name)

        crew = []
        for number, name in enumerate("abcd"):
            target = (
                (lambda name=name: asyncio.run(in_loop(name))) if number % 2 else (lambda name=name: in_thread(name))
            )
            crew.append(threading.Thread(target=target))
            crew[-1].start()
            until(lambda: waiting(limiter) == len(crew))
        for number, thread in enumerate(crew):
            limiter.clear("api")
            thread.join(60)
            assert order == list("abcd")[: number + 1]

    def test_one_that_gives_up_is_not_charged(self) -> None:
        limiter = SyncRateLimiter()
        limiter.configure_limit("api", RateLimitConfig("1/h", 2, 1, 9))
        with limiter.limit("api"):
            pass
        with pytest.raises(TimeoutError, match=r"admitted no 2 units within 0\.01 s"):
            limiter.acquire("api", 2, 0.01)
        assert limiter.limit("api", timeout=0)(lambda: "done")() == "done"
        assert limiter.peek("api").remaining == 0

    def test_each_is_for_its_own(self) -> None:
        with pytest.raises(TypeError, match="for threads and can't serve a coroutine function"):
            SyncRateLimiter().limit("api")(asyncio.sleep)
        with pytest.raises(TypeError, match="name the service"):
            RateLimiter().limit(str).__enter__()

    def test_a_child_of_a_fork_does_not_wait_behind_the_parents_threads(self) -> None:
        program = """
import os, threading, time
from gate import RateLimitConfig, RateLimiter
limiter = RateLimiter(clock=lambda: 10**18)
limiter.configure("api", RateLimitConfig(1, 5, 1, 100))
limiter.check("api", cost=3)
threading.Thread(target=lambda: limiter.sync.acquire("api", 5), daemon=True).start()
while limiter.check("api", cost=1)[0]:
    limiter.clear("api")
    limiter.check("api", cost=3)
if not os.fork():
    os._exit(not (limiter.check("api", cost=1)[0] and limiter.sync.acquire("api", 1, 1) is None))
print(os.wait()[1], flush=True)
os._exit(0)
"""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=100, check=False
        )
        assert (done.stdout, done.stderr) == ("0\n", "")


class TestDefaults:
    def test_each_unknown_service_has_the_default_for_itself(self) -> None:
        limiter = RateLimiter(default=RateLimitConfig("1/h", 2, 1, 9), clock=lambda: 10**18)
        assert [limiter.check(name)[0] for name in "aaabbb"] == [True, True, False] * 2
        limiter.configure("a", RateLimitConfig("1/h", 3, 1, 9))
        assert limiter.check("a")[0] is False  # no token came with it

    def test_it_is_forgotten_when_it_is_idle(self) -> None:
        now = [10**18]
        limiter = RateLimiter(default=RateLimitConfig(1, 2, 1), clock=lambda: now[0])
        for number in range(500):
            limiter.check(f"s{number}", cost=2)
            now[0] += SECOND
        assert len(limiter._keys) < 10
        assert limiter._book._passing == len(limiter._keys)

    def test_of_too_many_the_further_ones_share_one(self) -> None:
        limiter = RateLimiter(default=RateLimitConfig("1/h", 2, 1, 9), clock=lambda: 10**18, max_default_keys=10)
        assert sum(limiter.check(f"s{number}")[0] for number in range(1000)) == 10 + 2
        assert len(limiter._keys) == 11
        tenants = RateLimiter(clock=lambda: 10**18, max_default_keys=10)
        tenants.configure("s", RateLimitConfig("1/h", 2, 1, 9), tenant="default")
        assert sum(tenants.check("s", tenant=f"t{number}")[0] for number in range(1000)) == 10 + 2

    def test_new_limits_of_all_tenants_reach_those_in_use(self) -> None:
        limiter = RateLimiter(clock=lambda: 10**18)
        limiter.configure("s", RateLimitConfig("1/h", 5, 1, 9), tenant="default")
        assert limiter.check("s", tenant="a", cost=2)[0]
        limiter.configure("s", RateLimitConfig("1/h", 4, 1, 9), tenant="default")
        assert limiter.check("s", tenant="a", cost=5) == (False, math.inf)
        assert limiter.check("s", tenant="a", cost=3)[0]
        assert limiter.check("s", tenant="b", cost=5) == (False, math.inf)

    def test_a_snapshot_keeps_tenants_and_defaults(self) -> None:
        def made() -> RateLimiter:
            limiter = RateLimiter(default=RateLimitConfig("1/h", 2, 1, 9), clock=lambda: 10**18)
            limiter.configure("s", RateLimitConfig("1/h", 2, 1, 9), tenant="default")
            return limiter

        limiter, moved = made(), made()
        for name, tenant in (("u", ""), ("s", "a"), ("s", "b")):
            assert limiter.check(name, tenant=tenant)[0]
        assert limiter.check("s", tenant="a")[0] is False  # two of the service
        moved.restore(limiter.snapshot())
        assert moved.check("s")[0] is False
        assert [moved.usage("s", tenant=tenant).tokens for tenant in "abc"] == [1, 1, 2]
        assert moved._book._passing == 4
        assert [moved.check("u")[0] for _ in range(2)] == [True, False]


class TestLooks:
    def test_a_look_says_what_a_hit_would_also_long_after_the_last_charge(self) -> None:
        now = [10**18]
        limiter = RateLimiter(clock=lambda: now[0])
        limiter.configure("s", RateLimitConfig("1/min", 2, 1, 9))
        limiter.configure("s", RateLimitConfig("1/min", 2, 1, 9), tenant="a")
        for tenant in ("", "a"):
            limiter.clear("s")
            limiter.check("s", tenant=tenant, cost=2)
            for seconds, wait in ((0, 60), (20, 40), (39, 1)):
                now[0] += seconds * SECOND
                assert limiter.look("s", tenant=tenant).retry_after == wait
                assert limiter.check("s", tenant=tenant) == (False, wait)
            now[0] += SECOND
            assert limiter.look("s", tenant=tenant)
            assert limiter.check("s", tenant=tenant)[0]

    def test_who_comes_long_after_the_last_charge_is_told_its_place_as_well(self) -> None:
        async def work() -> None:
            limiter = simulated_limiter(api=RateLimitConfig("1/min", 1, 1, 9))
            await limiter.acquire("api")
            await asyncio.sleep(50)
            first = asyncio.ensure_future(limiter.acquire("api"))
            await asyncio.sleep(5)
            assert limiter.check("api") == (False, 65)
            second = asyncio.ensure_future(limiter.acquire("api"))
            await asyncio.sleep(1)
            assert limiter.check("api")[1] == pytest.approx(124)
            first.cancel()
            second.cancel()

        simulate(work())
