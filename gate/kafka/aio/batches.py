"""Records from the batches that a broker sends, whatever a producer has put into them.

A broker does not check all that it is given. So an offset is proven and not believed; what is compressed is unpacked
bit by bit; and a record that can't be read is still a record, which says what is wrong with it (`headers.FAULT`).

Layout: https://kafka.apache.org/documentation/#recordbatch
"""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Final

from gate.kafka.aio.batch_view import CODEC, HEADER, SLICE, BatchView
from gate.kafka.aio.compat.shared import DefaultRecordBatch
from gate.kafka.aio.single_records import MOST_UNPACKED, SLICE_BYTES, UNREADABLE, read_head, read_large, read_record
from gate.kafka.aio.unpacked_stream import Stream, varint
from gate.kafka.aio.unpacking import unpacked
from gate.shard.records import Record, UnpackingCost

WHOLE_BYTES: Final = 256 << 10  # up to which a batch is unpacked in one piece, the usual case
CROWDED: Final = 4_096  # headers: who has more is taken apart alone
LARGE_BATCH: Final = 1 << 20  # bytes above which a batch that is not compressed is looked at for crowded records


def records_of(view: memoryview, start: int, effort: UnpackingCost | None = None) -> Iterator[list[Record]]:
    """Yield the records of a batch from offset `start` on, in slices; each is taken apart when it is asked for.

    `effort` is told what it takes beside.
    """
    batch = BatchView(view, effort or UnpackingCost())
    slices = _unpacked(batch) if batch.attributes & CODEC else _plain(batch, batch.view)
    if batch.base >= start:
        yield from slices
        return
    for records in slices:
        if records[-1].offset >= start:
            records[:] = [record for record in records if record.offset >= start]
            yield records


def unpacked_whole(view: memoryview, most: int) -> bytes | None:
    """Return a compressed batch as one that is not; None: it unpacks to more than `most` bytes, or not at all."""
    batch = BatchView(view, UnpackingCost())
    stream = Stream(unpacked(batch.attributes & CODEC, view[HEADER.size :]))
    try:
        return batch.header(batch.count) + stream.data if stream.ends_within(most) else None
    except UNREADABLE:
        return None


def _plain(batch: BatchView, view: memoryview) -> Iterator[list[Record]]:
    batch.measure(len(view), batch.count)
    if len(view) > LARGE_BATCH and _is_crowded(view[HEADER.size :], batch.count):
        yield from _one_by_one(batch, view[HEADER.size :], 0, batch.count)
        return
    records = chain(DefaultRecordBatch(view))  # asking a batch for its iterator twice is an error
    while batch.given < batch.count:
        part: list[Record] = []
        try:
            part.extend(islice(records, SLICE))
        except UNREADABLE:
            body, at = view[HEADER.size :], 0
            if part:
                yield batch.place(part)
            for _ in range(batch.given):
                length, at = varint(body, at)
                at += length
            yield from _one_by_one(batch, body, at, batch.count)
            return
        if not part:
            yield from batch.unreadable("the batch ends before this record")
            return
        yield batch.place(part)


def _one_by_one(batch: BatchView, data: memoryview, at: int, stop: int) -> Iterator[list[Record]]:
    """Yield the records up to the `stop`th of a batch that stand in `data`, of which some can't be read."""
    while batch.given < stop:
        try:
            length, begin = varint(data, at)
            record = read_record(batch, data, at, begin, begin + length)
        except UNREADABLE as error:
            yield from batch.unreadable(f"a record can't be read: {error or type(error).__name__}")
            return
        at, placed = begin + length, batch.place([record])
        del record
        yield placed


def _is_crowded(data: memoryview, count: int) -> bool:
    """Tell whether a record has so many headers that it is not to be taken apart together with others."""
    at = 0
    try:
        for _ in range(count):
            length, begin = varint(data, at)
            if length > 2 * CROWDED and read_head(data, begin)[-2] > CROWDED:
                return True
            at = begin + max(0, length)
    except UNREADABLE:  # this is told when they are taken apart
        return False
    return False


def _unpacked(batch: BatchView) -> Iterator[list[Record]]:
    chunks = unpacked(batch.attributes & CODEC, batch.view[HEADER.size :])
    stream = Stream(chunks)
    try:
        if stream.ends_within(WHOLE_BYTES):
            batch.effort.spent += len(stream.data)
            yield from _plain(batch, memoryview(batch.header(batch.count) + stream.data))
        else:
            yield from _bit_by_bit(batch, stream)
    except UNREADABLE as error:
        yield from batch.unreadable(str(error) or type(error).__name__)


def _bit_by_bit(batch: BatchView, stream: "Stream") -> Iterator[list[Record]]:
    """Unpack as much as makes a slice of whole records, take it apart, and go on."""
    while batch.given < batch.count:
        begin, count, length = stream.at, 0, 0
        while count < min(SLICE, batch.count - batch.given) and stream.at - begin < SLICE_BYTES:
            mark = stream.at
            length = stream.varint()
            if length > MOST_UNPACKED:
                stream.at = mark
                break
            stream.need(length)
            stream.at += length
            count += 1
        if count:
            data = bytes(stream.data[begin : stream.at])
            stream.forget()
            batch.effort.spent += len(data)
            batch.measure(HEADER.size + len(data), count)
            yield from _slice(batch, data, count)
        if length > MOST_UNPACKED:
            stream.varint()
            yield batch.place([read_large(batch, stream, length)])
            stream.forget()


def _slice(batch: BatchView, data: bytes, count: int) -> Iterator[list[Record]]:
    if len(data) > 2 * SLICE_BYTES and _is_crowded(memoryview(data), count):
        yield from _one_by_one(batch, memoryview(data), 0, batch.given + count)
        return
    try:
        records: list[Record] = list(DefaultRecordBatch(batch.header(count) + data))
    except UNREADABLE:
        yield from _one_by_one(batch, memoryview(data), 0, batch.given + count)
    else:
        yield batch.place(records)
