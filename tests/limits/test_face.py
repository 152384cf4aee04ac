"""The face of every rate limiter: the same tests for each implementation, see `worlds.py`.

Times are asserted from below everywhere (nobody goes early), and exactly where time is simulated.
"""

import asyncio
import math
import uuid
from collections.abc import Iterator
from typing import ClassVar

import pytest

from gate import NeverAdmittedError, RateLimitConfig
from tests.limits.worlds import WORLDS, Limits, Shared, World
from tests.system.gates import GateProcess, gate

# Where others may have some of a limit, what is left of it is nobody's to tell, and a unit may be lost on the way.
alone = pytest.mark.parametrize("world", ["RateLimiter"], indirect=True)


@pytest.fixture(scope="module")
def shared_gate(bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GateProcess, str, str]]:
    prefix = f"face-{uuid.uuid4().hex[:8]}"
    with gate(tmp_path_factory.mktemp("face"), bootstrap, prefix, "shards: 2\nservices: {}") as process:
        process.wait_for("shard taken over")
        yield process, bootstrap, prefix


@pytest.fixture(params=["RateLimiter", pytest.param("DistributedRateLimiter", marks=pytest.mark.broker)])
def world(request: pytest.FixtureRequest) -> World:
    if WORLDS[request.param] is Shared:
        return Shared(*request.getfixturevalue("shared_gate"))
    return WORLDS[request.param]()


def bucket(rate: float | str, burst: int) -> RateLimitConfig:
    """Return limits of which the bucket alone ever binds."""
    return RateLimitConfig(rate, burst, 1, 10**6)


def seconds() -> float:
    return asyncio.get_running_loop().time()


class TestAnswers:
    @alone
    def test_a_check_unpacks_to_two(self, world: World) -> None:
        async def work() -> None:
            async with world.open({"api": bucket("1/h", 2)}) as limiter:
                assert await limiter.check_rate_limit("api") == (True, None)
                allowed, retry_after = await limiter.check_rate_limit("api", cost=2)
                assert not allowed
                assert 3590 < retry_after <= 3600

        world.run(work())

    @alone
    def test_a_hit_tells_what_is_left(self, world: World) -> None:
        async def work() -> None:
            async with world.open({"api": RateLimitConfig("1/h", 10, 60, 100)}) as limiter:
                result = await limiter.hit("api", cost=4)
                allowed, retry_after = result
                assert (allowed, retry_after, bool(result)) == (True, None, True)
                assert (result.limit, result.remaining) == (10, 6)
                assert 4 * 3600 - 10 < result.reset <= 4 * 3600
                refused = await limiter.hit("api", cost=7)
                assert not refused
                assert (refused.limit, refused.remaining) == (10, 6)
                assert 3590 < refused.retry_after <= 3600

        world.run(work())

    @alone
    def test_a_peek_charges_nothing_and_says_what_a_hit_would(self, world: World) -> None:
        async def work() -> None:
            async with world.open({"api": bucket("1/h", 3)}) as limiter:
                for _ in range(5):
                    assert (await limiter.peek("api", cost=3)).allowed
                assert (await limiter.hit("api", cost=3)).remaining == 0
                assert not await limiter.peek("api")
                assert (await limiter.peek("api", cost=4)).retry_after == math.inf

        world.run(work())

    def test_what_has_no_limits_is_allowed_and_has_nothing_left_to_tell(self, world: World) -> None:
        async def work() -> None:
            async with world.open({}) as limiter:
                result = await limiter.hit("nobody")
                assert result
                assert (result.limit, result.remaining, result.reset) == (None, None, None)
                await limiter.acquire("nobody", 10**6, 0)

        world.run(work())

    @alone
    @pytest.mark.parametrize("method", ["check_rate_limit", "hit", "peek", "acquire"])
    def test_a_bad_cost_is_refused_by_each(self, world: World, method: str) -> None:
        async def work() -> None:
            async with world.open({"api": bucket(1, 1)}) as limiter:
                for cost in (0, -1, 1.5, True, None):
                    with pytest.raises((TypeError, ValueError), match="cost must be"):
                        await getattr(limiter, method)("api", cost=cost)
                assert await limiter.hit("api")

        world.run(work())

    @alone
    def test_a_reset_starts_full_again(self, world: World) -> None:
        async def work() -> None:
            async with world.open({"api": bucket("1/h", 3)}) as limiter:
                assert await limiter.hit("api", 3)
                assert not await limiter.hit("api")
                await limiter.reset("api")
                assert await limiter.hit("api", 3)

        world.run(work())


