"""aiokafka's fetcher with other records in it: the answers of brokers are taken apart elsewhere."""

from functools import cache
from types import FunctionType

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer import fetcher as original
from aiokafka.record.memory_records import MemoryRecords

__all__ = ["MemoryRecords", "PartitionRecords", "read_by"]

PartitionRecords = original.PartitionRecords


def read_by(consumer: AIOKafkaConsumer, records: type, partition: type) -> None:
    """Have a consumer that has been started take answers apart by other classes than its own."""
    consumer._fetcher.__class__ = _with(records, partition)


@cache
def _with(records: type, partition: type) -> type:
    class Fetcher(original.Fetcher):  # type: ignore[misc]
        """aiokafka's own, but for two names that one of its methods finds."""

        _proc_fetch_request = FunctionType(
            original.Fetcher._proc_fetch_request.__code__,
            {**vars(original), "MemoryRecords": records, "PartitionRecords": partition},
        )

    return Fetcher
