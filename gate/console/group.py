"""The whole group of gates as its topics tell it: usage, alerts and audit come in, views go out. No I/O, no clock."""

import math
from bisect import insort
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from gate.console.commanded import Commanded
from gate.console.owners import Owner, owners_of
from gate.console.records import Record, decode
from gate.console.view import Line, Mark, Pressure, State, Trouble, Word, line_of, state_of, worst
from gate.observe.usage import FOREVER_MS
from gate.protocol.alert_types import (
    CLOCK_SKEWED,
    NEAR_LIMIT,
    OPENED,
    POLICY_ACCEPTED,
    POLICY_REFUSED,
    RESOLVED,
    RESUMED,
    SHARD_FAILED,
    SHARD_RECOVERED,
    WAITING,
)
from gate.protocol.answers import AnswerState, decode_answer, decode_audit

PAGE: Final = 50  # services
MARKS: Final = 200  # per service
_FORGOTTEN_MS: Final = 600_000  # a refusal by a gate that has no service by now, and may be gone
_BEGINS: Final = {SHARD_FAILED: SHARD_RECOVERED, POLICY_REFUSED: POLICY_ACCEPTED}
_MARKED: Final = {
    OPENED: "breach opened",
    RESOLVED: "breach resolved",
    NEAR_LIMIT: "near limit",
    WAITING: "partition stands",
    RESUMED: "partition goes on",
}


_STATED_EVERY_MS: Final = 2_000  # a pause may have ended, and a gate may have fallen silent

_Urgency = tuple[bool, bool, int, int, bool, float, str]


class Alert(msgspec.Struct, frozen=True):
    """The data of an alert, as far as it is shown."""

    service: str = ""
    limit: str = ""
    reason: str = ""
    gate: str = ""
    shard: int = -1
    policy: str = ""
    policy_file: str = ""
    host: str = ""
    refused: int = 0
    topic: str = ""
    partition: int = -1


_ALERTS: Final = msgspec.json.Decoder(Alert)