class TestTenants:
    LIMITS: ClassVar[Limits] = {
        "search": bucket("1/h", 10),
        ("search", "default"): bucket("1/h", 2),
        ("search", "acme"): bucket("1/h", 20),
    }

    @alone
    def test_a_request_keeps_to_the_tenants_limits_and_the_services(self, world: World) -> None:
        async def work() -> None:
            async with world.open(self.LIMITS) as limiter:
                small = [(await limiter.check_rate_limit("search", tenant="small"))[0] for _ in range(4)]
                assert small == [True, True, False, False]
                other = [(await limiter.check_rate_limit("search", tenant="other"))[0] for _ in range(3)]
                assert other == [True, True, False]
                large = [(await limiter.check_rate_limit("search", tenant="acme"))[0] for _ in range(8)]
                assert large == [True] * 6 + [False] * 2  # ten of the service, none charged for a refusal
                assert not (await limiter.check_rate_limit("search"))[0]

        world.run(work())

    @alone
    def test_the_tightest_limit_is_told(self, world: World) -> None:
        async def work() -> None:
            async with world.open(self.LIMITS) as limiter:
                result = await limiter.hit("search", tenant="small")
                assert (result.limit, result.remaining) == (2, 1)
                assert (await limiter.hit("search", 7, tenant="acme")).remaining == 2

        world.run(work())

    @alone
    def test_one_that_waits_for_its_own_limit_holds_up_nobody_else(self, world: World) -> None:
        async def work() -> None:
            async with world.open({"s": bucket(1000, 1000), ("s", "slow"): bucket("1/h", 1)}) as limiter:
                await limiter.acquire("s", tenant="slow")
                slow = asyncio.ensure_future(limiter.acquire("s", tenant="slow"))
                await asyncio.sleep(0)
                await asyncio.wait_for(limiter.acquire("s", tenant="quick"), 30)
                await asyncio.wait_for(limiter.acquire("s"), 30)
                assert (await limiter.check_rate_limit("s"))[0]
                assert not (await limiter.check_rate_limit("s", tenant="slow"))[0]
                assert not slow.done()
                slow.cancel()

        world.run(work())


class TestSeveralAtOnce:
    LIMITS: ClassVar[Limits] = {
        "a": bucket("1/h", 5),
        ("a", "one"): bucket("1/h", 5),
        ("a", "two"): bucket("1/h", 5),
        "b": bucket("1/h", 2),
    }

    @alone
    def test_what_they_share_is_counted_once_for_all_or_for_none(self, world: World) -> None:
        async def work() -> None:
            async with world.open(self.LIMITS) as limiter:
                results = await limiter.hit_all([("a", "one", 3), ("a", "two", 3), ("b", "", 1)])
                assert [bool(result) for result in results] == [True, False, True]
                assert results[1].retry_after is not None
                assert results[1].retry_after > 0
                results = await limiter.hit_all([("a", "one", 3), ("a", "two", 2), ("b", "", 2)])  # none was charged
                assert all(results)
                assert not await limiter.hit("a")
                assert not await limiter.hit("b")

        world.run(work())

    @alone
    def test_nothing_asked_is_nothing_charged(self, world: World) -> None:
        async def work() -> None:
            async with world.open(self.LIMITS) as limiter:
                assert await limiter.hit_all([]) == []
                with pytest.raises(ValueError, match="cost"):
                    await limiter.hit_all([("a", "", 1), ("b", "", 0)])
                assert (await limiter.hit("a")).remaining == 4

        world.run(work())


