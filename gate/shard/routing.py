"""From an engine's decisions to records: what goes to which topic, stamped how."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, chain
from operator import attrgetter, itemgetter
from typing import Final

import msgspec

from gate.admission.model import Decision, Pull, Reason, Run, Verdict
from gate.protocol.headers import (
    MAX_CREATED,
    NOT_BEFORE,
    OURS,
    PLAIN,
    RETRY_AFTER,
    STAMP,
    START,
    Malformed,
    Origin,
    RequestOptions,
    StampTemplate,
    decided_at,
    is_stamped,
    job_id,
    origin,
    read_options,
    replace_all,
    restamp,
    retry_after,
    source_of,
    with_origin,
)
from gate.protocol.topics import Names
from gate.shard.failed_jobs import as_request, home_of, waits_until
from gate.shard.forwarding import Judge, Refusal, refused_before, rejected
from gate.shard.records import Outgoing, Partition, Raw, Record
from gate.shard.refusal_history import NO_REJECTIONS, Rejections, request_of
from gate.shard.topic_limits import UNKNOWN, TopicLimit
from gate.units import MS, Ns

Look = Callable[[Sequence[Record]], None]

_HEADERS: Final = attrgetter("headers")
_SLICE: Final = 256  # requests
_NAME: Final = itemgetter(0)


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one service."""

    requests: str
    admitted: str
    delayed: str
    rejected: str
    retries: str
    feedback: str

    @property
    def outputs(self) -> tuple[str, str, str, str]:
        """Where the gate writes for this service."""
        return self.admitted, self.delayed, self.rejected, self.retries

    @property
    def decided(self) -> tuple[str, str, str]:
        """Where requests go that it decides about."""
        return self.admitted, self.delayed, self.rejected

    @classmethod
    def of(cls, names: Names, service: str) -> "Topics":
        """Return the topics of `service`."""
        return cls(
            names.requests(service),
            names.admitted(service),
            names.delayed(service),
            names.rejected(service),
            names.retries(service),
            names.feedback(service),
        )


def source_number(partition: int, *, retried: bool) -> int:
    """Return a number for what a service reads: partitions of requests as they are, those of retries down from -1."""
    return -1 - partition if retried else partition


@dataclass(frozen=True, slots=True)
class PartitionSlice:
    """Requests of one partition in a batch, numbered from `first` through the batch.

    Of `retried` ones the partition is one of the retries topic; each goes to the one in which its job began.
    """

    partition: int
    first: int
    records: Sequence[Record]
    end: int  # the next offset to decide behind them
    returned: bool = False  # they were parked once and are decided anew
    homes: int = 0  # of retries: how many partitions there are to which they may go

    @property
    def retried(self) -> bool:
        """Tell whether these are retries."""
        return self.homes > 0

    @property
    def is_fresh(self) -> bool:
        """Tell whether a producer wrote these, and nobody has decided about them yet."""
        return not (self.returned or self.homes)

    @property
    def source(self) -> int:
        """What tells where it came from among all of its service; see `source_number`."""
        return source_number(self.partition, retried=self.retried)


Judges = Mapping[int, Judge]  # by `PartitionSlice.source`
NO_JUDGES: Final[Judges] = {}
TakenRecords = tuple[int, Sequence[Record], int]  # requests of a partition, and the offset behind them


def number_through(
    parts: Sequence[TakenRecords], *, returned: bool = False, homes: int = 0, start: int = 0
) -> list[PartitionSlice]:
    """Return requests as pieces that are numbered through a batch, from `start` on."""
    firsts = accumulate((len(records) for _, records, _ in parts), initial=start)
    return [
        PartitionSlice(number, first, records, end, returned, homes)
        for (number, records, end), first in zip(parts, firsts, strict=False)
    ]


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """A request that can't go on."""

    index: int
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class ParsedRequests:
    """A service's requests as runs of like ones; those that can't go on come apart.

    `clean` says that none carries what only the gate writes, so that stamping needs no look at the other headers.
    """

    runs: list[Run]
    refused: list[RefusedRequest]
    clean: bool


def _are_plain(records: Sequence[Record], look: Look | None) -> bool:
    """Tell whether no request has a header that concerns the gate, and show all of them to `look`.

    That is done in slices which a processor's cache has room for: to come to thousands of objects anew takes longer
    than what is done with them.
    """
    if look is None:
        return OURS.isdisjoint(map(_NAME, chain.from_iterable(map(_HEADERS, records))))
    plain = True
    for at in range(0, len(records), _SLICE):
        part = records[at : at + _SLICE]
        plain = plain and OURS.isdisjoint(map(_NAME, chain.from_iterable(map(_HEADERS, part))))
        look(part)
    return plain


