"""Forwarding of a request: whether it can be, as far as that can be told before anything is charged for it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from gate.protocol.headers import ERROR, FAULT, JOB_ID, STAMP, TENANT, UNFORWARDABLE, Headers, Malformed
from gate.shard.records import Outgoing, Raw, Record
from gate.shard.refusal_history import Rejection, RejectionLevel
from gate.shard.topic_limits import SMALLEST, TopicLimit

BATCH_OVERHEAD: Final = 61
RECORD_OVERHEAD: Final = 8  # at the least: sizes, and differences of time and offset
STAMP_BYTES: Final = 300  # that stamp, retry-after and gate-not-before take at most, without the names in it
ORIGIN_BYTES: Final = 10  # around the first id of a job
ENCODED: Final = 3  # bytes of a stamp for each of a tenant's name that is no plain text
MOST_ERROR: Final = 500  # bytes that a rejected request tells

Weigh = Callable[[str, Outgoing | Raw, int], int]
Judge = Callable[[Record], "Refusal | None"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request can't go on, and how much of it the rejected topic is given."""

    malformed: Malformed
    level: RejectionLevel = RejectionLevel.WHOLE
    first: str = ""  # the request that it repeats


def refused_before(rejection: Rejection) -> Refusal:
    """Return why a request can't go on of which an output was refused before."""
    return Refusal(Malformed("", rejection.why, rejection.reason), rejection.level, rejection.first)


def estimate(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """Return about how many bytes a batch of one record has that is not compressed, never too many."""
    size = BATCH_OVERHEAD + RECORD_OVERHEAD + len(key or b"") + len(value or b"")
    return size + sum([2 + len(name) + len(content or b"") for name, content in headers])


@dataclass(frozen=True, slots=True)
class Forwarding:
    """Judges the requests of one partition: `topics` are where they may go, each with what it takes.

    `weigh` tells how large a record is as it is written there; None: as large as it is estimated. `room` is kept for
    what the gate stamps onto it, in bytes: the tenant's name is in there, too, if it has one.
    """

    topics: Mapping[str, TopicLimit]
    rejections: Mapping[int, Rejection]
    weigh: Weigh | None
    room: int = STAMP_BYTES
    codec: int = 0  # how they came

    def __call__(self, record: Record) -> Refusal | None:
        """Return why a request can't be forwarded; None: it can, as far as can be told."""
        rejection = self.rejections.get(record.offset)
        if rejection is not None:
            return refused_before(rejection)
        size, room = None, 0
        for topic, limit in self.topics.items():
            if limit.compacted and record.key is None:
                return _unforwardable(f"it has no key, and topic {topic} is compacted (cleanup.policy)")
            if limit.size is None:
                continue
            if size is None:
                room = self.room + sum(_room_of(name, value) for name, value in record.headers)
                size = room + estimate(record.key, record.value, record.headers)
            if size > limit.size:
                alone = size if self.weigh is None else room + self.weigh(topic, _as_written(record), self.codec)
                if alone > limit.size:
                    return _unforwardable(
                        f"it takes {alone} bytes with its stamp, and topic {topic} takes {limit.size} at most "
                        "(max.message.bytes)"
                    )
        return None


def _room_of(name: str, value: bytes | None) -> int:
    """Return how many bytes a stamp takes because of a header."""
    if name == TENANT:
        return ENCODED * len(value or b"")
    return ORIGIN_BYTES + len(value or b"") if name == JOB_ID else 0


def _unforwardable(why: str) -> Refusal:
    return Refusal(Malformed("", why, UNFORWARDABLE))


def _as_written(record: Record) -> Raw:
    headers = [header for header in record.headers if header[0] != FAULT]
    return record.key, record.value, max(0, record.timestamp), headers


def rejected(
    record: Record,
    at: int,
    headers: list[tuple[str, bytes | None]],
    refusal: Refusal,
    limit: TopicLimit,
    request: bytes,
) -> Outgoing:
    """Return what is written of a refused request: all of it, or what the rejected topic takes.

    `headers` are its own with the stamp; `request` is its id, the key where there must be one.
    """
    key = record.key or request if limit.compacted and record.key is None else record.key
    why = str(refusal.malformed).encode("utf-8", "backslashreplace")[:MOST_ERROR]
    lost = len(record.value or b"")
    note = b"; its value is left out here (%d bytes)" % lost if lost else b""
    bare = [header for header in headers if header[0] == STAMP]
    forms: Iterable[tuple[RejectionLevel, Outgoing]] = (
        (RejectionLevel.WHOLE, Outgoing(key, record.value, at, [*headers, (ERROR, why)])),
        (RejectionLevel.WITHOUT_VALUE, Outgoing(key, None, at, [*headers, (ERROR, why + note)])),
    )
    most = None if limit.size is None else max(SMALLEST, limit.size)
    for level, form in forms:
        if level >= refusal.level and (most is None or estimate(key, form.value, form.headers) <= most):
            return form
    return Outgoing(
        request if limit.compacted else None, None, at, [*bare, (ERROR, why + b"; nothing else of it fits")]
    )
