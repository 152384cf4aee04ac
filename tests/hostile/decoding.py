"""A reader of record batches that believes nothing: the truth about a record is its place in the batch.

In a batch that holds all its records (as many as it has offsets) record i stands at base + i. Only in one that was
compacted do the records' own deltas count.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from aiokafka import codec

from tests.hostile.encoding import BODY, CONTROL, HEAD, LOG_APPEND_TIME, OVERHEAD, TRANSACTIONAL, Codec, Headers

_ABORT: Final = b"\0\0\0\0"  # key of a marker that takes back: version, type


@dataclass(frozen=True, slots=True)
class Header:
    """What stands in front of a batch's records."""

    base: int
    attributes: int
    last_delta: int
    timestamp: int
    newest: int
    producer_id: int
    count: int
    payload: memoryview
    wire: int  # bytes, all in all

    @property
    def next_offset(self) -> int:
        return self.base + self.last_delta + 1

    @property
    def is_whole(self) -> bool:
        """Tell whether it holds a record for each of its offsets, so that it was never compacted."""
        return self.count == self.last_delta + 1

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & CONTROL)

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL)


class Read(NamedTuple):
    """A record at its true offset."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def batches(raw: bytes) -> Iterator[Header]:
    """Yield the batches of a fetch answer, without the last one where that is cut off."""
    view, at = memoryview(raw), 0
    while at + OVERHEAD <= len(view):
        base, length, _, magic, _ = HEAD.unpack_from(view, at)
        end = at + 12 + length
        if end > len(view):
            return
        assert magic == 2, magic
        attributes, last, first, newest, producer, _, _, count = BODY.unpack_from(view, at + HEAD.size)
        yield Header(base, attributes, last, first, newest, producer, count, view[at + OVERHEAD : end], end - at)
        at = end


def committed(raw: bytes, aborted: list[tuple[int, int]]) -> Iterator[Header]:
    """Yield the batches that `read_committed` shows, and those of markers. `aborted`: (producer id, first offset)."""
    pending = sorted(aborted, key=lambda entry: entry[1])
    dead: set[int] = set()
    for batch in batches(raw):
        while pending and pending[0][1] <= batch.base:
            dead.add(pending.pop(0)[0])
        if batch.is_control:
            (marker,) = records(batch)
            if marker.key == _ABORT:
                dead.discard(batch.producer_id)
            yield batch
        elif not (batch.is_transactional and batch.producer_id in dead):
            yield batch


def records(batch: Header) -> Iterator[Read]:
    """Yield what a batch holds."""
    data = unpack(Codec(batch.attributes & 7), batch.payload)
    at, own_time = 0, not batch.attributes & LOG_APPEND_TIME
    for index in range(batch.count):
        length, at = _varint(data, at)
        end = at + length
        late, at = _varint(data, at + 1)  # behind the attributes
        delta, at = _varint(data, at)
        key, at = _sized(data, at)
        value, at = _sized(data, at)
        count, at = _varint(data, at)
        headers = []
        for _ in range(count):
            name, at = _sized(data, at)
            content, at = _sized(data, at)
            headers.append((name or b"", content))
        assert at == end, f"a record of {length} bytes ends {at - end} bytes late"
        offset = batch.base + (index if batch.is_whole else delta)
        yield Read(offset, batch.timestamp + late if own_time else batch.newest, key, value, tuple(headers))


def unpack(how: Codec, payload: memoryview) -> bytes:
    """Unpack the records of a batch, all of them: a reader of truth has the memory."""
    match how:
        case Codec.NONE:
            return bytes(payload)
        case Codec.GZIP:
            return _gunzip(bytes(payload))
        case Codec.SNAPPY:
            return bytes(codec.snappy_decode(payload))
        case Codec.LZ4:
            return bytes(codec.lz4_decode(payload))
        case Codec.ZSTD:
            return bytes(codec.zstd_decode(payload))


def _gunzip(data: bytes) -> bytes:
    out = []
    while data.rstrip(b"\0"):  # Java's reader and Python's pass over zeros behind the last member
        member = zlib.decompressobj(31)
        out.append(member.decompress(data))
        data = member.unused_data
    return b"".join(out)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    at += 1
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), at
    number, shift = byte & 0x7F, 7
    while byte >= 0x80:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
    return (number >> 1) ^ -(number & 1), at


def _sized(data: bytes, at: int) -> tuple[bytes | None, int]:
    length, at = _varint(data, at)
    return (None, at) if length < 0 else (data[at : at + length], at + length)
