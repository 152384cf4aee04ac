"""Batches of which single records are read: what is not asked for is passed over by its length, and no object is made.

Layout: https://kafka.apache.org/documentation/#recordbatch
"""

from array import array
from typing import Final

from gate.kafka.aio.batch_view import CODEC, HEADER, BatchView, RawRecord
from gate.kafka.aio.batches import LARGE_BATCH
from gate.kafka.aio.compat.shared import DefaultRecordBatch
from gate.kafka.aio.unpacked_stream import Stream, varint
from gate.kafka.aio.unpacking import UnreadableError, unpacked
from gate.shard.records import Record, UnpackingCost

OBJECT_BYTES: Final = 400  # of memory for a batch whatever is in it
_TWO_BYTES: Final = 0x80  # a number that has no more bytes is smaller


class IndexedBatch:
    """A batch, in which it is known where each record begins as soon as one was asked for.

    That is for whole batches of the usual size; of any other, `record` raises, and `records_of` takes it apart.
    """

    __slots__ = ("_body", "_head", "_starts", "base", "last", "memory", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.base, _, _, _, _, _, delta, *_ = HEADER.unpack_from(view)
        self.last: int = self.base + delta
        self.memory = OBJECT_BYTES  # beyond those of `view`
        self._body: memoryview | None = None
        self._head = b""
        self._starts = array("I")

    def record(self, offset: int) -> Record:
        """Return the record at an offset, as `records_of` would. Raises one of UNREADABLE if it alone can't tell."""
        if self._body is None:
            self._body = self.view[HEADER.size :]
            self._index(BatchView(self.view, UnpackingCost()), self._body)
        index = offset - self.base
        if not 0 <= index < len(self._starts) - 1:
            raise UnreadableError("this batch is not indexed")
        (record,) = DefaultRecordBatch(self._head + self._body[self._starts[index] : self._starts[index + 1]])
        found: Record = record
        if found.offset != offset:  # it is proven by its place
            return RawRecord(offset, found.timestamp, found.key, found.value, list(found.headers))
        return found

    def _index(self, batch: BatchView, body: memoryview) -> None:
        """Unpack what is compressed, and find out where each record begins."""
        if batch.count != self.last - self.base + 1 or len(body) > LARGE_BATCH:
            return
        if codec := batch.attributes & CODEC:
            stream = Stream(unpacked(codec, body))
            if not stream.ends_within(LARGE_BATCH):
                return
            data = bytes(stream.data)
            self._body = memoryview(data)
            self.memory += len(data)
        else:
            data = bytes(body)  # reading single bytes of a view takes longer
        self._head = batch.header(1)
        self._starts = _starts_of(data, batch.count)
        self.memory += self._starts.itemsize * len(self._starts)


def _starts_of(data: bytes, count: int) -> "array[int]":
    """Return where each of `count` records begins, and where the last one ends; nothing if they do not fit."""
    starts = array("I", [0])
    at, size = 0, len(data)
    for _ in range(count):
        if at + 1 >= size:
            return array("I")
        first, second = data[at], data[at + 1]
        if first < _TWO_BYTES:
            length, at = first, at + 1
        elif second < _TWO_BYTES:
            length, at = first & 0x7F | second << 7, at + 2
        else:
            number, at = varint(memoryview(data), at)
            length = 2 * number if number >= 0 else 1
        if length & 1:  # a negative one
            return array("I")
        at += length >> 1
        starts.append(at)
    return starts if at == size else array("I")
