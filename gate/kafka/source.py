"""The source of what shards read: one long poll per broker for request partitions, single reads of parked requests."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog
from aiokafka import errors

from gate.errors import reason_of
from gate.kafka.admitted_reader import AdmittedReader
from gate.kafka.aio.pending_requests import within
from gate.kafka.aio.reader import EARLIEST, Reader
from gate.kafka.delayed_reader import ParkedReader
from gate.shard.buffer import FetchBuffer
from gate.shard.ports import SETTLED, UnavailableError
from gate.shard.records import Blocked, Fetched, Partition, Record

LONG_POLL_MS: Final = 500
# What becomes readable while a long poll is under way is not made to wait for its end: a second poll takes it.
SHORT_POLL_MS: Final = 50
PARTITION_BYTES: Final = 1 << 20
FETCH_BYTES: Final = 2 << 20
BACKOFF: Final = 0.2
MOMENT: Final = 3.0  # seconds; who can't read for less, as leaders move, is not told of
GATHERING: Final = 0.05  # a broker that goes hands over many partitions: they are looked for together
READ_DEADLINE: Final = 10.0

log = structlog.get_logger("gate.source")


class Trouble(NamedTuple):
    """Why a partition can't be read, and since when by a monotonic clock."""

    why: str
    since_seconds: float


@dataclass(slots=True)
class _Followed:
    buffer: FetchBuffer
    position: int | None
    node: int | None = None  # that leads it; None: to be found
    busy: bool = False  # in a request that is under way
    trouble: Trouble | None = None  # what its leader says
    lost: Trouble | None = None  # it is not read, for whatever reason


def _note_lost(followed: _Followed, why: str) -> None:
    since = time.monotonic() if followed.lost is None else followed.lost.since_seconds
    followed.lost = Trouble(why, since)


