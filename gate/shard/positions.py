"""Positions up to which request partitions are decided: by the state, and by the group's committed offsets.

Both are part of each transaction, but a broker that dies may commit the one without the other, and it lets the group's
offsets expire. The state counts more, as it is in one log with what was decided.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import field

from gate.admission.state import VERSION, decode, encode
from gate.protocol.topics import Names
from gate.shard.records import CommittedOffset, Partition, Record
from gate.units import MS

OFFSETS_KIND: Final = "offsets"


class Position(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a partition is decided, and by what its last decided request can be known again."""

    next: int = field(name="n")
    last: int = field(default=-1, name="l")
    timestamp: int = field(default=-1, name="t")


class PositionsRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`offsets/<service>`: by partition."""

    positions: dict[int, Position] = field(name="p")


class Positions:
    """What an owner knows of the request partitions of its shard."""

    def __init__(self, names: Names, marks: Mapping[Partition, CommittedOffset], since: int) -> None:
        """Begin with the group's offsets; `since` tells from when on (ns) each of them came with a position."""
        self._names = names
        self._marks = dict(marks)
        self._since = since
        self._known: dict[str, dict[int, Position]] = {}  # by service

    def restore(self, service: str, key: str, data: bytes) -> None:
        """Take in a record of the state. Raises StateError."""
        self._known[service] = dict(decode(key, data, PositionsRecord).positions)

    def learn(self, marks: Mapping[Partition, CommittedOffset]) -> None:
        """Take in the group's offsets of partitions that came later."""
        self._marks.update(marks)

    def start(self, service: str, partition: Partition) -> int | None:
        """Return where to read a partition from; None: from its beginning.

        A committed offset that claims to have come with a position, and did not, is not believed.
        """
        position = self._known.get(service, {}).get(partition.number)
        if position is not None:
            return position.next
        mark = self._marks.get(partition)
        alone = mark is not None and self._since and mark.at_ms * MS >= self._since
        return None if mark is None or alone else mark.offset

    def knows(self, service: str, number: int) -> bool:
        """Tell whether the state says how far a partition is decided."""
        return number in self._known.get(service, {})

    def unmarked(self, service: str, partition: Partition) -> Position | None:
        """Return a position without a committed offset: it has expired, or the topic was deleted and made anew."""
        return None if partition in self._marks else self._known.get(service, {}).get(partition.number)

    def drop(self, service: str, partition: Partition) -> None:
        """Forget the position in a partition, as that one is no more."""
        del self._known[service][partition.number]

    def forget(self, partition: Partition) -> None:
        """Forget the committed offset of a partition that is gone: if one of its name comes, it is to be looked at."""
        self._marks.pop(partition, None)

    def wrong(self, partitions: Iterable[Partition], at: int) -> dict[Partition, CommittedOffset]:
        """Return what the group's offsets should be, where they are not what the state says; it was written `at` ns."""
        result: dict[Partition, CommittedOffset] = {}
        for place in partitions:
            position = self._known.get(self._names.service_of(place.topic) or "", {}).get(place.number)
            mark = self._marks.get(place)
            if position is not None and (mark is None or mark.offset != position.next):
                result[place] = CommittedOffset(position.next, at // MS)
        return result

    def advance(self, service: str, number: int, records: Sequence[Record], end: int) -> None:
        """Note that a batch has decided `records` of a partition, and that the next one is at `end` or behind it."""
        positions = self._known.setdefault(service, {})
        if records:
            positions[number] = Position(end, records[-1].offset, records[-1].timestamp)
        else:
            before = positions.get(number, Position(end))
            positions[number] = Position(end, before.last, before.timestamp)

    def record(self, service: str, version: int = VERSION) -> bytes:
        """Return the record of a service."""
        return encode(PositionsRecord(self._known[service]), version)
