"""A broker that stood still does not know that another one leads, and answers with what it knew."""

import asyncio
from contextlib import suppress

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from gate.kafka.aio.client import Client
from gate.kafka.aio.compacted import put_barrier, read_all
from gate.kafka.aio.reader import Reader
from gate.shard.records import Partition
from tests.chaos import rolling
from tests.system.gates import create

PLACE = Partition("state", 0)


async def put(bootstrap, value):
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id="owner", request_timeout_ms=2_000)
    async with producer, producer.transaction():
        await producer.send_and_wait(PLACE.topic, value, key=b"key", partition=PLACE.number)


async def led_by(cluster):
    with suppress(KafkaError, OSError, TimeoutError):  # it may be the one that is asked
        return (await rolling.partitions(cluster, [PLACE.topic]))[0]["leader"]
    return -1


@pytest.mark.slow
async def test_the_state_is_read_as_it_is_although_who_has_led_it_wakes_up(own_cluster, tmp_path):
    cluster = own_cluster(tmp_path / "cluster")
    await create(cluster.bootstrap, PLACE.topic, partitions=1, copies=3)
    await rolling.whole(cluster)
    await put(cluster.bootstrap, b"old")
    client = Client(bootstrap_servers=cluster.bootstrap, request_timeout_ms=10_000)
    await client.bootstrap()
    reader = Reader(client)
    assert await _as_it_is(reader) == {"key": b"old"}
    leader = await reader.locate(PLACE)
    await asyncio.to_thread(cluster.pause, leader)
    try:
        async with asyncio.timeout(60):
            while await led_by(cluster) in {leader, -1}:
                await asyncio.sleep(0.1)
            await put(cluster.bootstrap, b"new")
        assert reader.leader(PLACE) == leader, "it is to be asked"
        reading = asyncio.create_task(_as_it_is(reader))
        await asyncio.sleep(0.3)  # the question is on its way
    finally:
        await asyncio.to_thread(cluster.resume, leader)
    assert await asyncio.wait_for(reading, 60) == {"key": b"new"}
    await client.close()


async def _as_it_is(reader):
    return await read_all(reader, PLACE, await put_barrier(reader, PLACE))