def read_runs(pieces: Sequence[PartitionSlice], judges: Judges = NO_JUDGES, look: Look | None = None) -> ParsedRequests:
    """Read what the requests wish for. Most have no header that concerns the gate: a pass without a line of Python.

    `judges` tell which requests can't be forwarded. `look` is shown each fresh request once, in their order.
    """
    runs: list[Run] = []
    refused: list[RefusedRequest] = []
    clean = True
    options: RequestOptions = PLAIN
    first = count = 0

    def close() -> None:
        if count:
            deadline = None if options.deadline_ms is None else options.deadline_ms * MS
            start = None if options.start_ms is None else options.start_ms * MS
            runs.append(Run(first, count, options.lane, options.tenant, options.cost, deadline, start))

    for piece in pieces:
        judge = judges.get(piece.source) if judges else None
        plain = _are_plain(piece.records, look if piece.is_fresh else None)
        if piece.records and judge is None and plain:
            if count and options != PLAIN:
                close()
                count = 0
            if not count:
                options, first = PLAIN, piece.first
            count += len(piece.records)
            continue
        for index, record in enumerate(piece.records, piece.first):
            if judge is not None and (refusal := judge(record)) is not None:
                close()
                refused.append(RefusedRequest(index, refusal))
                options, count = PLAIN, 0
                continue
            read: RequestOptions | Malformed = PLAIN
            for name, _ in record.headers:
                if name in OURS:
                    read = read_options(record.headers)
                    clean = clean and not is_stamped(record.headers)
                    if piece.retried and read.__class__ is RequestOptions and (start := waits_until(record)):
                        read = msgspec.structs.replace(read, start_ms=max(start, read.start_ms or 0))
                    break
            if read is options or read == options:
                if not count:
                    first = index
                count += 1
                continue
            close()
            if isinstance(read, Malformed):
                refused.append(RefusedRequest(index, Refusal(read)))
                options, count = PLAIN, 0
            else:
                options, first, count = read, index, 1
    close()
    return ParsedRequests(runs, refused, clean)


def without_start(reading: ParsedRequests, now: int, written: int) -> ParsedRequests:
    """Refuse what is not to go before a later time: the format in which the state is `written` does not keep that."""
    later = [run for run in reading.runs if run.start is not None and run.start > now]
    if not later:
        return reading
    why = f"can't be kept in format {written} of the state: `gate upgrade finish` switches to the newest"
    refusal = Refusal(Malformed(START, why))
    refused = [RefusedRequest(number, refusal) for run in later for number in range(run.first, run.first + run.count)]
    runs = [run for run in reading.runs if run.start is None or run.start <= now]
    return ParsedRequests(runs, [*reading.refused, *refused], reading.clean)