class KafkaSource:
    """`ports.Source` over Kafka. Make it in the event loop that uses it; `close` ends its tasks.

    `on_trouble` is called when the connection to a broker that was read from breaks, `on_deleted` with how many offsets
    of a partition were deleted before they were read.
    """

    def __init__(
        self,
        pollers: Sequence[Reader],
        single: Reader,
        on_trouble: Callable[[], None],
        on_deleted: Callable[[Partition, int], None] = lambda _partition, _offsets: None,
    ) -> None:
        self._on_trouble = on_trouble
        self._on_deleted = on_deleted
        self._pollers = pollers
        self._parked = ParkedReader(single)
        self._admitted = AdmittedReader(single)
        self._followed: dict[Partition, _Followed] = {}
        self._troubled: dict[Partition, _Followed] = {}  # those that can't be read, or could not be lately
        self._changed = asyncio.Event()  # something has become readable
        self._lost = asyncio.Event()  # the leader of something is not known
        self._tasks: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._finder: asyncio.Task[None] | None = None
        self._away: set[int] = set()  # brokers that do not answer

    def blocked(self, buffer: FetchBuffer) -> Blocked | None:
        """Return why some of what goes into a buffer is not read for longer than a moment; None: all of it is."""
        late = time.monotonic() - MOMENT
        mine = [followed.lost for followed in self._followed.values() if followed.buffer is buffer]
        lost = [trouble for trouble in mine if trouble is not None and trouble.since_seconds <= late]
        if not lost:
            return None
        return Blocked("; ".join(sorted({trouble.why for trouble in lost})), wholly=len(lost) == len(mine))

    def follow(self, partition: Partition, offset: int | None, buffer: FetchBuffer) -> None:
        """See `ports.Source`."""
        self._followed[partition] = _Followed(buffer, offset)
        self._lost.set()
        if self._finder is None:
            self._finder = asyncio.create_task(self._find_leaders(), name="find-leaders")

    def unfollow(self, buffer: FetchBuffer) -> None:
        """See `ports.Source`."""
        for partition in [p for p, followed in self._followed.items() if followed.buffer is buffer]:
            del self._followed[partition]

    def drop(self, partition: Partition) -> None:
        """See `ports.Source`."""
        self._followed.pop(partition, None)

    def poke(self) -> None:
        """See `ports.Source`."""
        self._changed.set()

    async def close(self) -> None:
        """Stop reading."""
        self._parked.close()
        tasks = [*self._tasks.values(), *([self._finder] if self._finder is not None else ())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _find_leaders(self) -> None:
        """Find who leads what is followed, and have that broker polled."""
        while True:
            await self._lost.wait()
            self._lost.clear()
            if any(f.node is None and f.trouble is not None for f in self._followed.values()):
                await asyncio.sleep(GATHERING)
            lost = {partition: followed for partition, followed in self._followed.items() if followed.node is None}
            try:
                async with asyncio.timeout(READ_DEADLINE):
                    await self._pollers[0].learn({partition.topic for partition in lost})
                    if any(followed.trouble is not None for followed in lost.values()):
                        await self._pollers[0].renew()
            except Exception as error:  # noqa: BLE001 - whatever it is: who reads must go on; what is lost is told below
                log.debug("who leads what is read is not known now", why=reason_of(error))
            for partition, followed in lost.items():  # none waits for another, which may have no leader for long
                followed.node = self._pollers[0].leader(partition)
                if followed.node is None:
                    _note_lost(followed, f"no broker leads {partition.topic}-{partition.number}")
            for node in self._pollers[0].nodes():
                for index in range(len(self._pollers)):
                    if (node, index) not in self._tasks:
                        self._tasks[node, index] = asyncio.create_task(
                            self._poll_loop(node, index), name=f"poll-{node}"
                        )
            self._changed.set()
            if any(followed.node is None for followed in self._followed.values()):
                self._lost.set()
                await asyncio.sleep(BACKOFF)

    def _lose(self, followed: Iterable[_Followed], why: str) -> None:
        for one in followed:
            one.node = None
            _note_lost(one, why)
        self._lost.set()

    async def _poll_loop(self, node: int, index: int) -> None:
        while True:
            self._changed.clear()
            ready = {p: f for p, f in self._followed.items() if f.node == node and not f.busy and f.buffer.wants(p)}
            if not ready:
                await self._changed.wait()
                continue
            for followed in ready.values():
                followed.busy = True
            try:
                await self._poll(node, index, ready)
                self._away.discard(node)
            except Exception as error:  # noqa: BLE001 - whatever it is: who reads must go on
                if node not in self._away:
                    log.warning("the broker does not answer; trying again", node=node, why=reason_of(error))
                    if not isinstance(error, TimeoutError | errors.RequestTimedOutError):  # slow is not gone
                        self._on_trouble()
                self._away.add(node)
                self._pollers[index].refresh()
                await asyncio.sleep(BACKOFF)
                self._lose(ready.values(), f"broker {node}: {str(error) or type(error).__name__}")
            finally:
                for followed in ready.values():
                    followed.busy = False
                self._changed.set()  # the other poll may take what this one has left

    async def _poll(self, node: int, index: int, ready: dict[Partition, _Followed]) -> None:
        poller = self._pollers[index]
        if unknown := [p for p, followed in ready.items() if followed.position is None]:
            async with within(READ_DEADLINE, "asking where topics begin", [poller]):
                first = await poller.offsets(unknown, EARLIEST)
            for partition, offset in first.items():
                ready[partition].position = offset
        wanted = {p: followed.position for p, followed in ready.items() if followed.position is not None}
        wait = SHORT_POLL_MS if index else LONG_POLL_MS
        answers = await poller.fetch(
            node, wanted, wait_ms=wait, partition_bytes=PARTITION_BYTES, total_bytes=FETCH_BYTES
        )
        for partition in wanted:
            followed, answer = ready[partition], answers.get(partition)
            if self._followed.get(partition) is not followed:
                continue  # another owner, or another start, since
            if answer is None:  # nothing is there yet, and nothing wrong
                followed.trouble = followed.lost = None
            elif isinstance(answer, Fetched):
                if answer.next_offset != followed.position:
                    followed.position = answer.next_offset
                    followed.buffer.put(partition, answer)
                followed.trouble = followed.lost = None
            elif isinstance(answer, errors.OffsetOutOfRangeError):
                async with within(READ_DEADLINE, f"asking where {partition.topic} begins", [poller]):
                    await self._find_beginning(poller, partition, followed)
            else:
                self._trouble(partition, followed, str(answer) or type(answer).__name__)
                self._lose([followed], str(answer))  # what others have sent does not wait for its leader to be found

    async def _find_beginning(self, poller: Reader, partition: Partition, followed: _Followed) -> None:
        """Go on where the log begins, if what was to be read is proven to be gone.

        A log that ends before it is that of a topic that was made anew, or that of a leader which knows less than there
        is, for a while: to begin anew with the latter would decide everything twice.
        """
        assert followed.position is not None
        first = (await poller.offsets([partition], EARLIEST))[partition]
        if first > followed.position:
            log.error(
                "the broker has deleted requests before they were read (retention); going on with what is left",
                topic=partition.topic, partition=partition.number, offset=followed.position, next=first,
            )  # fmt: skip
            self._on_deleted(partition, first - followed.position)
            followed.position = first
            return
        self._trouble(partition, followed, f"its log ends before offset {followed.position}")
        if followed.trouble is not None and time.monotonic() - followed.trouble.since_seconds >= SETTLED:
            log.error(
                "made anew, or emptied; reading from its beginning",
                topic=partition.topic, partition=partition.number, offset=followed.position,
            )  # fmt: skip
            followed.position = followed.trouble = None
            return
        poller.refresh()
        await asyncio.sleep(BACKOFF)
        self._lose([followed], f"its log ends before offset {followed.position}")

    def _trouble(self, partition: Partition, followed: _Followed, why: str) -> None:
        """Note why a partition can't be read, and say it once."""
        if followed.trouble is None or followed.trouble.why != why:
            log.info("partition not readable now", partition=f"{partition.topic}-{partition.number}", why=why)
            since = time.monotonic() if followed.trouble is None else followed.trouble.since_seconds
            followed.trouble = Trouble(why, since)
            self._troubled[partition] = followed

    def unreadable(self, buffer: FetchBuffer) -> dict[Partition, str]:
        """Return what can't be read into a buffer for longer than an election takes, and why."""
        if not self._troubled:
            return {}
        late = time.monotonic() - SETTLED
        self._troubled = {
            p: f for p, f in self._troubled.items() if f.trouble is not None and self._followed.get(p) is f
        }
        return {
            partition: followed.trouble.why
            for partition, followed in self._troubled.items()
            if followed.buffer is buffer and followed.trouble is not None and followed.trouble.since_seconds <= late
        }

    async def read(self, partition: Partition, offsets: Sequence[int]) -> Sequence[Record]:
        """See `ports.Source`."""
        return await self._parked.read(partition, offsets)

    def prefetch(self, partition: Partition, offsets: Sequence[int]) -> None:
        """See `ports.Source`."""
        self._parked.prefetch(partition, offsets)

    async def look(self, partition: Partition, offset: int) -> Record | None:
        """See `ports.Source`."""
        try:
            return await self._admitted.read(partition, offset)
        except errors.KafkaError as error:
            raise UnavailableError(str(error) or type(error).__name__) from error
