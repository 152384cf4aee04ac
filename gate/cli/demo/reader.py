"""Reads the topics, read_committed and from their beginning, into the tally."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from aiokafka import AIOKafkaConsumer

from gate.cli.demo.tally import Tally
from gate.kafka.access import access
from gate.kafka.connect import running

_POLL_MS: Final = 50
_CATCH_UP_SECONDS: Final = 15.0


class Reader:
    """Follows all topics of a tally, which must be there."""

    def __init__(self, bootstrap: str, tally: Tally) -> None:
        self._tally = tally
        self._round = asyncio.Condition()  # told after each poll
        self._consumer = AIOKafkaConsumer(
            *tally.topics,
            **access(bootstrap),
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )

    async def run(self) -> None:
        """Read until cancelled."""
        async with running(self._consumer):
            while True:
                fetched = await self._consumer.getmany(timeout_ms=_POLL_MS)
                now = time.time_ns() // 1_000_000
                for records in fetched.values():
                    for record in records:
                        self._tally.add(record, now)
                async with self._round:
                    self._round.notify_all()

    async def until(self, done: Callable[[], bool]) -> None:
        """Return when `done` says so; it is asked after each poll."""
        async with self._round:
            await self._round.wait_for(done)

    async def catch_up(self) -> None:
        """Return when all that is committed by now has been read. Raises TimeoutError if that takes too long."""
        async with asyncio.timeout(_CATCH_UP_SECONDS), self._round:
            ends = await self._consumer.end_offsets(self._consumer.assignment())
            for partition, end in ends.items():
                while await self._consumer.position(partition) < end:
                    await self._round.wait()
