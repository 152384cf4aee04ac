"""Records from the batches that a broker sends, whatever a producer has put into them.

A broker does not check all that it is given. So an offset is proven and not believed; what is compressed is unpacked
bit by bit; and a record that can't be read is still a record, which says what is wrong with it (`headers.FAULT`).

Layout: https://kafka.apache.org/documentation/#recordbatch
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from struct import Struct
from typing import Final, NamedTuple

from aiokafka import errors

from gate.kafka.aio.compat.shared import DefaultRecordBatch
from gate.kafka.aio.unpacking import UnreadableError, unpacked
from gate.protocol.headers import FAULT, UNFORWARDABLE, Malformed
from gate.shard.buffer import HEADER_WEIGHT
from gate.shard.records import Record, UnpackingCost

SLICE: Final = 128  # records that are taken apart at a time
SLICE_BYTES: Final = 64 << 10  # of what is unpacked for it
WHOLE_BYTES: Final = 256 << 10  # up to which a batch is unpacked in one piece, the usual case
MOST_UNPACKED: Final = 4 << 20  # bytes of a record that is kept whole, if it came compressed
MOST_SKIPPED: Final = 256 << 20  # of one that is passed over
MOST_HEADERS: Final = 1 << 16  # of a record that is carried
FEW_HEADERS: Final = 1_000  # that are read one by one where some can't be read
CROWDED: Final = 4_096  # headers: who has more is taken apart alone
LARGE_BATCH: Final = 1 << 20  # bytes above which a batch that is not compressed is looked at for crowded records
MOST_SHOWN: Final = 64  # bytes of a name that is told
LEAST_RECORD: Final = 7  # bytes: its length, attributes, time, offset, and that it has neither key, value nor headers
_HEADER: Final = Struct(">qiibIhiqqqhii")
_CODEC: Final = 0x07
_LOG_APPEND_TIME: Final = 0x08
_VARINT: Final = 10  # bytes at most
_UNREADABLE: Final = (errors.KafkaError, ValueError, IndexError, OverflowError)


class RawRecord(NamedTuple):
    """A record that was taken apart here."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


@dataclass(slots=True)
class _Batch:
    """What the header of a batch says, and how far its offsets are given out."""

    view: memoryview
    effort: UnpackingCost
    base: int = field(init=False)
    last: int = field(init=False)  # offset of the last record that it was written with
    count: int = field(init=False)  # of the records that are left
    attributes: int = field(init=False)
    first_timestamp: int = field(init=False)
    newest: int = field(init=False)  # timestamp
    given: int = 0  # records that have their offset
    previous: int = -1

    def __post_init__(self) -> None:
        self.base, _, _, _, _, self.attributes, delta, self.first_timestamp, self.newest, *_, self.count = (
            _HEADER.unpack_from(self.view)
        )
        self.last = self.base + delta
        self.previous = self.base - 1

    def measure(self, size: int, count: int) -> None:
        """Note that `count` records take `size` bytes: none is larger than where all others are as small as can be.

        A broker takes no batch of which the count is wrong.
        """
        self.effort.largest = max(self.effort.largest, size - LEAST_RECORD * (count - 1))

    def header(self, count: int) -> bytes:
        """Return a header for some records of this batch, without their codec."""
        fields = list(_HEADER.unpack_from(self.view))
        fields[5] &= ~_CODEC
        fields[-1] = count
        return _HEADER.pack(*fields)

    def timestamp(self, delta: int) -> int:
        """Return the time of a record."""
        return self.newest if self.attributes & _LOG_APPEND_TIME else self.first_timestamp + delta

    def place(self, records: list[Record]) -> list[Record]:
        """Give the next records their offsets.

        A broker numbers a new batch through, but does not look at the numbers within if it is not compressed. As long
        as it is whole, its i-th record is the i-th offset; later numbers must ascend within its range.
        """
        first = self.given
        self.given += len(records)
        claimed = [record.offset for record in records]
        if self.count == self.last - self.base + 1:
            proven = list(range(self.base + first, self.base + first + len(records)))
        else:
            proven = []
            for index, offset in enumerate(claimed, first):
                most = self.last - max(0, self.count - 1 - index)
                self.previous = max(self.previous + 1, min(offset, most))
                proven.append(self.previous)
        if proven == claimed:
            return records
        return [
            RawRecord(o, r.timestamp, r.key, r.value, list(r.headers)) for o, r in zip(proven, records, strict=True)
        ]

    def unreadable(self, why: str) -> Iterator[list[Record]]:
        """Yield what is left of the batch, of which nothing but the offsets can be told."""
        fault = Malformed("", why)
        while self.given < self.count:
            some = min(SLICE, self.count - self.given)
            yield self.place([_faulty(fault, self.base + self.given + i, self.timestamp(0)) for i in range(some)])


