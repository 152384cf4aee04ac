"""Reads admitted requests of which workers tell: by their places, which workers may have made up."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from gate.kafka.parked import SETTLED, Chunk, bounds, load
from gate.kafka.ports import Partition, Record
from gate.kafka.wire import Reader

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
        async with asyncio.timeout(DEADLINE):
            chunk = self._chunks.get(partition)
            if chunk is not None and chunk.first <= offset < chunk.end and (found := chunk.take(offset)) is not None:
                return found
            since: float | None = None
            while not await self._load(partition, offset):
                first, end = await bounds(self._reader, partition)
                # an empty answer proves nothing: a new leader knows less than there is, for a while
                if offset < first or (offset >= end and self._ends.get(partition) == end):
                    return None
                since = self._clock() if since is None else since
                if self._clock() - since >= SETTLED:
                    self._ends[partition] = end
                    return None
                self._reader.refresh()
                await asyncio.sleep(BACKOFF)
            return self._chunks[partition].take(offset)

    async def _load(self, partition: Partition, offset: int) -> bool:
        chunk = await load(self._reader, partition, offset, self._chunks.get(partition), committed=True)
        if chunk is None:
            return False
        self._chunks[partition] = chunk
        self._chunks.move_to_end(partition)
        if len(self._chunks) > CHUNKS:
            self._chunks.popitem(last=False)
        return True
