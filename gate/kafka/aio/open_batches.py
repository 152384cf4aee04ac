"""Batches of transactions that are neither committed nor aborted, in a part of a partition."""

from dataclasses import dataclass, field
from itertools import chain

from gate.kafka.aio.batches import records_of
from gate.kafka.aio.compat.shared import DefaultRecordBatch
from gate.shard.records import Record


@dataclass(slots=True)
class OpenBatches:
    """What is open, of one producer and of others, up to the last batch that was added."""

    producer_id: int
    records: list[Record] = field(default_factory=list)  # that this producer has left open
    epoch: int = -1  # the newest one by which it wrote, markers too
    others: dict[int, int] = field(default_factory=dict)  # where those of other producers begin, by producer id

    def add(self, view: memoryview, start: int) -> int:
        """Take in the next batch, of which the records from offset `start` on count; return the offset behind it."""
        batch = DefaultRecordBatch(view)
        ends = batch.is_control_batch
        if not batch.is_transactional:  # anybody may claim any producer's id there
            pass
        elif batch.producer_id == self.producer_id:
            self.epoch = max(self.epoch, batch.producer_epoch)
            self.records = [] if ends else [*self.records, *chain.from_iterable(records_of(view, start))]
        elif ends:
            self.others.pop(batch.producer_id, None)
        else:
            self.others.setdefault(batch.producer_id, batch.base_offset)
        return max(start, int(batch.next_offset))
