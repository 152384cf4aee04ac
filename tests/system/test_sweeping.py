"""What was released leaves the delayed topic as well, and what still waits stays there."""

import asyncio
import json

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.consumer import AIOKafkaConsumer

from gate.kafka.connect import running as running_client
from tests.system.gates import create, gate, read_count, until

KEEP = "keep_released: 1s, max_delay: null, window_size: null"
POLICY = f"shards: 2\nservices: {{slow: {{requests_per_second: RATE, burst_size: 1, {KEEP}}}}}\n"


async def begin(bootstrap, topic):
    async with running_client(AIOKafkaConsumer(bootstrap_servers=bootstrap)) as consumer:
        partition = TopicPartition(topic, 0)
        first, end = await consumer.beginning_offsets([partition]), await consumer.end_offsets([partition])
        return first[partition], end[partition]


def told(running):
    return next(iter(json.loads(running.get("/v1/usage"))["services"]), {})


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
async def test_what_was_released_is_deleted(bootstrap, prefix, tmp_path, delivery):
    topic, delayed = f"{prefix}.requests.slow", f"{prefix}.delayed.slow"
    await create(bootstrap, topic, partitions=1)
    policy = f"delivery: {delivery}\n{POLICY}".replace("RATE", "2")
    with gate(tmp_path, bootstrap, prefix, policy, "--http", "127.0.0.1:0") as running:
        async with running_client(AIOKafkaProducer(bootstrap_servers=bootstrap)) as producer:
            for number in range(16):
                await producer.send_and_wait(topic, b"%d" % number, partition=0)

        async def swept(least):
            while True:
                first, end = await begin(bootstrap, delayed)
                if first >= least(end):
                    return
                await asyncio.sleep(0.1)

        async with asyncio.timeout(40):
            await swept(lambda _: 1)
        assert told(running)["backlog"] > 0  # while others wait
        admitted = await read_count(bootstrap, [f"{prefix}.admitted.slow"], 16)
        assert sorted(int(record.value) for record in admitted) == list(range(16))
        async with asyncio.timeout(40):  # nobody submits any more: it is swept all the same
            await swept(lambda end: end)
        await asyncio.to_thread(until, lambda: told(running)["backlog"] == 0)
        assert told(running).get("gone", 0) == 0
        assert "deleted what has been released" in running.text()
