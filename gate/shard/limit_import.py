"""Imports of tenants' limits: all of a service's at once, or none.

No I/O. The rows come in parts, which lie on the control topic before the command. An owner stages them in a table of
its own, beside ordinary work, and puts that into force in one transaction when all are there and sound. Then it tells
of each row on `gate.policies`, deletes there what is not set any more, and ends with the service's record, the marker
behind which all is whole. Each step is kept with its batch, so that the next owner goes on with it.
"""

from collections.abc import Iterator
from enum import StrEnum
from functools import lru_cache
from itertools import groupby
from typing import Final

import msgspec

from gate.admission.state import decode, encode
from gate.errors import GateError
from gate.policy.live import check, check_tenant
from gate.protocol.policies import LiveLimit, Part, bucket_of
from gate.shard.tenant_limits import Row, TenantLimits, row_of
from gate.units import SECOND

IMPORT_KIND: Final = "import"
BUCKETS_AT_ONCE: Final = 1_000  # that are told of, or deleted, in one batch: some 16,000 tenants, some 70 ms
TELL_EVERY: Final = SECOND


class Phase(StrEnum):
    """How far an import is."""

    STAGE = "stage"
    PUBLISH = "publish"  # it is in force, and is told
    REMOVE = "remove"  # what was set before and is not any more
    DROP = "drop"  # it failed: what was staged is deleted


class ImportRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`import/<service>`."""

    id: str = msgspec.field(name="i")  # of the command
    offset: int = msgspec.field(name="o")  # of the command, on the control topic
    parts: list[int] = msgspec.field(name="p")  # their offsets
    count: int = msgspec.field(name="n")  # tenants
    taken_at: int = msgspec.field(name="t")  # ns
    generation: int = msgspec.field(name="g")  # of the new table
    buckets: int = msgspec.field(name="b")
    old_generation: int = msgspec.field(name="h")
    old_buckets: int = msgspec.field(name="c")
    before: int = msgspec.field(name="m")  # tenants that had limits
    who: str = msgspec.field(default="", name="w")
    reason: str = msgspec.field(default="", name="r")
    clears: bool = msgspec.field(default=False, name="k")  # the service's own limit as well
    phase: str = msgspec.field(default=Phase.STAGE, name="f")
    next: int = msgspec.field(default=0, name="x")  # part, or bucket, that comes next
    done: int = msgspec.field(default=0, name="d")  # rows that are staged
    why: str = msgspec.field(default="", name="y")
    hint: str = msgspec.field(default="", name="z")
    aborted: bool = msgspec.field(default=False, name="a")
    cleared: int = msgspec.field(default=0, name="l")  # tenants of before that are not in it, deleted so far


class LimitImport:
    """One import of a service, under way."""

    def __init__(self, service: str, record: ImportRecord) -> None:
        self.service = service
        self.record = record
        self.table = TenantLimits(service, record.generation, record.buckets)  # the new one
        self.old = TenantLimits(service, record.old_generation, record.old_buckets)
        self.changed = True
        self.part: bytes | None = None  # that was read
        self.told_at = 0  # ns

    @classmethod
    def restore(cls, service: str, key: str, data: bytes) -> "LimitImport":
        """Go on with what an earlier owner has begun. Raises StateError."""
        restored = cls(service, decode(key, data, ImportRecord))
        restored.changed = False
        return restored

    @property
    def wanted(self) -> int | None:
        """The offset of the part that is to be read now; None: there is none."""
        record = self.record
        missing = record.phase == Phase.STAGE and self.part is None and record.next < len(record.parts)
        return record.parts[record.next] if missing else None

    def set(self, **changes: object) -> None:
        """Change what is kept of it."""
        self.record = msgspec.structs.replace(self.record, **changes)
        self.changed = True

    def fail(self, why: str, hint: str) -> None:
        """Carry no more of it out; nothing of it was in force."""
        self.set(phase=Phase.DROP, next=0, why=why, hint=hint)

    def stage(self) -> bool:
        """Take in the part that was read; tell whether all are there now."""
        record = self.record
        if record.next < len(record.parts):
            data, self.part = self.part, None
            if data is None:
                return False
            try:
                rows = _sound(data, record.id)
            except GateError as error:
                self.fail(str(error), error.hint or "")
                return False
            for number, group in groupby(rows, key=lambda row: bucket_of(row[0], record.buckets)):
                self.table.merge(number, dict(group))
            self.set(next=record.next + 1, done=record.done + len(rows))
            record = self.record
        if record.next < len(record.parts):
            return False
        if record.done != record.count or len(self.table) != record.count:
            why = f"the parts hold limits of {len(self.table)} tenants, and {record.count} were said"
            self.fail(why, "name each tenant once, and send it again")
            return False
        return True

    def publish(self) -> Iterator[tuple[str, LiveLimit]]:
        """Yield some rows that are to be told of now."""
        yield from self._some(self.table, Phase.REMOVE)

    def remove(self) -> Iterator[str]:
        """Yield some tenants for whom nothing is set any more, and forget what was."""
        for number in self.old.numbers[:BUCKETS_AT_ONCE]:
            gone = [tenant for tenant in self.old.rows(number) if tenant not in self.table]
            yield from gone
            self.old.write(number, {})
            self.record = msgspec.structs.replace(self.record, cleared=self.record.cleared + len(gone))
        self.changed = True

    def drop(self) -> None:
        """Forget some of what was staged."""
        for number in self.table.numbers[:BUCKETS_AT_ONCE]:
            self.table.write(number, {})
        self.changed = True

    def changes(self) -> dict[str, bytes | None]:
        """Return the state records that have changed since the last call; None: delete."""
        changed: dict[str, bytes | None] = {**self.table.changes(), **self.old.changes()}
        if self.changed:
            self.changed = False
            changed[f"{IMPORT_KIND}/{self.service}"] = encode(self.record)
        return changed

    def _some(self, table: TenantLimits, after: Phase) -> Iterator[tuple[str, LiveLimit]]:
        end = self.record.next + BUCKETS_AT_ONCE
        for number in range(self.record.next, min(end, table.buckets)):
            for tenant, row in table.rows(number).items():
                yield tenant, LiveLimit(*row)
        if end >= table.buckets:
            self.set(phase=after, next=0)
        else:
            self.set(next=end)


def _sound(data: bytes, command: str) -> list[tuple[str, Row]]:
    """Read a part. Raises GateError where something in it can't be."""
    try:
        part = msgspec.msgpack.decode(data, type=Part)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise GateError(f"a part of the import can't be read: {error}", hint="send it again") from None
    if part.command != command:
        raise GateError("a part belongs to another import", hint="send it again")
    rows: list[tuple[str, Row]] = []
    for said in part.rows:
        row = row_of(said, None)
        try:
            _check(row)
            check_tenant(said.tenant)
        except GateError as error:
            raise GateError(f"tenant {said.tenant!r}: {error}", hint=error.hint) from None
        rows.append((said.tenant, row))
    return rows


@lru_cache(maxsize=4096)
def _check(row: Row) -> None:
    """Raise GateError where a limit can't be. Many tenants have the same one."""
    check(LiveLimit(*row))
