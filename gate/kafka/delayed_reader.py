"""Reads parked requests, which leave a delayed topic in the order of the plan and not in that of the log."""

import asyncio
import time
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain, takewhile
from operator import attrgetter
from typing import Final

import structlog
from aiokafka import errors

from gate.kafka.aio.batches import records_of
from gate.kafka.aio.decoding import CorruptBatchError
from gate.kafka.aio.indexed_batch import IndexedBatch
from gate.kafka.aio.reader import EARLIEST, LATEST, Reader
from gate.kafka.aio.single_records import UNREADABLE
from gate.shard.buffer import slices_of, weight_of
from gate.shard.ports import MOST_READ, SETTLED, PulledTooMuchError
from gate.shard.records import Fetched, Partition, Record, Sliced

FIRST_BYTES: Final = 1 << 15
MOST_BYTES: Final = 1 << 18
CACHE_BYTES: Final = 16 << 20
AHEAD_BYTES: Final = 4 << 20  # of chunks that were prefetched and of which nothing was taken yet
AHEAD_OFFSETS: Final = 4_000  # of a partition that are to be prefetched
AHEAD_DEADLINE: Final = 2.0  # seconds
AHEAD_LIFETIME: Final = 5.0  # seconds; what nobody has taken of by then was cancelled, or moved, or waits for capacity
RECORD_BYTES: Final = 700  # of memory for the objects of a record that has been taken apart
BACKOFF: Final = 0.1
DEADLINE: Final = 10.0
log = structlog.get_logger("gate.parked")
_BASE: Final = attrgetter("base")
LASTING: Final = (errors.UnknownTopicOrPartitionError, CorruptBatchError)  # of what can be asked again