class Group:
    """What is known of all services. Newer records replace older ones; whatever can't be read is passed over."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        self._pressed: set[str] = set()  # services that are held back, or nearly, or may be
        self._order: list[str] = []  # by time to drain, the longest first
        self._urgencies: dict[str, _Urgency] = {}  # by which they are sorted
        self._moved = False  # since they were
        self._waiting = 0  # requests, of all services
        self._states: dict[str, State] = {}  # of those that are pressed, without names
        self._unstated: set[str] = set()  # whose state is to be looked at
        self._stated_ms = 0  # when that of all was
        self._troubles: dict[tuple[str, str], tuple[Alert, int]] = {}  # by kind and subject, with unix ms
        self._marks: dict[str, deque[Mark]] = {}
        self.commanded = Commanded()
        self.unreadable = 0  # records

    # -- what comes in ---------------------------------------------------------------------------------------------

    def take_usage(self, key: bytes | None, value: bytes | None) -> None:
        """Take a record of the usage topic."""
        service = (key or b"").decode(errors="replace")
        before = self._records.get(service)
        if value is None:
            self._forget(service)
            return
        try:
            record = decode(value)
        except ValueError:
            self.unreadable += 1
            return
        if record.service != service:  # it would stand there twice
            self.unreadable += 1
            return
        self._records[service] = record
        self._waiting += record.backlog - (0 if before is None else before.backlog)
        if record.is_calm:
            self._pressed.discard(service)
            self._states.pop(service, None)
            self._unstated.discard(service)
        else:
            self._pressed.add(service)
            self._unstated.add(service)
        if before is None:
            self._order.append(service)
        urgency = _urgency(record)
        self._moved |= self._urgencies.get(service) != urgency
        self._urgencies[service] = urgency
        if before is None or record.at_ms < before.at_ms:
            return
        if before.owner != record.owner and before.owner:
            self._mark(service, Mark(record.at_ms, "take-over", f"{record.owner} took over", f"from {before.owner}"))
        if before.policy != record.policy and before.policy:
            self._mark(service, Mark(record.at_ms, "policy", f"policy {record.policy}", f"before: {before.policy}"))

    def take_alert(self, headers: Mapping[str, bytes | None], value: bytes | None, at_ms: int) -> None:
        """Take a record of the alerts topic, and when it was written."""
        kind = (headers.get("ce_type") or b"").decode(errors="replace")
        try:
            alert = _ALERTS.decode(value or b"")
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            self.unreadable += 1
            return
        if kind in _MARKED and alert.service:
            more = alert.limit or (f"{alert.topic}-{alert.partition}: {alert.reason}" if alert.topic else "")
            self._mark(alert.service, Mark(at_ms, kind.removeprefix("gate."), _MARKED[kind], more))
        subject = _subject(kind, alert)
        for begins, ends in _BEGINS.items():
            if kind == begins:
                self._troubles[begins, subject] = alert, at_ms
            elif kind == ends:
                self._troubles.pop((begins, subject), None)
        if kind == CLOCK_SKEWED:
            self._troubles[kind, subject] = alert, at_ms

    def take_audit(self, value: bytes | None) -> None:
        """Take a record of the audit."""
        try:
            audit = decode_audit(value)
        except ValueError:
            self.unreadable += 1
            return
        self.commanded.take_audit(audit)
        done = "" if audit.result in {"", AnswerState.DONE} else f" ({audit.result})"
        text = f"{audit.what}{done} by {audit.who or 'somebody'}"
        self._mark(audit.service, Mark(audit.at, audit.what, text, audit.reason, is_command=True))

    def take_answer(self, value: bytes | None) -> None:
        """Take a record of the answers."""
        try:
            self.commanded.take_answer(decode_answer(value))
        except ValueError:
            self.unreadable += 1

    def _mark(self, service: str, mark: Mark) -> None:
        marks = self._marks.setdefault(service, deque(maxlen=MARKS))
        if not marks or marks[-1].at_ms <= mark.at_ms:
            marks.append(mark)
        else:
            ordered = list(marks)
            insort(ordered, mark, key=lambda one: one.at_ms)
            self._marks[service] = deque(ordered, maxlen=MARKS)

    # -- what is shown ---------------------------------------------------------------------------------------------

    def __contains__(self, service: object) -> bool:
        return service in self._records

    def __len__(self) -> int:
        return len(self._records)

    def record(self, service: str) -> Record | None:
        """Return the newest usage of a service."""
        return self._records.get(service)

    def line(self, service: str, now_ms: int, *, names: bool) -> Line | None:
        """Return the line of one service; None: nothing is known of it."""
        record = self._records.get(service)
        if record is None:
            return None
        line = line_of(record, now_ms, self.commanded.pause_of(service), names=names)
        limit, commands = (
            self.commanded.limit_of(service, now_ms, names=names),
            self.commanded.under_way(service, names=names),
        )
        shared = self.commanded.group_limit_of([limit.name for limit in record.limits], now_ms, names=names)
        return replace(line, limit_set=limit, group_limit_set=shared, commands=commands)

    def pressure(
        self, now_ms: int, *, query: str = "", state: str = "", page: int = 0, size: int = PAGE, names: bool = True
    ) -> Pressure:
        """Return a page of the services whose name has `query` in it, and that are in `state` if one is given.

        Those come first that take longest to drain. Without `names` neither tenants nor operators are told.
        """
        states, wanted, found = self._stated(now_ms), query.strip().lower(), self._sorted()
        if wanted:
            found = [name for name in found if wanted in name.lower()]
        if state:
            found = [name for name in found if (states[name].word if name in states else Word.FREE) == state]
        pages = max(1, math.ceil(len(found) / size))
        page = min(max(0, page), pages - 1)
        shown = [self.line(name, now_ms, names=names) for name in found[page * size : (page + 1) * size]]
        counts: Counter[Word] = Counter(one.word for one in states.values())
        counts[Word.FREE] += len(self._records) - len(states)
        return Pressure(
            lines=[line for line in shown if line is not None],
            page=page,
            pages=pages,
            found=len(found),
            services=len(self._records),
            counts=[(word, counts[word]) for word in Word if counts[word]],
            waiting=self._waiting,
            kind=worst(one.kind for one in states.values()),
        )

    def _sorted(self) -> Sequence[str]:
        if self._moved:
            self._order.sort(key=self._urgencies.__getitem__)
            self._moved = False
        return self._order

    def _stated(self, now_ms: int) -> Mapping[str, State]:
        """Return the states of those that are pressed: anew where a record came, or where time may have changed it."""
        if abs(now_ms - self._stated_ms) >= _STATED_EVERY_MS:
            self._unstated |= {name for name in self._pressed if self._records[name].is_timed}
            self._stated_ms = now_ms
        for name in self._unstated:
            self._states[name] = state_of(self._records[name], now_ms, None, names=False)
        self._unstated.clear()
        return self._states

    def _forget(self, service: str) -> None:
        if (record := self._records.pop(service, None)) is not None:
            self._waiting -= record.backlog
            self._order.remove(service)
            self._pressed.discard(service)
            self._unstated.discard(service)
            self._states.pop(service, None)
            del self._urgencies[service]

    def marks(self, service: str, *, names: bool) -> Sequence[Mark]:
        """Return what has happened to a service, oldest first; without `names` of a command only its kind."""
        marks = self._marks.get(service, ())
        return [mark._replace(what=mark.kind, more="") if mark.is_command and not names else mark for mark in marks]

    def owners(self) -> Sequence[Owner]:
        """Return each shard that has services, with its gate."""
        return owners_of(self._records.values())

    def troubles(self, now_ms: int) -> Sequence[Trouble]:
        """Return what is wrong with the gates themselves."""
        if not self._troubles:
            return []
        alive = {owner.gate for owner in self.owners()}
        found = []
        for (kind, _), (alert, at_ms) in sorted(self._troubles.items()):
            is_gone = alert.gate not in alive and now_ms - at_ms > _FORGOTTEN_MS
            if kind == POLICY_REFUSED and not is_gone:
                what = f"policy refused at {alert.gate or 'a gate'}; {alert.policy} stays in force: {alert.reason}"
                found.append(Trouble(what, f"repair {alert.policy_file or 'the file'}: gate policy check FILE"))
            elif kind == SHARD_FAILED:
                found.append(Trouble(f"shard {alert.shard} does not go on: {alert.reason}", "see the gate's log"))
            elif kind == CLOCK_SKEWED and now_ms - at_ms < _FORGOTTEN_MS:
                found.append(Trouble(f"the clock of {alert.host}: {alert.reason}", "set it by NTP"))
        return found


def _urgency(record: Record) -> _Urgency:
    """Return what services are sorted by: what stands, what takes longest to drain, where most wait."""
    if record.is_calm:
        return True, True, 0, 0, True, 0.0, record.service
    stands = bool(record.waiting) or (record.binding is None and record.is_late)
    drained = FOREVER_MS if stands else record.drained_ms if record.backlog else 0
    fullest = max((limit.usage for limit in record.limits), default=0.0)
    return False, not stands, -drained, -record.backlog, record.breach_since_ms is None, -fullest, record.service


def _subject(kind: str, alert: Alert) -> str:
    if kind in {SHARD_FAILED, SHARD_RECOVERED}:
        return str(alert.shard)
    return alert.host if kind == CLOCK_SKEWED else f"{alert.gate} {alert.policy_file}"


def as_json(line: Line) -> dict[str, Any]:
    """Return a line of the pressure list as it stands in `/v1/pressure`."""
    record: dict[str, Any] = msgspec.to_builtins(line)
    state = record.pop("state")
    word, limit, more, kind = state
    return {**record, "state": word, "binds": limit, "more": more, "kind": kind}
