"""The listener to workers: reads feedback and the admitted requests that it is about, ahead of the shard's batches.

So no batch waits for what a worker has named, whether it is there or made up.
"""

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from traceback import extract_tb
from typing import Final

import structlog

from gate.errors import GateError
from gate.protocol.feedback import LONGEST_BACKOFF, BackOff, Failed, Heard, read
from gate.shard.buffer import FetchBuffer, Wake, weight_of
from gate.shard.environment import Environment
from gate.shard.failed_jobs import stage_of
from gate.shard.feedback_actions import FeedbackBatch, FeedbackEntry
from gate.shard.ports import UnavailableError
from gate.shard.records import Partition, Record

BUFFER_BYTES: Final = 256 << 10
READY_BYTES: Final = 512 << 10  # of admitted requests that wait for the next batch; beyond, each service has one part
AT_ONCE: Final = 128
ENTRY_BYTES: Final = 1_000  # about what one takes beside its value
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds, while something can't be read or made
PASSING: Final = (UnavailableError, GateError, OSError)  # brokers come back, and what an operator lacks, he gives

log = structlog.get_logger("gate.feedback")


class FeedbackListener:
    """Hears for one owner of a shard, from its take-over until `close`. Partitions do not wait for each other."""

    def __init__(self, environment: Environment, wake: Wake) -> None:
        self._env = environment
        self._wake = wake
        self.buffer = FetchBuffer(BUFFER_BYTES, environment.pool, self._arrived)
        self.stages: dict[str, int] = {}  # partitions of retries topics, by service
        self.scheduled = False  # retries are parked until their time, so that one partition does for all
        self.troubles: dict[Partition, tuple[int, str, str]] = {}  # what stands: since when (local ns), why, remedy
        self._ready: dict[Partition, list[FeedbackBatch]] = {}
        self._size = 0
        self._room = asyncio.Event()
        self._tasks: dict[Partition, asyncio.Task[None]] = {}

    def close(self) -> None:
        """Hear no more, and hold nothing."""
        self._env.hearing.unfollow(self.buffer)
        self.buffer.close()
        for task in self._tasks.values():
            task.cancel()
        self._ready.clear()

    def follow(self, partition: Partition, offset: int | None) -> None:
        """Hear a partition of a feedback topic from `offset` on."""
        self.buffer.followed.add(partition)
        self._env.hearing.follow(partition, offset, self.buffer)

    def drop(self, partitions: Iterable[Partition]) -> None:
        """Hear these no more: they are gone."""
        for partition in partitions:
            self._env.hearing.drop(partition)
            self.buffer.drop(partition)
            self._ready.pop(partition, None)
            self.troubles.pop(partition, None)
            if (task := self._tasks.pop(partition, None)) is not None:
                task.cancel()

    def has_work(self, stopped: frozenset[str]) -> bool:
        """Tell whether something waits to be acted upon, but for services that are `stopped`."""
        return any(parts[0].service not in stopped for parts in self._ready.values())

    def waiting(self, topic: str) -> list[Partition]:
        """Return the partitions of a feedback topic of which something waits to be acted upon."""
        return [partition for partition in self._ready if partition.topic == topic]

    def take(self, stopped: frozenset[str], rooms: Mapping[str, int]) -> list[FeedbackBatch]:
        """Take what is ready, of some services at most so many entries; more is heard meanwhile."""
        taken: list[FeedbackBatch] = []
        for partition, parts in list(self._ready.items()):
            service = parts[0].service
            if service in stopped:
                continue
            left = rooms.get(service)
            while parts and left != 0:
                part, rest = parts[0].first(left) if left is not None else (parts[0], None)
                taken.append(part)
                parts[:1] = [] if rest is None else [rest]
                left = None if left is None else left - len(part.entries)
            if not parts:
                del self._ready[partition]
        self._size = sum(_size(part) for parts in self._ready.values() for part in parts)
        self._room.set()
        return taken

    def _arrived(self) -> None:
        for partition in self.buffer.waiting:
            if partition not in self._tasks:
                self._tasks[partition] = asyncio.create_task(self._hear(partition), name="feedback")

    async def _hear(self, partition: Partition) -> None:
        service = self._env.names.service_of(partition.topic, "feedback")
        assert service is not None  # or it would not be followed
        try:
            while (taken := self.buffer.take(partition, AT_ONCE)) is not None:
                self._env.hearing.poke()
                await self._prepare(service, partition, *taken)
        except Exception as error:  # noqa: BLE001 - a fault of the gate itself: told, and not gone on behind
            self._stand(partition, error)
        else:
            del self._tasks[partition]

    def _stand(self, partition: Partition, error: Exception) -> None:
        """Hear a partition no more: to go on would be to pass over what a worker told. Others are heard."""
        self.buffer.stopped.add(partition)
        self.buffer.clear(partition)
        why = f"a fault of the gate itself: {type(error).__name__}: {error}"
        remedy = "report it with this line of the log; a gate that is restarted tries it again"
        frames = extract_tb(error.__traceback__)
        self.troubles[partition] = self._env.local(), why, remedy
        log.error(
            "what a worker told can't be acted upon", topic=partition.topic, partition=partition.number, why=why,
            remedy=remedy, where=" > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames),
        )  # fmt: skip
        self._wake()

    async def _prepare(self, service: str, partition: Partition, records: list[Record], end: int) -> None:
        entries: list[FeedbackEntry] = []
        size = 0
        for index, record in enumerate(records):
            entries.append(entry := await self._patiently(service, partition, record))
            size += _weight(entry)
            if index + 1 == len(records) or size > READY_BYTES // 2:
                behind = records[index + 1].offset if index + 1 < len(records) else end
                await self._give(
                    FeedbackBatch(service, partition, entries, behind, max(1, self.stages.get(service, 0)))
                )
                entries, size = [], 0
        if not records:
            await self._give(FeedbackBatch(service, partition, [], end))

    async def _give(self, part: FeedbackBatch) -> None:
        while self._size > READY_BYTES and self._has_ready(part.service):
            self.buffer.held.add(part.partition)  # for as long as a topic is broken, and in nobody else's way
            self._room.clear()
            await self._room.wait()
        if part.partition in self.buffer.held:
            self.buffer.held.discard(part.partition)
            self._env.hearing.poke()
        self._ready.setdefault(part.partition, []).append(part)
        self._size += _size(part)
        self._wake()

    def _has_ready(self, service: str) -> bool:
        return any(parts[0].service == service for parts in self._ready.values())

    async def _patiently(self, service: str, partition: Partition, record: Record) -> FeedbackEntry:
        """Make something of a record, however long that takes: nobody else is kept waiting."""
        pause = FIRST_PAUSE
        while True:
            try:
                entry = await self._entry(service, partition.number, record)
            except PASSING as error:
                self._trouble(partition, record, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                if self.troubles.pop(partition, None) is not None:
                    self._wake()
                return entry

    def _trouble(self, partition: Partition, record: Record, error: Exception) -> None:
        why = str(error) or type(error).__name__
        remedy = getattr(error, "hint", None) or "it is tried again all the time; see whether the brokers are there"
        since, before, _ = self.troubles.get(partition, (self._env.local(), "", ""))
        self.troubles[partition] = since, why, remedy
        if why != before:
            log.warning(
                "what a worker told can't be acted upon yet", topic=partition.topic, partition=partition.number,
                offset=record.offset, why=why, remedy=remedy,
            )  # fmt: skip
            self._wake()

    async def _entry(self, service: str, number: int, record: Record) -> FeedbackEntry:
        admitted = Partition(self._env.names.admitted(service), number)
        said = read(record.key, record.value, *admitted)
        if not isinstance(said, Heard):  # what has ended is known by its id
            return FeedbackEntry(said, record.offset, record.timestamp)
        about = await self._env.hearing.look(admitted, said.offset)
        outcome = said.outcome
        wait = outcome.retry_after if isinstance(outcome, Failed) else None
        if isinstance(outcome, BackOff):
            wait = min(outcome.seconds, LONGEST_BACKOFF)
        stages = 0 if about is None or wait is None else 1 if self.scheduled else 1 + stage_of(wait)
        if stages > self.stages.get(service, 0):
            self.stages[service] = await self._env.widen(service, stages)
        return FeedbackEntry(said, record.offset, record.timestamp, about)


def _size(part: FeedbackBatch) -> int:
    return sum(map(_weight, part.entries))


def _weight(entry: FeedbackEntry) -> int:
    return ENTRY_BYTES + (0 if entry.record is None else weight_of((entry.record,)))
