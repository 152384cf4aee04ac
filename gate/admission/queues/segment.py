"""The entries of one state record of parked requests, in columns of typed arrays, which are also what is written."""

import sys
from array import array
from typing import Final

from gate.admission.queues.queue import Queue
from gate.admission.state import SegmentRecord

NO_DEADLINE: Final = 2**63 - 1  # in ms
COUNT_MAX: Final = 2**16 - 1  # of an entry
_NONE: Final = 2**31 - 1  # in a column of deadlines


class Segment:
    """The entries of one state record. An entry whose count is 0 has left."""

    __slots__ = (
        "base",
        "costs",
        "counts",
        "deadlines",
        "due",
        "first",
        "late",
        "live",
        "low",
        "names",
        "offsets",
        "origin",
        "owners",
        "partition",
        "queues",
        "seqs",
        "sequence",
    )

    def __init__(self, partition: int, base: int, sequence: int, late: int = 0) -> None:
        self.partition = partition
        self.base = base  # the first offset ever in it, or one before all: names the record, if `late` does not
        self.late = late  # of what came to wait later than it came: in any order of offsets; 0: in their order
        self.sequence = sequence  # arrival number of its first request
        self.queues: list[Queue] = []
        self.names = 0  # characters
        self.owners = array("B")  # index into queues
        self.offsets = array("I")  # above base
        self.seqs = array("I")  # above sequence
        self.counts = array("H")
        self.costs: array[int] | None = None  # None: all 1
        self.deadlines: array[int] | None = None  # ms above `origin`; None: none has one
        self.origin = 0  # ms
        self.live = 0  # requests
        self.low = NO_DEADLINE  # of a late one: no offset that ever was in it is lower
        self.first = 0  # entries before it have left
        self.due = NO_DEADLINE  # the deadline under which it stands in the heap

    def cost(self, index: int) -> int:
        """Return the cost of each request of an entry."""
        return 1 if self.costs is None else self.costs[index]

    def deadline(self, index: int) -> int:
        """Return the deadline of the requests of an entry, in ms."""
        if self.deadlines is None or self.deadlines[index] == _NONE:
            return NO_DEADLINE
        return self.origin + self.deadlines[index]

    def seq(self, index: int) -> int:
        """Return the arrival number of the first request of an entry."""
        return self.sequence + self.seqs[index]

    def oldest(self) -> int:
        """Return the lowest offset that is still parked; the segment must be live."""
        while not self.counts[self.first]:
            self.first += 1
        return self.base + self.offsets[self.first]

    def lowest(self) -> int:
        """Return the lowest offset that is still parked, where they are in any order; the segment must be live."""
        pairs = zip(self.counts, self.offsets, strict=True)
        return self.base + min(offset for count, offset in pairs if count)

    @property
    def room(self) -> int:
        """Under which number its like is kept: its partition, or, of a late one, what stands for that."""
        return ~self.partition if self.late else self.partition

    def earliest(self) -> int:
        """Return the earliest deadline of what is still parked."""
        if self.deadlines is None:
            return NO_DEADLINE
        pairs = zip(self.counts, self.deadlines, strict=True)
        earliest = min((deadline for count, deadline in pairs if count and deadline != _NONE), default=_NONE)
        return NO_DEADLINE if earliest == _NONE else self.origin + earliest

    def continues(self, queue: Queue, offset: int, seq: int, count: int, cost: int, deadline: int) -> bool:
        """Tell whether places follow on the last entry and are like it."""
        last = len(self.counts) - 1
        return (
            last >= 0
            and 0 < self.counts[last] <= COUNT_MAX - count
            and self.base + self.offsets[last] + self.counts[last] == offset
            and self.seq(last) + self.counts[last] == seq
            and self.queues[self.owners[last]] is queue
            and self.cost(last) == cost
            and self.deadline(last) == deadline
        )

    def append(self, owner: int, offset: int, seq: int, count: int, cost: int, deadline: int) -> int:
        """Add an entry and return its index."""
        index = len(self.counts)
        if cost != 1 and self.costs is None:
            self.costs = array("B", [1]) * index
        if deadline != NO_DEADLINE and self.deadlines is None:
            self.origin = deadline
            self.deadlines = array("i", [_NONE]) * index
        self.owners.append(owner)
        self.offsets.append(offset - self.base)
        self.seqs.append(seq - self.sequence)
        self.counts.append(count)
        if self.costs is not None:
            self.costs = append(self.costs, cost)
        if self.deadlines is not None:
            above = deadline - self.origin
            above -= above == _NONE  # 1 ms early rather than never
            self.deadlines = append(self.deadlines, _NONE if deadline == NO_DEADLINE else above)
        return index

    def trim(self) -> None:
        """Give back what the columns keep for growth: no more entries come."""
        for name in ("owners", "offsets", "seqs", "counts", "costs", "deadlines"):
            column = getattr(self, name)
            if column is not None:
                setattr(self, name, column[:])

    def record(self) -> SegmentRecord:
        """Return what is left, in the form in which it is kept."""
        left = [index for index, count in enumerate(self.counts) if count]
        whole = len(left) == len(self.counts)
        used = sorted({self.owners[index] for index in left})  # a lane that is gone must not come back with a record
        renumber = dict(zip(used, range(len(used)), strict=True))

        def column(values: "array[int]") -> bytes:
            return little(array(values.typecode, values if whole else [values[index] for index in left])).tobytes()

        return SegmentRecord(
            base=self.base,
            sequence=self.sequence,
            owners=[(queue.lane.name, queue.tenant.name) for queue in map(self.queues.__getitem__, used)],
            owner=array("B", [renumber[self.owners[index]] for index in left]).tobytes(),
            offset=column(self.offsets),
            seq=column(self.seqs),
            count=column(self.counts),
            cost=None if self.costs is None else (self.costs.typecode, column(self.costs)),
            deadline=None if self.deadlines is None else (self.deadlines.typecode, column(self.deadlines)),
            origin=self.origin,
        )

    def fill(self, record: SegmentRecord) -> None:
        """Take the columns of a record."""
        self.owners = little(array("B", record.owner))
        self.offsets = little(array("I", record.offset))
        self.seqs = little(array("I", record.seq))
        self.counts = little(array("H", record.count))
        if record.cost is not None:
            self.costs = little(array(*record.cost))
        if record.deadline is not None:
            self.deadlines = little(array(*record.deadline))
        self.origin = record.origin
        self.live = sum(self.counts)


def little(column: "array[int]") -> "array[int]":
    """Turn a column between this machine's byte order and little-endian; it is the caller's to change."""
    if sys.byteorder == "big":
        column.byteswap()
    return column


def append(column: "array[int]", value: int) -> "array[int]":
    """Append to a column, which is made wider where the value needs it."""
    try:
        column.append(value)
    except OverflowError:
        column = array("q", column)
        column.append(value)
    return column