class TestAcquire:
    def test_it_goes_at_once_while_there_is_room_and_then_in_time(self, world: World) -> None:
        async def work() -> None:
            async with world.open({"api": RateLimitConfig(20, 2, 1)}) as limiter:
                began, times = seconds(), []
                for _ in range(6):
                    await limiter.acquire("api")
                    times.append(seconds() - began)
                for number, time in enumerate(times):
                    assert time >= max(0, number - 1) * 0.05 - 1e-6
                if world.exact:
                    assert times == pytest.approx([0, 0, 0.05, 0.1, 0.15, 0.2])

        world.run(work())

    def test_first_come_first_served(self, world: World) -> None:
        async def work() -> None:
            async with world.open({"api": RateLimitConfig(100, 1, 1)}) as limiter:
                order = []

                async def one(number: int) -> None:
                    await limiter.acquire("api", 1)
                    order.append(number)

                await asyncio.gather(*[one(number) for number in range(30)])
                assert order == list(range(30))

        world.run(work())

    def test_a_large_cost_does_not_starve(self, world: World) -> None:
        async def work() -> None:
            async with world.open({"api": RateLimitConfig(50, 10, 10)}) as limiter:
                await limiter.acquire("api", 10)
                large = asyncio.ensure_future(limiter.acquire("api", 10))
                await asyncio.sleep(0)
                admitted = 0
                began = seconds()
                while not large.done():
                    admitted += (await limiter.check_rate_limit("api"))[0]
                    assert seconds() - began < 60
                    await asyncio.sleep(0.01)
                assert admitted == 0
                if world.exact:
                    assert seconds() - began <= 0.22

        world.run(work())

    @alone
    def test_who_comes_behind_others_is_told_its_own_time(self, world: World) -> None:
        async def work() -> None:
            async with world.open({"api": RateLimitConfig("1/min", 1, 60, 1000)}) as limiter:
                await limiter.acquire("api")
                crew = [asyncio.ensure_future(limiter.acquire("api")) for _ in range(3)]
                await asyncio.sleep(0)
                allowed, retry_after = await limiter.check_rate_limit("api")
                assert not allowed
                assert 3 * 60 < retry_after <= 4 * 60
                assert (await limiter.peek("api")).retry_after == pytest.approx(retry_after, abs=1)
                for task in crew:
                    task.cancel()
                await asyncio.gather(*crew, return_exceptions=True)
                assert (await limiter.peek("api")).retry_after <= 60

        world.run(work())

    @alone
    def test_it_gives_up_in_time_and_is_not_charged(self, world: World) -> None:
        async def work() -> None:
            async with world.open({"api": bucket("1/h", 2)}) as limiter:
                await limiter.acquire("api")
                for timeout in (0, 0.05):
                    began = seconds()
                    with pytest.raises(TimeoutError, match=r"'api' admitted no 2 units within .* it needs .* s more"):
                        await limiter.acquire("api", 2, timeout)
                    assert seconds() - began >= timeout - 1e-6
                assert (await limiter.peek("api")).remaining == 1
                await limiter.acquire("api", timeout=0)

        world.run(work())

    @alone
    def test_one_that_gives_up_lets_the_next_go(self, world: World) -> None:
        async def work() -> None:
            async with world.open({"api": bucket("1/h", 3)}) as limiter:
                await limiter.acquire("api", 2)
                large = asyncio.ensure_future(limiter.acquire("api", 3, 0.05))
                await asyncio.sleep(0)
                small = asyncio.ensure_future(limiter.acquire("api"))
                await asyncio.sleep(0)
                assert not small.done()
                await asyncio.wait_for(small, 30)
                with pytest.raises(TimeoutError):
                    await large

        world.run(work())

    @alone
    def test_one_that_is_cancelled_lets_the_next_go(self, world: World) -> None:
        async def work() -> None:
            async with world.open({"api": bucket("1/h", 3)}) as limiter:
                await limiter.acquire("api", 2)
                large = asyncio.ensure_future(limiter.acquire("api", 3))
                await asyncio.sleep(0)
                small = asyncio.ensure_future(limiter.acquire("api"))
                await asyncio.sleep(0)
                large.cancel()
                await asyncio.wait_for(small, 30)
                with pytest.raises(asyncio.CancelledError):
                    await large
                assert (await limiter.peek("api")).remaining == 0

        world.run(work())

    @alone
    def test_what_can_never_be_is_said_at_once(self, world: World) -> None:
        async def work() -> None:
            async with world.open({"api": bucket("1/h", 3), ("api", "acme"): bucket(1, 2)}) as limiter:
                with pytest.raises(NeverAdmittedError, match=r"'api' can never admit 4 units at once: .* at most 3"):
                    await limiter.acquire("api", 4)
                with pytest.raises(NeverAdmittedError, match="at most 2"):
                    await limiter.acquire("api", 3, tenant="acme")
                await limiter.acquire("api", 3)

        world.run(work())

    @alone
    @pytest.mark.parametrize("timeout", [-1, math.nan, "1", True])
    def test_a_bad_timeout_is_refused(self, world: World, timeout: object) -> None:
        async def work() -> None:
            async with world.open({"api": bucket("1/h", 1)}) as limiter:
                with pytest.raises((TypeError, ValueError), match="timeout must be"):
                    await limiter.acquire("api", 1, timeout)
                await limiter.acquire("api", timeout=0)

        world.run(work())


class TestLimit:
    @alone
    def test_a_block_and_a_function_wait_for_their_turn(self, world: World) -> None:
        async def work() -> None:
            async with world.open({"api": RateLimitConfig(20, 1, 1), "other": bucket("1/h", 1)}) as limiter:

                @limiter.limit("api")
                async def double(number: int) -> int:
                    """Say twice as much."""
                    return 2 * number

                began = seconds()
                async with limiter.limit("api"):
                    pass
                assert [await double(1), await double(2)] == [2, 4]
                assert seconds() - began >= 0.1 - 1e-6
                assert (double.__name__, double.__doc__) == ("double", "Say twice as much.")

                once = limiter.limit(lambda name: name, timeout=0)(double.__wrapped__)
                assert await once("other") == "otherother"
                with pytest.raises(TimeoutError):
                    await once("other")

        world.run(work())

    def test_a_generator_is_refused(self, world: World) -> None:
        async def work() -> None:
            async with world.open({}) as limiter:
                with pytest.raises(TypeError, match="is a generator"):

                    @limiter.limit("api")
                    async def numbers():
                        yield 1

        world.run(work())
