"""A broker's topics as tests want them: made, written to and read to their end."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from gate.kafka.topics import Names


@dataclass
class Log:
    """The topics of one test."""

    bootstrap: str
    names: Names

    async def create(self, *topics: str, partitions: int = 1) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            answer = await admin.create_topics([NewTopic(topic, partitions, 1) for topic in topics])
            assert not any(error[1] for error in answer.topic_errors), answer
        finally:
            await admin.close()

    async def write(self, topic: str, *values: bytes | None, **record) -> None:
        """Write values, one record each, to partition 0 unless told otherwise; other fields are alike."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all", max_request_size=2 << 20)
        await producer.start()
        try:
            record = {"partition": 0} | record
            await asyncio.gather(*[await producer.send(topic, value, **record) for value in values])
        finally:
            await producer.stop()

    async def read(self, topic: str) -> list[ConsumerRecord]:
        """Return all committed records of a topic, partition by partition."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            partitions = [TopicPartition(topic, 0)]
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            records: list[ConsumerRecord] = []
            while any([await consumer.position(partition) < end for partition, end in ends.items()]):
                for batch in (await consumer.getmany(timeout_ms=100)).values():
                    records += batch
            return records
        finally:
            await consumer.stop()

    async def committed(self, group: str, topic: str) -> int | None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            partition = TopicPartition(topic, 0)
            found = await admin.list_consumer_group_offsets(group, partitions=[partition])
            offset = found[partition].offset
            return offset if offset >= 0 else None
        finally:
            await admin.close()


@pytest.fixture
def names(prefix: str) -> Names:
    return Names(prefix)


@pytest.fixture
def log(bootstrap: str, names: Names) -> Log:
    return Log(bootstrap, names)


@pytest.fixture
async def start():
    """Run programs in the background; each is stopped at the end, and must not have failed."""
    running = []

    def start(program):
        running.append((program, asyncio.create_task(program.run())))
        return running[-1][1]

    yield start
    for program, task in running:
        program.stop()
        program.stop()
        await asyncio.wait_for(task, 20)


@pytest.fixture
def until() -> Callable:
    """Wait for a condition, plain or awaitable."""

    async def until(condition, seconds: float = 20.0):
        async with asyncio.timeout(seconds):
            while True:
                result = condition()
                if asyncio.iscoroutine(result):
                    result = await result
                if result:
                    return result
                await asyncio.sleep(0.02)

    return until
