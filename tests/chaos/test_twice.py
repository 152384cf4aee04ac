"""A request that is sent once more because its connection broke: the first copy may arrive at any time after it."""

import asyncio
import re

from aiokafka import AIOKafkaProducer

from tests.chaos import topics
from tests.chaos.proxy import Api, Delay, Keep, Request, behind_proxy
from tests.system.gates import create, gate, read_count, stamp

SHARDS = 1
POLICY = f"""
shards: {SHARDS}
services:
  pay: {{requests_per_second: 20, burst_size: 20}}
"""
REQUESTS = 40  # of which half are parked, so that outputs and state are written one after the other
UNVERIFIED = {"transaction.partition.verification.enable": "false"}  # as brokers before 3.6
OURS = "offer"


async def offer(bootstrap: str, topic: str, numbers: range) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, client_id=OURS, acks="all", linger_ms=50)
    await producer.start()
    try:
        await asyncio.gather(*[await producer.send(topic, b"%d" % i, partition=0) for i in numbers])
    finally:
        await producer.stop()


async def test_the_end_of_a_batch_that_arrives_amid_the_next_one_ends_nothing(own_broker, prefix, tmp_path):
    """It would publish what the next batch has written so far, without the state that says so."""
    first, amid = asyncio.Event(), asyncio.Event()
    writes = 0

    def keep_the_first(request: Request) -> Keep | None:
        if request.api != Api.END_TXN or first.is_set():
            return None
        first.set()
        return Keep(amid)

    def deliver_it_between_writes(request: Request) -> Delay | None:
        nonlocal writes
        if request.api != Api.PRODUCE or request.client == OURS or amid.is_set():
            return None
        writes += 1
        if writes < 2:
            return None
        amid.set()
        return Delay(0.5)

    async with behind_proxy(
        lambda **more: own_broker(**{**more, "properties": {**UNVERIFIED, **more["properties"]}})
    ) as proxy:
        bootstrap, requests = proxy.bootstrap, f"{prefix}.requests.pay"
        await create(bootstrap, requests, partitions=1)
        with gate(tmp_path, bootstrap, prefix, POLICY) as running:
            await asyncio.to_thread(running.wait_for, "shard taken over")
            proxy.judge = keep_the_first
            await offer(bootstrap, requests, range(1))
            await read_count(bootstrap, [f"{prefix}.admitted.pay"], 1)
            assert first.is_set()
            proxy.judge = deliver_it_between_writes
            await offer(bootstrap, requests, range(1, REQUESTS))
            await asyncio.wait_for(amid.wait(), 30)
            admitted = await read_count(bootstrap, [f"{prefix}.admitted.pay"], REQUESTS)
            assert await asyncio.to_thread(running.stop) == 0, running.text()
        everything = [record async for record in topics.read(bootstrap, [f"{prefix}.admitted.pay"])]
        ids = [stamp(record).id for record in everything]
        assert len(admitted) == len(ids) == len(set(ids)) == REQUESTS, running.text()
        parked = [stamp(record).id async for record in topics.read(bootstrap, [f"{prefix}.delayed.pay"])]
        assert len(parked) == len(set(parked)), running.text()
        assert await topics.open_transactions(bootstrap, await topics.topics(bootstrap)) == []
        assert re.search("EndTxn .*sent.*again", running.text()), running.text()
        assert "shard restarts" not in running.text()
