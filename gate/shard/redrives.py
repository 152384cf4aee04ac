"""Redrives: records that go back into their service as new requests, which name the first one. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from gate.protocol.control import Redrive
from gate.protocol.headers import (
    CLAIMED,
    DEADLINE,
    ERROR,
    ERROR_ATTEMPTS,
    FAULT,
    ID,
    JOB_ID,
    JOB_NOT_BEFORE,
    PRIORITY,
    TENANT,
    Headers,
    job_id,
    last,
    number,
    original_id,
    unstamped,
)
from gate.protocol.topics import Names
from gate.shard.records import Outgoing, Partition, Record

Extents = dict[int, tuple[int, int]]  # by partition: the first offset, and that behind the last one, that are meant
Place = tuple[int, int]  # partition, offset
Age = tuple[int, int, int]  # unix ms, partition, offset
CUT_SHORT: Final = (b" is left out here (", b"; nothing else of it fits")  # as `forwarding.rejected` says it
_OWN: Final = ("rejected", "admitted")  # what the gate writes for all, with stamps that can be believed
_BROKERS: Final = ("__consumer_offsets", "__transaction_state")  # of the broker itself
_NEVER: Final = ("delayed", "retries", "feedback", "results")  # what lies there waits, or is no request


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """What is to be read of a source next."""

    topic: str
    place: Place | None = None  # from there on; None: how far it goes is to be found out
    since_ms: int = 0
    acts: bool = False  # what fits is put back, so that there must be a topic for it


@dataclass(frozen=True, slots=True)
class Scanned:
    """What was read of a partition of the source at one go, up to `behind`."""

    partition: Partition
    records: Sequence[Record]
    behind: Place


class RedriveRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a redrive is, in the record of its command."""

    extents: Extents = msgspec.field(name="e")
    skipped: int = msgspec.field(default=0, name="s")
    edge: Age | None = msgspec.field(default=None, name="k")  # what is as new as that is left alone


def source_of(command: Redrive, names: Names) -> str:
    """Return the topic that a command is about."""
    return command.source or names.rejected(command.service)


def refuse_source(topic: str, names: Names) -> str | None:
    """Tell why a topic can't be put back; None: it can, if it is there."""
    told = {names.control, names.answers, names.audit, names.alerts, names.usage, names.grants, names.policies}
    if topic in told or topic == names.history:
        return f"{topic} holds no requests"
    if names.generation_of(topic) is not None or names.leases_generation(topic) is not None or topic in _BROKERS:
        return f"{topic} holds no requests"
    for kind in _NEVER:
        if names.service_of(topic, kind) is not None:
            return f"{topic} holds no requests" if kind in {"feedback", "results"} else f"what is in {topic} waits yet"
    return None


def next_place(extents: Extents, place: Place) -> Place | None:
    """Return `place`, or where to go on if its partition is done; None: all are."""
    for partition in sorted(extents):
        first, end = extents[partition]
        if partition == place[0]:
            first = max(first, place[1])
        if partition >= place[0] and first < end:
            return partition, first
    return None


def age_of(record: Record, partition: int) -> Age:
    """Return what orders records of all partitions by when they were written."""
    return record.timestamp, partition, record.offset


def fits(command: Redrive, taken_at_ms: int, record: Record, at: Partition) -> bool:
    """Tell whether a record is meant."""
    selection, headers = command.selection, record.headers
    if record.timestamp < command.since_ms or (command.until_ms and record.timestamp >= command.until_ms):
        return False
    if selection.older_than_ms and record.timestamp >= taken_at_ms - selection.older_than_ms:
        return False
    if selection.key is not None and record.key != selection.key.encode():
        return False
    if selection.tenant is not None and (last(headers, TENANT) or b"") != selection.tenant.encode():
        return False
    if selection.lane and (last(headers, PRIORITY) or b"") != selection.lane.encode():
        return False
    if selection.producer_id and last(headers, ID) != selection.producer_id.encode():
        return False
    if selection.deadline_before_ms:
        deadline = number(last(headers, DEADLINE))
        if deadline is None or deadline >= selection.deadline_before_ms:
            return False
    return not selection.id or selection.id in {original_id(headers), job_id(headers), _place_of(at, record)}


def as_request(record: Record, at: Partition, names: Names, service: str) -> Outgoing | None:
    """Return a record as it goes back: key, value and headers as they were; None: it was cut short.

    Only of what the gate itself has written is believed which job it is, and the how many-th attempt.
    """
    headers: Headers = record.headers
    if any(name == FAULT for name, _ in headers) or _is_cut_short(record):
        return None
    is_own = at.topic in {getattr(names, kind)(service) for kind in _OWN}
    first = (job_id(headers) if is_own else None) or _place_of(at, record)
    dropped = {ERROR, ERROR_ATTEMPTS, JOB_ID, JOB_NOT_BEFORE} if is_own else CLAIMED
    kept = [header for header in unstamped(headers) if header[0] not in dropped]
    return Outgoing(record.key, record.value, None, [*kept, (JOB_ID, first.encode("ascii", "replace"))])


def _place_of(at: Partition, record: Record) -> str:
    return f"{at.topic}-{at.number}@{record.offset}"


def _is_cut_short(record: Record) -> bool:
    if record.value is not None:
        return False
    why = last(record.headers, ERROR) or b""
    return any(words in why for words in CUT_SHORT)
