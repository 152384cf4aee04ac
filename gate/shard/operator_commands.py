"""Operators' commands on what waits: frozen when they are taken, carried out in many batches, told step by step.

No I/O. A command is kept in the state from the batch that takes it on, so that the next owner goes on with it, and its
id for longer than the control topic keeps it, so that it is carried out once. First what is meant is counted, then it
is acted upon; of a service one command after the other.
"""

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import nlargest
from typing import Any, Final

import msgspec
import structlog

from gate.admission.engine import Engine
from gate.admission.model import EXPEDITED, MS, SECOND, Pull, Reason
from gate.admission.parked_selection import Filter
from gate.admission.queues.spans import BEGINNING, WAITING, Cursor, Span
from gate.admission.state import VERSION, decode, encode
from gate.errors import GateError
from gate.policy import Overflow
from gate.protocol import answers, control
from gate.protocol.answers import FINAL, Answer, AnswerState, Audit
from gate.protocol.headers import ID, TENANT, last, original_id
from gate.protocol.topics import Names
from gate.shard.buffer import weight_of
from gate.shard.owner_views import Received
from gate.shard.records import Outgoing, Partition, Record
from gate.shard.redrives import (
    Age,
    Extents,
    RedriveRecord,
    Scanned,
    SourceRequest,
    age_of,
    as_request,
    fits,
    next_place,
    refuse_source,
    source_of,
)

COMMAND_KIND: Final = "command"
AT_ONCE: Final = 500  # requests that are read, or acted upon, in one batch
LOOKED_AT: Final = 20_000  # entries of the state that are looked at in one batch: some ms
TELL_EVERY: Final = SECOND  # how often is told how far a command is
KEPT: Final = 8 * 86_400 * SECOND  # for so long is known what was carried out: the control topic keeps it for 7 days
ANY: Final = 1 << 62
PUT_BACK_BYTES: Final = 1 << 20  # in one batch
MOST_KEPT: Final = 100_000  # newest ones that a redrive may leave alone: all are in memory while they are counted
END: Final[Cursor] = (-1 << 31, 0)  # of what came late to a partition that no topic has

log = structlog.get_logger("gate.commands")


class CommandRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`command/<service>/<id>`."""

    command: bytes = msgspec.field(name="c")  # as on the control topic
    offset: int = msgspec.field(name="o")  # there
    taken_at: int = msgspec.field(name="t")  # ns
    end: int = msgspec.field(default=0, name="e")  # arrival number: what came from there on is not meant
    waiting: int = msgspec.field(default=0, name="q")  # requests, when it was taken
    who: str = msgspec.field(default="", name="w")
    reason: str = msgspec.field(default="", name="r")
    of: int | None = msgspec.field(default=None, name="m")  # requests that are meant; None: they are being counted
    done: int = msgspec.field(default=0, name="n")
    gone: int = msgspec.field(default=0, name="g")
    place: tuple[int, int] = msgspec.field(default=WAITING, name="p")  # acted upon up to there
    result: str = msgspec.field(default="", name="s")  # an AnswerState; empty: it is not over
    why: str = msgspec.field(default="", name="y")
    hint: str = msgspec.field(default="", name="h")


class FullCommandRecord(CommandRecord, frozen=True, omit_defaults=True):
    """The same with what later versions keep of it. Without any of that it is written as earlier ones wrote it."""

    scheduled: dict[int, int] = msgspec.field(default_factory=dict, name="x")  # as `Filter.scheduled`
    redrive: RedriveRecord | None = msgspec.field(default=None, name="d")

    def as_written(self) -> CommandRecord:
        """Return what is written; a structure of more than 15 fields has another beginning, whatever it holds."""
        if self.scheduled or self.redrive is not None:
            return self
        return CommandRecord(**{name: getattr(self, name) for name in CommandRecord.__struct_fields__})


@dataclass(slots=True)
class OperatorCommand:
    """A command under way, or over."""

    id: str
    service: str
    record: FullCommandRecord
    given: control.BacklogCommand
    cursor: Cursor = BEGINNING
    behind: Cursor | None = None  # where to go on after what was read
    read: Sequence[Span] | None = None  # those of the last look that fit; None: there was none
    lost: Sequence[Span] = ()  # what turned out to be gone then
    counted: int = 0
    newest: list[tuple[int, int]] = field(default_factory=list)  # heap of those to be kept: arrival number, count
    kept: int = 0  # requests in it
    scanned: Scanned | None = None  # of the source of a redrive; None: to be read
    index: int = 0  # of the first of these that has not been looked at
    newest_ages: list[Age] = field(default_factory=list)  # heap of those that a redrive is to leave alone
    told_at: int = 0  # ns

    def set(self, **changes: Any) -> None:
        """Change what is kept of it."""
        self.record = msgspec.structs.replace(self.record, **changes)

    def count(self, spans: Sequence[Span]) -> None:
        """Count requests that are meant; remember the newest where some are to be left alone."""
        keep = self.given.selection.keep_newest
        for span in spans:
            self.counted += span.count
            if keep:
                heapq.heappush(self.newest, (span.seq, span.count))
                self.kept += span.count
                while self.kept - self.newest[0][1] >= keep:
                    self.kept -= heapq.heappop(self.newest)[1]

    def settle(self) -> None:
        """End the count."""
        meant, keep = self.counted, self.given.selection.keep_newest
        if keep:
            meant = max(0, meant - keep)
            if self.newest:
                self.set(end=self.newest[0][0] + max(0, self.kept - keep))
        self.set(of=meant)
        self.cursor, self.newest = BEGINNING, []


class OperatorCommands:
    """The commands of a shard's services. What a batch changes in them is written with that batch."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.exact = True  # a batch is written as a whole
        self._known: dict[tuple[str, str], OperatorCommand] = {}  # by service and id
        self._waiting: dict[str, list[OperatorCommand]] = {}  # that are not over, by service
        self._changed: dict[tuple[str, str], None] = {}
        self.awaited: set[str] = set()  # services whose redrive goes on when something has been read
        self._requests: dict[str, list[Outgoing]] = {}  # that are put back by the batch at hand, by service
        self._reports: list[tuple[Partition, Outgoing]] = []

    def restore(self, key: str, data: bytes) -> bool:
        """Take in a record of the state; False: it is none of these. Raises StateError."""
        kind, _, rest = key.partition("/")
        if kind != COMMAND_KIND:
            return False
        service, _, name = rest.partition("/")
        record = decode(key, data, FullCommandRecord)
        given = control.decode(record.command)
        assert isinstance(given, control.BacklogCommand)  # it was taken as one
        cursor = BEGINNING if record.place == WAITING else record.place  # nothing was done yet
        command = OperatorCommand(name, service, record, given, cursor=cursor)
        self._known[service, name] = command
        if not record.result:
            self._waiting.setdefault(service, []).append(command)
            self._waiting[service].sort(key=lambda other: other.record.offset)
        return True

    @property
    def services(self) -> Collection[str]:
        """Those of which a command is under way."""
        return self._waiting.keys()

    # -- what comes from the control topic -------------------------------------------------------------------------

    def take(self, received: Received, engine: Engine, now: int) -> None:
        """Take a command, or refuse it: what waits by now is what it is about."""
        command = received.command
        assert isinstance(command, control.BacklogCommand | control.Abort)
        self._forget(received.service, now)
        key = received.service, received.id
        if (known := self._known.get(key)) is not None:
            if known.record.offset != received.offset:  # it was sent again
                self._answer(known, now)
            return
        if isinstance(command, control.Abort):
            self._abort(received, command, now)
            return
        record = FullCommandRecord(
            control.encode(command), received.offset, now, engine.arrivals, engine.waiting, received.who,
            received.reason, scheduled=engine.scheduled_ends if _reaches_scheduled(command) else {},
        )  # fmt: skip
        taken = self._known[key] = OperatorCommand(received.id, received.service, record, command)
        self._changed[key] = None
        if (refusal := self._refusal(command, received.reason, engine)) is not None:
            self._finish(taken, AnswerState.FAILED, engine, now, *refusal)
            return
        self._waiting.setdefault(received.service, []).append(taken)
        self._answer(taken, now)
        taken.told_at = now

    def _refusal(self, command: control.BacklogCommand, reason: str, engine: Engine) -> tuple[str, str] | None:
        """Tell why a command can't be carried out, and what to do about it."""
        selection, lanes = command.selection, list(engine.policy.lanes)
        if not self.exact:
            why = "the gates run with `delivery: at_least_once`, where a command could be carried out twice"
            return why, "set `delivery: exactly_once`"
        if not (selection.narrows or selection.all):
            return "the command does not say which requests it means", "give a filter, or --all"
        if isinstance(command, control.Cancel) and not (reason or command.dry_run):
            return "what is cancelled is lost, and no reason is given", "say why: --reason TEXT"
        if isinstance(command, control.Redrive):
            if (unfit := refuse_source(source_of(command, self._names), self._names)) is not None:
                return unfit, "name another topic, or none for the rejected one"
            if selection.keep_newest > MOST_KEPT:
                return (
                    f"{MOST_KEPT} may be left alone at most, not {selection.keep_newest}",
                    "say which ones: --older-than",
                )
        named = {selection.lane} - {"", EXPEDITED} | ({command.lane} if isinstance(command, control.Move) else set())
        if unknown := sorted(named - set(lanes)):
            return f"there is no lane {unknown[0]!r}; there are {', '.join(lanes)}", "check the name"
        return None

    def _abort(self, received: Received, command: control.Abort, now: int) -> None:
        found = self._known.get((received.service, command.id))
        answer = Answer(
            received.id, received.service, AnswerState.DONE, now // MS, what="abort", who=received.who,
            because=received.reason,
        )  # fmt: skip
        ended_by = f"by command {received.id}"
        if found is not None and found.record.result == AnswerState.ABORTED and found.record.why == ended_by:
            self._report(self._names.answers, received.id, answers.encode(answer))  # it was sent again
            return
        if found is None:
            why = f"no command {command.id!r} about {received.service} is known"
            answer = msgspec.structs.replace(answer, state=AnswerState.FAILED, why=why)
        elif found.record.result:
            why = f"command {command.id} is over: {found.record.result}"
            answer = msgspec.structs.replace(answer, state=AnswerState.FAILED, why=why)
        else:
            self._over(received.service, found)
            self._finish(found, AnswerState.ABORTED, None, now, ended_by)
        self._report(self._names.answers, received.id, answers.encode(answer))
        self.audit(received, "abort", now, {"id": command.id}, result=answer.state, why=answer.why)

    def answer(self, received: Received, now: int) -> None:
        """Answer a command that was carried out at once."""
        done = Answer(
            received.id, received.service, AnswerState.DONE, now // MS, what=control.name_of(received.command),
            who=received.who, because=received.reason,
        )  # fmt: skip
        self._report(self._names.answers, received.id, answers.encode(done))

    def refuse(self, received: Received, what: str, now: int, why: str, hint: str) -> None:
        """Answer, and note, that a command was not carried out."""
        failed = Answer(received.id, received.service, AnswerState.FAILED, now // MS, why=why, hint=hint)
        self._report(self._names.answers, received.id, answers.encode(failed))
        self.audit(received, what, now, {}, result=AnswerState.FAILED, why=why)

    def audit(
        self,
        received: Received,
        what: str,
        now: int,
        said: Mapping[str, Any],
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        result: str = AnswerState.DONE,
        why: str = "",
    ) -> None:
        """Note for good what was done at a command."""
        record = Audit(
            now // MS, what, received.service, received.id, received.who, reason=received.reason, said=dict(said),
            before=dict(before or {}), after=dict(after or {}), result=result, why=why,
        )  # fmt: skip
        self._report(self._names.audit, received.service, answers.encode(record))

    # -- batch by batch --------------------------------------------------------------------------------------------

    def to_read(self, engine: Engine, room: int) -> Sequence[Span]:
        """Return which parked requests are to be read before `work`; empty: it can do without, or nothing is to do."""
        command = self._first(engine.service)
        if command is None or isinstance(command.given, control.Redrive) or not _reads(command, engine):
            return ()
        spans, command.behind = engine.select(
            _filter(command), command.cursor, command.record.end, LOOKED_AT, min(room, AT_ONCE)
        )
        command.read, command.lost = [], ()
        return spans

    def was_read(self, engine: Engine, spans: Sequence[Span], there: Mapping[Partition, Mapping[int, Record]]) -> None:
        """Take the records of what was to be read; what is not among them is gone."""
        command = self._first(engine.service)
        assert command is not None  # it asked
        fit, lost = [], []
        delayed = self._names.delayed(engine.service)
        for span in spans:
            found = there.get(Partition(delayed, span.partition), {})
            for number in range(span.count):
                one = Span(span.partition, span.offset + number, 1, span.seq + number)
                record = found.get(one.offset)
                if record is None:
                    lost.append(one)
                elif _fits(command, record):
                    fit.append(one)
        command.read, command.lost = _joined(fit), lost

    def work(self, engine: Engine, now: int, room: int) -> list[Pull]:
        """Go on with the first command of a service; return what leaves the delayed topic because of it."""
        command = self._first(engine.service)
        if command is None:
            return []
        if isinstance(command.given, control.Redrive):
            self._redrive(command, command.given, engine, now)
            return []
        if _reads(command, engine):
            if command.read is None:
                return []
            spans, behind, command.read = command.read, command.behind, None
            self._lose(command, engine, now)
        else:
            most = ANY if command.record.of is None else min(room, AT_ONCE)
            spans, behind = engine.select(_filter(command), command.cursor, command.record.end, LOOKED_AT, most)
        if command.record.of is None:
            return self._count(command, spans, behind, engine, now)
        return self._act(command, spans, behind, engine, now)

    def _act(
        self, command: OperatorCommand, spans: Sequence[Span], behind: Cursor | None, engine: Engine, now: int
    ) -> list[Pull]:
        given = command.given
        if isinstance(given, control.Move) and given.lane not in engine.policy.lanes:
            self._over(engine.service)
            self._finish(command, AnswerState.ABORTED, engine, now, f"the policy has no lane {given.lane!r} any more")
            return []
        if behind is None and not spans:
            self._over(engine.service)
            self._finish(command, AnswerState.DONE, engine, now)
            return []
        # it ends with the next batch: only then is known what of these was there
        command.cursor = behind or END
        if spans:
            done = command.record.done + sum(span.count for span in spans)
            command.set(done=done, place=command.cursor)
            self._changed[engine.service, command.id] = None
        if now - command.told_at >= TELL_EVERY:
            self._answer(command, now)
            command.told_at = now
        if isinstance(given, control.Move):
            engine.shift(now, spans, given.lane)
            return []
        if isinstance(given, control.Expedite):
            engine.expedite(now, spans)
            return []
        return engine.reject(now, spans, Reason.CANCELLED)

    def _count(
        self, command: OperatorCommand, spans: Sequence[Span], behind: Cursor | None, engine: Engine, now: int
    ) -> list[Pull]:
        command.count(spans)
        if behind is not None and not (command.given.selection.id and spans):
            command.cursor = behind
            return []
        command.settle()
        self._changed[engine.service, command.id] = None
        if command.record.of and not command.given.dry_run:
            return []
        self._over(engine.service)
        if command.given.dry_run:
            self._finish(command, AnswerState.DONE, engine, now)
        else:
            keep = command.given.selection.keep_newest
            beyond = f" beyond the newest {keep}, which are kept" if keep and command.counted else ""
            why = f"nothing that waits for {engine.service} fits the filter{beyond}"
            hint = "`gate usage` shows what waits"
            if engine.policy.overflow is Overflow.HOLD:
                hint = "with `overflow: hold` requests wait in the request topic, where no command reaches them"
            elif engine.scheduled and not _reaches_scheduled(command.given):
                hint = f"{engine.scheduled} requests that wait for their gate-start are not meant by this command"
            self._finish(command, AnswerState.FAILED, engine, now, why, hint)
        return []

    def _lose(self, command: OperatorCommand, engine: Engine, now: int) -> None:
        """Forget what was parked and is not there any more."""
        if not command.lost:
            return
        first = command.lost[0]
        log.error(
            "parked requests are gone from the delayed topic (deleted, or expired), and are forgotten; what waits "
            "behind them comes earlier",
            topic=self._names.delayed(engine.service), partition=first.partition, offset=first.offset,
            gone=len(command.lost),
        )  # fmt: skip
        engine.lose(now, command.lost)
        command.set(gone=command.record.gone + len(command.lost))
        self._changed[engine.service, command.id] = None
        command.lost = ()

    # -- what is put back ------------------------------------------------------------------------------------------

    def to_scan(self, service: str) -> SourceRequest | None:
        """Return what is to be read of the source of a redrive before it goes on; None: nothing is."""
        command = self._first(service)
        if command is None or not isinstance(command.given, control.Redrive) or command.scanned is not None:
            return None
        record, topic = command.record, source_of(command.given, self._names)
        if record.redrive is None:
            return SourceRequest(topic, None, command.given.since_ms)
        place = next_place(record.redrive.extents, command.cursor)
        return None if place is None else SourceRequest(topic, place, acts=record.of is not None)

    def was_scanned(self, engine: Engine, read: Extents | Scanned | GateError, now: int) -> None:
        """Take what was to be read."""
        command = self._first(engine.service)
        assert command is not None  # it asked
        if isinstance(read, Scanned):
            command.scanned, command.index = read, 0
        elif isinstance(read, GateError):
            self._over(engine.service)
            state = AnswerState.ABORTED if command.record.done else AnswerState.FAILED
            self._finish(command, state, engine, now, str(read), read.hint or "")
        else:
            command.set(redrive=RedriveRecord(read))
            self._changed[engine.service, command.id] = None

    def _redrive(self, command: OperatorCommand, given: control.Redrive, engine: Engine, now: int) -> None:
        record, scanned = command.record, command.scanned
        if record.redrive is None:
            return
        if scanned is None:
            if next_place(record.redrive.extents, command.cursor) is None:
                self._scanned_all(command, given, record.redrive, engine, now)
            return
        meant = [
            (index, found)
            for index, found in enumerate(scanned.records[command.index :], command.index)
            if found.offset < record.redrive.extents[scanned.partition.number][1]
            and fits(given, record.taken_at // MS, found, scanned.partition)
        ]
        if record.of is None:
            command.counted += len(meant)
            if keep := given.selection.keep_newest:
                ages = [age_of(found, scanned.partition.number) for _, found in meant]
                command.newest_ages = nlargest(keep, [*command.newest_ages, *ages])
            command.cursor, command.scanned = scanned.behind, None
            return
        self._put_back(command, scanned, meant, record.redrive)
        if now - command.told_at >= TELL_EVERY:
            self._answer(command, now)
            command.told_at = now

    def _put_back(
        self,
        command: OperatorCommand,
        scanned: Scanned,
        meant: Sequence[tuple[int, Record]],
        kept: RedriveRecord,
    ) -> None:
        """Put back as many as a batch takes."""
        service, number = command.service, scanned.partition.number
        requests = self._requests.setdefault(service, [])
        skipped = size = 0
        command.cursor, command.index = scanned.behind, len(scanned.records)
        for index, found in meant:
            if len(requests) >= AT_ONCE or size > PUT_BACK_BYTES:
                command.cursor, command.index = (number, found.offset), index
                break
            if kept.edge is not None and age_of(found, number) >= kept.edge:
                continue
            request = as_request(found, scanned.partition, self._names, service)
            if request is None:
                skipped += 1
                continue
            requests.append(request)
            size += weight_of((found,))
        if command.index == len(scanned.records):
            command.scanned = None
        command.set(
            done=command.record.done + len(requests), place=command.cursor,
            redrive=msgspec.structs.replace(kept, skipped=kept.skipped + skipped),
        )  # fmt: skip
        self._changed[service, command.id] = None

    def _scanned_all(
        self, command: OperatorCommand, given: control.Redrive, kept: RedriveRecord, engine: Engine, now: int
    ) -> None:
        """End the count, or the command."""
        of = command.record.of
        if of is None:
            keep = given.selection.keep_newest
            if keep and len(command.newest_ages) == keep:
                command.set(redrive=msgspec.structs.replace(kept, edge=min(command.newest_ages)))
            of = max(0, command.counted - keep)
            command.set(of=of)
            command.cursor, command.newest_ages = BEGINNING, []
            self._changed[engine.service, command.id] = None
            if of and not given.dry_run:
                return
        self._over(engine.service)
        if of or given.dry_run:
            self._finish(command, AnswerState.DONE, engine, now)
            return
        why = f"nothing in {source_of(given, self._names)} fits the filter"
        self._finish(command, AnswerState.FAILED, engine, now, why, "`gate tail rejected` shows what was rejected")

    def put_back(self, service: str, takes: Callable[[Outgoing], bool]) -> list[Outgoing]:
        """Return what goes back in the batch at hand, once; what its topic does not take is counted as skipped."""
        requests = self._requests.pop(service, [])
        good = [request for request in requests if takes(request)]
        if (left := len(requests) - len(good)) and (command := self._first(service)) is not None:
            kept = command.record.redrive
            assert kept is not None  # it puts back
            command.set(
                done=command.record.done - left, redrive=msgspec.structs.replace(kept, skipped=kept.skipped + left)
            )
        return good

    def missing(self, service: str, count: int) -> None:
        """Take that so many of what `work` returned were gone from the topic when they were to be written."""
        found = self._first(service)
        if found is not None:
            found.set(done=found.record.done - count, gone=found.record.gone + count)
            self._changed[service, found.id] = None

    def _over(self, service: str, command: OperatorCommand | None = None) -> None:
        """Let the first command of a service, or another one, wait no longer."""
        waiting = self._waiting[service]
        waiting.remove(command or waiting[0])
        if not waiting:
            del self._waiting[service]

    def _first(self, service: str) -> OperatorCommand | None:
        waiting = self._waiting.get(service)
        return waiting[0] if waiting else None

    # -- what is told, and kept ------------------------------------------------------------------------------------

    def _finish(
        self,
        command: OperatorCommand,
        state: AnswerState,
        engine: Engine | None,
        now: int,
        why: str = "",
        hint: str = "",
    ) -> None:
        command.set(result=state, why=why, hint=hint)
        command.told_at = now
        self._changed[command.service, command.id] = None
        self._answer(command, now)
        if command.given.dry_run:
            return
        record = command.record
        said = msgspec.to_builtins(command.given)
        del said["service"]
        what = said.pop("command")
        received = Received(record.offset, command.service, command.given, True, command.id, record.who, record.reason)
        after = {"done": record.done, "of": record.of, "gone": record.gone}
        if record.redrive is not None:
            after["skipped"] = record.redrive.skipped
        if engine is not None:
            after["waiting"] = engine.waiting
        self.audit(received, what, now, said, {"waiting": record.waiting}, after, state, why)

    def _answer(self, command: OperatorCommand, now: int) -> None:
        record = command.record
        state = AnswerState(record.result or (AnswerState.TAKEN if record.of is None else AnswerState.WORKING))
        answer = Answer(
            command.id,
            command.service,
            state,
            now // MS,
            record.done,
            record.of,
            record.gone,
            0 if record.redrive is None else record.redrive.skipped,
            record.why,
            record.hint,
            what=control.name_of(command.given),
            who=record.who,
            because=record.reason,
            dry_run=command.given.dry_run,
        )
        self._report(self._names.answers, command.id, answers.encode(answer))

    def _report(self, topic: str, key: str, value: bytes) -> None:
        self._reports.append((Partition(topic, 0), Outgoing(key.encode(), value, None, [])))

    def reports(self) -> list[tuple[Partition, Outgoing]]:
        """Return what is to be told since the last call."""
        told, self._reports = self._reports, []
        return told

    def changes(self, version: int = VERSION) -> dict[str, bytes | None]:
        """Return the state records that have changed since the last call; None: delete."""
        changed = {
            f"{COMMAND_KIND}/{service}/{name}": encode(known.record.as_written(), version)
            if (known := self._known.get((service, name))) is not None
            else None
            for service, name in self._changed
        }
        self._changed.clear()
        return changed

    def _forget(self, service: str, now: int) -> None:
        """Forget what was carried out so long ago that nobody can send it again."""
        old = [
            key
            for key, known in self._known.items()
            if key[0] == service and known.record.result in FINAL and known.record.taken_at < now - KEPT
        ]
        for key in old:
            del self._known[key]
            self._changed[key] = None


def _reads(command: OperatorCommand, engine: Engine) -> bool:
    selection = command.given.selection
    return selection.reads or (selection.tenant is not None and not engine.names_tenants)


def _reaches_scheduled(command: control.BacklogCommand) -> bool:
    """Tell whether what waits for a time is meant: not where order counts, as it has no turn before."""
    return isinstance(command, control.Cancel | control.Move) and not command.selection.keep_newest


def _target(command: control.BacklogCommand) -> str | None:
    """Return the lane into which a command puts requests; None: into none."""
    if isinstance(command, control.Move):
        return command.lane
    return EXPEDITED if isinstance(command, control.Expedite) else None


def _filter(command: OperatorCommand) -> Filter:
    selection = command.given.selection
    return Filter(
        selection.tenant, selection.lane or None,
        selection.deadline_before_ms * MS if selection.deadline_before_ms else None,
        _target(command.given),
        command.record.scheduled,
    )  # fmt: skip


def _fits(command: OperatorCommand, record: Record) -> bool:
    """Tell whether a parked request is meant, by what only its record says."""
    selection, headers = command.given.selection, record.headers
    if selection.older_than_ms and record.timestamp >= command.record.taken_at // MS - selection.older_than_ms:
        return False  # dated when it was parked
    if selection.key is not None and record.key != selection.key.encode():
        return False
    if selection.tenant is not None and (last(headers, TENANT) or b"") != selection.tenant.encode():
        return False
    if selection.producer_id and last(headers, ID) != selection.producer_id.encode():
        return False
    return not selection.id or original_id(headers) == selection.id


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Join spans that lie one directly behind the other."""
    joined: list[Span] = []
    for span in spans:
        before = joined[-1] if joined else None
        if (
            before is not None
            and (before.partition, before.end) == (span.partition, span.offset)
            and before.seq + before.count == span.seq
        ):
            joined[-1] = replace(before, count=before.count + span.count)
        else:
            joined.append(span)
    return joined
