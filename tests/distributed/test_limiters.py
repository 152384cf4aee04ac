"""The limiters that processes share, with a real gate: what they are told, forks, policies that change, and errors."""

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Iterator

import pytest

from gate import DistributedRateLimiter, NeverAdmittedError, SyncDistributedRateLimiter
from gate.client import NotConnectedError
from gate.distributed.link import NoGateError
from gate.errors import ArgumentError, GateError
from gate.kafka.connect import BrokerUnreachableError
from gate.policy import load_policy
from tests.system.gates import GateProcess, gate, until

POLICY = """shards: 2
fail_open: false
groups: {bank: {requests_per_second: 1000, burst_size: 1000, window_size: 1}}
services:
  pay: {group: bank, requests_per_second: 500, burst_size: 500, window_size: 1}
  shop: {requests_per_second: 400, burst_size: 400, window_size: 1}
  day: {requests_per_second: 1/h, burst_size: 4, window_size: 60, window_limit: 1000}
  forks: {requests_per_second: 200, burst_size: 20, window_size: 1}
  changes: {requests_per_second: 50, burst_size: 50, window_size: 1}
"""
PATIENCE = 30.0  # seconds, on a machine that is busy


@pytest.fixture(scope="module")
def running(bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GateProcess, str, str]]:
    prefix = f"dist-{uuid.uuid4().hex[:8]}"
    with gate(tmp_path_factory.mktemp("dist"), bootstrap, prefix, POLICY) as process:
        process.wait_for("shard taken over")
        yield process, bootstrap, prefix


@pytest.fixture
def where(running: tuple[GateProcess, str, str]) -> tuple[str, str]:
    return running[1], running[2]


def spend(limiter: SyncDistributedRateLimiter, service: str, seconds: float) -> int:
    """Try without a pause; return how many went."""
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        count += limiter.check_rate_limit(service)[0]
        time.sleep(0.0005)
    return count


class TestCalls:
    def test_threads_share_what_their_process_holds(self, where: tuple[str, str]) -> None:
        bootstrap, prefix = where
        with SyncDistributedRateLimiter(bootstrap, prefix=prefix, patience=PATIENCE) as limiter:
            began, counts = time.monotonic(), [0] * 3

            def work(number: int) -> None:
                counts[number] = spend(limiter, "shop", 3.0)

            threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert all(counts)
            assert sum(counts) <= 400 + 400 * (time.monotonic() - began)
            result = limiter.hit("shop")
            assert result.limit == 400
            usage = limiter.get_current_usage("shop")
            assert usage is not None
            assert usage.refused

    def test_what_no_owner_can_be_asked_for_twice_a_lease_is_told_when(self, where: tuple[str, str]) -> None:
        async def work() -> None:
            async with DistributedRateLimiter(where[0], prefix=where[1], patience=PATIENCE) as limiter:
                went, retry_after = 0, 0.0
                while retry_after < 60:  # what was just granted counts from when it may be used at the latest
                    await asyncio.sleep(retry_after)
                    allowed, wait = await limiter.check_rate_limit("day")
                    went, retry_after = went + allowed, wait or 0.0
                    assert went <= 4
                assert retry_after <= 3_610
                assert await limiter.check_rate_limit("day", cost=5) == (False, float("inf"))
                with pytest.raises(TimeoutError, match=r"'day' admitted no 4 units within 0\.1 s"):
                    await limiter.acquire("day", 4, 0.1)

        asyncio.run(work())

    def test_what_no_policy_knows_is_refused_where_the_gate_fails_closed(self, where: tuple[str, str]) -> None:
        async def work() -> None:
            async with DistributedRateLimiter(where[0], prefix=where[1], patience=PATIENCE) as limiter:
                assert await limiter.check_rate_limit("nobody") == (False, float("inf"))
                with pytest.raises(NeverAdmittedError, match="no policy says what may pass"):
                    await limiter.acquire("nobody")
                with pytest.raises(ValueError, match="current_time"):
                    await limiter.check_rate_limit("pay", 1.0)
                with pytest.raises(GateError, match="can't be reset"):
                    await limiter.reset("pay")

        asyncio.run(work())

    def test_a_raised_limit_counts_at_once(self, running: tuple[GateProcess, str, str]) -> None:
        process, bootstrap, prefix = running
        with SyncDistributedRateLimiter(bootstrap, prefix=prefix, patience=PATIENCE) as limiter:
            before = spend(limiter, "changes", 2.0)
            assert before <= 200
            text = process.config.read_text()
            process.config.write_text(
                text.replace(
                    "changes: {requests_per_second: 50, burst_size: 50",
                    "changes: {requests_per_second: 1000, burst_size: 1000",
                )
            )
            version = load_policy(process.config).version
            until(lambda: f"now={version}" in process.text(), explain=process.text)
            until(lambda: spend(limiter, "changes", 1.0) > 150)