def _faulty(
    fault: Malformed,
    offset: int,
    timestamp: int,
    key: bytes | None = None,
    value: bytes | None = None,
    headers: Iterable[tuple[str, bytes | None]] = (),
) -> RawRecord:
    return RawRecord(offset, timestamp, key, value, [(FAULT, fault.encode()), *headers])


def records_of(view: memoryview, start: int, effort: UnpackingCost | None = None) -> Iterator[list[Record]]:
    """Yield the records of a batch from offset `start` on, in slices; each is taken apart when it is asked for.

    `effort` is told what it takes beside.
    """
    batch = _Batch(view, effort or UnpackingCost())
    slices = _unpacked(batch) if batch.attributes & _CODEC else _plain(batch, batch.view)
    if batch.base >= start:
        yield from slices
        return
    for records in slices:
        if records[-1].offset >= start:
            records[:] = [record for record in records if record.offset >= start]
            yield records


def _plain(batch: _Batch, view: memoryview) -> Iterator[list[Record]]:
    batch.measure(len(view), batch.count)
    if len(view) > LARGE_BATCH and _is_crowded(view[_HEADER.size :], batch.count):
        yield from _one_by_one(batch, view[_HEADER.size :], 0, batch.count)
        return
    records = chain(DefaultRecordBatch(view))  # asking a batch for its iterator twice is an error
    while batch.given < batch.count:
        part: list[Record] = []
        try:
            part.extend(islice(records, SLICE))
        except _UNREADABLE:
            body, at = view[_HEADER.size :], 0
            if part:
                yield batch.place(part)
            for _ in range(batch.given):
                length, at = _varint(body, at)
                at += length
            yield from _one_by_one(batch, body, at, batch.count)
            return
        if not part:
            yield from batch.unreadable("the batch ends before this record")
            return
        yield batch.place(part)


def _one_by_one(batch: _Batch, data: memoryview, at: int, stop: int) -> Iterator[list[Record]]:
    """Yield the records up to the `stop`th of a batch that stand in `data`, of which some can't be read."""
    while batch.given < stop:
        try:
            length, begin = _varint(data, at)
            record = _record(batch, data, at, begin, begin + length)
        except _UNREADABLE as error:
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
            length, begin = _varint(data, at)
            if length > 2 * CROWDED and _head(data, begin)[-2] > CROWDED:
                return True
            at = begin + max(0, length)
    except _UNREADABLE:  # this is told when they are taken apart
        return False
    return False


def _unpacked(batch: _Batch) -> Iterator[list[Record]]:
    chunks = unpacked(batch.attributes & _CODEC, batch.view[_HEADER.size :])
    stream = _Stream(chunks)
    try:
        if stream.ends_within(WHOLE_BYTES):
            batch.effort.spent += len(stream.data)
            yield from _plain(batch, memoryview(batch.header(batch.count) + stream.data))
        else:
            yield from _bit_by_bit(batch, stream)
    except _UNREADABLE as error:
        yield from batch.unreadable(str(error) or type(error).__name__)


def _bit_by_bit(batch: _Batch, stream: "_Stream") -> Iterator[list[Record]]:
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
            batch.measure(_HEADER.size + len(data), count)
            yield from _slice(batch, data, count)
        if length > MOST_UNPACKED:
            stream.varint()
            yield batch.place([_large(batch, stream, length)])
            stream.forget()


def _slice(batch: _Batch, data: bytes, count: int) -> Iterator[list[Record]]:
    if len(data) > 2 * SLICE_BYTES and _is_crowded(memoryview(data), count):
        yield from _one_by_one(batch, memoryview(data), 0, batch.given + count)
        return
    try:
        records: list[Record] = list(DefaultRecordBatch(batch.header(count) + data))
    except _UNREADABLE:
        yield from _one_by_one(batch, memoryview(data), 0, batch.given + count)
    else:
        yield batch.place(records)


