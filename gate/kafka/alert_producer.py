"""Alerts about the gate itself: they belong to no batch, and are sent when no transaction may be possible."""

import asyncio
from contextlib import suppress
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer

from gate.kafka.connect import running
from gate.observe.alerts import AlertRecord

WAITING: Final = 100  # beyond that the oldest is dropped: it has been logged, and what is newer says more
PAUSE: Final = 2.0
SEND_DEADLINE: Final = 10.0

log = structlog.get_logger("gate.notices")


class Notices:
    """Sends alerts in the background, in order, for as long as it takes."""

    def __init__(self, topic: str, **client_options: Any) -> None:
        self._topic = topic
        self._options = client_options
        self._queue: asyncio.Queue[AlertRecord] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    def send(self, record: AlertRecord) -> None:
        """Send an alert soon."""
        while self._queue.qsize() >= WAITING:
            self._queue.get_nowait()
        self._queue.put_nowait(record)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="notices")

    async def close(self) -> None:
        """Give up what could not be sent."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        record: AlertRecord | None = None
        while True:
            try:
                async with running(AIOKafkaProducer(enable_idempotence=True, acks="all", **self._options)) as producer:
                    while True:
                        record = record or await self._queue.get()
                        async with asyncio.timeout(SEND_DEADLINE):
                            await producer.send_and_wait(
                                self._topic, record.value, key=record.key, partition=0, headers=list(record.headers)
                            )  # where the shards write theirs
                        record = None
            except Exception as error:  # noqa: BLE001 - nothing may end the task
                log.warning("an alert could not be sent yet", why=str(error) or type(error).__name__)
                await asyncio.sleep(PAUSE)
