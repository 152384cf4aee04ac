"""Answers to fetch requests without the records that aiokafka can't read, so that it does not lose those around them.

On the public path nothing can be put in aiokafka's place, so a batch with such a record is written anew without it, as
compaction would: https://kafka.apache.org/documentation/#recordbatch
"""

from collections.abc import Iterator
from struct import Struct
from typing import Any, Final

from aiokafka import errors

from gate.kafka.aio.batches import records_of, unpacked_whole
from gate.kafka.aio.checksums import crc32c
from gate.kafka.aio.compat.shared import DefaultRecordBatch, FetchRequest
from gate.kafka.aio.decoding import views
from gate.kafka.aio.passed_over import Faults
from gate.protocol.headers import FAULT, Malformed, last

_HEADER: Final = Struct(">qiibIhiqqqhii")
_BEFORE_SIZE: Final = 12
_CHECKED_FROM: Final = 21  # bytes of a batch that its checksum is about, up to the end
_CODEC: Final = 0x07
_CONTROL: Final = 0x20
MOST_BATCH: Final = 64 << 20  # bytes to which a batch may unpack: it is rebuilt, or aiokafka unpacks it, in one piece
_NOT_UNPACKED: Final = f"its batch can't be unpacked, or to more than {MOST_BATCH} bytes"
_UNREADABLE: Final = (errors.KafkaError, ValueError, IndexError, OverflowError)


def readable(request: Any, answer: Any) -> None:
    """Take what can't be read out of an answer to a fetch request."""
    if isinstance(request, FetchRequest) and getattr(answer, "topics", None):
        answer.topics = [
            (topic, [(*partition[:-1], _mended(f"{topic}-{partition[0]}", partition[-1])) for partition in partitions])
            for topic, partitions in answer.topics
        ]


def _mended(place: str, raw: bytes | None) -> bytes | None:
    if not raw:
        return raw
    try:
        batches = list(views(raw))
    except errors.KafkaError:  # of an older format: aiokafka reads it
        return raw
    pieces: list[bytes | memoryview] = []
    end = 0
    mended = False
    for view in batches:
        end += len(view)
        if _is_fine(view):
            pieces.append(view)
        else:
            mended = True
            pieces.append(_without_faults(place, view))
    return b"".join((*pieces, raw[end:])) if mended else raw


def _is_fine(view: memoryview) -> bool:
    batch: bytes | memoryview | None = view
    if _HEADER.unpack_from(view)[5] & _CODEC:  # aiokafka unpacks it in one piece
        batch = unpacked_whole(view, MOST_BATCH)
    if batch is None:
        return False
    try:
        for _ in DefaultRecordBatch(batch):
            pass
    except _UNREADABLE:
        return False
    return True


def _without_faults(place: str, view: memoryview) -> bytes:
    fields = list(_HEADER.unpack_from(view))
    attributes = fields[5]
    body = view[_HEADER.size :]
    if attributes & _CODEC:
        body = memoryview(unpacked_whole(view, MOST_BATCH) or b"")[_HEADER.size :]
    kept: list[memoryview] = []
    pieces = _pieces(body)
    faults = Faults(place)
    for records in records_of(view, 0):
        for record in records:
            piece = next(pieces, None)
            if piece is not None and (fault := last(record.headers, FAULT)) is None:
                kept.append(piece)
            else:
                faults.add(record.offset, _NOT_UNPACKED if piece is None else str(Malformed.decode(fault)))
    faults.tell()
    data = b"".join(kept)
    fields[1] = _HEADER.size - _BEFORE_SIZE + len(data)
    fields[5] = attributes & ~_CODEC
    fields[-1] = len(kept)
    batch = _HEADER.pack(*fields) + data
    fields[4] = crc32c(memoryview(batch)[_CHECKED_FROM:])
    return _HEADER.pack(*fields) + data


def _pieces(body: memoryview) -> Iterator[memoryview]:
    """Yield records as they stand, each with its length before it, as far as the lengths make sense."""
    at = 0
    while at < len(body):
        begin, value, shift = at, 0, 0
        while True:
            if at >= len(body) or shift > 63:
                return
            byte = body[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        length = (value >> 1) ^ -(value & 1)
        if length < 0 or at + length > len(body):
            return
        at += length
        yield body[begin:at]
