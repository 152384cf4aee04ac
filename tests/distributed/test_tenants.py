"""Limits of tenants, for their requests in a topic and their calls at once, with a real gate."""

import asyncio
import time
import uuid
from pathlib import Path

from aiokafka import AIOKafkaProducer

from gate import DistributedRateLimiter
from gate.protocol.topics import Names
from tests.chaos.mesh import CLOCKS, SECOND, Call, Limit, excess
from tests.system.gates import create, gate, read, stamp, until

LIMIT = Limit(rate=40, burst=20, limit=45, window=SECOND)
POLICY = """shards: 2
groups: {bank: {requests_per_second: 400, burst_size: 200, window_size: 1}}
services:
  pay:
    {group: bank, requests_per_second: 300, burst_size: 200, window_size: 1, overflow: reject,
     tenants: {default: {requests_per_second: 40, burst_size: 20, window_size: 1, window_limit: 45}}}
"""
SECONDS = 8.0
TENANTS = ("acme", "other")


def test_a_tenant_has_one_limit_for_its_requests_and_its_calls(bootstrap: str, tmp_path: Path) -> None:
    prefix = f"tenants-{uuid.uuid4().hex[:8]}"
    names = Names(prefix)

    async def offer(end: float) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
        await producer.start()
        try:
            while time.monotonic() < end:
                for tenant in TENANTS:
                    headers = [("gate-tenant", tenant.encode())]
                    await producer.send(names.requests("pay"), tenant.encode(), headers=headers)
                await asyncio.sleep(0.01)
        finally:
            await producer.stop()

    async def call(limiter: DistributedRateLimiter, tenant: str, end: float) -> list[Call]:
        calls = []
        while time.monotonic() < end:
            before = time.time_ns()
            if (await limiter.check_rate_limit("pay", tenant=tenant))[0]:
                calls.append((before, time.time_ns()))
            await asyncio.sleep(0.004)
        return calls

    async def work() -> tuple[dict[str, list[Call]], dict[str, list[Call]]]:
        await create(bootstrap, names.requests("pay"), partitions=2)
        with gate(tmp_path, bootstrap, prefix, POLICY) as process:
            await asyncio.to_thread(until, lambda: process.text().count("shard taken over") == 2)
            async with DistributedRateLimiter(bootstrap, prefix=prefix, patience=30.0) as limiter:
                for tenant in TENANTS:
                    await limiter.acquire("pay", tenant=tenant)
                end = time.monotonic() + SECONDS
                _, *found = await asyncio.gather(offer(end), *[call(limiter, tenant, end) for tenant in TENANTS])
            records = await read(bootstrap, [names.admitted("pay")], lambda _: False, 4.0)
        queue: dict[str, list[Call]] = {tenant: [] for tenant in TENANTS}
        for record in records:
            at = stamp(record).at_ms * 1_000_000
            queue[(record.value or b"").decode()].append((at - CLOCKS, at + CLOCKS))
        return dict(zip(TENANTS, found, strict=True)), queue

    calls, queue = asyncio.run(work())
    for tenant in TENANTS:
        assert excess(LIMIT.spec, [*calls[tenant], *queue[tenant]]) == []
        assert len(calls[tenant]) > 20
        assert len(queue[tenant]) > 20
