"""Retries and dead letters of failed jobs, made of the admitted record and of what a worker told.

A retry comes back as a request with a `gate-start`: the owner parks it in the delayed topic until then, by time and not
behind others. In formats of the state that keep no such requests it waits in the retries topic.
Pure: the shard brings the admitted record and takes away what is to be written.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gate.protocol.feedback import (
    LONGEST_BACKOFF,
    LONGEST_WAIT,
    BackOff,
    Done,
    Failed,
    Heard,
    Ignored,
    Outcome,
    bounded,
)
from gate.protocol.headers import (
    CLAIMED,
    COST,
    FAULT,
    JOB_ATTEMPT,
    JOB_BACKOFFS,
    JOB_GROUP,
    JOB_ID,
    JOB_NOT_BEFORE,
    STAMP,
    START,
    Headers,
    attempt,
    backoffs,
    job_id,
    last,
    number,
    unstamped,
)
from gate.shard.records import Outgoing, Record

FIRST_WAIT: Final = 0.5  # seconds that jobs wait in the first partition of a retries topic, at most
STAGES: Final = 1 + math.ceil(math.log2(LONGEST_WAIT / FIRST_WAIT))
_MOST_ATTEMPTS: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Retry:
    """A job on its way back: to which partition of the retries topic, and the record."""

    stage: int
    due_ms: int
    record: Outgoing


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that its workers gave up after so many attempts: the last one's error."""

    error: str
    attempts: int


def stage_of(seconds: float) -> int:
    """Return the partition for jobs that wait so long there: each holds those of up to twice as long as the one before.

    So jobs of one partition wait about equally long, and the first is the first due. Where the state keeps what is
    scheduled, none waits there, and all go to the first one.
    """
    return math.ceil(math.log2(min(max(seconds, FIRST_WAIT), LONGEST_WAIT) / FIRST_WAIT))


def unfit(heard: Heard, record: Record | None) -> Ignored | None:
    """Tell why nothing follows from what was `heard` of `record`; None: it fits."""
    if record is None or last(record.headers, FAULT) is not None:
        return Ignored("missing", "there is no such admitted request; it never was, or its retention is over")
    stamp = last(record.headers, STAMP)
    if stamp is None or not stamp.startswith(b"admitted;"):
        return Ignored("missing", "the record is no admitted request")
    told, is_one = heard.outcome.attempt, attempt(record.headers)
    if told not in {0, is_one}:
        return Ignored("attempt", f"it tells of attempt {told}, and the admitted request is attempt {is_one}")
    group = last(record.headers, JOB_GROUP)
    if heard.outcome.group and group is not None and group != heard.outcome.group.encode():
        return Ignored("group", f"group {heard.outcome.group!r} tells of a retry that is for another group")
    return None


def follow(
    outcome: Outcome, record: Record, told_at: int, now: int, *, waits_out: bool = False, scheduled: bool = True
) -> Retry | DeadLetter:
    """Return what follows from the outcome of an admitted request, which is not `Done`. Times are unix ms.

    `told_at` is when the worker told it, by a clock that need not be right. After a back-off a job comes back at once
    and waits with all others, or, with `waits_out`, when the back-off is over. What has to wait is `scheduled`: it is
    read at once, and parked until its time. Else it waits where it is written, behind others of its partition.
    """
    assert not isinstance(outcome, Done)
    if isinstance(outcome, Failed) and (outcome.retry_after is None or outcome.attempt >= _MOST_ATTEMPTS):
        return DeadLetter(bounded(outcome.error), outcome.attempt)
    if isinstance(outcome, BackOff):
        wait, next_attempt = (min(outcome.seconds, LONGEST_BACKOFF) if waits_out else 0.0), outcome.attempt
    else:
        wait, next_attempt = min(outcome.retry_after or 0.0, LONGEST_WAIT), outcome.attempt + 1
    due = min(told_at, now) + math.ceil(wait * 1000)
    dropped = CLAIMED | {START} | ({COST} if outcome.cost is not None else set())
    headers = [header for header in unstamped(record.headers) if header[0] not in dropped]
    headers += [
        (JOB_ID, (job_id(record.headers) or "").encode()),
        (JOB_ATTEMPT, b"%d" % next_attempt),
        (JOB_GROUP, outcome.group.encode()),
    ]
    if put_off := backoffs(record.headers) + isinstance(outcome, BackOff):
        headers.append((JOB_BACKOFFS, b"%d" % put_off))
    if outcome.cost is not None:
        headers.append((COST, b"%d" % outcome.cost))
    if not scheduled:
        headers.append((JOB_NOT_BEFORE, b"%d" % due))
    elif due > now:
        headers.append((START, b"%d" % due))
    return Retry(0 if scheduled else stage_of(wait), due, Outgoing(record.key, record.value, now, headers))


def paused_until(outcome: BackOff, told_at: int, now: int) -> int:
    """Return until when a service is to be left alone, unix ms; never more than an hour from `now`."""
    return min(told_at, now) + math.ceil(min(outcome.seconds, LONGEST_BACKOFF) * 1000)


def waits_until(record: Record) -> int:
    """Return until when a job in the retries topic waits, by what is not its `gate-start`, unix ms; 0: it does not."""
    not_before = number(last(record.headers, JOB_NOT_BEFORE))
    return 0 if not_before is None else min(not_before, record.timestamp + int(LONGEST_WAIT * 1000))


def home_of(headers: Headers, partitions: int) -> int:
    """Return the partition in which a job began, so that its retries stay with others of its key.

    A topic has no fewer partitions than it had; where it was made anew with fewer, or nothing is known, any will do.
    """
    first = job_id(headers) or ""
    home = number(first.rpartition("@")[0].rpartition("-")[2].encode("ascii", "replace")) or 0
    return home % max(1, partitions)


def as_request(record: Record) -> Sequence[tuple[str, bytes | None]]:
    """Return the headers of a retry whose time has come."""
    return [header for header in record.headers if header[0] != JOB_NOT_BEFORE]
