"""Breach events: told when a limit starts to refuse, at a slow beat while it does, and once when it is over."""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp
from typing import Final

from gate.admission.model import SECOND, Event, EventKind, Reason
from gate.admission.state import BreachRecord

_HORIZON: Final = 10.0  # s over which rates are averaged
# What counts as a breach: a limit, not the request's own fault (never, deadline, malformed) or an operator's pause.
BREACHES: Final = frozenset(Reason) - {
    Reason.NEVER, Reason.DEADLINE, Reason.MALFORMED, Reason.UNFORWARDABLE, Reason.PAUSED,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class AlertSchedule:
    """When breach events are told. Times in ns."""

    calm: int = 5 * SECOND  # nothing is parked, and nothing was refused for so long: resolved
    first: int = 10 * SECOND  # between opened and the first ongoing; each further one takes twice as long
    slowest: int = 300 * SECOND
    quiet: int = 60 * SECOND  # between two tellings of near_limit: a small bucket crosses its threshold all the time
    rearm: float = 0.75  # near_limit is told again after the usage fell below this part of its threshold


class DecayingRate:
    """Something per second: an average in which the past fades over ten seconds or so."""

    __slots__ = ("last", "rate")

    def __init__(self, rate: float = 0.0, last: int = 0) -> None:
        self.rate = rate
        self.last = last

    def at(self, now: int) -> float:
        """Return the rate per second."""
        return self.rate * exp((self.last - now) / SECOND / _HORIZON) if now > self.last else self.rate

    def add(self, now: int, amount: int) -> None:
        """Count what happens now."""
        self.rate = self.at(now) + amount / _HORIZON
        self.last = max(now, self.last)


@dataclass(frozen=True, slots=True)
class Situation:
    """What an event says beside the breach itself."""

    service: str
    policy: str
    backlog: int
    offered_per_second: float
    eta_seconds: float | None
    usage: float


class Breach:
    """Whether a service's limits refuse now. One refusal is no event."""

    def __init__(self, schedule: AlertSchedule, record: BreachRecord = BreachRecord()) -> None:  # noqa: B008 - frozen
        self.schedule = schedule
        self.since = record.since or None
        self._limit = record.limit
        self._reason = Reason(record.reason) if record.reason else Reason.RATE
        self._refused = record.refused
        self._last = record.last  # refusal
        self._beats = record.beats
        self._next_beat = record.next_beat
        self._near = record.near
        self._near_told = record.near_told
        self._opened = False  # and not told yet

    def refuse(self, now: int, count: int, reason: Reason, limit: str) -> None:
        """Note refusals of fresh requests."""
        if reason not in BREACHES:
            return
        if self.since is None:
            self.since, self._limit, self._reason = now, limit, reason
            self._refused = self._beats = 0
            self._next_beat = now + self.schedule.first
            self._opened = True
        self._refused += count
        self._last = now

    def due(self, backlog: int) -> int | None:
        """Return when `events` will have something to tell if nothing happens."""
        if self.since is None:
            return None
        return self._next_beat if backlog else min(self._next_beat, self._last + self.schedule.calm)

    def events(self, now: int, backlog: int, situation: Callable[[], Situation]) -> list[Event]:
        """Return what is to be told now."""
        told: list[Event] = []
        if self.since is None:
            return told
        if self._opened:
            self._opened = False
            told.append(self._tell(EventKind.OPENED, now, situation()))
        if not backlog and now >= self._last + self.schedule.calm:
            told.append(self._tell(EventKind.RESOLVED, now, situation()))
            self.since = None
        elif now >= self._next_beat:
            told.append(self._tell(EventKind.ONGOING, now, situation()))
            self._beats += 1
            self._next_beat = now + min(self.schedule.first << min(self._beats, 40), self.schedule.slowest)
        return told

    def near(
        self, now: int, usage: float, threshold: float, limit: str, reason: Reason, situation: Callable[[], Situation]
    ) -> list[Event]:
        """Return the event that a limit comes near, once per crossing; an open breach says more."""
        if usage < threshold * self.schedule.rearm:
            self._near = False
        elif usage >= threshold and not self._near:
            self._near = True
            if self.since is None and now >= self._near_told + self.schedule.quiet:
                self._near_told = now
                return [_event(EventKind.NEAR_LIMIT, now, situation(), limit, reason, now, 0)]
        return []

    def record(self) -> BreachRecord:
        """Return what is kept."""
        return BreachRecord(
            since=self.since or 0,
            limit=self._limit,
            reason=self._reason,
            refused=self._refused,
            last=self._last,
            beats=self._beats,
            next_beat=self._next_beat,
            near=self._near,
            near_told=self._near_told,
        )

    def _tell(self, kind: EventKind, now: int, situation: Situation) -> Event:
        assert self.since is not None
        return _event(kind, now, situation, self._limit, self._reason, self.since, self._refused)


def _event(
    kind: EventKind, now: int, situation: Situation, limit: str, reason: Reason, since: int, refused: int
) -> Event:
    return Event(
        kind=kind,
        service=situation.service,
        limit=limit,
        reason=reason,
        at=now,
        since=since,
        refused=refused,
        offered_per_second=situation.offered_per_second,
        backlog=situation.backlog,
        eta_seconds=situation.eta_seconds,
        usage=situation.usage,
        policy=situation.policy,
    )
