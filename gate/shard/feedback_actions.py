"""Actions on feedback: what workers told becomes retries, dead letters and pauses. No I/O."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gate.protocol.feedback import BackOff, Done, Finished, Heard, Ignored
from gate.protocol.headers import (
    ERROR,
    ERROR_ATTEMPTS,
    FAULT,
    UNFORWARDABLE,
    Malformed,
    decided_at,
    is_running,
    origin,
    original_id,
)
from gate.shard.failed_jobs import DeadLetter, Retry, follow, paused_until, unfit
from gate.shard.feedback_state import FeedbackState
from gate.shard.forwarding import Refusal, estimate, rejected
from gate.shard.records import Outgoing, Partition, Record
from gate.shard.refusal_history import RejectionLevel, Rejections, job_of
from gate.shard.routing import Batch, Topics
from gate.shard.topic_limits import TopicLimit
from gate.units import MS

REPEATED: Final = "repeated"  # told before; all other counts are of faults, or of what follows


class FeedbackEntry(NamedTuple):
    """One record of a feedback topic: what it says, when it was told, and what it is about."""

    said: Heard | Finished | Ignored
    offset: int
    told_at_ms: int
    record: Record | None = None


@dataclass(frozen=True, slots=True)
class FeedbackBatch:
    """What was told of one partition of a service, up to feedback offset `end`, ready to be acted upon."""

    service: str
    partition: Partition
    entries: Sequence[FeedbackEntry]
    end: int
    stages: int = 1  # partitions of the retries topic

    def first(self, count: int) -> tuple["FeedbackBatch", "FeedbackBatch | None"]:
        """Return the first `count` entries, and what is left."""
        if count >= len(self.entries):
            return self, None
        end = self.entries[count].offset
        return (
            FeedbackBatch(self.service, self.partition, self.entries[:count], end, self.stages),
            FeedbackBatch(self.service, self.partition, self.entries[count:], self.end, self.stages),
        )


@dataclass(slots=True)
class FeedbackResult:
    """What followed from a part: until when the service is to be left alone, and how much of what."""

    paused_until_ms: int = 0
    done: list[str] = field(default_factory=list)  # ids of requests that run no more
    counts: Counter[str] = field(default_factory=Counter)
    ignored: list[tuple[int, Ignored]] = field(default_factory=list)  # by feedback offset


def act(
    part: FeedbackBatch,
    topics: Topics,
    feedback: FeedbackState,
    batch: Batch,
    rejections: Rejections,
    *,
    waits_out: bool = False,
    scheduled: bool = True,
) -> FeedbackResult:
    """Write what follows into a batch. `rejections` are of jobs whose retry or dead letter a broker has refused.

    `waits_out` and `scheduled` are those of `follow`.
    """
    result = FeedbackResult()
    now = batch.now // MS
    for entry in part.entries:
        if isinstance(entry.said, Finished):
            result.done += entry.said.ids
            result.counts["done"] += len(entry.said.ids)
            continue
        said = entry.said if isinstance(entry.said, Ignored) else unfit(entry.said, entry.record) or entry.said
        if isinstance(said, Ignored):
            result.counts[said.kind] += 1
            result.ignored.append((entry.offset, said))
            continue
        outcome, record = said.outcome, entry.record
        assert record is not None  # or it would not fit
        ends = original_id(record.headers) if is_running(record.headers) else None
        if ends is not None:  # also of what was told before: it may run again
            result.done.append(ends)
        told = feedback.told(part.service, part.partition.number)
        if isinstance(outcome, Done):
            if outcome.group:
                told.settle(outcome.group, min(outcome.settled, said.offset))
            result.counts["done"] += 1
            continue
        if not told.take(outcome.group, said.offset, outcome.settled, decided_at(record.headers) or 0):
            result.counts[REPEATED] += 1
            continue
        if isinstance(outcome, BackOff):
            result.paused_until_ms = max(result.paused_until_ms, paused_until(outcome, entry.told_at_ms, now))
            result.counts["back-off"] += 1
        job = job_of(record.headers)
        rejection = rejections.get(job[0], {}).get(job[1]) if job is not None else None
        what = follow(outcome, record, entry.told_at_ms, now, waits_out=waits_out, scheduled=scheduled)
        if isinstance(what, Retry):
            why = rejection.why if rejection else too_large(what.record, batch.limit(topics.retries), topics.retries)
            if why is None:
                batch.to(topics.retries, min(what.stage, part.stages - 1)).append(what.record)
                result.counts["retry"] += 1
                continue
            what = DeadLetter(f"it can't be tried again: {why}", outcome.attempt)
        letter = dead_letter(
            record, what, now, batch.limit(topics.rejected), rejection.level if rejection else RejectionLevel.WHOLE
        )
        batch.to(topics.rejected, part.partition.number).append(letter)
        result.counts["given-up"] += 1
    feedback.advance(part.partition, part.end)
    return result


def too_large(record: Outgoing, limit: TopicLimit, topic: str) -> str | None:
    """Tell why a topic does not take a record, as far as that can be foreseen."""
    if limit.compacted and record.key is None:
        return f"it has no key, and topic {topic} is compacted (cleanup.policy)"
    size = estimate(record.key, record.value, record.headers)
    if limit.size is None or size <= limit.size:
        return None
    return f"it takes {size} bytes, and topic {topic} takes {limit.size} at most (max.message.bytes)"


def dead_letter(record: Record, dead: DeadLetter, now: int, limit: TopicLimit, level: RejectionLevel) -> Outgoing:
    """Return what is written of a job that was given up: all of it with its error, or what the rejected topic takes.

    It keeps the stamp by which it was admitted: that tells it from requests that the gate rejected.
    """
    own = [header for header in record.headers if header[0] not in {ERROR, ERROR_ATTEMPTS, FAULT}]
    headers = [*own, (ERROR_ATTEMPTS, b"%d" % dead.attempts)]
    found = origin(headers)
    refusal = Refusal(Malformed("", dead.error, UNFORWARDABLE), level)
    return rejected(record, now, headers, refusal, limit, found.id if found else b"")
