"""Single records of a batch, read field by field where aiokafka can't read them, or should not.

A record that can't be read is still a record, which says what is wrong with it (`headers.FAULT`).

Layout: https://kafka.apache.org/documentation/#recordbatch
"""

from typing import Final

from aiokafka import errors

from gate.kafka.aio.batch_view import BatchView, RawRecord, faulty
from gate.kafka.aio.compat.shared import DefaultRecordBatch
from gate.kafka.aio.unpacked_stream import Stream, varint
from gate.kafka.aio.unpacking import UnreadableError
from gate.protocol.headers import UNFORWARDABLE, Malformed
from gate.shard.buffer import HEADER_WEIGHT
from gate.shard.records import Record

SLICE_BYTES: Final = 64 << 10  # of what is unpacked for a slice; and of a key that is kept without its record
MOST_UNPACKED: Final = 4 << 20  # bytes of a record that is kept whole, if it came compressed
MOST_SKIPPED: Final = 256 << 20  # of one that is passed over
MOST_HEADERS: Final = 1 << 16  # of a record that is carried
FEW_HEADERS: Final = 1_000  # that are read one by one where some can't be read
MOST_SHOWN: Final = 64  # bytes of a name that is told
UNREADABLE: Final = (errors.KafkaError, ValueError, IndexError, OverflowError)


def read_large(batch: BatchView, stream: Stream, length: int) -> RawRecord:
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
    return faulty(Malformed("", why, UNFORWARDABLE), batch.base + offset, batch.timestamp(delta), key)


def _bytes(data: memoryview, at: int) -> tuple[bytes | None, int]:
    size, at = varint(data, at)
    if size < 0:
        return None, at
    if at + size > len(data):
        raise UnreadableError("it ends within a field")
    return bytes(data[at : at + size]), at + size


def read_head(data: memoryview, begin: int) -> tuple[int, int, bytes | None, bytes | None, int, int]:
    """Read a record up to its headers: differences of time and offset, key, value, how many headers, and where."""
    delta, at = varint(data, begin + 1)
    offset, at = varint(data, at)
    key, at = _bytes(data, at)
    value, at = _bytes(data, at)
    count, at = varint(data, at)
    return delta, offset, key, value, count, at


def read_record(batch: BatchView, data: memoryview, start: int, begin: int, end: int) -> Record:
    """Take one record apart, of which a header's name may be no text. Its length stands at `start`."""
    data = data[:end]
    delta, offset, key, value, count, at = read_head(data, begin)
    place = batch.base + offset, batch.timestamp(delta), key, value
    if count > MOST_HEADERS:
        why = f"it has {count} headers; at most {MOST_HEADERS} are carried"
        return faulty(Malformed("", why, UNFORWARDABLE), *place)
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
    return faulty(Malformed("", f"header name {shown}{more} is not UTF-8; left out here"), *place, headers)


def _crowded(
    batch: BatchView, data: memoryview, place: tuple[int, int, bytes | None, bytes | None], count: int
) -> Record:
    """Take a record of many headers apart at once, or leave them all out: one by one would take too long."""
    batch.effort.spent += HEADER_WEIGHT * count
    try:
        (record,) = DefaultRecordBatch(batch.header(1) + data)
    except UNREADABLE:
        why = f"one of its {count} headers can't be read, or its name is not UTF-8; all are left out here"
        return faulty(Malformed("", why), *place)
    found: Record = record
    return found
