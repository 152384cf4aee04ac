"""What the console shows of a service, as frozen values: its state, its line, what has happened. No I/O, no clock."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from gate.console.commanded import CommandLine, LimitSet
from gate.console.records import Record
from gate.console.words import clock, duration, until
from gate.observe.usage import FOREVER_MS
from gate.protocol.answers import Audit

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


def state_of(record: Record, now_ms: int, pause: Audit | None, *, names: bool) -> State:
    """Return the state of a service. Without `names` neither tenants nor who paused it are told."""
    if record.waiting:
        first = record.waiting[0]
        return State(Word.STANDS, f"{first.topic}-{first.partition}", f"at offset {first.offset}", "bad")
    if record.paused_until_ms is not None and record.paused_until_ms > now_ms:
        by = f", by {pause.who}" if names and pause is not None and pause.who else ""
        why = f": {pause.reason}" if names and pause is not None and pause.reason else ""
        return State(Word.PAUSED, "", f"{until(record.paused_until_ms, now_ms)}{by}{why}", "warn")
    if record.blocked_until_ms is not None and record.blocked_until_ms > now_ms:
        return State(Word.LIMITED, "", f"blocked {until(record.blocked_until_ms, now_ms, 'cleared')}", "warn")
    slot = record.next_slot_ms
    if record.backlog and slot is not None and max(slot, record.at_ms) + SILENT_AFTER_MS < now_ms:
        return State(Word.SILENT, "", f"its gate has said nothing since {clock(record.at_ms, now_ms)}", "bad")
    tenants = "; ".join(_paused_tenants(record, now_ms, names=names))
    if record.binding is not None or record.breach_since_ms is not None:
        bound = record.binding or record.last_refusal
        since = record.breach_since_ms
        breach = f"breach for {duration(max(0, now_ms - since) / 1000)}" if since is not None else ""
        limit = "" if bound is None else limit_name(bound.limit, record.service, names=names)
        more = "; ".join(part for part in (breach, tenants) if part)
        return State(Word.LIMITED, limit, more, "bad" if since is not None else "warn")
    if record.is_late:
        return State(Word.STANDS, "", f"{record.undecided} requests are undecided", "bad")
    if record.is_near:
        fullest = max(record.limits, key=lambda limit: limit.usage)
        more = "; ".join(part for part in (f"{fullest.usage:.0%} used", tenants) if part)
        return State(Word.NEAR, limit_name(fullest.name, record.service, names=names), more, "warn")
    return State(Word.FREE, "", tenants, "warn" if tenants else "good")


def _paused_tenants(record: Record, now_ms: int, *, names: bool) -> Iterator[str]:
    live = [one for one in record.paused_tenants if one.until_ms is None or one.until_ms > now_ms]
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
