"""State of feedback: how far an owner has read it and retries, and what it was told; kept as limits are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from gate.admission.state import VERSION, decode, encode
from gate.protocol.topics import Names
from gate.shard.records import CommittedOffset, Partition
from gate.shard.seen_feedback import SeenFeedback

RETURNS_KIND: Final = "returns"
TOLD_KIND: Final = "told"


class FeedbackPositionsRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`returns/<service>`: by partition, the next offset of its feedback and its retries."""

    feedback: dict[int, int] = msgspec.field(name="f")
    retries: dict[int, int] = msgspec.field(name="r")


@dataclass(slots=True)
class FeedbackState:
    """What belongs to the services of a shard. What a batch changes in it is written with that batch."""

    names: Names
    _positions: dict[str, dict[int, int]] = field(default_factory=dict)  # of the next record, by topic and partition
    _told: dict[tuple[str, int], SeenFeedback] = field(default_factory=dict)  # by service and admitted partition
    _read: set[Partition] = field(default_factory=set)  # since `changes`
    _heard: set[tuple[str, int]] = field(default_factory=set)

    def restore(self, key: str, data: bytes) -> bool:
        """Take in a record of the state; False: it is none of these. Raises StateError."""
        kind, _, rest = key.partition("/")
        if kind == RETURNS_KIND:
            record = decode(key, data, FeedbackPositionsRecord)
            for topic, positions in (
                (self.names.feedback(rest), record.feedback),
                (self.names.retries(rest), record.retries),
            ):
                self._positions[topic] = dict(positions)
        elif kind == TOLD_KIND:
            service, _, number = rest.rpartition("/")
            self._told[service, int(number)] = SeenFeedback.load(key, data)
        else:
            return False
        return True

    def start(self, partition: Partition) -> int | None:
        """Return where to read a partition from; None: it has not been read."""
        return self._positions.get(partition.topic, {}).get(partition.number)

    def begin(self, marks: Mapping[Partition, CommittedOffset]) -> None:
        """Take in where to begin in partitions that the state does not know."""
        for partition, mark in marks.items():
            self._positions.setdefault(partition.topic, {}).setdefault(partition.number, mark.offset)

    def advance(self, partition: Partition, offset: int) -> None:
        """Note that a partition is read up to `offset`."""
        self._positions.setdefault(partition.topic, {})[partition.number] = offset
        self._read.add(partition)

    def told(self, service: str, number: int) -> SeenFeedback:
        """Return what was told of an admitted partition, to be changed."""
        self._heard.add((service, number))
        return self._told.setdefault((service, number), SeenFeedback())

    def marks(self, at: int) -> dict[Partition, CommittedOffset]:
        """Return how far is read what was read since `changes`, for the group's offsets; `at` is unix ms."""
        return {place: CommittedOffset(self._positions[place.topic][place.number], at) for place in self._read}

    def changes(self, version: int = VERSION) -> dict[str, bytes | None]:
        """Return the state records that have changed since the last call."""
        changed: dict[str, bytes | None] = {
            f"{TOLD_KIND}/{service}/{number}": self._told[service, number].dump(version)
            for service, number in self._heard
        }
        for service in {service for partition in self._read if (service := self._service_of(partition)) is not None}:
            topics = self.names.feedback(service), self.names.retries(service)
            record = FeedbackPositionsRecord(*(self._positions.get(topic, {}) for topic in topics))
            changed[f"{RETURNS_KIND}/{service}"] = encode(record, version)
        self._read.clear()
        self._heard.clear()
        return changed

    def _service_of(self, partition: Partition) -> str | None:
        topic = partition.topic
        return self.names.service_of(topic, "feedback") or self.names.service_of(topic, "retries")
