"""Live limits of a shard's services and groups: set by operators' commands, each once, and gone by themselves in time.

No I/O. What is in force is kept in the state, with all else by which the owner decides: `limit/<service>`, and the
tables of `tenant_limits`. Records on `gate.policies` go with the same batch and tell others of it. A command's id is
known for longer than the control topic keeps it, so that it is carried out once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from gate.admission.model import Usage
from gate.admission.state import decode, encode
from gate.errors import GateError
from gate.policy.live import LiveService, check, check_tenant
from gate.protocol import answers, control, policies
from gate.protocol.answers import Answer, AnswerState, Audit
from gate.protocol.policies import (
    BUCKETS,
    GROUP,
    LimitSet,
    LiveLimit,
    Published,
    as_argument,
    buckets_for,
    called,
    key_of,
)
from gate.protocol.topics import Names
from gate.shard.limit_import import IMPORT_KIND, TELL_EVERY, ImportRecord, LimitImport, Phase
from gate.shard.owner_views import Received
from gate.shard.records import Outgoing, Partition
from gate.shard.tenant_limits import TenantLimits
from gate.units import MAX_DURATION, MS, SECOND

KIND: Final = "limit"
DONE_KIND: Final = "limited"
KEPT: Final = 8 * 86_400 * SECOND  # for so long is known what was carried out: the control topic keeps it for 7 days
FEW: Final = 1_000  # tenants, whose limits are cleared in one batch
MOST_TOLD: Final = 100  # characters of who imported and why, in the record of each of a million tenants
_ENDLESS_MS: Final = MAX_DURATION // MS  # what is set for so long has no end: a later one fits into no calendar
ITSELF: Final = "gate"  # who ends what ends by itself


class SetBy(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who set the limit of a service, or of a group."""

    at_ms: int = msgspec.field(name="t")
    who: str = msgspec.field(default="", name="w")
    reason: str = msgspec.field(default="", name="y")
    command: str = msgspec.field(default="", name="i")  # its id


class LimitRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`limit/<service>`, and `limit/group:<name>`."""

    version: int = msgspec.field(name="v")
    limit: LiveLimit | None = msgspec.field(default=None, name="l")
    generation: int = msgspec.field(default=1, name="g")  # of the tenants' table
    buckets: int = msgspec.field(default=BUCKETS, name="b")
    by: SetBy | None = msgspec.field(default=None, name="s")  # of `limit`; None: a gate of an earlier version set it


class DoneRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`limited/<service>/<id>`: what became of a command."""

    offset: int = msgspec.field(name="o")  # on the control topic
    at: int = msgspec.field(name="t")  # ns
    version: int = msgspec.field(name="v")
    why: str = msgspec.field(default="", name="y")  # it was refused
    hint: str = msgspec.field(default="", name="h")
    tenants: int | None = msgspec.field(default=None, name="n")  # that it was about, where these are many
    aborted: bool = msgspec.field(default=False, name="a")  # by another command; nothing of it was in force
    cleared: int | None = msgspec.field(default=None, name="c")  # tenants that had limits, and are not in the import


