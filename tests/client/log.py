"""A broker's topics as tests want them: made, written to and read to their end."""

import asyncio
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.structs import OffsetAndMetadata

from gate.protocol.topics import Names
from tests.kafka.raw import produce


@dataclass
class Log:
    """The topics of one test."""

    bootstrap: str
    names: Names

    async def create(self, *topics: str, partitions: int = 1) -> None:
        """Create topics, and wait until the broker tells of them: that comes after its answer."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            answer = await admin.create_topics([NewTopic(topic, partitions, 1) for topic in topics])
            assert not any(error[1] for error in answer.topic_errors), answer
            while set(topics) - set(await admin.list_topics()):
                await asyncio.sleep(0.02)
        finally:
            await admin.close()

    async def topics(self) -> list[str]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            return await admin.list_topics()
        finally:
            await admin.close()

    async def write(self, topic: str, *values: bytes | None, **record) -> None:
        """Write values, one record each, to partition 0 unless told otherwise; other fields are alike."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all", max_request_size=4 << 20)
        await producer.start()
        try:
            record = {"partition": 0} | record
            await asyncio.gather(*[await producer.send(topic, value, **record) for value in values])
        finally:
            await producer.stop()

    async def write_null(self, topic: str) -> None:
        """Write a record without key and value, as librdkafka can and aiokafka's send can't."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all")
        await producer.start()
        try:
            batch = producer.create_batch()
            batch.append(key=None, value=None, timestamp=1)
            batch.close()
            await (await producer.send_batch(batch, topic, partition=0))
        finally:
            await producer.stop()

    async def write_raw(self, topic: str, batch: bytes, partition: int = 0) -> None:
        """Write a batch as it is, as a producer can that is not aiokafka's."""
        await produce(self.bootstrap, topic, batch, partition=partition)

    async def configure(self, topic: str, **config: str) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, config)])
        finally:
            await admin.close()

    async def read(self, topic: str, partition: int = 0) -> list[ConsumerRecord]:
        """Return all committed records of a partition."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            partitions = [TopicPartition(topic, partition)]
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
        found = await self._committed(group, topic)
        return found.offset if found is not None and found.offset >= 0 else None

    async def metadata(self, group: str, topic: str) -> str | None:
        found = await self._committed(group, topic)
        return None if found is None else found.metadata

    async def _committed(self, group: str, topic: str) -> OffsetAndMetadata | None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            partition = TopicPartition(topic, 0)
            offsets = await admin.list_consumer_group_offsets(group, partitions=[partition])
        except GroupCoordinatorNotAvailableError:  # a new broker makes its offsets topic at the first question
            return None
        else:
            return offsets.get(partition)
        finally:
            await admin.close()
