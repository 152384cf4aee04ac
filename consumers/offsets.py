"""Committing only what is done, when records are worked on side by side and finish in any order."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

COMMIT_SECONDS: Final = 1.0
_DEADLINE: Final = 10.0

log = structlog.get_logger("consumers")


class Offsets:
    """The records of one partition that are under way.

    >>> offsets = Offsets()
    >>> offsets.start(7)
    >>> offsets.start(9)
    >>> offsets.done(9)
    >>> offsets.committable is None  # 7 is not done yet
    True
    >>> offsets.done(7)
    >>> offsets.committable
    10
    """

    def __init__(self) -> None:
        self._started: deque[int] = deque()
        self._done: set[int] = set()
        self.committable: int | None = None
        """The offset to commit: all started records before it are done. None until the first one is."""

    @property
    def pending(self) -> int:
        """How many records are between the first unfinished one and the newest, finished or not."""
        return len(self._started)

    def start(self, offset: int) -> None:
        """Take a record into account. Offsets ascend; gaps are legal."""
        if self._started and offset <= self._started[-1]:
            raise ValueError(f"offset {offset} comes after {self._started[-1]}")
        self._started.append(offset)

    def done(self, offset: int) -> None:
        """Mark a started record as done."""
        self._done.add(offset)
        while self._started and self._started[0] in self._done:
            first = self._started.popleft()
            self._done.remove(first)
            self.committable = first + 1


class Commits(ConsumerRebalanceListener):  # type: ignore[misc]
    """Commits the offsets of a consumer's partitions, regularly and before they go to another member.

    `drain` is awaited first when partitions are taken away: time to finish what is under way. It must be shorter than
    the consumer's session timeout, as no heartbeat is sent meanwhile.
    """

    def __init__(self, consumer: AIOKafkaConsumer, drain: Callable[[], Awaitable[object]] | None = None) -> None:
        self._consumer = consumer
        self._drain = drain
        self._offsets: dict[TopicPartition, Offsets] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._lock = asyncio.Lock()

    def of(self, partition: TopicPartition) -> Offsets:
        """Return the offsets of a partition that is read now."""
        return self._offsets.setdefault(partition, Offsets())

    @property
    def longest(self) -> int:
        """The most pending records of any partition."""
        return max((offsets.pending for offsets in self._offsets.values()), default=0)

    async def commit(self) -> None:
        """Commit what is done. What can't be committed is tried again at the next call, or done again by others."""
        async with self._lock:
            wanted = {
                partition: offsets.committable
                for partition, offsets in self._offsets.items()
                if offsets.committable is not None and offsets.committable != self._committed.get(partition)
            }
            if not wanted:
                return
            try:
                async with asyncio.timeout(_DEADLINE):
                    await self._consumer.commit(wanted)
            except (KafkaError, TimeoutError) as error:
                log.warning("offsets not committed", error=str(error) or type(error).__name__, partitions=len(wanted))
            else:
                self._committed |= wanted

    async def regularly(self) -> None:
        """Commit every second until cancelled."""
        while True:
            await asyncio.sleep(COMMIT_SECONDS)
            await self.commit()

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:  # noqa: ARG002 - all of them
        """Finish and commit what can be finished in time; the next owner does the rest again."""
        if self._offsets and self._drain is not None:
            await self._drain()
        await self.commit()
        self._forget()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Start from what is committed."""
        self._forget()
        log.info("partitions assigned", partitions=sorted(f"{tp.topic}-{tp.partition}" for tp in assigned))

    def _forget(self) -> None:
        self._offsets.clear()
        self._committed.clear()
