"""Decoding of what a broker answers to a fetch: its batches, those of aborted transactions left out."""

from collections import deque
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final

from aiokafka import errors

from gate.kafka.aio.batches import records_of
from gate.kafka.aio.checksums import is_sound
from gate.kafka.aio.compat.shared import ABORT_MARKER, ControlRecord, DefaultRecordBatch
from gate.shard.records import Fetched, Record, Sliced, UnpackingCost

_BATCH: Final = Struct(">qiib")  # base offset, size of what follows it, leader epoch, format
_BEFORE_SIZE: Final = 12
_MAGIC: Final = 2


class CorruptBatchError(errors.KafkaError):  # type: ignore[misc]
    """A record batch whose checksum does not fit."""

    retriable = True


def decode(raw: bytes, aborted: Sequence[tuple[int, int]], start: int) -> Fetched:
    """Return the committed records of a fetch response from offset `start` on. Raises CorruptBatchError.

    `aborted` lists (producer id, first offset) of aborted transactions, as the broker gives them.
    """
    pending = sorted(aborted or (), key=lambda entry: entry[1])
    dead: set[int] = set()
    kept: deque[memoryview] = deque()
    position, codec, packed = start, 0, False
    for view in views(raw):
        batch = DefaultRecordBatch(view)
        if not is_sound(view):
            raise CorruptBatchError(f"checksum mismatch at offset {batch.base_offset}")
        while pending and pending[0][1] <= batch.base_offset:
            dead.add(pending.pop(0)[0])
        if batch.is_control_batch:
            if ControlRecord.parse(next(batch).key) == ABORT_MARKER:
                dead.discard(batch.producer_id)
        elif not (batch.is_transactional and batch.producer_id in dead):
            codec = codec if kept else batch.compression_type
            packed = packed or bool(batch.compression_type)
            kept.append(view)
        position = max(position, batch.next_offset)
    effort = UnpackingCost()
    return Fetched(Sliced(_slices(kept, start, effort), effort, kept), position, len(raw), codec, packed)


def views(raw: bytes) -> Iterator[memoryview]:
    """Yield the batches of a fetch response; the last one may be cut off."""
    whole, at = memoryview(raw), 0
    while at + _BATCH.size <= len(raw):
        base, size, _, magic = _BATCH.unpack_from(raw, at)
        end = at + _BEFORE_SIZE + size
        if end > len(raw):
            return
        if magic < _MAGIC:
            raise CorruptBatchError(
                f"batch at offset {base} has the format of Kafka 0.10; this gate needs 0.11 or later"
            )
        yield whole[at:end]
        at = end


def _slices(batches: deque[memoryview], start: int, effort: UnpackingCost) -> Iterator[list[Record]]:
    """Yield the records of one batch after the other; what has been read is let go."""
    while batches:
        yield from records_of(batches.popleft(), start, effort)
