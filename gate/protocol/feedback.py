"""Feedback of workers about their jobs: the records of a service's feedback topic, the only one that workers write.

Key: the place of the admitted record, `topic-partition@offset`; partition: that of the admitted record. Value: JSON, as
in `{"outcome": "failed", "group": "payments-workers", "attempt": 1, "error": "TimeoutError", "retry_after": 0.5}`.
Whoever may write there may write anything, so reading never fails: it tells what is wrong.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple

import msgspec

from gate.protocol.headers import MAX_COST

LONGEST_BACKOFF: Final = 3600.0  # seconds for which a worker may have its service left alone
LONGEST_WAIT: Final = 7 * 86400.0  # seconds for which a failed job may wait for its next attempt
MOST_BYTES: Final = 16 << 10  # of a value
MOST_ERROR: Final = 1_000  # characters of an error that are kept
_PLACE: Final = re.compile(rb"(.{1,249})-(0|[1-9][0-9]{0,8})@(0|[1-9][0-9]{0,17})")
_BAD_TEXT: Final = re.compile(rb"[^a-zA-Z0-9._-]")

Seconds = Annotated[float, msgspec.Meta(ge=0)]


class _Outcome(msgspec.Struct, frozen=True, tag_field="outcome", kw_only=True, omit_defaults=True):
    """`group` is the worker's consumer group, `attempt` that of the admitted record.

    `settled`: everything of the partition before this offset is finished in this group, and will not be told again.
    """

    group: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    attempt: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    settled: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0


class Done(msgspec.Struct, frozen=True, tag_field="outcome", tag="done", kw_only=True, omit_defaults=True):
    """The job is done. Where the request counts as running this ends it; else the committed offset says as much.

    The place says which request it is: group and attempt need not be told, and `settled` counts for a group only.
    """

    group: Annotated[str, msgspec.Meta(max_length=255)] = ""
    attempt: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    settled: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0


class Failed(_Outcome, frozen=True, tag="failed", kw_only=True):
    """The job failed. It is to be tried again after `retry_after` seconds; None: it is given up.

    `cost`: what the next attempt costs, if not as much as this one.
    """

    error: str
    retry_after: Seconds | None = None
    cost: Annotated[int, msgspec.Meta(ge=1, le=MAX_COST)] | None = None


class Finished(msgspec.Struct, frozen=True, tag_field="outcome", tag="finished"):
    """Requests that run no more, by the ids of their stamps; the key of the record says nothing then.

    What is told of others, or told again, is passed over.
    """

    ids: Annotated[list[Annotated[str, msgspec.Meta(max_length=300)]], msgspec.Meta(min_length=1, max_length=1_000)]


class BackOff(_Outcome, frozen=True, tag="back-off", kw_only=True):
    """The service behind the worker wants to be left alone for `seconds`; the attempt does not count."""

    seconds: Seconds
    cost: Annotated[int, msgspec.Meta(ge=1, le=MAX_COST)] | None = None


Outcome = Done | Failed | BackOff
_TOLD: Final = b'"finished"'


class Place(NamedTuple):
    """Where a record is."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}@{self.offset}"


class Heard(NamedTuple):
    """What was told of the admitted record at `offset`."""

    offset: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Ignored:
    """A record that can't be what a worker tells: which kind of fault it has, and what it is."""

    kind: str  # `place`, `oversize`, `unreadable`, `missing`, `attempt`, `group`
    why: str


def place_of(text: bytes | None) -> Place | None:
    """Read `topic-partition@offset`; None for anything else."""
    found = _PLACE.fullmatch(text or b"")
    if found is None or _BAD_TEXT.search(found[1]):
        return None
    return Place(found[1].decode("ascii"), int(found[2]), int(found[3]))


def encode(outcome: Outcome | Finished) -> bytes:
    """Return the value of a feedback record."""
    return msgspec.json.encode(outcome)


def read(key: bytes | None, value: bytes | None, admitted: str, partition: int) -> Heard | Finished | Ignored:
    """Read a record of the `partition` of a feedback topic whose service's admitted topic is `admitted`."""
    if value is not None and _TOLD in value and len(value) <= MOST_BYTES:
        with suppress(msgspec.DecodeError, UnicodeError, RecursionError):
            return msgspec.json.decode(value, type=Finished)
    place = place_of(key)
    if place is None:
        return Ignored("place", f"its key {(key or b'')[:80]!r} is no place of a record")
    if (place.topic, place.partition) != (admitted, partition):
        return Ignored("place", f"it is about {place}, and only about {admitted}-{partition} may be told here")
    if value is None:
        return Ignored("unreadable", "it has no value")
    if len(value) > MOST_BYTES:
        return Ignored("oversize", f"it has {len(value)} bytes; at most {MOST_BYTES} are read")
    try:
        outcome: Outcome = msgspec.json.decode(value, type=Outcome)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        return Ignored("unreadable", str(error)[:MOST_ERROR])
    return Heard(place.offset, outcome)


def bounded(error: str) -> str:
    """Return an error as it may be told: of bounded length, and text that UTF-8 can carry."""
    return error[:MOST_ERROR].encode("utf-8", "backslashreplace").decode()[:MOST_ERROR]
