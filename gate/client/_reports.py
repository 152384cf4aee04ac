"""The reader of what gates report about one service."""

import asyncio
from collections.abc import Callable
from typing import Final

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from gate.client._usage import Usage, decode
from gate.kafka.access import access
from gate.kafka.connect import running
from gate.log import get_logger

_POLL_MS: Final = 500
_LOOK_SECONDS: Final = 1.0  # between two looks for a topic that is not there
_RETRY_SECONDS: Final = 2.0
_TAIL: Final = 500  # records: what was reported last. The topic is compacted only in the long run
_DEADLINE: Final = 10.0

log = get_logger("gate.client.reports")


async def follow(bootstrap: str, topic: str, service: str, tell: Callable[[Usage], None]) -> None:
    """Tell each new usage of a service, and the last one there was, until cancelled; start again after any failure."""
    key = service.encode()
    while True:
        try:
            consumer = AIOKafkaConsumer(
                **access(bootstrap), isolation_level="read_committed", auto_offset_reset="latest"
            )
            async with running(consumer):
                await _appears(consumer, topic)
                await _seek_near_end(consumer, TopicPartition(topic, 0))  # the only one that gates write to
                while True:
                    for records in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                        _tell_all([record.value for record in records if record.key == key], tell)
        except Exception as error:  # noqa: BLE001 - a pipeline goes on without reports; nobody else would start this again
            log.warning("usage can't be read; trying again", topic=topic, error=str(error) or type(error).__name__)
            await asyncio.sleep(_RETRY_SECONDS)


def _tell_all(values: list[bytes | None], tell: Callable[[Usage], None]) -> None:
    for value in values:
        if value is None:  # the service is gone, or it will report anew
            continue
        try:
            usage = decode(value)
        except ValueError as error:
            log.warning("usage can't be read; is the gate of another version?", error=str(error))
            continue
        tell(usage)


async def _appears(consumer: AIOKafkaConsumer, topic: str) -> None:
    while True:
        async with asyncio.timeout(_DEADLINE):
            if topic in await consumer.topics():
                return
        await asyncio.sleep(_LOOK_SECONDS)


async def _seek_near_end(consumer: AIOKafkaConsumer, partition: TopicPartition) -> None:
    consumer.assign([partition])
    async with asyncio.timeout(_DEADLINE):
        begins, ends = await consumer.beginning_offsets([partition]), await consumer.end_offsets([partition])
    consumer.seek(partition, max(begins[partition], ends[partition] - _TAIL))
