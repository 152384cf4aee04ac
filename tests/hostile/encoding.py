"""A record batch encoder (magic v2) that can set every field to anything, also to what no client would write.

Layout: https://kafka.apache.org/documentation/#recordbatch
"""

import gzip
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from struct import Struct
from typing import Final, TypeAlias

from aiokafka import codec
from aiokafka.record.util import calc_crc32c

Headers: TypeAlias = tuple[tuple[bytes, bytes | None], ...]

HEAD: Final = Struct(">qiibI")  # base offset, length, leader epoch, magic, checksum of all that follows
BODY: Final = Struct(">hiqqqhii")  # attributes, last offset delta, first and newest timestamp, producer, count
OVERHEAD: Final = HEAD.size + BODY.size
LOG_APPEND_TIME: Final = 8  # bits of a batch's attributes, beside the codec in the lowest three
TRANSACTIONAL: Final = 16
CONTROL: Final = 32
DELETE_HORIZON: Final = 64


class Codec(IntEnum):
    """How the records of a batch are packed."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


def varint(number: int) -> bytes:
    """Encode a signed number as the protocol does: zigzag, seven bits a byte."""
    left = number << 1 if number >= 0 else ~(number << 1)
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


def sized(data: bytes | None) -> bytes:
    """Encode bytes behind their length; none at all have length -1."""
    return b"\x01" if data is None else varint(len(data)) + data


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One record; `offset_delta` None: what belongs there."""

    key: bytes | None = None
    value: bytes | None = None
    headers: Headers = ()
    timestamp_delta: int = 0
    offset_delta: int | None = None
    attributes: int = 0

    def encode(self, index: int) -> bytes:
        """Encode it as the record number `index` of its batch."""
        delta = index if self.offset_delta is None else self.offset_delta
        headers = b"".join(sized(name) + sized(value) for name, value in self.headers)
        body = b"".join((
            bytes((self.attributes & 0xFF,)), varint(self.timestamp_delta), varint(delta),
            sized(self.key), sized(self.value), varint(len(self.headers)), headers,
        ))  # fmt: skip
        return varint(len(body)) + body


@dataclass(frozen=True, slots=True)
class RawBatch:
    """A batch. What is None is what belongs there; `payload` stands for the packed records, whatever they are."""

    records: Sequence[RawRecord]
    timestamp: int = 0
    codec: Codec = Codec.NONE
    newest: int | None = None
    base_offset: int = 0
    leader_epoch: int = -1
    attributes: int = 0  # beside the codec
    producer_id: int = -1
    producer_epoch: int = -1
    sequence: int = -1
    last_offset_delta: int | None = None
    count: int | None = None
    payload: bytes | None = None
    checksum: int | None = None

    def __len__(self) -> int:
        return len(self.records)

    def with_payload(self, data: bytes) -> "RawBatch":
        """Return it with other bytes for its records, packed in the same way."""
        return replace(self, payload=pack(self.codec, data))

    def encode(self) -> bytes:
        """Return what goes into a produce request."""
        deltas = [record.timestamp_delta for record in self.records] or [0]
        newest = max(-1, self.timestamp + max(deltas)) if self.newest is None else self.newest
        last = len(self.records) - 1 if self.last_offset_delta is None else self.last_offset_delta
        count = len(self.records) if self.count is None else self.count
        payload = pack(self.codec, plain(self.records)) if self.payload is None else self.payload
        body = BODY.pack(
            self.attributes | self.codec, last, self.timestamp, newest,
            self.producer_id, self.producer_epoch, self.sequence, count,
        ) + payload  # fmt: skip
        checksum = calc_crc32c(body) if self.checksum is None else self.checksum
        length = HEAD.size - 12 + len(body)  # of what stands behind offset and length
        return HEAD.pack(self.base_offset, length, self.leader_epoch, 2, checksum) + body


def plain(records: Iterable[RawRecord]) -> bytes:
    """Return records as they stand in a batch that is not packed."""
    return b"".join(record.encode(index) for index, record in enumerate(records))


def pack(how: Codec, data: bytes) -> bytes:
    """Pack records."""
    match how:
        case Codec.NONE:
            return data
        case Codec.GZIP:
            return gzip.compress(data, 6, mtime=0)
        case Codec.SNAPPY:
            return bytes(codec.snappy_encode(data))
        case Codec.LZ4:
            return bytes(codec.lz4_encode(data, 3))
        case Codec.ZSTD:
            return bytes(codec.zstd_encode(data, 3))


def zstd_of_runs(parts: Iterable[bytes | int], window_log: int = 17) -> bytes:
    """Return a zstd frame made by hand: bytes as they are, and numbers as that many zeros, four bytes per 128 KiB.

    `window_log` (10 to 41) is the memory that the frame asks its reader for, whether it is needed or not.
    """
    blocks: list[tuple[int, int, bytes]] = []  # type, size, content
    for part in parts:
        whole = part if isinstance(part, int) else len(part)
        for start in range(0, whole, 128 << 10):
            size = min(128 << 10, whole - start)
            blocks.append((1, size, b"\0") if isinstance(part, int) else (0, size, part[start : start + size]))
    out = bytearray(b"\x28\xb5\x2f\xfd\x00")  # magic, no content size, no checksum
    out.append((window_log - 10) << 3)
    for index, (kind, size, content) in enumerate(blocks):
        is_last = index == len(blocks) - 1
        out += (is_last | kind << 1 | size << 3).to_bytes(3, "little") + content
    return bytes(out)


def zeros(records: Sequence[tuple[bytes | None, int]], window_log: int = 17) -> bytes:
    """Return a zstd payload of records (key, zeros in the value), of whatever size unpacked."""
    parts: list[bytes | int] = []
    for index, (key, size) in enumerate(records):
        head = b"\0" + varint(0) + varint(index) + sized(key) + varint(size)
        parts += [varint(len(head) + size + 1) + head, size, b"\0"]  # no headers
    return zstd_of_runs(parts, window_log)
