"""What the console shows of a service, as frozen values: its state, its line, what has happened. No I/O, no clock."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Final, NamedTuple

from gate.console.commanded import CommandLine
from gate.console.records import PausedTenant, Record
from gate.console.words import clock, duration, until
from gate.observe.usage import FOREVER_MS
from gate.protocol.answers import Audit
from gate.protocol.policies import LimitSet

SILENT_AFTER_MS: Final = 15_000  # a request was to go then, and its gate says nothing


class Word(StrEnum):
    """The state of a service in one word, worst first."""

    STANDS = "stands"  # it does not go on, and no limit is why
    SILENT = "silent"  # its gate does not tell what became of it
    PAUSED = "paused"
    LIMITED = "limited"
    NEAR = "near"
    FREE = "free"


KINDS: Final = {
    Word.STANDS: "bad",
    Word.SILENT: "bad",
    Word.PAUSED: "warn",
    Word.LIMITED: "warn",
    Word.NEAR: "warn",
    Word.FREE: "good",
}


class _Why(Enum):
    """What a state comes from."""

    STALLED = auto()
    PAUSED = auto()
    BLOCKED = auto()
    SILENT = auto()
    BREACHED = auto()
    BOUND = auto()
    LATE = auto()
    NEAR = auto()
    TENANT_PAUSED = auto()
    NOTHING = auto()


_WORDS: Final = {
    _Why.STALLED: (Word.STANDS, "bad"),
    _Why.PAUSED: (Word.PAUSED, "warn"),
    _Why.BLOCKED: (Word.LIMITED, "warn"),
    _Why.SILENT: (Word.SILENT, "bad"),
    _Why.BREACHED: (Word.LIMITED, "bad"),
    _Why.BOUND: (Word.LIMITED, "warn"),
    _Why.LATE: (Word.STANDS, "bad"),
    _Why.NEAR: (Word.NEAR, "warn"),
    _Why.TENANT_PAUSED: (Word.FREE, "warn"),
    _Why.NOTHING: (Word.FREE, "good"),
}


class State(NamedTuple):
    """A state, the limit or place that it is about, and what there is to add."""

    word: Word
    limit: str = ""
    more: str = ""
    kind: str = "good"  # good, warn or bad


@dataclass(frozen=True, slots=True)
class Line:
    """One service of the pressure list. Rates per second, times in unix ms."""

    service: str
    state: State
    offered: float
    granted: float
    limit: float | None  # per second
    waiting: int
    next_slot_ms: int | None  # None: nobody can tell
    drain_seconds: float | None  # None: nobody can tell
    waits_seconds: float | None  # of the oldest that waits, else since the breach; None: nothing does, or nobody tells
    owner: str
    shard: int | None
    limit_set: LimitSet | None = None  # over the policy file
    group_limit_set: LimitSet | None = None  # of its group
    tenants_limited: int = 0  # tenants, and globs of them, for which something is set over the policy file
    commands: Sequence[CommandLine] = ()  # on what waits, that go on


@dataclass(frozen=True, slots=True)
class Pressure:
    """A page of the pressure list, and how many services are in which state."""

    lines: Sequence[Line]
    page: int  # from 0
    pages: int
    found: int
    services: int
    counts: Sequence[tuple[Word, int]]
    waiting: int  # requests, of all services
    kind: str  # the worst of any service: good, warn or bad


class Trouble(NamedTuple):
    """What is wrong with the group as a whole, and what to do about it."""

    what: str
    hint: str


class Mark(NamedTuple):
    """Something that happened to a service: a breach, a command, another owner or policy."""

    at_ms: int
    kind: str
    what: str
    more: str = ""
    is_command: bool = False  # who and why is in it


def worst(kinds: Iterable[str]) -> str:
    """Return the worst of some kinds of states; good where there is none."""
    there = set(kinds)
    return next((kind for kind in ("bad", "warn") if kind in there), "good")


def word_of(record: Record, now_ms: int) -> tuple[Word, str]:
    """Return the state of a service in one word, and its kind."""
    return _WORDS[_why(record, now_ms)]


def changes_ms(record: Record, now_ms: int) -> int | None:
    """Return when the word may be another by time alone: a pause ends, a gate falls silent; None: never."""
    slot = record.next_slot_ms if record.backlog else None
    if slot is None and record.paused_until_ms is None and record.blocked_until_ms is None:
        return None
    silent = None if slot is None else max(slot, record.at_ms) + SILENT_AFTER_MS + 1
    times = record.paused_until_ms, record.blocked_until_ms, silent
    return min((time for time in times if time is not None and time > now_ms), default=None)


def state_of(record: Record, now_ms: int, pause: Audit | None, *, names: bool) -> State:
    """Return the state of a service. Without `names` neither tenants nor who paused it are told."""
    why = _why(record, now_ms)
    limit, more = _told(why, record, now_ms, pause, names=names)
    word, kind = _WORDS[why]
    return State(word, limit, more, kind)


def _why(record: Record, now_ms: int) -> _Why:
    """Return what the state of a service comes from; the worst comes first."""
    if record.waiting:
        return _Why.STALLED
    if record.paused_until_ms is not None and record.paused_until_ms > now_ms:
        return _Why.PAUSED
    if record.blocked_until_ms is not None and record.blocked_until_ms > now_ms:
        return _Why.BLOCKED
    slot = record.next_slot_ms
    if record.backlog and slot is not None and max(slot, record.at_ms) + SILENT_AFTER_MS < now_ms:
        return _Why.SILENT
    if record.breach_since_ms is not None:
        return _Why.BREACHED
    if record.binding is not None:
        return _Why.BOUND
    if record.is_late:
        return _Why.LATE
    if record.is_near:
        return _Why.NEAR
    tenants = record.tenants_paused > 1 or (record.paused_tenants and _paused_now(record, now_ms))
    return _Why.TENANT_PAUSED if tenants else _Why.NOTHING


def _told(why: _Why, record: Record, now_ms: int, pause: Audit | None, *, names: bool) -> tuple[str, str]:
    """Return the limit or place that a state is about, and what there is to add."""
    tenants = "; ".join(_paused_tenants(record, now_ms, names=names))
    match why:
        case _Why.STALLED:
            first = record.waiting[0]
            return f"{first.topic}-{first.partition}", f"at offset {first.offset}"
        case _Why.PAUSED:
            by = f", by {pause.who}" if names and pause is not None and pause.who else ""
            reason = f": {pause.reason}" if names and pause is not None and pause.reason else ""
            return "", f"{until(record.paused_until_ms, now_ms)}{by}{reason}"
        case _Why.BLOCKED:
            return "", f"blocked {until(record.blocked_until_ms, now_ms, 'cleared')}"
        case _Why.SILENT:
            return "", f"its gate has said nothing since {clock(record.at_ms, now_ms)}"
        case _Why.BREACHED | _Why.BOUND:
            bound, since = record.binding or record.last_refusal, record.breach_since_ms
            breach = f"breach for {duration(max(0, now_ms - since) / 1000)}" if since is not None else ""
            limit = "" if bound is None else limit_name(bound.limit, record.service, names=names)
            return limit, "; ".join(part for part in (breach, tenants) if part)
        case _Why.LATE:
            return "", f"{record.undecided} requests are undecided"
        case _Why.NEAR:
            fullest = max(record.limits, key=lambda limit: limit.usage)
            more = "; ".join(part for part in (f"{fullest.usage:.0%} used", tenants) if part)
            return limit_name(fullest.name, record.service, names=names), more
        case _:
            return "", tenants


def _paused_now(record: Record, now_ms: int) -> list[PausedTenant]:
    return [one for one in record.paused_tenants if one.until_ms is None or one.until_ms > now_ms]


def _paused_tenants(record: Record, now_ms: int, *, names: bool) -> Iterator[str]:
    live = _paused_now(record, now_ms)
    if record.tenants_paused > 1 or (live and not names):
        count = max(record.tenants_paused, len(live))
        yield "a tenant is paused" if count == 1 else f"{count} tenants are paused"
    else:
        yield from (f"tenant {one.tenant} is paused {until(one.until_ms, now_ms)}" for one in live)


def limit_name(limit: str, service: str, *, names: bool) -> str:
    """Return the name of a limit without the service's, and, without `names`, without its tenant's."""
    own = limit.removeprefix(f"{service}.")
    return own if names or not own.startswith("tenant.") else "tenant"


def line_of(record: Record, now_ms: int, pause: Audit | None, *, names: bool) -> Line:
    """Return a service's line of the pressure list."""
    drained = record.drained_ms
    since = [record.undecided_age_seconds] if record.undecided_age_seconds else []
    if record.waiting_since_ms is not None and record.backlog:
        since.append(max(0, now_ms - record.waiting_since_ms) / 1000)
    elif record.breach_since_ms is not None:
        since.append(max(0, now_ms - record.breach_since_ms) / 1000)
    return Line(
        service=record.service,
        state=state_of(record, now_ms, pause, names=names),
        offered=_now(record, record.offered_per_second, now_ms),
        granted=_now(record, record.requests_per_second, now_ms),
        limit=record.per_second,
        waiting=record.backlog,
        next_slot_ms=record.next_slot_ms,
        drain_seconds=None if drained >= FOREVER_MS else max(0, drained - now_ms) / 1000 if record.backlog else 0.0,
        waits_seconds=max(since, default=None) if record.backlog or record.undecided else None,
        owner=record.owner,
        shard=record.shard,
    )


def _now(record: Record, rate: float, now_ms: int) -> float:
    """Return a rate as it is by now: a gate that has nothing to do tells it no more."""
    return rate if now_ms - record.at_ms < SILENT_AFTER_MS else 0.0
