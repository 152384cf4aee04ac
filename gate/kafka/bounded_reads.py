"""Reads of committed records, each by its place or its time, that end where they get too many."""

from collections.abc import AsyncIterator, Callable
from typing import Final

from aiokafka import errors

from gate.kafka.aio.reader import EARLIEST, LATEST, Reader
from gate.shard.records import Partition, Record

MOST: Final = 200_000  # records that are looked at for one answer: about a second
_FETCH_BYTES: Final = 1 << 16
_WAIT_MS: Final = 100
_BACKWARDS: Final = 2_000  # offsets at a time


class TooMuchError(Exception):
    """More than MOST records would have to be looked at."""


class BoundedReads:
    """Reads for one answer; set `looked_at` to 0 before the next one. Each raises TooMuchError, and KafkaError."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.looked_at = 0  # records

    async def newest(self, partition: Partition, since_ms: int, fits: Callable[[Record], bool]) -> Record | None:
        """Return the last record since a time that fits, reading backwards."""
        first = await self.offset_at(partition, since_ms)
        end = (await self._reader.offsets([partition], LATEST))[partition]
        step = _BACKWARDS
        while end > first:
            begin, found = max(first, end - step), None
            async for record in self.scan(partition, begin, end):
                found = record if fits(record) else found
            if found is not None:
                return found
            end, step = begin, 2 * step
        return None

    async def at(self, partition: Partition, offset: int) -> Record | None:
        """Return the record at an offset."""
        async for record in self.scan(partition, offset, offset + 1):
            return record
        return None

    async def scan(self, partition: Partition, begin: int, end: int) -> AsyncIterator[Record]:
        """Yield the committed records from one offset on, and before another."""
        position = begin
        while position < end:
            try:
                answer = await self._reader.fetch_one(
                    partition, position, wait_ms=_WAIT_MS, partition_bytes=_FETCH_BYTES
                )
            except errors.OffsetOutOfRangeError:
                first = (await self._reader.offsets([partition], EARLIEST))[partition]
                if first <= position:
                    return
                position = first  # its retention went on
                continue
            if answer is None:
                return  # nothing is committed there
            for record in answer.records:
                if record.offset >= end:
                    return
                self.looked_at += 1
                if self.looked_at > MOST:
                    raise TooMuchError
                yield record
            position = answer.next_offset

    async def offset_at(self, partition: Partition, moment: int | None) -> int:
        """Return the first offset that is dated then or later, in ms; None: the end of what is committed."""
        if moment is not None:
            found = (await self._reader.offsets([partition], moment or EARLIEST))[partition]
            if found >= 0:
                return found
        return (await self._reader.offsets([partition], LATEST))[partition]