class TestForks:
    @pytest.mark.parametrize("used", [False, True])
    def test_a_child_is_somebody_else_and_nothing_is_spent_twice(self, where: tuple[str, str], used: bool) -> None:
        bootstrap, prefix = where
        with SyncDistributedRateLimiter(bootstrap, prefix=prefix, patience=PATIENCE) as limiter:
            if used:
                until(lambda: limiter.check_rate_limit("forks")[0])
            name = limiter._shared.holders.name
            read, write = os.pipe()
            began = time.monotonic()
            child = os.fork()
            if child == 0:
                try:
                    other = limiter._shared.holders.name != name
                    count = spend(limiter, "forks", 3.0)
                    os.write(write, f"{other:d} {count}".encode())
                finally:
                    os._exit(0)
            mine = spend(limiter, "forks", 3.0)
            os.waitpid(child, 0)
            os.close(write)
            other, theirs = map(int, os.read(read, 100).split())
            os.close(read)
            assert other
            assert theirs
            assert mine
            # what either was told before the clock began is within a burst
            assert mine + theirs <= 2 * 20 + 200 * (time.monotonic() - began)


class TestErrors:
    def test_outside_of_the_block(self, where: tuple[str, str]) -> None:
        limiter = SyncDistributedRateLimiter(where[0], prefix=where[1])
        with pytest.raises(NotConnectedError, match="SyncDistributedRateLimiter is not connected"):
            limiter.check_rate_limit("pay")
        with limiter:
            assert limiter.check_rate_limit("shop")[0] in {True, False}
        with pytest.raises(NotConnectedError):
            limiter.check_rate_limit("shop")

        async def work() -> None:
            with pytest.raises(NotConnectedError, match="the DistributedRateLimiter is not connected"):
                await DistributedRateLimiter(where[0], prefix=where[1]).check_rate_limit("pay")

        asyncio.run(work())

    def test_one_that_is_entered_already_is_not_entered_again(self, where: tuple[str, str]) -> None:
        limiter = SyncDistributedRateLimiter(where[0], prefix=where[1], patience=PATIENCE)
        with limiter:
            with pytest.raises(GateError, match="the SyncDistributedRateLimiter is entered already"), limiter:
                pass
            assert limiter.check_rate_limit("shop")[0] in {True, False}, "the first block goes on"
        assert limiter._shared.link is None
        with limiter:
            assert limiter.check_rate_limit("shop")[0] in {True, False}

        async def work() -> None:
            async with DistributedRateLimiter(where[0], prefix=where[1], patience=PATIENCE) as other:
                with pytest.raises(GateError, match="the DistributedRateLimiter is entered already"):
                    await other.__aenter__()
                assert (await other.check_rate_limit("shop"))[0] in {True, False}

        asyncio.run(work())

    def test_one_that_is_being_entered_is_not_entered_again(self, where: tuple[str, str]) -> None:
        async def work() -> None:
            limiter = DistributedRateLimiter(where[0], prefix=where[1], patience=PATIENCE)
            first, second = await asyncio.gather(limiter.__aenter__(), limiter.__aenter__(), return_exceptions=True)
            assert first is limiter
            assert isinstance(second, GateError)
            assert "the DistributedRateLimiter is entered already" in str(second)
            assert (await limiter.check_rate_limit("shop"))[0] in {True, False}
            await limiter.__aexit__(None, None, None)
            async with limiter:
                assert (await limiter.check_rate_limit("shop"))[0] in {True, False}

        asyncio.run(work())

    def test_one_that_failed_to_enter_may_be_entered_again(self) -> None:
        async def work() -> None:
            limiter = DistributedRateLimiter("localhost:1", connect_timeout=0.2)
            for _ in range(2):
                with pytest.raises(BrokerUnreachableError):
                    await limiter.__aenter__()

        asyncio.run(work())

    def test_a_loop_that_has_ended_is_told(self, where: tuple[str, str]) -> None:
        limiter = DistributedRateLimiter(where[0], prefix=where[1], patience=PATIENCE)
        asyncio.run(limiter.__aenter__())

        async def work() -> None:
            for service in ("shop", "day"):
                with pytest.raises(GateError, match="the event loop in which the DistributedRateLimiter was entered"):
                    await limiter.check_rate_limit(service)
            await limiter.__aexit__(None, None, None)
            async with limiter:
                assert (await limiter.check_rate_limit("shop"))[0] in {True, False}

        asyncio.run(work())

    def test_where_no_gate_has_run(self, bootstrap: str) -> None:
        with (
            pytest.raises(NoGateError, match=r"topics nothere.leases and nothere.grants are not there"),
            SyncDistributedRateLimiter(bootstrap, prefix="nothere"),
        ):
            pass

    def test_where_no_broker_is(self) -> None:
        with (
            pytest.raises(BrokerUnreachableError),
            SyncDistributedRateLimiter("127.0.0.1:9", connect_timeout=0.2),
        ):
            pass

    @pytest.mark.parametrize(
        "options", [{"on_owner_away": "maybe"}, {"patience": 0}, {"connect_timeout": -1}, {"prefix": "a b"}]
    )
    def test_arguments_that_make_no_sense(self, options: dict[str, object]) -> None:
        with pytest.raises((ArgumentError, GateError)):
            DistributedRateLimiter("127.0.0.1:9092", **options)
