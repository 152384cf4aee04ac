"""Reads admitted requests of which workers tell: by their places, which workers may have made up."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from gate.kafka.aio.reader import Reader
from gate.kafka.delayed_reader import Chunk, bounds, load
from gate.shard.ports import SETTLED
from gate.shard.records import Partition, Record

CHUNKS: Final = 16  # that are kept, one per partition
BACKOFF: Final = 0.2
DEADLINE: Final = 20.0  # more than it takes to prove that a log ends


class AdmittedReader:
    """Single reads of what is committed. What failed lately lies close together, so the last chunk is kept."""

    def __init__(self, reader: Reader, clock: Callable[[], float] = time.monotonic) -> None:
        self._reader = reader
        self._clock = clock
        self._chunks: OrderedDict[Partition, Chunk] = OrderedDict()
        self._ends: dict[Partition, int] = {}  # that were proven

    async def read(self, partition: Partition, offset: int) -> Record | None:
        """Return the committed record at an offset; None: there is none. Raises KafkaError, or TimeoutError."""
        chunk = self._chunks.get(partition)
        if chunk is not None and chunk.first <= offset < chunk.end and (found := chunk.take(offset)) is not None:
            return found
        try:
            async with asyncio.timeout(DEADLINE):
                return await self._find(partition, offset)
        except TimeoutError:
            place = f"{partition.topic}-{partition.number}@{offset}"
            raise TimeoutError(f"the broker does not say whether {place} is there; it is asked again") from None

    async def _find(self, partition: Partition, offset: int) -> Record | None:
        """Return the record at an offset; None where it is proven that there is none.

        An empty answer proves nothing: a new leader knows less than there is for a while, and what lies within the log
        may wait for the end of a transaction. Where the log ends before an offset all the time, nothing was there.
        """
        ends_since: float | None = None
        while not await self._load(partition, offset):
            first, end = await bounds(self._reader, partition)
            self._grown(partition, end)
            if offset < first or (offset >= end and self._ends.get(partition) == end):
                return None
            if offset < end:
                ends_since = None
            elif ends_since is None:
                ends_since = self._clock()
            elif self._clock() - ends_since >= SETTLED:
                self._ends[partition] = end
                return None
            self._reader.refresh()
            await asyncio.sleep(BACKOFF)
        return self._chunks[partition].take(offset)

    def _grown(self, partition: Partition, end: int) -> None:
        """Take in that a log goes up to `end`: a proof that it ends before is void, also if a leader says so again."""
        if self._ends.get(partition, end) < end:
            del self._ends[partition]

    async def _load(self, partition: Partition, offset: int) -> bool:
        chunk = await load(self._reader, partition, offset, self._chunks.get(partition), committed=True)
        if chunk is None:
            return False
        self._grown(partition, chunk.end)
        self._chunks[partition] = chunk
        self._chunks.move_to_end(partition)
        if len(self._chunks) > CHUNKS:
            self._chunks.popitem(last=False)
        return True
