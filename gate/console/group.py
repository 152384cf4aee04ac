"""The whole group of gates as its topics tell it: usage, alerts and audit come in, views go out. No I/O, no clock."""

import math
from bisect import insort
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from gate.console.commanded import Commanded
from gate.console.order import Order
from gate.console.owners import Owner, owners_of
from gate.console.records import Record, decode
from gate.console.states import States
from gate.console.view import Line, Mark, Pressure, Trouble, line_of
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
from gate.protocol.policies import LimitSet

PAGE: Final = 50  # services
MARKS: Final = 200  # per service
_OWNERS: Final = 10_000  # with a policy each
_FORGOTTEN_MS: Final = 600_000  # a refusal by a gate that has no service by now, and may be gone
_BEGINS: Final = {SHARD_FAILED: SHARD_RECOVERED, POLICY_REFUSED: POLICY_ACCEPTED}
_MARKED: Final = {
    OPENED: "breach opened",
    RESOLVED: "breach resolved",
    NEAR_LIMIT: "near limit",
    WAITING: "partition stands",
    RESUMED: "partition goes on",
}


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
        self._unread: dict[str, bytes] = {}  # what has come since, of the same owner under the same policy
        self._same: dict[tuple[str, str], tuple[bytes, bytes]] = {}  # what is in records of an owner and a policy
        self._order = Order()
        self._states = States()
        self._waiting = 0  # requests, of all services
        self._troubles: dict[tuple[str, str], tuple[Alert, int]] = {}  # by kind and subject, with unix ms
        self._marks: dict[str, deque[Mark]] = {}
        self.commanded = Commanded()
        self.unreadable = 0  # records

    # -- what comes in ---------------------------------------------------------------------------------------------

    def take_usage(self, key: bytes | None, value: bytes | None) -> None:
        """Take a record of the usage topic. It is read when somebody asks, unless it may tell of a take-over."""
        service = (key or b"").decode(errors="replace")
        if value is None:
            self._forget(service)
            return
        before = self._records.get(service)
        if before is not None:
            owner, policy = self._told_by(before)
            if value.rfind(owner) >= 0 and value.find(policy) >= 0:  # it stands near the end: `in` takes sixfold
                self._unread[service] = value
                return
        self._read_of(service)
        self._take(service, value)

    def _told_by(self, record: Record) -> tuple[bytes, bytes]:
        """Return what stands in each record of the same owner under the same policy."""
        known = record.owner, record.policy
        if (same := self._same.get(known)) is None:
            if len(self._same) >= _OWNERS:
                self._same.clear()  # whoever may write can make up any number
            owner, policy = map(msgspec.json.encode, known)
            same = self._same[known] = b'"owner":' + owner, b'"policy":' + policy
        return same

    def _read_of(self, service: str) -> None:
        if (value := self._unread.pop(service, None)) is not None:
            self._take(service, value)

    def _read_all(self) -> None:
        unread, self._unread = self._unread, {}
        for service, value in unread.items():
            self._take(service, value)

    def _take(self, service: str, value: bytes) -> None:
        try:
            record = decode(value)
        except ValueError:
            self.unreadable += 1
            return
        if record.service != service:  # it would stand there twice
            self.unreadable += 1
            return
        before = self._records.get(service)
        self._records[service] = record
        self._waiting += record.backlog - (0 if before is None else before.backlog)
        is_calm = record.is_calm
        self._states.put(service, is_calm=is_calm)
        self._order.put(service, record, is_calm=is_calm)
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
        self._read_of(service)
        return self._records.get(service)

    def services(self) -> Collection[str]:
        """Return the services of which anything is known."""
        return self._records.keys()

    def limited(self) -> Sequence[Record]:
        """Return the newest usage of the services of which anything was ever set live, of them or of their groups."""
        self._read_all()
        return [one for one in self._records.values() if one.limits_version or one.group_limits_version]

    def line(self, service: str, now_ms: int, *, names: bool) -> Line | None:
        """Return the line of one service; None: nothing is known of it."""
        record = self.record(service)
        if record is None:
            return None
        line = line_of(record, now_ms, self.commanded.pause_of(service), names=names)
        limit, shared = (_told(limit, now_ms, names=names) for limit in (record.limit_set, record.group_limit_set))
        return replace(
            line, limit_set=limit, group_limit_set=shared, tenants_limited=record.tenants_limited,
            commands=self.commanded.under_way(service, names=names),
        )  # fmt: skip

    def pressure(
        self, now_ms: int, *, query: str = "", state: str = "", page: int = 0, size: int = PAGE, names: bool = True
    ) -> Pressure:
        """Return a page of the services whose name has `query` in it, and that are in `state` if one is given.

        Those come first that take longest to drain. Without `names` neither tenants nor operators are told.
        """
        self._read_all()
        self._states.look(self._records, now_ms)
        count, page = len(self._records), max(0, page)
        if query.strip() or state or page * size >= count:
            every = self._found(query.strip().lower(), state)
            count = len(every)
            page = min(page, max(1, math.ceil(count / size)) - 1)
        else:
            every = self._order.first((page + 1) * size)
        shown = [self.line(name, now_ms, names=names) for name in every[page * size : (page + 1) * size]]
        return Pressure(
            lines=[line for line in shown if line is not None],
            page=page,
            pages=max(1, math.ceil(count / size)),
            found=count,
            services=len(self._records),
            counts=self._states.counts(len(self._records)),
            waiting=self._waiting,
            kind=self._states.worst(),
        )

    def _found(self, wanted: str, state: str) -> Sequence[str]:
        found = self._order.all()
        if wanted:
            found = [name for name in found if wanted in name.lower()]
        if state:
            found = [name for name in found if self._states.word(name) == state]
        return found

    def _forget(self, service: str) -> None:
        self._unread.pop(service, None)
        if (record := self._records.pop(service, None)) is not None:
            self._waiting -= record.backlog
            self._states.drop(service)
            self._order.drop(service)

    def marks(self, service: str, *, names: bool) -> Sequence[Mark]:
        """Return what has happened to a service, oldest first; without `names` of a command only its kind."""
        marks = self._marks.get(service, ())
        return [mark._replace(what=mark.kind, more="") if mark.is_command and not names else mark for mark in marks]

    def owners(self) -> Sequence[Owner]:
        """Return each shard that has services, with its gate."""
        self._read_all()
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


def _told(limit: LimitSet | None, now_ms: int, *, names: bool) -> LimitSet | None:
    """Return a limit that is set, as long as it holds; without `names` not by whom and why."""
    if limit is None or not limit.holds(now_ms):
        return None
    return limit if names else msgspec.structs.replace(limit, who="", why="")


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