@dataclass(slots=True)
class Batch:
    """What one transaction writes: outputs by partition, and the place in them of each request that is parked."""

    now: Ns  # whole ms
    outputs: dict[Partition, list[Outgoing | Raw]] = field(default_factory=dict)
    limit: Callable[[str], TopicLimit] = lambda _: UNKNOWN  # what a topic takes

    def to(self, topic: str, partition: int) -> list[Outgoing | Raw]:
        """Return the list of what goes to a partition."""
        return self.outputs.setdefault(Partition(topic, partition), [])

    def route(
        self,
        topics: Topics,
        policy: str,
        pieces: Sequence[PartitionSlice],
        decisions: Sequence[Decision],
        *,
        clean: bool,
        running: bool = False,
    ) -> list[tuple[Partition, int]]:
        """Stamp and route fresh requests; `running`: workers are to tell when those that are admitted are done.

        Returns (partition, index in its output) of each delayed one, in order.
        """
        at = self.now // MS
        parked: list[tuple[Partition, int]] = []
        for decision in decisions:
            if decision.verdict is Verdict.HELD:
                continue
            stamps = _Stamps(decision.verdict, at, policy, decision.reason, decision.limit, running=running)
            topic = _topic(topics, decision.verdict)
            for piece, start, stop in overlaps(pieces, decision.first, decision.first + decision.count):
                records = piece.records[start - piece.first : stop - piece.first]
                if piece.retried:
                    told = decision.not_before and decision.not_before[start - decision.first : stop - decision.first]
                    parked += self._route_retries(topics, topic, stamps, piece, records, told)
                    continue
                out = self.to(topic, piece.partition)
                if decision.verdict is Verdict.DELAYED:
                    place = Partition(topic, piece.partition)
                    parked += [(place, index) for index in range(len(out), len(out) + len(records))]
                times: list[int] | None = None
                if decision.not_before is not None:
                    told = decision.not_before[start - decision.first : stop - decision.first]
                    times = [-(-time // MS) for time in told]
                if clean and not piece.returned:
                    out += stamps.plainly(topics.requests, piece.partition, records, times)
                    continue
                if piece.returned:
                    stamp = stamps.returned(topics.delayed, piece.partition)
                else:
                    stamp = stamps.fresh(topics.requests, piece.partition)
                own = restamp if piece.returned else replace_all
                if times is None:
                    out.extend(Outgoing(r.key, r.value, at, own(r.headers, stamp(r))) for r in records)
                    continue
                for record, due in zip(records, times, strict=True):
                    headers = own(record.headers, stamp(record), retry_after(at, due), due)
                    out.append(Outgoing(record.key, record.value, at, headers))
        return parked

    def _route_retries(
        self,
        topics: Topics,
        topic: str,
        stamps: "_Stamps",
        piece: PartitionSlice,
        records: Sequence[Record],
        times: Sequence[int] | None,
    ) -> list[tuple[Partition, int]]:
        """Stamp retries, each on its way to where its job began. Returns as `route` does, as if all were delayed."""
        at, stamp = self.now // MS, stamps.retried(topics.retries, piece.partition)
        places = []
        for index, record in enumerate(records):
            home = Partition(topic, home_of(record.headers, piece.homes))
            out = self.to(*home)
            places.append((home, len(out)))
            own = as_request(record)
            if times is None:
                headers = restamp(own, stamp(record))
            else:
                due = -(-times[index] // MS)
                headers = restamp(own, stamp(record), retry_after(at, due), due)
            out.append(Outgoing(record.key, record.value, at, headers))
        return places if topic == topics.delayed else []

    def refuse(
        self, topics: Topics, policy: str, pieces: Sequence[PartitionSlice], refused: Sequence[RefusedRequest]
    ) -> None:
        """Route requests that can't go on to the rejected topic, with the reason in words."""
        for wish in refused:
            for piece, _, _ in overlaps(pieces, wish.index, wish.index + 1):
                record = piece.records[wish.index - piece.first]
                source = topics.retries if piece.retried else topics.delayed if piece.returned else topics.requests
                self._reject(topics, policy, piece.partition, record, wish.refusal, source, piece.homes)

    def _reject(
        self,
        topics: Topics,
        policy: str,
        partition: int,
        record: Record,
        refusal: Refusal,
        source: str,
        homes: int = 0,
    ) -> None:
        at = self.now // MS
        first = refusal.first or None
        stamps = _Stamps(Verdict.REJECTED, at, policy, Reason(refusal.malformed.reason), None, first=first)
        if source == topics.delayed:
            headers = restamp(record.headers, stamps.returned(source, partition)(record))
        elif source == topics.retries:
            headers = restamp(as_request(record), stamps.retried(source, partition)(record))
            partition = home_of(record.headers, homes)
        else:
            headers = replace_all(record.headers, stamps.fresh(source, partition)(record))
        found = origin(headers)
        assert found is not None  # it has just been stamped
        out = rejected(record, at, headers, refusal, self.limit(topics.rejected), found.id)
        self.to(topics.rejected, partition).append(out)

    def release(
        self,
        topics: Topics,
        policy: str,
        pull: Pull,
        records: Sequence[Record],
        rejections: Rejections = NO_REJECTIONS,
        *,
        running: bool = False,
    ) -> None:
        """Route parked requests that leave now; those that are sentenced, as their output was refused, are rejected."""
        if rejections:
            went = []
            for record in records:
                place = request_of(record.headers)
                rejection = rejections.get(place[0], {}).get(place[1]) if place else None
                if rejection is None:
                    went.append(record)
                else:
                    refusal = refused_before(rejection)
                    self._reject(topics, policy, pull.partition, record, refusal, topics.delayed)
            records = went
        at = self.now // MS
        stamps = _Stamps(pull.verdict, at, policy, pull.reason, pull.limit, running=running)
        stamp = stamps.returned(topics.delayed, pull.partition)
        out = self.to(_topic(topics, pull.verdict), pull.partition)
        if pull.not_before is not None and len(pull.not_before) == len(records):
            for record, time in zip(records, pull.not_before, strict=True):
                due = -(-time // MS)
                headers = restamp(record.headers, stamp(record), retry_after(at, due), due)
                out.append(Outgoing(record.key, record.value, at, headers))
            return
        out.extend(Outgoing(r.key, r.value, at, restamp(r.headers, stamp(r))) for r in records)


class _Stamps:
    """The stamps of one decision: all that is alike is encoded once."""

    def __init__(
        self,
        verdict: Verdict,
        at: int,
        policy: str,
        reason: Reason | None,
        limit: str | None,
        *,
        running: bool = False,
        first: str | None = None,
    ) -> None:
        self._at = at
        running = running and verdict is Verdict.ADMITTED
        self._make = partial(
            StampTemplate,
            verdict.value,
            at,
            policy=policy,
            reason=reason and reason.value,
            limit=limit,
            running=running,
            first=first,
        )

    def plainly(
        self, topic: str, partition: int, records: Sequence[Record], times: Sequence[int] | None
    ) -> Iterable[Raw]:
        """Stamp records that carry no stamp; `times`: those at which they will be admitted, unix ms.

        The way of most requests, hence at once and without a call for each.
        """
        at = self._at
        head, tail, dated = self._make(attempt=1).around(source_of(topic, partition))
        if times is None:  # in one pass: there are more of them than a processor's cache holds
            return [
                (
                    r.key, r.value, at,
                    [
                        *r.headers,
                        (
                            STAMP,
                            b"%b%d%b%d" % (head, r.offset, dated, created)
                            if 0 <= (created := r.timestamp) <= MAX_CREATED
                            else b"%b%d%b" % (head, r.offset, tail),
                        ),
                    ],
                )
                for r in records
            ]  # fmt: skip
        stamps = [
            b"%b%d%b%d" % (head, r.offset, dated, created)
            if 0 <= (created := r.timestamp) <= MAX_CREATED
            else b"%b%d%b" % (head, r.offset, tail)
            for r in records
        ]
        waits = [retry_after(at, due) for due in times]
        return [
            (
                r.key, r.value, at,
                [*r.headers, (STAMP, stamp), (RETRY_AFTER, b"%d" % wait), (NOT_BEFORE, b"%d" % due)],
            )
            for r, stamp, due, wait in zip(records, stamps, times, waits, strict=True)
        ]  # fmt: skip

    def fresh(self, topic: str, partition: int) -> Callable[[Record], bytes]:
        """Return what stamps requests of a request partition."""
        template, source = self._make(attempt=1), source_of(topic, partition)
        return lambda record: template.stamp_at(source, record.offset, record.timestamp)

    def retried(self, topic: str, partition: int) -> Callable[[Record], bytes]:
        """Return what stamps records of a retries partition: with an id of their own, and the first one's beside it."""
        stamp = self.fresh(topic, partition)

        def stamp_retry(record: Record) -> bytes:
            first = job_id(record.headers)
            return stamp(record) if first is None else with_origin(stamp(record), first.encode("ascii", "replace"))

        return stamp_retry

    def returned(self, topic: str, partition: int) -> Callable[[Record], bytes]:
        """Return what stamps records of a delayed partition: they keep their id, and count one attempt more."""
        templates: dict[int, StampTemplate] = {}
        source = source_of(topic, partition)

        def stamp(record: Record) -> bytes:
            # a record that the gate has not parked is named by its place
            found = origin(record.headers) or Origin(b"%b%d" % (source, record.offset), 1, -1)
            request_id, attempt, created, first = found
            if created < 0 and record.timestamp != decided_at(record.headers):
                created = record.timestamp  # parked by an earlier version, which left the producer's there
            if attempt not in templates:
                templates[attempt] = self._make(attempt=attempt + 1)
            own = templates[attempt].stamp(request_id, created)
            return own if first is None else with_origin(own, first)

        return stamp


def _topic(topics: Topics, verdict: Verdict) -> str:
    if verdict is Verdict.ADMITTED:
        return topics.admitted
    return topics.delayed if verdict is Verdict.DELAYED else topics.rejected


def overlaps(pieces: Sequence[PartitionSlice], first: int, stop: int) -> Iterator[tuple[PartitionSlice, int, int]]:
    """Yield the pieces that hold numbers from `first` up to `stop`, with the part of the range in each."""
    for piece in pieces:
        start, end = max(first, piece.first), min(stop, piece.first + len(piece.records))
        if start < end:
            yield piece, start, end
