"""View of a batch: what its header says, and the offsets and times of its records.

A broker does not check what a producer says of offsets within a batch, so they are proven by place and not believed.

Layout: https://kafka.apache.org/documentation/#recordbatch
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from struct import Struct
from typing import Final, NamedTuple

from gate.protocol.headers import FAULT, Malformed
from gate.shard.records import Record, UnpackingCost

SLICE: Final = 128  # records that are taken apart at a time
LEAST_RECORD: Final = 7  # bytes: its length, attributes, time, offset, and that it has neither key, value nor headers
HEADER: Final = Struct(">qiibIhiqqqhii")
CODEC: Final = 0x07
_LOG_APPEND_TIME: Final = 0x08


class RawRecord(NamedTuple):
    """A record that was taken apart here."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


@dataclass(slots=True)
class BatchView:
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
            HEADER.unpack_from(self.view)
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
        fields = list(HEADER.unpack_from(self.view))
        fields[5] &= ~CODEC
        fields[-1] = count
        return HEADER.pack(*fields)

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
            yield self.place([faulty(fault, self.base + self.given + i, self.timestamp(0)) for i in range(some)])


def faulty(
    fault: Malformed,
    offset: int,
    timestamp: int,
    key: bytes | None = None,
    value: bytes | None = None,
    headers: Iterable[tuple[str, bytes | None]] = (),
) -> RawRecord:
    """Return a record that says why it can't be read, or not be forwarded."""
    return RawRecord(offset, timestamp, key, value, [(FAULT, fault.encode()), *headers])
