"""Feedback to the gate: commands on the control topic, and how far workers are behind."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import takewhile
from typing import Final, Protocol

import structlog
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from gate.errors import GateError, reason_of
from gate.kafka.aio.pending_requests import within
from gate.kafka.aio.reader import EARLIEST, LATEST, Reader
from gate.protocol import control
from gate.protocol.headers import Headers, last
from gate.shard.owner_views import Lag, Received, Watched
from gate.shard.records import Partition, Record

CONTROL_POLL_MS: Final = 500
LAG_EVERY: Final = 0.25
BACKOFF: Final = 0.5
MOMENT: Final = 3.0  # seconds; that a leader moves is nothing to tell of
MOST_SHOWN: Final = 200  # characters of what somebody else has written
START_DEADLINE: Final = 30.0
CALL_DEADLINE: Final = 10.0

EXACTLY: Final = 200  # offsets: if workers lag by no more, the requests among them are counted
LAG_BYTES: Final = 1 << 16  # that are read for it

MOST_KEPT: Final = 10_000  # commands, before those are looked for that are old

_PAUSES: Final = control.PauseUntil | control.Resume

log = structlog.get_logger("gate.feedback")


class Offsets(Protocol):
    """Who knows the committed offsets of a group."""

    async def offsets(self, group: str, partitions: list[Partition]) -> Mapping[Partition, int]: ...  # noqa: D102


class Feedback:
    """Follows the control topic and the lag of workers, and says when there is something new."""

    def __init__(
        self,
        reader: Reader,
        offsets: Offsets,
        topic: str,
        watched: Callable[[], Iterable[Watched]],
        on_change: Callable[[], None],
    ) -> None:
        self._reader = reader
        self._offsets = offsets
        self._partition = Partition(topic, 0)
        self._watched = watched
        self._on_change = on_change
        # in the order of the topic; of those that have no id the newest per service and tenant
        # by whether they have one, service, and id with what they do, or tenant
        self._commands: dict[tuple[bool, str, str, str], Received] = {}
        self.lags: dict[str, Lag] = {}
        self._counted: dict[Partition, tuple[int, int, int]] = {}  # from, to, and how many requests are between
        self.generation = 0  # the newest generation of the state that was told of
        self.move: control.NewGeneration | None = None  # what `gate reshard` has told last, and when, monotonic seconds
        self.move_heard = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Read what the control topic holds, then follow it."""
        async with within(START_DEADLINE, f"reading {self._partition.topic}", [self._reader]):
            position = (await self._reader.offsets([self._partition], EARLIEST))[self._partition]
            end = (await self._reader.offsets([self._partition], LATEST))[self._partition]
            while position < end:
                position = await self._read(position)
        self._tasks = [
            asyncio.create_task(self._follow(position), name="control"),
            asyncio.create_task(self._measure(), name="worker-lag"),
        ]

    async def stop(self) -> None:
        """End."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def since(self, offset: int) -> list[Received]:
        """Return the commands from `offset` on, oldest first."""
        newer = takewhile(lambda received: received.offset >= offset, reversed(self._commands.values()))
        return list(newer)[::-1]

    async def _first(self) -> int:
        with suppress(KafkaError, OSError, TimeoutError):
            async with asyncio.timeout(CALL_DEADLINE):
                return (await self._reader.offsets([self._partition], EARLIEST))[self._partition]
        await asyncio.sleep(BACKOFF)
        return 0

    async def _follow(self, position: int) -> None:
        deaf_since: float | None = None
        told = False
        while True:
            try:
                after = await self._read(position)
            except OffsetOutOfRangeError:  # what was not read yet has been deleted
                log.warning("commands are gone from the control topic; going on with what is left", offset=position)
                position = await self._first()
                continue
            except Exception as error:  # noqa: BLE001 - whatever it is: who reads must go on
                now = time.monotonic()
                deaf_since = now if deaf_since is None else deaf_since
                if not told and now - deaf_since >= MOMENT:
                    told = True
                    log.warning("the control topic can't be read now; commands wait", why=reason_of(error))
                await asyncio.sleep(BACKOFF)
                continue
            if told:
                log.info("the control topic can be read again")
            deaf_since, told = None, False
            if after != position:
                position = after
                self._on_change()

    async def _read(self, position: int) -> int:
        answer = await self._reader.fetch_one(
            self._partition, position, wait_ms=CONTROL_POLL_MS, partition_bytes=1 << 20
        )
        if answer is None:
            return position
        for record in answer.records:
            if last(record.headers, control.PART) is not None:
                continue
            key = (record.key or b"").decode(errors="replace")
            try:
                command = control.decode(record.value)
            except ValueError as error:
                log.warning(
                    "not a control message; ignored", topic=self._partition.topic, offset=record.offset,
                    service=key[:MOST_SHOWN], why=str(error)[:MOST_SHOWN],
                )  # fmt: skip
                continue
            by_operator = last(record.headers, control.BY) is not None
            if isinstance(command, control.NewGeneration):
                if by_operator:
                    self.generation = max(self.generation, command.generation)
                    self.move, self.move_heard = command, time.monotonic()
                continue
            self._take(record, key, command, by_operator=by_operator)
        self._forget()
        return answer.next_offset

    def _take(self, record: Record, key: str, command: control.Command, *, by_operator: bool) -> None:
        service = "" if isinstance(command, control.WriteFormat | control.NewGeneration) else command.service
        told = _text(record.headers, control.COMMAND_ID)[: control.MAX_ID]
        if service:
            known = key[: control.MAX_ID] or f"@{record.offset}"
            kind = "" if isinstance(command, _PAUSES) else control.name_of(command)
            about = True, service, known, kind  # an id may be given to several, each of which is to be answered
        elif isinstance(command, _PAUSES):  # by the key, as earlier versions did
            service, known = key, told or f"@{record.offset}"
            about = (True, service, told, "") if told else (False, service, command.tenant, "")
        else:
            service, known, about = key, told, (False, control.FORMAT_KEY, "", "")
        if about[0] and isinstance(command, _PAUSES) and about in self._commands:
            return  # sent once more; whoever has carried it out must not do so again
        self._commands.pop(about, None)  # the newest stands behind all others
        who, reason = _text(record.headers, control.WHO), _text(record.headers, control.REASON)
        self._commands[about] = Received(
            record.offset, service, command, by_operator, known, who, reason, record.timestamp
        )

    def _forget(self) -> None:
        """Forget what the topic does not keep either: each owner has heard it, or nobody ever will."""
        if len(self._commands) > MOST_KEPT:
            newest = max(received.at for received in self._commands.values())
            kept = {about: r for about, r in self._commands.items() if r.at > newest - control.RETENTION_MS}
            self._commands = kept

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(LAG_EVERY)
            try:
                if await self.measure(self._watched()):
                    self._on_change()
            except Exception as error:  # noqa: BLE001 - whatever it is: nobody else would measure again
                log.warning("lag of the workers not known now", why=reason_of(error))
                await asyncio.sleep(BACKOFF)

    async def measure(self, services: Iterable[Watched]) -> bool:
        """Ask how far the workers of services are behind; return whether anything has changed."""
        changed = False
        for watched in services:
            try:
                async with asyncio.timeout(CALL_DEADLINE):
                    lag = Lag(await self._lag(watched), watched.admitted, watched.counted_by)
            except (KafkaError, GateError, OSError, TimeoutError) as error:
                log.warning("lag of the workers not known now", service=watched.service, why=repr(error))
                await asyncio.sleep(BACKOFF)
                continue
            changed = changed or self.lags.get(watched.service) != lag
            self.lags[watched.service] = lag
        return changed

    async def _lag(self, watched: Watched) -> int:
        partitions = list(watched.partitions)
        committed = await self._offsets.offsets(watched.worker_group, partitions)
        ends = await self._reader.offsets(partitions, LATEST)
        if unread := [partition for partition in partitions if partition not in committed]:
            committed = {**await self._reader.offsets(unread, EARLIEST), **committed}
        return sum([await self._between(p, committed[p], ends[p]) for p in partitions])

    async def _between(self, partition: Partition, begin: int, end: int) -> int:
        """Return how many requests there are from one offset on and before another: at most so many, if there are many.

        Each batch has a marker behind it, which no worker takes: who has done all may be behind by it for ever.
        """
        if not 0 < end - begin <= EXACTLY:
            return max(0, end - begin)
        counted = self._counted.get(partition)
        if counted is None or counted[:2] != (begin, end):
            counted = self._counted[partition] = begin, end, await self._count(partition, begin, end)
        return counted[2]

    async def _count(self, partition: Partition, begin: int, end: int) -> int:
        try:
            answer = await self._reader.fetch_one(partition, begin, wait_ms=0, partition_bytes=LAG_BYTES)
        except OffsetOutOfRangeError:
            answer = None
        if answer is None:
            return end - begin
        return sum(record.offset < end for record in answer.records) + max(0, end - answer.next_offset)


def _text(headers: Headers, name: str) -> str:
    return (last(headers, name) or b"").decode(errors="replace")[: control.MAX_TEXT]
