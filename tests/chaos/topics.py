"""Reading what a run has left on the broker, as anybody with `read_committed` sees it."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from gate.kafka.aio.client import Client
from gate.kafka.aio.reader import EARLIEST, LATEST, Reader
from gate.shard.records import Fetched, Partition
from tests.sim.checker import Committed

UNKNOWN = 0.1  # seconds until a broker is asked again for a topic that it does not know yet


def _consumer(bootstrap: str, isolation: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level=isolation,
        auto_offset_reset="none",
        enable_auto_commit=False,
        max_partition_fetch_bytes=4 << 20,
    )


async def topics(bootstrap: str) -> list[str]:
    """Return the names of all topics, the broker's own included."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return sorted(await admin.list_topics())
    finally:
        await admin.close()


async def read(bootstrap: str, names: Sequence[str]) -> AsyncIterator[Committed]:
    """Yield every committed record of topics, in order of offset within a partition.

    Aborted is what an abort marker follows: a broker that was a follower catching up may not tell of it.
    """
    consumer = _consumer(bootstrap, "read_committed")
    await consumer.start()
    client = Client(bootstrap_servers=bootstrap)
    try:
        await client.bootstrap()
        reader = Reader(client)
        for tp in await _partitions(consumer, names):
            place = Partition(tp.topic, tp.partition)
            position = (await reader.offsets([place], EARLIEST))[place]
            end = (await reader.offsets([place], LATEST))[place]
            while position < end:
                piece = await _piece(reader, place, position)
                if piece is not None:
                    for r in piece.records:
                        yield Committed(tp.topic, tp.partition, r.offset, r.key, r.value, r.headers, r.timestamp)
                    position = piece.next_offset
    finally:
        await client.close()
        await consumer.stop()


async def _piece(reader: Reader, place: Partition, position: int) -> Fetched | None:
    try:
        return await reader.fetch_one(place, position, wait_ms=100, partition_bytes=4 << 20)
    except KafkaError as error:
        if not error.retriable:
            raise
        await asyncio.sleep(UNKNOWN)
        return None


async def _partitions(consumer: AIOKafkaConsumer, names: Iterable[str]) -> list[TopicPartition]:
    cluster = await consumer._client.fetch_all_metadata()
    return [TopicPartition(name, p) for name in names for p in sorted(cluster.partitions_for_topic(name) or ())]


async def _all_partitions(consumer: AIOKafkaConsumer, names: Sequence[str]) -> list[TopicPartition]:
    """Return the partitions of topics that are there; the broker that is asked may not know all of them yet."""
    while True:
        found = await _partitions(consumer, names)
        if {tp.topic for tp in found} == set(names):
            return found
        await asyncio.sleep(UNKNOWN)


async def open_transactions(bootstrap: str, names: Sequence[str]) -> list[str]:
    """Return the partitions in which a transaction is open: readers of committed records can't get to the end."""
    ends: list[dict[TopicPartition, int]] = []
    for isolation in ("read_committed", "read_uncommitted"):
        consumer = _consumer(bootstrap, isolation)
        await consumer.start()
        try:
            partitions = await _partitions(consumer, names)
            consumer.assign(partitions)
            ends.append(await consumer.end_offsets(partitions))
        finally:
            await consumer.stop()
    stable, high = ends
    return [f"{tp.topic}-{tp.partition} (stable {stable[tp]}, end {high[tp]})" for tp in high if stable[tp] != high[tp]]


async def size(bootstrap: str, names: Sequence[str]) -> int:
    """Return how many records topics hold that nobody writes to in transactions and nothing is deleted from."""
    consumer = _consumer(bootstrap, "read_committed")
    await consumer.start()
    try:
        partitions = await _partitions(consumer, names)
        consumer.assign(partitions)
        return sum((await consumer.end_offsets(partitions)).values())
    finally:
        await consumer.stop()


async def group_offsets(bootstrap: str, group: str) -> dict[Partition, int]:
    """Return the committed offsets of a group."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    return {Partition(tp.topic, tp.partition): at.offset for tp, at in found.items() if at.offset >= 0}


async def follow(bootstrap: str, names: Sequence[str]) -> AsyncIterator[Committed]:
    """Yield committed records of topics as they come, for ever."""
    consumer = _consumer(bootstrap, "read_committed")
    await consumer.start()
    try:
        consumer.assign(await _all_partitions(consumer, names))
        await consumer.seek_to_beginning()
        while True:
            for tp, records in (await consumer.getmany(timeout_ms=100)).items():
                for r in records:
                    yield Committed(tp.topic, tp.partition, r.offset, r.key, r.value, r.headers, r.timestamp)
    finally:
        await consumer.stop()
