"""aiokafka consumers that pass over a record which they can't read, instead of losing those around it.

aiokafka takes a header whose name is no UTF-8 for an error of the whole fetch: what was read before it is gone, and the
next read goes on behind that, as if it had been handed over. It unpacks a batch in one piece, and a few KB can
hold hundreds of MB: that is read bit by bit here, without the records that are too large to be carried.
"""

from collections.abc import Iterator
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from gate.kafka.aio.batches import records_of, unpacked_whole
from gate.kafka.aio.compat.consumers import MemoryRecords, PartitionRecords, read_by
from gate.kafka.aio.compat.shared import DefaultRecordBatch
from gate.kafka.aio.decoding import endings
from gate.kafka.aio.passed_over import Faults
from gate.kafka.aio.single_records import MOST_UNPACKED
from gate.protocol.headers import FAULT, Malformed, last
from gate.shard.records import Record

_SIZE_AT: Final = 8
_BEFORE_SIZE: Final = 12
_MAGIC_AT: Final = 16
_MAGIC: Final = 2  # of the format since Kafka 0.11


class _Readable:
    """A record as aiokafka's own look."""

    def __init__(self, record: Record, timestamp_type: int) -> None:
        self.offset, self.timestamp, self.key, self.value = record.offset, record.timestamp, record.key, record.value
        self.headers = record.headers
        self.timestamp_type = timestamp_type
        self.checksum = None


class _Batch:
    """A batch of aiokafka that goes on behind what it can't read."""

    def __init__(self, batch: Any, view: memoryview, place: str) -> None:
        self._batch = batch
        self._view = view
        self._place = place

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        batch, read = self._batch, self._batch.base_offset - 1
        if batch.compression_type and self._view[_MAGIC_AT] >= _MAGIC:
            if (data := unpacked_whole(self._view, MOST_UNPACKED)) is None:
                yield from self._rest(read + 1, None)
                return
            batch = DefaultRecordBatch(data)
        try:
            for record in batch:
                read = record.offset
                yield record
        except (ValueError, IndexError, KafkaError) as error:
            yield from self._rest(read + 1, error)

    def _rest(self, start: int, error: Exception | None) -> Iterator[_Readable]:
        faults = Faults(self._place)
        for records in records_of(self._view, start):
            for record in records:
                if (fault := last(record.headers, FAULT)) is None:
                    yield _Readable(record, self._batch.timestamp_type)
                else:
                    faults.add(record.offset, str(Malformed.decode(fault)) or str(error or ""))
        faults.tell()


class _Records:
    """aiokafka's MemoryRecords, whose batches are such."""

    def __init__(self, data: bytes) -> None:
        self._records = MemoryRecords(data)
        self._data = memoryview(data)
        self._at = 0
        self.place = ""

    def has_next(self) -> bool:
        """See aiokafka."""
        more: bool = self._records.has_next()
        return more

    def size_in_bytes(self) -> int:
        """See aiokafka."""
        return len(self._data)

    def aborted(self) -> list[tuple[int, int]]:
        """Return the transactions that are aborted by markers in it: the broker may not tell of all."""
        try:
            return endings(bytes(self._data))[0]
        except KafkaError:
            return []  # it is of a format without transactions

    def next_batch(self) -> _Batch:
        """See aiokafka."""
        begin = self._at
        size = int.from_bytes(self._data[begin + _SIZE_AT : begin + _BEFORE_SIZE])
        self._at = begin + _BEFORE_SIZE + size
        return _Batch(self._records.next_batch(), self._data[begin : self._at], self.place)


class _Partition(PartitionRecords):  # type: ignore[misc]
    """aiokafka's records of one partition: tells their batches which."""

    def __init__(self, partition: Any, records: _Records, aborted: Any, *others: Any) -> None:
        records.place = f"{partition.topic}-{partition.partition}"
        super().__init__(partition, records, [*(aborted or ()), *records.aborted()], *others)


def tolerate(client: object) -> None:
    """Let a consumer that has been started pass over what it can't read."""
    if isinstance(client, AIOKafkaConsumer):
        read_by(client, _Records, _Partition)
