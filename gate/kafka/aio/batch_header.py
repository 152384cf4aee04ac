"""The head of a record batch, read without unpacking its records: a few bytes may unpack to hundreds of megabytes.

Layout: https://kafka.apache.org/documentation/#recordbatch
"""

from struct import Struct
from typing import NamedTuple

_HEAD = Struct(">qiibIhiqqqhii")  # up to the count of records
_BEFORE_LENGTH = 12  # bytes that a batch's length does not count: the offset, and the length itself
_TRANSACTIONAL = 0x10


class BatchHeader(NamedTuple):
    """What a batch says about itself."""

    offset: int  # of its first record
    timestamp: int  # of its first record, unix ms; the producer's or the broker's, as the topic has it
    producer_id: int
    producer_epoch: int
    transactional: bool


def header_at(raw: bytes, offset: int) -> BatchHeader | None:
    """Return the head of the batch that holds `offset` or is the first one behind it; None: it is not in `raw`."""
    at = 0
    while at + _HEAD.size <= len(raw):
        base, length, _, magic, _, attributes, last, first_at, _, producer, epoch, _, _ = _HEAD.unpack_from(raw, at)
        if magic < 2 or length < _HEAD.size - _BEFORE_LENGTH:
            return None
        if base + last >= offset:
            return BatchHeader(base, first_at, producer, epoch, bool(attributes & _TRANSACTIONAL))
        at += _BEFORE_LENGTH + length
    return None
