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


def decode(raw: bytes, aborted: Sequence[tuple[int, int]], start: int, *, whole: bool = False) -> Fetched:
    """Return the committed records of a fetch response from offset `start` on. Raises CorruptBatchError.

    `aborted` lists (producer id, first offset) of aborted transactions, as the broker gives them; see `endings`. What
    begins behind others and has no end here is left for the next response. The `whole` is for who knows from elsewhere
    what is committed: markers count for nothing then, as whoever may alter the cluster can write one.
    """
    marked, undecided = ([], None) if whole else endings(raw)
    end = None if undecided is None or undecided <= start else undecided
    pending = sorted((*(aborted or ()), *marked), key=lambda entry: entry[1])
    dead: set[int] = set()
    kept: deque[memoryview] = deque()
    position, codec, packed = start, 0, False
    for view in views(raw):
        batch = DefaultRecordBatch(view)
        if end is not None and batch.base_offset >= end:
            position = end
            break
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
    cut = undecided is not None and end is None
    return Fetched(Sliced(_slices(kept, start, effort), effort, kept), position, len(raw), codec, packed, cut)


def endings(raw: bytes) -> tuple[list[tuple[int, int]], int | None]:
    """Return the aborted transactions by the markers in a fetch response, and where the first begins without one.

    A broker may tell of fewer: a follower that catches up notes of each that all are known up to where another
    producer's begins which it has taken in with it, so that who asks for less than that is told of the first alone.
    """
    begun: dict[int, int] = {}
    aborted: list[tuple[int, int]] = []
    for view in views(raw):
        batch = DefaultRecordBatch(view)
        if not batch.is_transactional:
            continue
        if not batch.is_control_batch:
            begun.setdefault(batch.producer_id, batch.base_offset)
            continue
        first = begun.pop(batch.producer_id, None)
        if first is not None and ControlRecord.parse(next(batch).key) == ABORT_MARKER:
            aborted.append((batch.producer_id, first))
    return aborted, min(begun.values(), default=None)


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
