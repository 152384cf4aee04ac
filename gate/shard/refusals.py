"""Refusals of a broker, as errors: one record, all that goes to a partition, or a batch that is too large."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from gate.shard.records import Outgoing, Partition, Raw

MESSAGE_TOO_LARGE: Final = 10
NO_TOPIC: Final = "there is no such topic, or it has fewer partitions"
_RECORD_CODES: Final = {
    2: "it calls the record corrupt",
    MESSAGE_TOO_LARGE: "the record is larger than max.message.bytes of the topic",
    18: "the record is larger than a segment of the topic",
    32: "the record's timestamp is out of the topic's range (message.timestamp.before.max.ms, ...after.max.ms)",
    44: "a policy of the broker forbids it",
    87: "the record breaks a rule of the topic",
    -1: "the broker does not say why",
}


class Faulty(NamedTuple):
    """A record, by its place among those that were to be written to a partition, and why it was refused."""

    place: int
    why: str


class OutputError(Exception):
    """A partition that requests go to does not take them."""

    def __init__(self, partition: Partition, why: str) -> None:
        super().__init__(f"{partition.topic}-{partition.number}: {why}")
        self.partition = partition
        self.why = why
        self.records: Sequence[Outgoing | Raw] = ()  # all that was to be written there


class RecordsRefusedError(OutputError):
    """A broker does not take a batch because of some of its records.

    It held the records from `first` on, `count` of those that were to be written. `faulty` are those that it names.
    """

    def __init__(self, partition: Partition, why: str, first: int, count: int, faulty: Sequence[Faulty] = ()) -> None:
        super().__init__(partition, why)
        self.first = first
        self.count = count
        self.faulty = tuple(faulty)


class BatchTooLargeError(OutputError):
    """A batch of several records is larger than its topic takes, though each of them may not be."""

    def __init__(self, partition: Partition, size: int) -> None:
        super().__init__(partition, f"a batch of {size} bytes is larger than max.message.bytes of the topic")
        self.size = size


def refused(
    partition: Partition, code: int, records: Sequence[tuple[int, str]], message: str, first: int, count: int, size: int
) -> OutputError | None:
    """Return what a broker's answer means. None: it is not about what was to be written.

    `records` are indexes within the batch, which held `count` of the records from `first` on, in `size` bytes.
    """
    known = _RECORD_CODES.get(code)
    if known is None:
        return None
    if code == MESSAGE_TOO_LARGE and count > 1:
        return BatchTooLargeError(partition, size)
    why = message or known
    if records:
        named = [Faulty(first + index, words or why) for index, words in records if index < count]
    else:
        named = [Faulty(first, why)] if count == 1 else []
    return RecordsRefusedError(partition, why, first, count, named)


def remedy_of(topic: str, why: str) -> str:
    """Return what an operator can do about an output that takes nothing."""
    if "may not write" in why:
        return f"allow it: kafka-acls.sh --add --allow-principal User:GATE --operation Write --topic {topic}"
    if why == NO_TOPIC:
        return f"the gate makes it anew where it may (create_topics); else: kafka-topics.sh --create --topic {topic}"
    if "no broker leads" in why:
        return "start the brokers that hold it: kafka-topics.sh --describe --unavailable-partitions"
    return (
        "let the topic take rejected requests: kafka-configs.sh --alter --entity-type topics "
        f"--entity-name {topic} --add-config max.message.bytes=1048588,cleanup.policy=delete"
    )