@dataclass(slots=True)
class Chunk:
    """What one fetch has brought: the records from `first` on, up to `end`.

    Where it has brought whole batches, a record is read out of its batch alone. Others are taken apart one after the
    other up to the one that is asked for.
    """

    first: int
    end: int
    size: int  # bytes, as the broker sent them
    rest: Iterator[Sequence[Record]]  # what nobody has come to yet
    batches: Sequence[IndexedBatch] = ()  # ascending
    passed: dict[int, Record] = field(default_factory=dict)  # on the way to another one
    memory: int = 0  # about what these take, bytes
    indexes: int = 0  # bytes that `batches` take beyond `size`
    upto: int = -1  # the last one that was come to
    taken: int = -1  # the last one that was taken; -1: none was yet
    ascends: bool = True  # what was taken so far

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes."""
        return self.size + self.memory + self.indexes

    def take(self, offset: int) -> Record | None:
        """Take a record out: it leaves the delayed topic now, and is wanted again after an error only."""
        self.ascends = self.ascends and offset > self.taken
        self.taken = offset
        index = bisect_right(self.batches, offset, key=_BASE)
        if index and (batch := self.batches[index - 1]).last >= offset:
            before = batch.memory
            try:
                return batch.record(offset)
            except UNREADABLE:  # who takes all of the batch apart tells what is wrong with it
                pass
            finally:
                self.indexes += batch.memory - before
        return self._come_to(offset)

    def _come_to(self, offset: int) -> Record | None:
        while self.upto < offset and (part := next(self.rest, None)) is not None:
            self.passed.update((record.offset, record) for record in part)
            self.memory += RECORD_BYTES * len(part) + weight_of(part)
            self.upto = part[-1].offset
            if isinstance(part, list):
                part.clear()  # who takes it apart holds it until the next one is asked for
        record = self.passed.pop(offset, None)
        if record is not None:
            self.memory -= self.memory // (len(self.passed) + 1)
        return record

    def leads_to(self, offset: int) -> bool:
        """Tell whether who has read this goes on at `offset`: close behind it, as lanes leave gaps for each other.

        Nobody does where it was read to and fro, as by those who were scheduled, nor where nothing was taken of what
        was prefetched: what is left of it is wanted yet.
        """
        return self.ascends and self.taken >= 0 and self.end <= offset < 2 * self.end - self.first


def _chunk(offset: int, fetched: Fetched) -> Chunk:
    """Return what a fetch from `offset` on has brought: all of the batch in which that is, too."""
    records = fetched.records
    if not isinstance(records, Sliced) or not records.batches:
        return Chunk(offset, fetched.next_offset, fetched.size, slices_of(records))
    batches = [IndexedBatch(view) for view in records.batches]
    first = min(offset, batches[0].base)
    rest = chain.from_iterable(records_of(batch.view, first) for batch in batches)
    indexes = sum(batch.memory for batch in batches)
    return Chunk(first, fetched.next_offset, fetched.size, rest, batches, indexes=indexes)


async def bounds(reader: Reader, partition: Partition) -> tuple[int, int]:
    """Return where a log begins and where it ends. A leader that does not know yet is asked again."""
    first = await reader.offsets([partition], EARLIEST)
    end = await reader.offsets([partition], LATEST, committed=False)
    return first[partition], end[partition]


async def load(
    reader: Reader, partition: Partition, offset: int, before: Chunk | None, *, committed: bool
) -> Chunk | None:
    """Read what is at `offset` and behind it, twice as much as `before` if it goes on there. None: nothing is."""
    room = min(2 * before.size, MOST_BYTES) if before is not None and before.leads_to(offset) else FIRST_BYTES
    try:
        answer = await reader.fetch_one(partition, offset, wait_ms=0, partition_bytes=room, committed=committed)
    except errors.OffsetOutOfRangeError:
        return None
    except errors.KafkaError:
        reader.refresh()
        raise
    if answer is None or answer.next_offset <= offset:
        return None
    return _chunk(offset, answer)


class ParkedReader:
    """Single reads with a cache. Each lane and tenant is somewhere else in the log, so it holds many places at once.

    What follows is likely wanted next: a chunk that goes on where another ended takes its place, and twice its size.
    """

    def __init__(self, reader: Reader, clock: Callable[[], float] = time.monotonic) -> None:
        self._reader = reader
        self._clock = clock
        self._chunks: OrderedDict[tuple[Partition, int], Chunk] = OrderedDict()  # by first offset, oldest use first
        self._firsts: dict[Partition, list[int]] = {}  # ascending
        self._size = 0
        self._moving = ""  # why the last read had to ask again
        self._loads: dict[Partition, asyncio.Future[None]] = {}  # under way: one of a partition at a time
        # of what was prefetched and not used: bytes, and when it came (seconds); the oldest first
        self._ahead: dict[tuple[Partition, int], tuple[int, float]] = {}
        self._wanted: dict[Partition, deque[int]] = {}  # offsets that are to be prefetched
        self._prefetches: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Prefetch nothing more."""
        for task in self._prefetches:
            task.cancel()

    def prefetch(self, partition: Partition, offsets: Sequence[int]) -> None:
        """See `ports.Source`."""
        if (wanted := self._wanted.get(partition)) is not None:
            wanted.extend(offsets[: AHEAD_OFFSETS - len(wanted)])
            return
        self._wanted[partition] = deque(offsets[:AHEAD_OFFSETS])
        task = asyncio.create_task(self._prefetch(partition), name="prefetch")
        self._prefetches.add(task)
        task.add_done_callback(self._prefetches.discard)

    async def _prefetch(self, partition: Partition) -> None:
        """Load what is wanted and not here yet, while there is room for it."""
        wanted = self._wanted[partition]
        try:
            async with asyncio.timeout(AHEAD_DEADLINE):
                while wanted:
                    if self._is_cached(partition, offset := wanted.popleft()):
                        continue
                    if not self._has_room_ahead():
                        break
                    async with self._loading(partition):
                        if not self._is_cached(partition, offset):
                            await self._load(partition, offset, ahead=True)
        except Exception as error:  # noqa: BLE001 - who reads it when it is due meets the same, and tells
            log.debug("not prefetched", partition=f"{partition.topic}-{partition.number}", why=repr(error))
        finally:
            del self._wanted[partition]

    def _has_room_ahead(self) -> bool:
        """Drop what was prefetched in vain, and tell whether there is room for more."""
        late = self._clock() - AHEAD_LIFETIME
        for place, _ in takewhile(lambda entry: entry[1][1] < late, list(self._ahead.items())):
            self._drop(*place)
        return sum(size for size, _ in self._ahead.values()) < AHEAD_BYTES

    @asynccontextmanager
    async def _loading(self, partition: Partition) -> AsyncIterator[None]:
        """Wait for the end of the load of a partition that is under way, and let no other begin meanwhile."""
        while (load := self._loads.get(partition)) is not None:
            await asyncio.wait([load])
        load = self._loads[partition] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._loads[partition]
            load.set_result(None)

    async def read(self, partition: Partition, offsets: Sequence[int]) -> Sequence[Record]:
        """See `ports.Source`."""
        found: list[Record] = []
        end: int | None = None  # that is proven
        self._moving = ""
        at, size = -1, 0
        try:
            async with asyncio.timeout(DEADLINE):
                for at in offsets:
                    record = self._cached(partition, at)
                    if record is None and (end is None or at < end):
                        record, end = await self._find(partition, at)
                    if record is None:
                        continue
                    found.append(record)
                    size += weight_of((record,))
                    if size > MOST_READ and len(found) > 1:
                        raise PulledTooMuchError((), len(found))
        except TimeoutError:
            place = f"{partition.topic}-{partition.number}@{at}"
            why = f" ({self._moving})" if self._moving else ""
            raise TimeoutError(f"the broker does not say whether {place} is there{why}; it is asked again") from None
        return found

    async def _find(self, partition: Partition, offset: int) -> tuple[Record | None, int | None]:
        """Return the record at an offset; None where it is proven that there is none, and the end if it is behind that.

        An empty answer proves nothing: a new leader may not know yet what is committed, and shows less than there is.
        """
        ends_since: float | None = None
        while True:
            try:
                async with self._loading(partition):
                    if (record := self._cached(partition, offset)) is not None:
                        return record, None  # it was being prefetched
                    chunk = await self._load(partition, offset)
                if chunk is not None:
                    return self._take(partition, chunk, offset), None  # the log goes on behind it
            except errors.KafkaError as error:
                if not error.retriable or isinstance(error, LASTING):
                    raise
                self._moving = str(error) or type(error).__name__
                await asyncio.sleep(BACKOFF)  # it is led by another one soon, and the batch can wait for that
                continue
            first, end = await bounds(self._reader, partition)
            if offset < first:
                return None, None
            if offset < end:
                ends_since = None
            elif ends_since is None:
                ends_since = self._clock()
            elif self._clock() - ends_since >= SETTLED:
                return None, end
            self._reader.refresh()
            await asyncio.sleep(BACKOFF)

    def _before(self, partition: Partition, offset: int) -> Chunk | None:
        """Return the last chunk that begins at `offset` or before."""
        firsts = self._firsts.get(partition)
        index = bisect_right(firsts, offset) if firsts else 0
        return self._chunks[partition, firsts[index - 1]] if firsts and index else None

    def _is_cached(self, partition: Partition, offset: int) -> bool:
        chunk = self._before(partition, offset)
        return chunk is not None and offset < chunk.end

    def _cached(self, partition: Partition, offset: int) -> Record | None:
        chunk = self._before(partition, offset)
        if chunk is None or offset >= chunk.end:
            return None
        return self._take(partition, chunk, offset)

    def _take(self, partition: Partition, chunk: Chunk, offset: int) -> Record | None:
        self._chunks.move_to_end((partition, chunk.first))
        self._ahead.pop((partition, chunk.first), None)
        before = chunk.memory + chunk.indexes
        try:
            return chunk.take(offset)
        finally:
            if more := chunk.memory + chunk.indexes - before:
                self._size += more
                self._evict()

    async def _load(self, partition: Partition, offset: int, *, ahead: bool = False) -> Chunk | None:
        """Read what is at `offset` and behind it, for use or `ahead` of it. None: nothing is."""
        before = None if ahead else self._before(partition, offset)
        goes_on = before is not None and before.leads_to(offset)
        chunk = await load(self._reader, partition, offset, before, committed=False)
        if chunk is None:
            return None
        if before is not None and goes_on:
            self._drop(partition, before.first)
        self._drop(partition, chunk.first)
        self._chunks[partition, chunk.first] = chunk
        firsts = self._firsts.setdefault(partition, [])
        firsts.insert(bisect_right(firsts, chunk.first), chunk.first)
        self._size += chunk.weight
        if ahead:
            self._ahead[partition, chunk.first] = chunk.weight, self._clock()
        self._evict()
        return chunk

    def _evict(self) -> None:
        """Drop what was used longest ago, as long as there is too much; never the last one used."""
        while len(self._chunks) > 1 and self._size > CACHE_BYTES:
            self._drop(*next(iter(self._chunks)))

    def _drop(self, partition: Partition, first: int) -> None:
        chunk = self._chunks.pop((partition, first), None)
        self._ahead.pop((partition, first), None)
        if chunk is not None:
            self._size -= chunk.weight
            self._firsts[partition].remove(first)
            if not self._firsts[partition]:
                del self._firsts[partition]