class _Stream:
    """What comes out of a compressed batch: `data`, read up to `at`."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.data = bytearray()
        self.at = 0
        self._gone = 0
        self._chunks = chunks

    def need(self, size: int) -> None:
        """Unpack until there are `size` more bytes. Raises UnreadableError at the end."""
        while len(self.data) - self.at < size:
            if (chunk := next(self._chunks, None)) is None:
                raise UnreadableError("the batch ends within a record")
            self.data += chunk

    def ends_within(self, size: int) -> bool:
        """Unpack up to `size` bytes; tell whether that was all. Raises UnreadableError."""
        while len(self.data) <= size:
            if (chunk := next(self._chunks, None)) is None:
                return True
            self.data += chunk
        return False

    def varint(self) -> int:
        """Read a number."""
        while True:
            try:
                value, self.at = _varint(self.data, self.at)
            except IndexError:
                self.need(len(self.data) - self.at + 1)
            else:
                return value

    def skip(self, size: int) -> None:
        """Pass over bytes without keeping them."""
        while size > len(self.data) - self.at:
            size -= len(self.data) - self.at
            self.at = len(self.data)
            self.forget()
            self.need(1)
        self.at += size

    @property
    def position(self) -> int:
        """How much was read since the beginning."""
        return self._gone + self.at

    def forget(self) -> None:
        """Keep nothing of what was read."""
        self._gone += self.at
        del self.data[: self.at]
        self.at = 0


def _large(batch: _Batch, stream: _Stream, length: int) -> RawRecord:
    """Read a record that is too large to be kept: it is told what it was, without key or value that would not fit."""
    if length > MOST_SKIPPED:
        raise UnreadableError(f"a record unpacks to {length} bytes; neither it nor what is behind it is read")
    end = stream.position + length
    batch.effort.spent += length
    stream.need(1)
    stream.at += 1  # attributes
    delta, offset = stream.varint(), stream.varint()
    size, key = stream.varint(), None
    if 0 <= size <= SLICE_BYTES:
        stream.need(size)
        key = bytes(stream.data[stream.at : stream.at + size])
        stream.at += size
    if stream.position > end:
        raise UnreadableError("a record ends within a field")
    stream.skip(end - stream.position)
    why = f"it unpacks to {length} bytes; at most {MOST_UNPACKED} are carried"
    return _faulty(Malformed("", why, UNFORWARDABLE), batch.base + offset, batch.timestamp(delta), key)


def _varint(data: memoryview | bytearray, at: int) -> tuple[int, int]:
    """Read a zigzag number; return it and where it ends."""
    value = shift = 0
    for at in range(at, at + _VARINT):  # noqa: B020, PLR1704 - where reading goes on
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at + 1
        shift += 7
    raise UnreadableError("a number has more than ten bytes")


def _bytes(data: memoryview, at: int) -> tuple[bytes | None, int]:
    size, at = _varint(data, at)
    if size < 0:
        return None, at
    if at + size > len(data):
        raise UnreadableError("it ends within a field")
    return bytes(data[at : at + size]), at + size


def _head(data: memoryview, begin: int) -> tuple[int, int, bytes | None, bytes | None, int, int]:
    """Read a record up to its headers: differences of time and offset, key, value, how many headers, and where."""
    delta, at = _varint(data, begin + 1)
    offset, at = _varint(data, at)
    key, at = _bytes(data, at)
    value, at = _bytes(data, at)
    count, at = _varint(data, at)
    return delta, offset, key, value, count, at


def _record(batch: _Batch, data: memoryview, start: int, begin: int, end: int) -> Record:
    """Take one record apart, of which a header's name may be no text. Its length stands at `start`."""
    data = data[:end]
    delta, offset, key, value, count, at = _head(data, begin)
    place = batch.base + offset, batch.timestamp(delta), key, value
    if count > MOST_HEADERS:
        why = f"it has {count} headers; at most {MOST_HEADERS} are carried"
        return _faulty(Malformed("", why, UNFORWARDABLE), *place)
    if count > FEW_HEADERS:
        return _crowded(batch, data[start:], place, count)
    headers: list[tuple[str, bytes | None]] = []
    bad: list[bytes] = []
    for _ in range(count):
        name, at = _bytes(data, at)
        content, at = _bytes(data, at)
        try:
            headers.append(((name or b"").decode(), content))
        except UnicodeDecodeError:
            bad.append(name or b"")
    if not bad:
        return RawRecord(*place, headers)
    batch.effort.spent += HEADER_WEIGHT * len(bad)
    shown = ", ".join(f"0x{name[:MOST_SHOWN].hex()}{'...' if len(name) > MOST_SHOWN else ''}" for name in bad[:3])
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    return _faulty(Malformed("", f"header name {shown}{more} is not UTF-8; left out here"), *place, headers)


def _crowded(batch: _Batch, data: memoryview, place: tuple[int, int, bytes | None, bytes | None], count: int) -> Record:
    """Take a record of many headers apart at once, or leave them all out: one by one would take too long."""
    batch.effort.spent += HEADER_WEIGHT * count
    try:
        (record,) = DefaultRecordBatch(batch.header(1) + data)
    except _UNREADABLE:
        why = f"one of its {count} headers can't be read, or its name is not UTF-8; all are left out here"
        return _faulty(Malformed("", why), *place)
    found: Record = record
    return found
