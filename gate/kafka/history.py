"""The history topic: gates write twice a minute what their services were like; whoever asks reads of one service."""

import asyncio
from contextlib import suppress
from typing import Any, ClassVar, Final

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from gate.admission.model import Usage
from gate.errors import GateError, reason_of
from gate.kafka.connect import running
from gate.observe.history import Recorder, partition_of, stretches_of
from gate.observe.track import AHEAD_MS, FINE_MS, Track

SEND_DEADLINE: Final = 10.0
READ_DEADLINE: Final = 60.0
_CLOSE_DEADLINE: Final = 3.0
_AT_ONCE: Final = 50  # records, between which others have a turn
_POLL_MS: Final = 200
_FETCH_BYTES: Final = 8 << 20

log = structlog.get_logger("gate.history")


class HistoryWriter:
    """Writes what a gate records. It belongs to no batch: history that can't be written is lost, and stops nothing."""

    EVERY: ClassVar[float] = 30.0  # seconds: of one service at one point a second that makes 0.6 KB a minute, not 1.3

    def __init__(self, topic: str, partitions: int, gate: str, **client_options: Any) -> None:
        self._topic = topic
        self._partitions = partitions
        self._options = client_options
        self._recorder = Recorder(gate)
        self._task: asyncio.Task[None] | None = None
        self._fault = ""

    def take(self, usage: Usage) -> None:
        """Take the newest usage of a service."""
        self._recorder.take(usage)

    def forget(self, service: str) -> None:
        """Drop what is known of a service: it has another owner, or restarts."""
        self._recorder.forget(service)

    def start(self) -> None:
        """Write from now on."""
        self._task = asyncio.create_task(self._run(), name="history")

    async def close(self) -> None:
        """Write what is left, and end."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_DEADLINE):
                await self._write()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self.EVERY)
            await self._write()

    async def _write(self) -> None:
        records = list(self._recorder.drain(self._partitions))
        if not records:
            return
        producer = AIOKafkaProducer(
            acks="all", compression_type="zstd", **self._options
        )  # what comes twice counts once
        try:
            async with asyncio.timeout(SEND_DEADLINE), running(producer):
                sent = [await producer.send(self._topic, value, partition=number) for number, value in records]
                await asyncio.gather(*sent)
            self._fault = ""
        except (KafkaError, GateError, OSError, TimeoutError) as error:
            fault = reason_of(error)
            if fault != self._fault:
                log.warning("half a minute of history could not be written", topic=self._topic, why=fault)
            self._fault = fault


async def read_history(topic: str, service: str, since_ms: int, fine_ms: int, **client_options: Any) -> Track:
    """Return what the topic has of a service since a time, unix ms; nothing where there is no such topic.

    Before `fine_ms`, which is FINE_MS ago, one point in 10 s is enough. Raises KafkaError or TimeoutError.
    """
    track = Track(fine_ms)
    consumer = AIOKafkaConsumer(
        isolation_level="read_committed", auto_offset_reset="earliest", max_partition_fetch_bytes=_FETCH_BYTES,
        max_poll_records=_AT_ONCE, **client_options,
    )  # fmt: skip
    async with running(consumer), asyncio.timeout(READ_DEADLINE):
        if topic not in await consumer.topics():
            return track
        first = TopicPartition(topic, 0)
        consumer.assign([first])
        await consumer.end_offsets([first])  # from then on it knows how many partitions there are
        numbers = consumer.partitions_for_topic(topic)
        assert numbers, "it is there"
        partition = TopicPartition(topic, partition_of(service, len(numbers)))
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        begin = (await consumer.offsets_for_times({partition: since_ms}))[partition]
        if begin is None:  # nothing was written since
            return track
        consumer.seek(partition, begin.offset)
        while await consumer.position(partition) < end:
            for record in (await consumer.getmany(partition, timeout_ms=_POLL_MS)).get(partition, ()):
                with suppress(ValueError):  # of a later gate
                    if (found := stretches_of(record.value or b"", service)) is not None:
                        track.take(*found, fine_ms + FINE_MS + AHEAD_MS)
            await asyncio.sleep(0)
    return track
