"""The fate of each request of the demonstration, counted from the topics alone."""

import json
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from gate.protocol.alert_types import OPENED, RESOLVED
from gate.protocol.headers import NOT_BEFORE, STAMP, Headers, not_before, parse_stamp, unstamped
from gate.protocol.topics import Names

_TYPE: Final = "ce_type"


class Record(Protocol):
    """A record as a consumer gets it. `timestamp` in unix ms."""

    @property
    def topic(self) -> str: ...  # noqa: D102
    @property
    def partition(self) -> int: ...  # noqa: D102
    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def timestamp(self) -> int: ...  # noqa: D102
    @property
    def key(self) -> bytes | None: ...  # noqa: D102
    @property
    def value(self) -> bytes | None: ...  # noqa: D102
    @property
    def headers(self) -> Headers: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Content:
    """What the producer wrote, and the gate must leave alone. `created` is its timestamp, unix ms; -1: none."""

    key: bytes | None
    value: bytes | None
    created: int
    headers: tuple[tuple[str, bytes | None], ...]

    @classmethod
    def of(cls, record: Record, created: int) -> "Content":
        """Take a record without the gate's stamps."""
        return cls(record.key, record.value, created, tuple(unstamped(record.headers)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """An admitted or rejected request. `at_ms` is the gate's stamp, `seen_ms` when a consumer here had it; unix ms."""

    id: str
    at_ms: int
    seen_ms: int
    reason: str | None
    content: Content


@dataclass(frozen=True, slots=True)
class Parked:
    """A request in the delayed topic: decided at `at_ms`, to be admitted at `not_before_ms`."""

    at_ms: int
    not_before_ms: int


@dataclass(slots=True)
class Ledger:
    """All that the topics say about one service."""

    service: str
    requests: dict[str, Content] = field(default_factory=dict)
    parked: dict[str, Parked] = field(default_factory=dict)
    admitted: list[Outcome] = field(default_factory=list)
    rejected: list[Outcome] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)  # the start of each breach, as its alert says
    resolved: list[str] = field(default_factory=list)
    waiting: dict[str, Parked] = field(default_factory=dict)
    worked: set[str] = field(default_factory=set)  # ids of the jobs whose results a worker has written
    _decided: set[str] = field(default_factory=set)

    @property
    def settled(self) -> bool:
        """Tell whether every request known so far is decided for good, and no breach is open."""
        return len(self._decided) >= len(self.requests) and not self.waiting and not self.breach

    @property
    def breach(self) -> str | None:
        """Since when a breach is open; None: none is."""
        return next((since for since in self.opened if since not in self.resolved), None)

    @property
    def delayed_then_admitted(self) -> list[Outcome]:
        """Those admitted that had to wait."""
        return [outcome for outcome in self.admitted if outcome.id in self.parked]

    def reasons(self) -> Counter[str]:
        """Why requests were rejected."""
        return Counter(outcome.reason or "no reason" for outcome in self.rejected)

    def park(self, request: str, place: Parked) -> None:
        """Note that a request waits."""
        self.parked[request] = place
        if request not in self._decided:  # topics are read side by side: the outcome may come first
            self.waiting[request] = place

    def decide(self, outcomes: list[Outcome], outcome: Outcome) -> None:
        """Note that a request is admitted or rejected."""
        outcomes.append(outcome)
        self._decided.add(outcome.id)
        self.waiting.pop(outcome.id, None)

    def lags(self) -> tuple[list[int], list[int]]:
        """Return how late the parked ones were released, ms, sorted: by the gate's stamp, and as a consumer saw it."""
        released = [(outcome, self.parked[outcome.id].not_before_ms) for outcome in self.delayed_then_admitted]
        return (
            sorted(outcome.at_ms - due for outcome, due in released),
            sorted(outcome.seen_ms - due for outcome, due in released),
        )


class Tally:
    """The ledgers of several services."""

    def __init__(self, names: Names, services: Iterable[str]) -> None:
        self.ledgers = {service: Ledger(service) for service in services}
        self._alerts = names.alerts
        self._topics = {
            topic: (kind, ledger)
            for service, ledger in self.ledgers.items()
            for kind, topic in {
                "request": names.requests(service),
                "admitted": names.admitted(service),
                "delayed": names.delayed(service),
                "rejected": names.rejected(service),
                "result": names.results(service),
            }.items()
        }

    @property
    def topics(self) -> list[str]:
        """Return all topics that are counted."""
        return [*self._topics, self._alerts]

    @property
    def settled(self) -> bool:
        """Tell whether every ledger is settled."""
        return all(ledger.settled for ledger in self.ledgers.values())

    def add(self, record: Record, seen_ms: int) -> None:
        """Enter a committed record that was read at `seen_ms`. Raises ValueError for one that bears no stamp."""
        if record.topic == self._alerts:
            self._add_alert(record)
            return
        kind, ledger = self._topics[record.topic]
        if kind == "request":
            ledger.requests[f"{record.topic}-{record.partition}@{record.offset}"] = Content.of(record, record.timestamp)
            return
        if kind == "result":
            ledger.worked.add((record.key or b"").decode(errors="replace"))
            return
        stamp = parse_stamp(next((value or b"" for name, value in record.headers if name == STAMP), b""))
        if kind == "delayed":
            due = not_before(record.headers)
            if due is None:
                raise ValueError(f"{record.topic}-{record.partition}@{record.offset} has no readable {NOT_BEFORE}")
            ledger.park(stamp.id, Parked(stamp.at_ms, due))
        else:
            outcomes = ledger.admitted if kind == "admitted" else ledger.rejected
            content = Content.of(record, -1 if stamp.created_ms is None else stamp.created_ms)
            ledger.decide(outcomes, Outcome(stamp.id, stamp.at_ms, seen_ms, stamp.reason, content))

    def _add_alert(self, record: Record) -> None:
        ledger = self.ledgers.get((record.key or b"").decode(errors="replace"))
        kind = dict(record.headers).get(_TYPE)
        if ledger is None or kind not in {OPENED.encode(), RESOLVED.encode()}:
            return
        since = json.loads(record.value or b"")["since"]
        (ledger.opened if kind == OPENED.encode() else ledger.resolved).append(since)


@dataclass(frozen=True, slots=True)
class Sample:
    """A span of time in the life of a service: rates per second, and how many wait at its end."""

    seconds: float  # from the start of all to the beginning of the span
    offered: float
    admitted: float
    waiting: int
    called: float  # calls that were allowed


def samples(ledger: Ledger, start_ms: int, end_ms: int, step_ms: int, called_ms: Iterable[int] = ()) -> list[Sample]:
    """Divide what a ledger holds, and the times of calls, into spans of `step_ms`."""
    called = sorted(called_ms)
    offered = sorted(content.created for content in ledger.requests.values())
    admitted = sorted(outcome.at_ms for outcome in ledger.admitted)
    came = sorted(place.at_ms for place in ledger.parked.values())
    left = sorted(outcome.at_ms for outcome in (*ledger.admitted, *ledger.rejected) if outcome.id in ledger.parked)

    def rate(times: Sequence[int], begin: int) -> float:
        return (bisect_right(times, begin + step_ms - 1) - bisect_right(times, begin - 1)) * 1000 / step_ms

    return [
        Sample(
            (begin - start_ms) / 1000,
            rate(offered, begin),
            rate(admitted, begin),
            bisect_right(came, begin + step_ms - 1) - bisect_right(left, begin + step_ms - 1),
            rate(called, begin),
        )
        for begin in range(start_ms, end_ms, step_ms)
    ]


def percentile(values: Sequence[int], share: float) -> int:
    """Return the nearest-rank percentile of sorted values, of which there must be one; `share` from 0 to 1."""
    return values[max(0, math.ceil(share * len(values)) - 1)]
