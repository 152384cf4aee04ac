"""Decisions as a gate recorded them: its outputs say when it took up each request, and what became of it.

From these its batches can be played again, with what it did beside what an engine does. Within a batch those partitions
went first of which fewer requests came (`gate.shard.state`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gate.admission.model import Reason, Verdict
from gate.admission.replay import WAITING, ReplayResult, Request
from gate.errors import GateError
from gate.kafka.aio.reader import EARLIEST, LATEST, Reader
from gate.kafka.request_history import fetch
from gate.protocol.feedback import place_of
from gate.protocol.headers import STAMP, Malformed, Stamp, last, not_before, parse_stamp, read_options
from gate.protocol.topics import Names
from gate.shard.records import Partition, Record

KINDS: Final = ("delayed", "admitted", "rejected")
# no limit is why, or no engine decided about it
_NO_LIMIT: Final = frozenset({Reason.MALFORMED, Reason.UNFORWARDABLE, Reason.DUPLICATE, Reason.CANCELLED})
_UNREAD_TRIES: Final = 4  # to find a time since which there are few enough


@dataclass(slots=True)
class RecordedDecision:
    """What became of one request, as its outputs tell. Times are unix ms."""

    id: str
    request: Request  # dated when the gate took it up
    verdict: str  # of the first decision
    reason: str | None
    limit: str | None
    policy: str  # version that decided
    place: tuple[str, int, int]  # topic, partition and offset of the request
    not_before_ms: int | None
    ended_ms: int | None = None  # None: it waits
    ended: str | None = None
    ended_by: str | None = None  # reason


@dataclass(slots=True)
class Recording:
    """The decisions about a service's requests since a time, in the order in which an engine is to be given them."""

    since_ms: int
    decisions: list[RecordedDecision] = field(default_factory=list)
    moments: list[int] = field(default_factory=list)  # unix ms, at which the gate decided anything
    cut: bool = False  # there were too many; it begins later than was asked for
    carried: int = 0  # of which only the end was recorded: they waited when it began
    policies: dict[str, int] = field(default_factory=dict)  # versions that decided anything, and since when; unix ms

    @property
    def requests(self) -> list[Request]:
        """The requests, by when they were taken up."""
        return [decision.request for decision in self.decisions]


async def recorded_decisions(
    source: Reader,
    names: Names,
    service: str,
    partitions: Callable[[str], int],
    since_ms: int,
    now_ms: int,
    most: int,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Recording:
    """Read what was decided about a service's requests since a time, `most` output records at the most.

    `partitions` tells how many a topic has, 0: there is none. Raises KafkaError, and GateError where nothing is told.
    """
    topics = [getattr(names, kind)(service) for kind in KINDS]
    places = [Partition(topic, number) for topic in topics for number in range(partitions(topic))]
    if not places:
        raise GateError(f"nothing was decided about {service} yet: it has none of {', '.join(topics)}")
    ends = await source.offsets(places, LATEST)
    asked = since_ms
    for _ in range(_UNREAD_TRIES):
        starts = await source.offsets(places, since_ms or EARLIEST)
        total = sum(ends[place] - starts[place] for place in places if 0 <= starts[place] < ends[place])
        if total <= most:
            break
        since_ms = now_ms - max(1_000, int((now_ms - since_ms) * most / total * 0.9))
    found: dict[str, RecordedDecision] = {}
    later: list[tuple[Stamp, Record]] = []
    moments: set[int] = set()
    policies: dict[str, int] = {}
    came: Counter[tuple[int, str, int]] = Counter()
    done = 0
    for place in places:
        position = starts[place]
        while 0 <= position < ends[place] and done < most:
            fetched = await fetch(source, place, position)
            for record in fetched.records:
                _take(record, found, later, moments, policies, came)
            done += fetched.next_offset - position
            position = fetched.next_offset
            on_progress(done, total)
    cut = since_ms != asked or done >= most
    recording = Recording(since_ms, cut=cut, moments=sorted(moments), policies=policies)
    for stamp, _ in sorted(later, key=lambda told: told[0].attempt):
        _end(stamp, found, recording)
    recording.decisions = _in_order(found.values(), came, names.requests(service))
    return recording


def _take(
    record: Record,
    found: dict[str, RecordedDecision],
    later: list[tuple[Stamp, Record]],
    moments: set[int],
    policies: dict[str, int],
    came: Counter[tuple[int, str, int]],
) -> None:
    value = last(record.headers, STAMP)
    try:
        stamp = parse_stamp(value or b"")
    except ValueError:
        return  # somebody else wrote it
    place, options = place_of(stamp.id.encode()), read_options(record.headers)
    if place is not None and stamp.attempt == 1:
        came[stamp.at_ms, place.topic, place.partition] += 1
    if place is None or isinstance(options, Malformed) or stamp.reason in _NO_LIMIT:
        later += [(stamp, record)] if place is not None and stamp.attempt > 1 else []
        return
    moments.add(stamp.at_ms)
    policies[stamp.policy] = min(stamp.at_ms, policies.get(stamp.policy, stamp.at_ms))
    if stamp.attempt > 1:
        later.append((stamp, record))
        return
    request = Request(
        stamp.at_ms, options.lane, options.tenant, options.cost, options.deadline_ms, options.start_ms
    )  # fmt: skip
    decision = RecordedDecision(
        stamp.id, request, stamp.verdict, stamp.reason, stamp.limit, stamp.policy,
        (place.topic, place.partition, place.offset), not_before(record.headers),
    )  # fmt: skip
    if stamp.verdict != Verdict.DELAYED:
        decision.ended_ms, decision.ended, decision.ended_by = stamp.at_ms, stamp.verdict, stamp.reason
    found[stamp.id] = decision


def _end(stamp: Stamp, found: dict[str, RecordedDecision], recording: Recording) -> None:
    decision = found.get(stamp.id)
    if decision is None:
        recording.carried += 1
        return
    if decision.ended is None:
        decision.ended_ms, decision.ended, decision.ended_by = stamp.at_ms, stamp.verdict, stamp.reason


def _in_order(
    decisions: Iterable[RecordedDecision], came: Mapping[tuple[int, str, int], int], requests: str
) -> list[RecordedDecision]:
    """Return them as the gate took them: batch by batch, requests before retries, and those first of which fewer came.

    `came` is how many of a partition came in a batch, by time, topic and partition; `requests` is their topic.
    """

    def order(one: RecordedDecision) -> tuple[int, bool, int, str, int, int]:
        at, (topic, partition, offset) = one.request.at_ms, one.place
        return at, topic != requests, came[at, topic, partition], topic, partition, offset

    return sorted(decisions, key=order)


def disagreements(recording: Recording, result: ReplayResult) -> Sequence[tuple[RecordedDecision, str]]:
    """Return the requests that fared otherwise in the replay than at the gate, and how.

    What operators cancelled is not compared; nor what waited at the end of the recording, and waits in the replay.
    """
    found = []
    for number, one in enumerate(recording.decisions):
        if one.ended_by in _NO_LIMIT:
            continue
        verdict, at = result.verdicts[number], result.decided[number]
        played = None if verdict is None else verdict.value
        if one.ended is None:
            if at != WAITING and recording.moments and at <= recording.moments[-1]:
                found.append((one, f"{played} at {at}, and it waits"))
        elif (played, at) != (one.ended, one.ended_ms):
            found.append((one, f"{played} at {at}, and was {one.ended} at {one.ended_ms}"))
    return found
