"""Leader epochs: which of two brokers that both take themselves for a partition's leader is the later one (KIP-320).

A broker that stood still tells others that it leads, too, so that metadata may go back in time: a leader of an earlier
epoch than the one that is known is not believed. Who is asked by the epoch that is known, and does not know that one
yet, says so instead of answering what it knew. aiokafka asks for neither: its metadata ends at version 5, its offsets
at 3.
Layouts: https://kafka.apache.org/protocol
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final

from aiokafka import errors

from gate.kafka.aio.compat.shared import (
    Array,
    Boolean,
    CompactArray,
    Int8,
    Int16,
    Int32,
    Int64,
    MetadataRequest,
    OffsetRequest,
    RequestStruct,
    Response,
    Schema,
    String,
)
from gate.kafka.aio.flexible import NO_TAGS, TEXT, flexible, many

Epochs = Mapping[tuple[str, int], int]  # by topic and partition
NOT_KNOWN: Final = -1
_NO_TOPIC: Final = 0, 0  # both halves of an id
_VERSION: Final = 5  # of metadata, the form in which aiokafka takes it in


class FencedLeaderEpochError(errors.KafkaError):  # type: ignore[misc]
    """Who is asked leads by a later epoch than is known."""

    errno = 74
    retriable = invalid_metadata = True


class UnknownLeaderEpochError(errors.KafkaError):  # type: ignore[misc]
    """Who is asked does not know yet by which epoch is led: it stood still, or has just become the leader."""

    errno = 75
    retriable = invalid_metadata = True


class OffsetNotAvailableError(errors.KafkaError):  # type: ignore[misc]
    """A new leader does not know yet how far its partition is replicated."""

    errno = 78
    retriable = True


_OURS: Final = {kind.errno: kind for kind in (FencedLeaderEpochError, UnknownLeaderEpochError, OffsetNotAvailableError)}


def error_for(code: int) -> type[errors.KafkaError]:
    """Return the error of a code, those among them that aiokafka does not know."""
    return _OURS.get(code) or errors.for_code(code)


_Metadata: Any = flexible(
    3,
    10,  # Kafka 2.8: topics have ids, so that one which was made anew is known from one of long ago
    asks=(
        ("topics", many(("high", Int64), ("low", Int64), ("name", TEXT))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    ),
    answers=(
        ("throttle_time_ms", Int32),
        ("brokers", many(("node_id", Int32), ("host", TEXT), ("port", Int32), ("rack", TEXT))),
        ("cluster_id", TEXT),
        ("controller_id", Int32),
        (
            "topics",
            many(
                ("error_code", Int16),
                ("name", TEXT),
                ("high", Int64),
                ("low", Int64),
                ("is_internal", Boolean),
                (
                    "partitions",
                    many(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("authorized_operations", Int32),
    ),
)


class Metadata(MetadataRequest):  # type: ignore[misc]
    """Asks who leads the partitions of topics (None: of all), and by which epoch where the broker tells it."""

    def __init__(self, topics: Sequence[str] | None) -> None:
        super().__init__(None if topics is None else list(topics))
        wanted = None if topics is None else [(*_NO_TOPIC, name, NO_TAGS) for name in topics]
        self._ours: Any = _Metadata(wanted, False, False, False)

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        """Return it in the form with epochs, if the broker understands that."""
        try:
            return self._ours.prepare(versions)
        except (NotImplementedError, errors.IncompatibleBrokerVersion):
            return super().prepare(versions)


def authorized_operations(topics: Sequence[str]) -> Any:
    """Return a request for what whoever asks may do on topics: a bit per operation, in the field before the tags."""
    return _Metadata([(*_NO_TOPIC, name, NO_TAGS) for name in topics], False, False, True)


class Leaders:
    """Who leads by the latest epoch that any answer has told, of one cluster."""

    def __init__(self) -> None:
        self.epochs: dict[tuple[str, int], int] = {}
        self._leaders: dict[tuple[str, int], int] = {}
        self._ids: dict[str, tuple[int, int]] = {}  # of topics

    def believed(self, answer: Any) -> Any:
        """Return a metadata answer as aiokafka takes it, in which nobody leads by an earlier epoch than is known."""
        if answer.API_VERSION <= _VERSION:
            return answer
        return SimpleNamespace(
            API_VERSION=_VERSION,
            brokers=[broker[:4] for broker in answer.brokers],
            controller_id=answer.controller_id,
            topics=[
                (code, name, is_internal, [self._partition(name, (high, low), *fields) for fields in partitions])
                for code, name, high, low, is_internal, partitions, *_ in answer.topics
            ],
        )

    def _partition(
        self,
        name: str,
        topic: tuple[int, int],
        code: int,
        number: int,
        leader: int,
        epoch: int,
        replicas: list[int],
        isr: list[int],
        *_: Any,
    ) -> tuple[Any, ...]:
        if self._ids.setdefault(name, topic) != topic:  # made anew: its epochs begin again
            self._ids[name] = topic
            for table in (self.epochs, self._leaders):
                for place in [place for place in table if place[0] == name]:
                    del table[place]
        place = name, number
        if epoch < self.epochs.get(place, NOT_KNOWN):
            leader = self._leaders[place]
        elif epoch >= 0:
            self.epochs[place], self._leaders[place] = epoch, leader
        return code, number, leader, replicas, isr


_PARTITIONS: Final = ("partitions", Array(("partition", Int32), ("current_leader_epoch", Int32), ("timestamp", Int64)))
_OFFSETS: Final = Array(
    ("partition", Int32), ("error_code", Int16), ("timestamp", Int64), ("offset", Int64), ("leader_epoch", Int32)
)


class _OffsetAnswer(Response):  # type: ignore[misc]
    API_KEY, API_VERSION = 2, 5
    SCHEMA = Schema(
        ("throttle_time_ms", Int32), ("topics", Array(("topic", String("utf-8")), ("partitions", _OFFSETS)))
    )


class _OffsetForm(RequestStruct):  # type: ignore[misc]
    API_KEY, API_VERSION, RESPONSE_TYPE = 2, 5, _OffsetAnswer
    SCHEMA = Schema(
        ("replica_id", Int32), ("isolation_level", Int8), ("topics", Array(("topic", String("utf-8")), _PARTITIONS))
    )


class Offsets(OffsetRequest):  # type: ignore[misc]
    """Asks for offsets; topics are (name, [(partition, timestamp)]). Each answer has the offset as its fourth field."""

    def __init__(self, isolation: int, topics: Sequence[tuple[str, list[tuple[int, int]]]], epochs: Epochs) -> None:
        super().__init__(-1, isolation, list(topics))
        self._asked = isolation, topics, epochs

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        """Return it in the form with epochs, if the broker understands that."""
        least, most = versions.get(self.API_KEY, (0, 0))
        if not least <= _OffsetForm.API_VERSION <= most:
            return super().prepare(versions)
        isolation, topics, epochs = self._asked
        by_epoch = [
            (name, [(number, epochs.get((name, number), NOT_KNOWN), which) for number, which in partitions])
            for name, partitions in topics
        ]
        return _OffsetForm(-1, isolation, by_epoch)