class LiveLimits:
    """What is set for a shard's services. What a batch changes in it is written with that batch."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._records: dict[str, LimitRecord] = {}
        self._tables: dict[str, TenantLimits] = {}
        self.imports: dict[str, LimitImport] = {}  # under way, by service
        self._buckets: dict[str, list[tuple[str, bytes]]] = {}  # restored, before their table is known
        self._done: dict[tuple[str, str], DoneRecord] = {}
        self._changed: dict[str, bytes | None] = {}
        self._reports: list[tuple[Partition, Outgoing]] = []
        self._end: int | None = None  # see `next_end`
        self._stale = True

    # -- what is kept ----------------------------------------------------------------------------------------------

    def restore(self, key: str, data: bytes) -> bool:
        """Take in a record of the state; False: it is none of these. Raises StateError."""
        kind, _, rest = key.partition("/")
        service, _, name = rest.partition("/")
        if kind == DONE_KIND:
            self._done[service, name] = decode(key, data, DoneRecord)
        elif kind == IMPORT_KIND:
            self.imports[service] = LimitImport.restore(service, key, data)
        elif kind == KIND and name:
            self._buckets.setdefault(service, []).append((key, data))
        elif kind == KIND:
            self._records[service] = decode(key, data, LimitRecord)
        return kind in {KIND, DONE_KIND, IMPORT_KIND}

    def restored(self) -> Iterator[None]:
        """Take in the tables, when all records are there, in slices. Raises StateError."""
        for service in [*self._buckets, *(self.imports.keys() - self._buckets.keys())]:
            table = self._table(service)
            tables = {table.generation: table}
            if (work := self.imports.get(service)) is not None:
                if work.record.phase in {Phase.PUBLISH, Phase.REMOVE}:
                    work.table = table  # it is in force
                tables = {work.old.generation: work.old, work.table.generation: work.table} | tables
                if work.old.generation == table.generation:
                    work.old = table
            for number, (key, data) in enumerate(self._buckets.get(service, ())):
                _, _, generation, bucket = key.split("/")
                tables[int(generation)].restore(int(bucket), key, data)
                if number % 1_000 == 0:
                    yield
        self._buckets.clear()

    def changes(self) -> dict[str, bytes | None]:
        """Return the state records that have changed since the last call; None: delete."""
        changed, self._changed = self._changed, {}
        for work in self.imports.values():
            changed |= work.changes()
        for table in self._tables.values():
            changed |= table.changes()
        return changed

    def reports(self) -> list[tuple[Partition, Outgoing]]:
        """Return what is to be told since the last call."""
        told, self._reports = self._reports, []
        return told

    def in_force(self) -> dict[str, LiveService]:
        """Return what is set, by service, or group:NAME."""
        return {
            service: LiveService(record.version, record.limit, self._tables.get(service, {}))
            for service, record in self._records.items()
        }

    def shown(self, usage: Usage, group: str | None) -> Usage:
        """Return a service's usage with what is set for it, and for the group that it is in."""
        own = self._records.get(usage.service)
        shared = None if group is None else self._records.get(f"{GROUP}{group}")
        if own is None and shared is None:
            return usage
        return replace(
            usage,
            limit_set=_limit_set(own),
            group_limit_set=_limit_set(shared, group or ""),
            tenants_limited=len(self._tables.get(usage.service, ())),
            limits_version=self._version(usage.service),
            group_limits_version=0 if shared is None else shared.version,
        )

    # -- commands --------------------------------------------------------------------------------------------------

    def take(self, received: Received, now: int, refusal: tuple[str, str] | None = None) -> bool:
        """Carry a command out, or refuse it. Returns whether anything else is in force now.

        `refusal` says why it can't be, and what to do about it, where its owner knows that.
        """
        command, service = received.command, received.service
        assert isinstance(command, control.LimitCommand)
        self._forget(service, now)
        work = self.imports.get(service)
        if work is not None and work.record.id == received.id:
            if work.record.offset != received.offset:
                self._tell(work, AnswerState.TAKEN, now)
            return False
        known = self._done.get((service, received.id))
        if known is not None:
            if known.offset != received.offset:  # it was sent again
                self._answer(received.id, service, known, now)
            return False
        if isinstance(command, control.ImportLimits):
            self._take_import(received, command, now, refusal)
            return False
        before = self._said(service, command.tenant)
        refusal = refusal or self._refusal(command, before)
        after = before
        if refusal is None:
            if isinstance(command, control.ClearLimit) and command.all and len(self._table(service)) > FEW:
                self._begin(received, (), 0, now, clears=True)
                return False
            after = self._apply(received, command, now)
        version = self._version(service)
        done = self._note(service, received.id, DoneRecord(received.offset, now, version, *(refusal or ())), now)
        self._audit(received, command, now, _told(before), _told(after), done)
        return refusal is None

    def _note(self, service: str, known: str, done: DoneRecord, now: int) -> DoneRecord:
        """Keep what became of a command, and answer it."""
        self._done[service, known] = done
        self._changed[f"{DONE_KIND}/{service}/{known}"] = encode(done)
        self._answer(known, service, done, now)
        return done

    def _refusal(self, command: control.LimitCommand, before: LiveLimit | None) -> tuple[str, str] | None:
        """Tell why a command can't be carried out, and what to do about it."""
        service = command.service
        version = self._version(service)
        if command.if_version is not None and command.if_version != version:
            why = f"the limits of {called(service)} are at version {version}, not {command.if_version}"
            return (
                f"{why}: they were changed since",
                f"look at them, `gate limit show {as_argument(service)}`, and give --if-version {version}",
            )
        work = self.imports.get(service)
        whole = isinstance(command, control.ImportLimits) or (isinstance(command, control.ClearLimit) and command.all)
        if work is not None and (whole or work.record.phase == Phase.STAGE):
            why = f"an import of limits of {service} is under way: command {work.record.id}"
            return why, "try again when it is over"
        if isinstance(command, control.ImportLimits):
            return None
        if isinstance(command, control.SetLimit):
            try:
                check(command.limit)
                if command.tenant:
                    check_tenant(command.tenant)
            except GateError as error:
                return str(error), error.hint or ""
            return None
        everything = command.all and (self._said(service, "") is not None or self._tables.get(service))
        if before is None and not everything:
            who = f"tenant {command.tenant} of {service}" if command.tenant else called(service)
            return f"nothing is set for {who}", f"`gate limit show {as_argument(service)}` shows what is"
        return None

    def _apply(self, received: Received, command: control.SetLimit | control.ClearLimit, now: int) -> LiveLimit | None:
        """Change what is in force; return what holds then."""
        service, limit = command.service, None
        version = self._version(service) + 1
        if isinstance(command, control.SetLimit):
            start = received.at if received.at > 0 else now // MS  # it counts from when it was said
            until = start + command.for_ms if command.for_ms is not None and command.for_ms < _ENDLESS_MS else None
            limit = msgspec.structs.replace(command.limit, until_ms=until)
        told = Published(version, limit, now // MS, received.who, received.reason, received.id)
        record = self._records.get(service, LimitRecord(0))
        if command.tenant:
            self._table(service).set(command.tenant, limit)
            self._publish(service, command.tenant, None if limit is None else told)
        else:
            by = SetBy(told.at_ms, told.who, told.reason, told.command)
            record = msgspec.structs.replace(record, limit=limit, by=by)
        if isinstance(command, control.ClearLimit) and command.all:
            for tenant in self._table(service):
                self._publish(service, tenant, None)
            self._table(service).clear()
        self._keep(service, msgspec.structs.replace(record, version=version))
        self._publish_own(service, told)
        return limit

    def abort(self, received: Received, command: control.Abort, now: int) -> bool:
        """End an import that is not in force yet; whole or not at all. False: no command about limits has this id."""
        service = received.service
        known = service, received.id
        if known in self._done:
            if self._done[known].offset != received.offset:  # it was sent again
                self._answer(received.id, service, self._done[known], now)
            return True
        work = self.imports.get(service)
        if work is not None and work.record.id == command.id:
            done = DoneRecord(received.offset, now, self._version(service))
            if work.record.phase == Phase.STAGE:
                work.fail(f"aborted by {received.who or 'somebody'}", "nothing of it was in force")
                work.set(aborted=True)
            else:
                why = f"import {command.id} is in force already" if not work.record.why else f"{command.id} has failed"
                done = msgspec.structs.replace(done, why=why, hint=f"see `gate limit show {service}`")
        elif (over := self._done.get((service, command.id))) is not None:
            why = f"command {command.id} is over: {_state(over)}"
            done = DoneRecord(received.offset, now, self._version(service), why)
        else:
            return False
        self._note(service, received.id, done, now)
        record = Audit(
            now // MS, "abort", service, received.id, received.who, reason=received.reason, said={"id": command.id},
            result=_state(done), why=done.why,
        )  # fmt: skip
        self._report(self._names.audit, service, answers.encode(record))
        return True

    # -- imports ---------------------------------------------------------------------------------------------------

    def _take_import(
        self, received: Received, command: control.ImportLimits, now: int, refusal: tuple[str, str] | None
    ) -> None:
        service = received.service
        if (refusal := refusal or self._refusal(command, None)) is not None:
            done = DoneRecord(received.offset, now, self._version(service), *refusal)
            self._audit(received, command, now, {}, {}, self._note(service, received.id, done, now))
            return
        self._begin(received, command.parts, command.count, now)

    def _begin(self, received: Received, parts: Sequence[int], count: int, now: int, *, clears: bool = False) -> None:
        service, table = received.service, self._table(received.service)
        record = ImportRecord(
            received.id, received.offset, list(parts), count, now, table.generation + 1, buckets_for(count),
            table.generation, table.buckets, len(table), received.who, received.reason, clears,
        )  # fmt: skip
        work = self.imports[service] = LimitImport(service, record)
        work.old = table
        self._tell(work, AnswerState.TAKEN, now)

    def wanted(self) -> list[tuple[str, int]]:
        """Return of which services which part is to be read."""
        found = [(service, work.wanted) for service, work in self.imports.items()]
        return [(service, offset) for service, offset in found if offset is not None]

    def was_read(self, service: str, part: bytes | None) -> None:
        """Take the part that was wanted; None: it is gone."""
        work = self.imports[service]
        work.part = part
        if part is None:
            why = f"part {work.record.next + 1} of {len(work.record.parts)} is gone from {self._names.control}"
            work.fail(why, "send it again")

    def work(self, service: str, now: int) -> bool:
        """Go on with an import, as far as one batch may. Returns whether other limits are in force now."""
        work = self.imports[service]
        match work.record.phase:
            case Phase.STAGE:
                if work.stage():
                    self._switch(work, now)
                    return True
                if work.record.phase == Phase.STAGE and now - work.told_at >= TELL_EVERY:
                    self._tell(work, AnswerState.WORKING, now)
            case Phase.PUBLISH:
                given, version = work.record, self._version(service)
                for tenant, limit in work.publish():
                    told = Published(
                        version, limit, given.taken_at // MS, given.who[:MOST_TOLD], given.reason[:MOST_TOLD], given.id
                    )
                    self._publish(service, tenant, told)
            case Phase.REMOVE:
                for tenant in work.remove():
                    self._publish(service, tenant, None)
                if not len(work.old):
                    self._finish(work, now)
            case _:
                work.drop()
                if not len(work.table):
                    self._finish(work, now)
        return False

    def _switch(self, work: LimitImport, now: int) -> None:
        """Put an import into force."""
        service, record = work.service, self._records.get(work.service, LimitRecord(0))
        self._tables[service] = work.table
        limit = None if work.record.clears else record.limit
        changed = LimitRecord(record.version + 1, limit, work.record.generation, work.record.buckets, record.by)
        work.set(phase=Phase.PUBLISH, next=0)
        self._keep(service, changed)
        self._mark(work, now, importing=True)
        self._tell(work, AnswerState.WORKING, now)

    def _mark(self, work: LimitImport, now: int, *, importing: bool) -> None:
        given = work.record
        told = Published(0, None, now // MS, given.who, given.reason, given.id, importing=importing)
        self._publish_own(work.service, told)

    def _finish(self, work: LimitImport, now: int) -> None:
        service, record = work.service, work.record
        self._changed |= work.changes()
        self._changed[f"{IMPORT_KIND}/{service}"] = None
        del self.imports[service]
        if not record.why:
            self._mark(work, now, importing=False)
        done = DoneRecord(
            record.offset, now, self._version(service), record.why, record.hint, record.count, record.aborted,
            None if record.why or record.clears else record.cleared,
        )  # fmt: skip
        self._note(service, record.id, done, now)
        command: control.LimitCommand = control.ImportLimits(service, [], record.count)
        if record.clears:
            command = control.ClearLimit(service, all=True)
        received = Received(record.offset, service, command, True, record.id, record.who, record.reason)
        after = record.before if record.why else len(self._table(service))
        self._audit(received, command, now, {"tenants": record.before}, {"tenants": after}, done)

    def _tell(self, work: LimitImport, state: AnswerState, now: int) -> None:
        work.told_at = now
        record = work.record
        answer = Answer(
            record.id, work.service, state, now // MS, record.done, record.count,
            what="clear-limit" if record.clears else "import-limits", who=record.who, because=record.reason,
        )  # fmt: skip
        self._report(self._names.answers, record.id, answers.encode(answer))

    # -- what ends by itself ---------------------------------------------------------------------------------------

    def next_end(self) -> int | None:
        """Return when the first of what is set ends by itself, ns; None: nothing does."""
        if self._stale:
            self._stale, self._end = False, self._first_end()
        return self._end

    def _first_end(self) -> int | None:
        times = [
            record.limit.until_ms
            for record in self._records.values()
            if record.limit is not None and record.limit.until_ms is not None
        ]
        times += [min(table.ends.values()) for table in self._tables.values() if table.ends]
        return min(times) * MS if times else None

    def expire(self, now: int) -> set[str]:
        """Let go what has ended by now. Returns the services of which something has."""
        changed = set()
        for service in list(self._records):
            for tenant, limit in self._ended(service, now // MS).items():
                changed.add(service)
                self._note_end(service, tenant, limit, now)
            if service in changed:
                record = self._records[service]
                self._keep(service, msgspec.structs.replace(record, version=record.version + 1))
                self._publish_own(service, Published(0, None, now // MS, ITSELF, "its time is over"))
        return changed

    def _ended(self, service: str, now_ms: int) -> dict[str, LiveLimit]:
        """Take out what has ended, by tenant; "": of the service itself."""
        ended: dict[str, LiveLimit] = {}
        record, table = self._records[service], self._tables.get(service)
        limit = record.limit
        if limit is not None and limit.until_ms is not None and limit.until_ms <= now_ms:
            ended[""] = limit
            self._records[service] = msgspec.structs.replace(record, limit=None)
        for number in [] if table is None else [n for n, end in table.ends.items() if end <= now_ms]:
            assert table is not None
            ended |= table.pop_ended(number, now_ms)
        return ended

    def _note_end(self, service: str, tenant: str, limit: LiveLimit, now: int) -> None:
        if tenant:
            self._publish(service, tenant, None)
        said = {"tenant": tenant} if tenant else {}
        record = Audit(
            now // MS, "limit-ended", service, "", ITSELF, claimed=False, reason="its time is over", said=said,
            before=_told(limit), result=AnswerState.DONE,
        )  # fmt: skip
        self._report(self._names.audit, service, answers.encode(record))

    # -- what is told ----------------------------------------------------------------------------------------------

    def _answer(self, command: str, service: str, done: DoneRecord, now: int) -> None:
        answer = Answer(
            command, service, _state(done), now // MS, 0 if done.why else done.tenants or 0, done.tenants, why=done.why,
            hint=done.hint, version=done.version, cleared=done.cleared,
        )  # fmt: skip
        self._report(self._names.answers, command, answers.encode(answer))

    def _audit(
        self,
        received: Received,
        command: control.LimitCommand,
        now: int,
        before: dict[str, Any],
        after: dict[str, Any],
        done: DoneRecord,
    ) -> None:
        said = msgspec.to_builtins(command)
        what = said.pop("command")
        said.pop("parts", None)
        del said["service"]
        record = Audit(
            now // MS, what, received.service, received.id, received.who, reason=received.reason, said=said,
            before=before, after=after | {"version": done.version},
            result=_state(done), why=done.why,
        )  # fmt: skip
        self._report(self._names.audit, received.service, answers.encode(record))

    def _publish_own(self, service: str, changed: Published) -> None:
        """Tell of a change of a service or of its tenants: who set its own limit, or if it has none who changed it."""
        record = self._records[service]
        if record.limit is not None:
            by = record.by or SetBy(0)
            changed = msgspec.structs.replace(changed, at_ms=by.at_ms, who=by.who, reason=by.reason, command=by.command)
        self._publish(service, "", msgspec.structs.replace(changed, version=record.version, limit=record.limit))

    def _publish(self, service: str, tenant: str, record: Published | None) -> None:
        value = None if record is None else policies.encode(record)
        self._report(self._names.policies, key_of(service, tenant), value)

    def _report(self, topic: str, key: str, value: bytes | None) -> None:
        self._reports.append((Partition(topic, 0), Outgoing(key.encode(), value, None, [])))

    def _keep(self, service: str, record: LimitRecord) -> None:
        self._records[service] = record
        self._stale = True
        self._changed[f"{KIND}/{service}"] = encode(record)

    def _version(self, service: str) -> int:
        record = self._records.get(service)
        return 0 if record is None else record.version

    def _said(self, service: str, tenant: str) -> LiveLimit | None:
        if tenant:
            table = self._tables.get(service)
            return None if table is None else table.get(tenant)
        record = self._records.get(service)
        return None if record is None else record.limit

    def _table(self, service: str) -> TenantLimits:
        if service not in self._tables:
            record = self._records.get(service, LimitRecord(0))
            self._tables[service] = TenantLimits(service, record.generation, record.buckets)
        return self._tables[service]

    def _forget(self, service: str, now: int) -> None:
        """Forget what was carried out so long ago that nobody can send it again."""
        for key in [key for key, done in self._done.items() if key[0] == service and done.at < now - KEPT]:
            del self._done[key]
            self._changed[f"{DONE_KIND}/{service}/{key[1]}"] = None


def _limit_set(record: LimitRecord | None, group: str = "") -> LimitSet | None:
    if record is None or record.limit is None:
        return None
    by = record.by or SetBy(0)
    return LimitSet(record.limit.fields, record.limit.until_ms, by.who, by.reason, group)


def _state(done: DoneRecord) -> AnswerState:
    if done.aborted:
        return AnswerState.ABORTED
    return AnswerState.FAILED if done.why else AnswerState.DONE


def _told(limit: LiveLimit | None) -> dict[str, Any]:
    """Return a limit as the audit shows it."""
    said: Mapping[str, Any] = {} if limit is None else msgspec.to_builtins(limit)
    return dict(said)
