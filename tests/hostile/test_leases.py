"""Whatever a stranger writes to `gate.leases`: the shard goes on, its processes are answered, and it is said once."""

import asyncio
import random
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from gate import DistributedRateLimiter
from gate.mesh.wire import Ask, BudgetReport, Report, Run, encode
from gate.protocol.topics import Names
from tests.system.gates import DEADLINE, create, gate, read_count, until

POLICY = """shards: 2
defaults: {requests_per_second: 50, burst_size: 50}
services:
  pay: {requests_per_second: 500, burst_size: 500, window_size: 1}
"""
SECONDS = 6.0


def forgeries(chance: random.Random) -> Iterator[bytes | None]:
    """Yield records without an end, one of each kind in turn."""
    big = 2**60
    turn = 0
    while True:
        turn += 1
        who = f"stranger-{turn}"
        made_up = tuple([BudgetReport(f"made-up-{turn}-{n}", 0, 2**50, 0) for n in range(200)])
        yield None
        yield b""
        yield chance.randbytes(300)
        yield b"\x02" + encode(Report(who, 1, 1))[1:]
        yield b"\x01\xdd\xff\xff\xff\xff"
        yield b"\x01" + 100_000 * b"\x91"
        yield b"\x01\x99" + encode(Report(who, 1, 1))[2:] + 100_000 * b"\x91" + b"\x90"  # behind all that is known
        yield bytes(900_000)
        yield encode(Report(who, 1, 1, (BudgetReport("pay", 0, -1, 0),)))
        yield encode(Report(who, 1, 1, (BudgetReport("pay", 0, big, big, (big,), (Run(big, big),)),)))
        yield b"\x01" + msgspec.msgpack.encode([who, 1, 1, [["pay", 0, float("nan"), 0]]])
        yield encode(Report("x" * 100_000, 1, 1))
        yield encode(Report(who, 1, 1, made_up))
        yield encode(Report(who, 1, 2, (BudgetReport("s" * 50_000, 0, 5, 0),)))
        yield encode(Report(who, 1, 3, (), tuple([Ask(n, ("pay",) * 4, 1) for n in range(400)])))
        yield encode(Report(who, 1, 4, (), tuple([Ask(n, (f"asked-{turn}-{n}",), 2**40) for n in range(400)])))
        yield encode(Report(who, 1, 0, lookups=tuple([(f"looked-up-{turn}-{n}", "t" * 900) for n in range(100)])))
        yield encode(Report(who, 1, 0, lookups=(("a b", "\x00"), ("", ""), ("pay", "\x1f1"))))
        yield encode(Report(who, 2**53, 2**53, (BudgetReport("pay", 2**53, 2**53, 0, (2**53,) * 9),), leaving=True))


@pytest.mark.timeout(180)
def test_garbage_among_reports_stops_and_slows_nobody(bootstrap: str, tmp_path: Path) -> None:
    prefix = f"garbage-{uuid.uuid4().hex[:8]}"
    names = Names(prefix)

    async def forge(end: float) -> int:
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
        await producer.start()
        sent, records = 0, forgeries(random.Random(1))
        try:
            while time.monotonic() < end:
                for partition in range(2):
                    await producer.send(names.leases, next(records), b"stranger", partition=partition)
                    sent += 1
                await asyncio.sleep(0.005)
        finally:
            await producer.stop()
        return sent

    async def call(limiter: DistributedRateLimiter, end: float) -> tuple[int, float]:
        went, longest = 0, 0.0
        while time.monotonic() < end:
            before = time.monotonic()
            went += (await limiter.check_rate_limit("pay"))[0]
            longest = max(longest, time.monotonic() - before)
            await asyncio.sleep(0.01)
        return went, longest

    async def work() -> None:
        await create(bootstrap, names.requests("pay"), partitions=1)
        with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "127.0.0.1:0") as process:
            await asyncio.to_thread(until, lambda: process.text().count("shard taken over") == 2)
            async with DistributedRateLimiter(bootstrap, prefix=prefix, patience=30.0) as limiter:
                await limiter.acquire("pay", timeout=30.0)
                end = time.monotonic() + SECONDS
                sent, (went, _) = await asyncio.gather(forge(end), call(limiter, end))
                assert sent > 100
                assert went
                producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
                await producer.start()
                for _ in range(20):
                    await producer.send(names.requests("pay"), b"x")
                await producer.stop()
                assert len(await read_count(bootstrap, [names.admitted("pay")], 20)) == 20
                went, end = 0, time.monotonic() + DEADLINE  # strangers' leases end within 10 s
                while went <= 10 and time.monotonic() < end:
                    went += (await call(limiter, time.monotonic() + 1))[0]
                assert went > 10
            text = process.text()
            assert "shard restarts" not in text, text

            def ignored(reason: str) -> float:
                pattern = rf'gate_lease_reports_ignored_total{{reason="{reason}"}} (\S+)'
                found = re.search(pattern, process.get("/metrics"))
                return float(found[1]) if found else 0.0

            for reason in ("too-large", "version", "unreadable", "impossible"):
                await asyncio.to_thread(until, lambda reason=reason: ignored(reason) > 5)
                assert len(re.findall(rf"not logged again for this kind.*kind={reason}", process.text())) == 1

    asyncio.run(work())
