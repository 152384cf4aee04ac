"""The history of refused outputs: what is learnt from each, so that a refusal stops as little as possible.

A refused record costs the session, and with it the batch; what is learnt here outlives both. The request is found by
what the broker names, or by halves, and rejected. Where even that is refused, or nothing at all can be written, the
partition that it came from waits, and is tried again ever later; all others go on.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

from gate.protocol.headers import (
    ERROR,
    STAMP,
    UNFORWARDABLE,
    Headers,
    Origin,
    job_id,
    last,
    origin,
    parse_stamp,
)
from gate.protocol.topics import Names
from gate.shard.records import Outgoing, Partition, Raw
from gate.shard.refusals import BatchTooLargeError, OutputError, RecordsRefusedError

FIRST_WAIT: Final = 5.0  # seconds until what waits is tried again, doubled each time
LONGEST_WAIT: Final = 60.0
MOST_ROOM: Final = 4_000  # requests of a batch: above it nothing is held back
MOST_CONDEMNED: Final = 10_000  # requests that are remembered; those that ended long ago are let go


class RejectionLevel(IntEnum):
    """How much of a rejected request is written to the rejected topic."""

    WHOLE = 1
    WITHOUT_VALUE = 2
    BARE = 3  # nothing but the stamp and the error
    NOTHING = 4  # not even that is taken: its partition waits


class Rejection(NamedTuple):
    """Why a request is rejected, and how much of it is left."""

    why: str
    level: RejectionLevel
    reason: str = UNFORWARDABLE
    first: str = ""  # the request that it repeats


Rejections = Mapping[Partition, Mapping[int, Rejection]]  # by request partition and offset
NO_REJECTIONS: Final[Rejections] = {}


@dataclass(slots=True)
class ClosedOutput:
    """An output that takes nothing. Times are monotonic seconds."""

    why: str
    since_seconds: float
    until_seconds: float  # then it is tried again
    tries: int = 1
    halts: bool = False  # all of the service: what it has parked goes there, too

    def again(self, why: str, now: float) -> None:
        """Wait for twice as long. Refused before its time, it was not fresh requests that went there."""
        self.halts |= now < self.until_seconds
        self.why, self.tries = why, self.tries + 1
        self.until_seconds = now + min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (self.tries - 1))


@dataclass(slots=True)
class RefusalHistory:
    """What the owner of a shard has learnt, by request partitions and services."""

    names: Names
    condemned: dict[Partition, dict[int, Rejection]] = field(default_factory=dict)
    rooms: dict[Partition, int] = field(default_factory=dict)  # requests to take at a time, while one is looked for
    pulls: dict[str, int] = field(default_factory=dict)  # the same of parked ones, by service
    hearings: dict[str, int] = field(default_factory=dict)  # the same of jobs that failed
    closed: dict[Partition, ClosedOutput] = field(default_factory=dict)  # by output

    def learn(self, error: OutputError, now: float) -> None:
        """Take in what was refused."""
        if isinstance(error, BatchTooLargeError):
            return  # smaller ones are made; see TopicLimits
        if not isinstance(error, RecordsRefusedError):
            self._close(error.partition, error.why, now)
        elif error.faulty:
            for index, why in error.faulty:
                self._condemn(error, error.records[index], why, now)
        else:
            self._halve(error, now)

    def pulled_too_much(self, services: Iterable[str], count: int) -> None:
        """Let fewer parked requests leave at once: `count` of them are too large together."""
        for service in services:
            self.pulls[service] = max(1, min(count, self.pulls.get(service, count)) // 2)

    def _condemn(self, error: OutputError, record: Outgoing | Raw, why: str, now: float) -> None:
        found = request_of(record[3]) or job_of(record[3])
        if found is None:
            self._close(error.partition, why, now)
            return
        place, offset = found
        before = self.condemned.get(place, {}).get(offset)
        rejected = self.names.service_of(error.partition.topic, "rejected") is not None
        if not rejected:
            rejection = Rejection(why, RejectionLevel.WHOLE)
        else:  # why it was rejected in the first place is what to tell, and not what became of the rejection
            rejection = before or _as_rejected(record[3], why)
            if rejection.level + 1 >= RejectionLevel.NOTHING:
                self._close(error.partition, why, now)
                return
            rejection = rejection._replace(level=RejectionLevel(rejection.level + 1))
        self.condemned.setdefault(place, {})[offset] = rejection
        while sum(map(len, self.condemned.values())) > MOST_CONDEMNED:
            oldest = next(iter(self.condemned))
            del self.condemned[oldest][next(iter(self.condemned[oldest]))]
            if not self.condemned[oldest]:
                del self.condemned[oldest]

    def _halve(self, error: RecordsRefusedError, now: float) -> None:
        """Look for the culprit among half as many."""
        suspects = error.records[error.first : error.first + error.count]
        fresh: dict[Partition, int] = {}
        parked: dict[str, int] = {}
        failed: dict[str, int] = {}
        for record in suspects:
            if (service := self._failed(error.partition.topic, record[3])) is not None:
                failed[service] = failed.get(service, 0) + 1
                continue
            found = origin(record[3])
            place = found and _place(found)
            service = place and self._read_by(place[0].topic)
            if found is None or place is None or service is None:
                self._close(error.partition, error.why, now)
                return
            if found.attempt > 1:
                parked[service] = parked.get(service, 0) + 1
            else:
                fresh[place[0]] = fresh.get(place[0], 0) + 1
        for partition, count in fresh.items():
            self.rooms[partition] = max(1, count // 2)
        for service, count in parked.items():
            self.pulls[service] = count // 2 if fresh else max(1, count // 2)
        for service, count in failed.items():
            self.hearings[service] = max(1, count // 2)

    def _read_by(self, topic: str) -> str | None:
        """Return the service whose requests or retries a topic holds."""
        return self.names.service_of(topic) or self.names.service_of(topic, "retries")

    def _failed(self, topic: str, headers: Headers) -> str | None:
        """Return the service of a retry or a dead letter that goes to a topic; None: it is neither."""
        given_up = self.names.service_of(topic, "rejected")
        if given_up is not None and (last(headers, STAMP) or b"").startswith(b"admitted;"):
            return given_up
        return self.names.service_of(topic, "retries")

    def _close(self, output: Partition, why: str, now: float) -> None:
        known = self.closed.get(output)
        if known is None:
            self.closed[output] = ClosedOutput(why, now, now + FIRST_WAIT)
        else:
            known.again(why, now)

    def committed(self, outputs: Iterable[Partition]) -> None:
        """Take in that a batch went through: what it wrote to is open, and more may be taken at a time."""
        if self.closed:
            for partition in outputs:
                self.closed.pop(partition, None)
        if self.rooms:
            self.rooms = {place: 2 * room for place, room in self.rooms.items() if 2 * room < MOST_ROOM}
        if self.pulls:
            self.pulls = {place: 2 * room or 1 for place, room in self.pulls.items() if 2 * room < MOST_ROOM}
        if self.hearings:
            self.hearings = {place: 2 * room for place, room in self.hearings.items() if 2 * room < MOST_ROOM}

    def waiting(self, now: float) -> Iterator[tuple[Partition, ClosedOutput]]:
        """Yield the outputs that are not to be tried yet."""
        return ((output, closed) for output, closed in self.closed.items() if now < closed.until_seconds)

    def wakes_at(self, now: float) -> float | None:
        """Return when the next one is to be tried again, monotonic seconds; None: nothing waits."""
        return min((closed.until_seconds for _, closed in self.waiting(now)), default=None)

    def service_of(self, output: Partition) -> str | None:
        """Return the service whose output this is."""
        found = (self.names.service_of(output.topic, kind) for kind in ("admitted", "delayed", "rejected", "retries"))
        return next((service for service in found if service is not None), None)


def request_of(headers: Headers) -> tuple[Partition, int] | None:
    """Return the request that a stamped record is about: its partition and offset."""
    found = origin(headers)
    return _place(found) if found is not None else None


def _as_rejected(headers: Headers, why: str) -> Rejection:
    given = dict(headers)
    stamp, told = parse_stamp(given[STAMP] or b""), given.get(ERROR)
    said = why if told is None else told.decode("utf-8", "replace")
    return Rejection(said, RejectionLevel.WHOLE, stamp.reason or UNFORWARDABLE, stamp.first or "")


def job_of(headers: Headers) -> tuple[Partition, int] | None:
    """Return the first request about a job."""
    first = job_id(headers)
    return None if first is None else _place(first)


def _place(found: Origin | str) -> tuple[Partition, int] | None:
    text = found if isinstance(found, str) else found.id.decode("ascii", "replace")
    source, _, offset = text.rpartition("@")
    topic, _, number = source.rpartition("-")
    return (Partition(topic, int(number)), int(offset)) if number.isdecimal() and offset.isdecimal() else None
