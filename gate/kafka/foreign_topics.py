"""Topics of others, as an operator names them: what may be read of them, and whether it can be now."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiokafka import errors

from gate.errors import GateError
from gate.kafka.aio.pending_requests import within
from gate.kafka.aio.reader import EARLIEST, LATEST, Reader
from gate.kafka.cluster import Cluster
from gate.shard.ports import UnavailableError
from gate.shard.records import Fetched, Partition

DEADLINE: Final = 10.0
FETCH_BYTES: Final = 1 << 18
WAIT_MS: Final = 200


class ForeignTopics:
    """Reads committed records of any topic."""

    def __init__(self, reader: Reader, cluster: Cluster) -> None:
        self._reader = reader
        self._cluster = cluster

    async def extents(self, topic: str, since_ms: int) -> dict[int, tuple[int, int]]:
        """Return first offset since a time, and end of what is committed, by partition; as `shard.Environment` says."""
        async with self._asking(topic):
            there = await self._cluster.partitions()
            if topic not in there:
                raise GateError(f"there is no topic {topic}", hint="check the name")
            partitions = [Partition(topic, number) for number in range(there[topic])]
            ends = await self._reader.offsets(partitions, LATEST)
            firsts = await self._reader.offsets(partitions, since_ms or EARLIEST)
        return {p.number: (firsts[p] if firsts[p] >= 0 else ends[p], ends[p]) for p in partitions}

    async def scan(self, partition: Partition, offset: int) -> Fetched:
        """Return committed records from an offset on."""
        async with self._asking(partition.topic):
            while True:
                try:
                    answer = await self._reader.fetch_one(
                        partition, offset, wait_ms=WAIT_MS, partition_bytes=FETCH_BYTES
                    )
                except errors.OffsetOutOfRangeError:  # its retention goes on meanwhile
                    first = (await self._reader.offsets([partition], EARLIEST))[partition]
                    if first <= offset:
                        raise
                    offset = first
                    continue
                if answer is not None and answer.next_offset > offset:
                    return answer

    @asynccontextmanager
    async def _asking(self, topic: str) -> AsyncIterator[None]:
        try:
            async with within(DEADLINE, f"reading {topic}", [self._reader]):
                yield
        except errors.KafkaError as error:
            why = str(error) or type(error).__name__
            if not error.retriable:
                raise GateError(f"{topic} can't be read: {why}", hint="see `gate doctor`") from error
            self._reader.refresh()
            raise UnavailableError(why) from error
