"""Asking brokers for the ends of partitions: what can't be told is left out, and nothing is waited for long."""

import asyncio

from gate.kafka.aio.client import Client
from gate.kafka.aio.reader import EARLIEST, LATEST, Reader
from gate.shard.records import Partition
from tests.system.gates import create, send


async def test_a_broker_that_is_away_is_left_out(own_broker, prefix):
    broker = own_broker()
    topic = f"{prefix}.requests.pay"
    await create(broker.bootstrap, topic, partitions=2)
    await send(broker.bootstrap, topic, [(None, b"x", ())] * 3)
    client = Client(bootstrap_servers=broker.bootstrap)
    await client.bootstrap()
    try:
        reader, parts = Reader(client), [Partition(topic, 0), Partition(topic, 1), Partition(topic, 2)]
        await reader.learn({topic})
        async with asyncio.timeout(20):
            while len(ends := await reader.ends(parts, LATEST, committed=True)) < 2:
                await asyncio.sleep(0.05)
        assert ends == {parts[0]: 2, parts[1]: 1}
        assert await reader.ends(parts, EARLIEST, committed=False) == {parts[0]: 0, parts[1]: 0}
        head = await reader.head(parts[1], 0)
        assert head is not None
        assert not head.transactional
        assert [await reader.head(partition, 5) for partition in (parts[1], parts[2])] == [None, None]
        broker.kill()
        async with asyncio.timeout(20):
            assert await reader.ends(parts, LATEST, committed=True) == {}
            assert await reader.head(parts[1], 0) is None
    finally:
        await client.end()


async def test_two_readers_of_one_client_do_not_make_it_forget_each_others_topics(bootstrap, prefix):
    """A client asks for the topics that it was told last; who had others waited for their leaders for ever."""
    mine, others = (Partition(f"{prefix}.{name}", 0) for name in ("mine", "others"))
    await create(bootstrap, mine.topic)
    await create(bootstrap, others.topic)
    client = Client(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        one, other = Reader(client), Reader(client)
        async with asyncio.timeout(60):
            await one.locate(mine)
            await other.learn({others.topic})
            await client.force_metadata_update()
            assert await one.locate(mine) in one.nodes()
            assert await other.locate(others) in other.nodes()
    finally:
        await client.end()
