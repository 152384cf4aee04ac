"""The one reader of the group's topics in a process: it runs while somebody looks, and for a while after."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from gate.config import Connection
from gate.console.commanded import AUDITS
from gate.console.group import Group
from gate.console.history import Histories
from gate.console.view import Trouble
from gate.errors import GateError, reason_of
from gate.kafka.connect import running
from gate.log import get_logger

LINGER: Final = 120.0  # seconds
PATIENCE: Final = 8.0  # seconds for which a page waits for the first records
_PAUSE: Final = 1.0
_POLL_MS: Final = 500  # pages are rendered once a second
_ENOUGH: Final = 1 << 20  # bytes: else each batch of each gate is asked for by itself
_AT_ONCE: Final = 500  # records, between which others have a turn
_ALERTS: Final = 20_000
_ANSWERS: Final = 5_000  # a command that takes long has one a second
_METADATA_MS: Final = 10_000

log = get_logger("gate.console")


class Feed:
    """Keeps a `Group` up to date while somebody looks."""

    def __init__(self, connection: Connection, *, linger: float = LINGER) -> None:
        self._connection = connection
        self._linger = linger
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._fault = ""
        self._used = 0.0
        self.group = Group()
        self.histories = Histories(connection)

    async def use(self) -> Group:
        """Return what is known, after the first look at all of it; some or none of it where the broker is away."""
        self.look()
        if not self._ready.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self._ready.wait()
        return self.group

    def look(self) -> None:
        """Say that somebody looks."""
        self._used = asyncio.get_running_loop().time()
        if self._task is None or self._task.done():
            self._ready.clear()
            self._task = asyncio.create_task(self._run(), name="console")

    async def close(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def troubles(self) -> Sequence[Trouble]:
        """Return what keeps the group from being known as it is now."""
        if self._fault:
            return [Trouble(f"this is not up to date: {self._fault}", "see the gate's log, and `gate doctor`")]
        return [] if self._ready.is_set() else [Trouble("the topics are being read", "wait")]

    async def _run(self) -> None:
        while self._is_watched():
            try:
                await self._follow()
            except (KafkaError, GateError, OSError, TimeoutError) as error:
                fault = reason_of(error)
                if fault != self._fault:
                    log.warning("the console can't read the group's topics now", why=fault)
                self._fault = fault
                await asyncio.sleep(_PAUSE)

    def _is_watched(self) -> bool:
        return asyncio.get_running_loop().time() - self._used < self._linger

    async def _follow(self) -> None:
        """Read all that there is into a new group, put it in place, and follow."""
        names, group = self._connection.names, Group()
        usage, alerts, audit = (TopicPartition(topic, 0) for topic in (names.usage, names.alerts, names.audit))
        takes: dict[TopicPartition, Callable[[ConsumerRecord], None]] = {
            usage: lambda record: self._take_usage(group, record),
            alerts: lambda record: group.take_alert(dict(record.headers), record.value, record.timestamp),
            audit: lambda record: group.take_audit(record.value),
        }
        consumer = AIOKafkaConsumer(
            **self._connection.access(), isolation_level="read_committed", auto_offset_reset="earliest",
            max_poll_records=_AT_ONCE, metadata_max_age_ms=_METADATA_MS,
            fetch_min_bytes=_ENOUGH, fetch_max_wait_ms=_POLL_MS,
        )  # fmt: skip
        self.histories.clear()
        async with running(consumer):
            there = await consumer.topics()
            if missing := sorted({partition.topic for partition in takes} - there):
                raise GateError(f"there is no topic {missing[0]}: no gate has run with this prefix")
            last = {alerts: _ALERTS, audit: AUDITS}
            if names.answers in there:  # gates of earlier versions gave none
                answers = TopicPartition(names.answers, 0)
                takes[answers], last[answers] = lambda record: group.take_answer(record.value), _ANSWERS
            consumer.assign(list(takes))
            ends = await consumer.end_offsets(list(takes))
            begins = await consumer.beginning_offsets(list(takes))
            for partition, most in last.items():
                consumer.seek(partition, max(begins[partition], ends[partition] - most))
            consumer.seek(usage, begins[usage])
            while self._is_watched():
                for partition, records in (await consumer.getmany(timeout_ms=_POLL_MS)).items():
                    take = takes[partition]
                    for record in records:
                        take(record)
                if self.group is not group and await self._is_there(consumer, ends):
                    self.group, self._fault = group, ""
                    self._ready.set()

    def _take_usage(self, group: Group, record: ConsumerRecord) -> None:
        group.take_usage(record.key, record.value)
        if self.histories and (service := (record.key or b"").decode(errors="replace")) in self.histories:
            self.histories.told(service, group.record(service))

    @staticmethod
    async def _is_there(consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> bool:
        return all([await consumer.position(partition) >= end for partition, end in ends.items()])
