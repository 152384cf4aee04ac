"""Commits of only what is done, when records are worked on side by side and finish in any order."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from gate.client import _completed_offsets as completed_offsets
from gate.kafka.aio.compat.shared import committed as committed_offsets
from gate.log import get_logger

COMMIT_SECONDS: Final = 0.2  # what was done since the last commit is done again after a crash
_DEADLINE: Final = 10.0
_GIVING_AWAY: Final = 3 * _DEADLINE  # to finish writing, to commit, and to spare

log = get_logger("gate.client.offsets")


class Offsets:
    """The records of one partition that are under way.

    >>> offsets = Offsets()
    >>> offsets.start(7)
    True
    >>> offsets.start(9)
    True
    >>> offsets.done(9)
    >>> offsets.committable is None  # 7 is not done yet
    True
    >>> offsets.done(7)
    >>> offsets.committable
    10

    `known` are offsets that an earlier reader had done, as it had committed with its offset.
    """

    def __init__(self, known: Sequence[range] = ()) -> None:
        self._known = deque(known)
        self._started: deque[int] = deque()
        self._done: set[int] = set()
        self.committable: int | None = None
        """The offset to commit: all started records before it are done. None until the first one is."""

    @property
    def pending(self) -> int:
        """How many records are between the first unfinished one and the newest, finished or not."""
        return len(self._started)

    @property
    def settled(self) -> int:
        """The first unfinished record: all before it are done."""
        return self._started[0] if self._started else self.committable or 0

    def start(self, offset: int) -> bool:
        """Take a record into account; False if it was done before. Offsets ascend; gaps are legal."""
        if self._started and offset <= self._started[-1]:
            raise ValueError(f"offset {offset} comes after {self._started[-1]}")
        self._started.append(offset)
        while self._known and self._known[0].stop <= offset:
            self._known.popleft()
        if self._known and offset in self._known[0]:
            self.done(offset)
            return False
        return True

    def done(self, offset: int) -> None:
        """Mark a started record as done."""
        self._done.add(offset)
        while self._started and self._started[0] in self._done:
            first = self._started.popleft()
            self._done.remove(first)
            self.committable = first + 1

    def mark(self) -> tuple[int, str] | None:
        """Return what to commit: an offset, and as its metadata what is done behind it. None: nothing is done yet."""
        if not self._done:
            return None if self.committable is None else (self.committable, "")
        base = self._started[0]
        return base, completed_offsets.encode(base, self._runs())

    def _runs(self) -> Iterator[range]:
        """Yield what is done behind the first unfinished record; offsets that hold no record count with their run."""
        first = last = None
        for offset in self._started:
            if offset in self._done:
                first = offset if first is None else first
                last = offset
            elif first is not None and last is not None:
                yield range(first, last + 1)
                first = None
        if first is not None and last is not None:
            yield range(first, last + 1)


def session(seconds: float) -> dict[str, Any]:
    """Return how a consumer whose offsets are committed by `Commits` shows that it lives.

    It is missed after `seconds`. A member that sends heartbeats may take longer to give its partitions away.
    """
    return {
        "session_timeout_ms": int(seconds * 1000),
        "heartbeat_interval_ms": int(seconds * 300),
        "rebalance_timeout_ms": int((seconds + _GIVING_AWAY) * 1000),
    }


class Commits(ConsumerRebalanceListener):  # type: ignore[misc]
    """Commits the offsets of a consumer's partitions, regularly and before they go to another member.

    `drain` is awaited first when partitions are taken away: time to finish what is under way, while the whole group
    waits. With `completed`, what is done behind an unfinished record is committed too, in the metadata: whoever reads
    the partition next does not do it again.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        drain: Callable[[], Awaitable[object]] | None = None,
        *,
        completed: bool = False,
    ) -> None:
        self._consumer = consumer
        self._drain = drain
        self._completed = completed
        self._offsets: dict[TopicPartition, Offsets] = {}
        self._committed: dict[TopicPartition, tuple[int, str]] = {}
        self._lock = asyncio.Lock()
        self._settling: set[asyncio.Future[None]] = set()
        self._leaving = False  # the partitions are about to go: what begins now is done again by others
        self._settled_down = asyncio.Event()  # no rebalance is under way
        self._settled_down.set()

    def of(self, partition: TopicPartition) -> Offsets:
        """Return the offsets of a partition that is read now."""
        return self._offsets.setdefault(partition, Offsets())

    def holds(self, partition: TopicPartition, offsets: Offsets) -> bool:
        """Tell whether a partition is still read as it was when these were its offsets, and stays for now."""
        return not self._leaving and self._offsets.get(partition) is offsets

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Keep the partitions for some seconds more: what is being written here of a record is the end of it."""
        settled = asyncio.get_running_loop().create_future()
        self._settling.add(settled)
        try:
            yield
        finally:
            self._settling.discard(settled)
            settled.set_result(None)

    async def learn(self, partitions: Iterable[TopicPartition]) -> bool:
        """Read what is known to be done of partitions that are new here. False: meanwhile a rebalance took them away.

        Where that can't be read now, it is done again.
        """
        new = [partition for partition in partitions if partition not in self._offsets]
        if not new:
            return True
        placed = {partition: Offsets() for partition in new}
        self._offsets |= placed
        try:
            async with asyncio.timeout(_DEADLINE):
                # `committed` of the public API leaves the metadata out
                committed = await committed_offsets(self._consumer, new)
        except (KafkaError, TimeoutError) as error:
            log.warning(
                "completed offsets can't be read",
                error=str(error) or type(error).__name__,
                partitions=len(new),
            )
            committed = {}
        if not all(self.holds(partition, offsets) for partition, offsets in placed.items()):
            return False
        for partition, (offset, metadata) in committed.items():
            self._offsets[partition] = Offsets(completed_offsets.decode(offset, metadata))
        return True

    def pending(self, partition: TopicPartition) -> int:
        """Return how many records of a partition are pending."""
        return self._offsets[partition].pending if partition in self._offsets else 0

    @property
    def longest(self) -> int:
        """The most pending records of any partition."""
        return max((offsets.pending for offsets in self._offsets.values()), default=0)

    async def commit(self) -> None:
        """Commit what is done. What can't be committed is tried again at the next call, or done again by others."""
        async with self._lock:
            wanted = {
                partition: mark
                for partition, offsets in self._offsets.items()
                if (mark := self._mark(offsets)) is not None and mark != self._committed.get(partition)
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

    async def note(self, done: Mapping[TopicPartition, Iterable[int]], seconds: float) -> None:
        """Commit what is done of partitions that have not been read since they were assigned, and are still ours.

        Where a rebalance is under way, its end is waited for, at most for so many seconds.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._settled_down.wait()
            ours = [partition for partition in done if partition in self._consumer.assignment()]
            if not ours:
                return
            async with self._lock, asyncio.timeout(_DEADLINE):
                committed = await committed_offsets(self._consumer, ours)
                unknown = [partition for partition in ours if partition not in committed]
                firsts = await self._consumer.beginning_offsets(unknown) if unknown else {}
                places = {partition: (found.offset, found.metadata) for partition, found in committed.items()}
                places |= {partition: (offset, "") for partition, offset in firsts.items()}
                marks = {partition: completed_offsets.extend(*places[partition], done[partition]) for partition in ours}
                await self._consumer.commit(marks)
        except (KafkaError, TimeoutError) as error:
            log.warning("offsets not committed", error=str(error) or type(error).__name__, partitions=len(done))

    def _mark(self, offsets: Offsets) -> tuple[int, str] | None:
        if self._completed:
            return offsets.mark()
        return None if offsets.committable is None else (offsets.committable, "")

    async def regularly(self) -> None:
        """Commit every now and then until cancelled."""
        while True:
            await asyncio.sleep(COMMIT_SECONDS)
            await self.commit()

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:  # noqa: ARG002 - all of them
        """Finish and commit what can be finished in time; the next owner does the rest again."""
        self._settled_down.clear()
        if self._offsets and self._drain is not None:
            await self._drain()
        self._leaving = True
        if self._settling:
            _, late = await asyncio.wait(set(self._settling), timeout=_DEADLINE)
            if late:
                log.warning("partitions go before all is written: it may be done twice", records=len(late))
        await self.commit()
        self._forget()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Start from what is committed."""
        self._forget()
        self._settled_down.set()
        log.info("partitions assigned", partitions=sorted(f"{tp.topic}-{tp.partition}" for tp in assigned))

    def _forget(self) -> None:
        self._offsets.clear()
        self._committed.clear()
        self._leaving = False
