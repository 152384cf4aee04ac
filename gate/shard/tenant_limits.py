"""Limits of tenants that were set while the gate runs: a table of a service, of up to millions of them.

No I/O. The table is kept in buckets of some tenants each, `limit/<service>/<generation>/<bucket>` in the state, which
stay bytes until somebody asks for one of theirs. A change writes one bucket.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gate.admission.state import decode, encode
from gate.policy.names import stands_for_many
from gate.protocol.policies import BUCKETS, LiveLimit, PartRow, bucket_of

Row = tuple[Any, ...]  # as `LiveLimit` has them; without those at the end that say nothing
_UNTIL, _MAX_RUNNING = 4, 5  # where they are in a row
_LEAST = 5
_ROWS = dict[str, tuple[str | int | None, ...]]


class BucketRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """`limit/<service>/<generation>/<bucket>`."""

    rows: msgspec.Raw = msgspec.field(name="r")  # by tenant; read when somebody asks
    count: int = msgspec.field(name="n")
    ends: int | None = msgspec.field(default=None, name="e")  # unix ms: the first of them ends by itself then
    patterns: list[str] = msgspec.field(default_factory=list, name="p")  # that stand for many tenants
    some_run: bool = msgspec.field(default=False, name="u")  # a limit of what runs is among them


class TenantLimits(Mapping[str, LiveLimit]):
    """The limits of a service's tenants, by name."""

    def __init__(self, service: str, generation: int = 1, buckets: int = BUCKETS) -> None:
        self.service = service
        self.generation = generation
        self.buckets = buckets
        self.ends: dict[int, int] = {}  # by bucket: when the first of it ends by itself, unix ms
        self._records: dict[int, BucketRecord] = {}
        self._changed: dict[int, bytes | None] = {}
        self._count = 0
        self._last: tuple[int, dict[str, Row]] = (-1, {})  # the bucket that was asked for last

    def restore(self, number: int, key: str, data: bytes) -> None:
        """Take a bucket as it is kept. Raises StateError."""
        self._keep(number, decode(key, data, BucketRecord))

    def get(self, tenant: str, default: Any = None) -> Any:
        """Return what is set for a tenant."""
        row = self._bucket(self._number(tenant)).get(tenant) if self._count else None
        return default if row is None else LiveLimit(*row)

    def __getitem__(self, tenant: str) -> LiveLimit:
        found: LiveLimit | None = self.get(tenant)
        if found is None:
            raise KeyError(tenant)
        return found

    def __contains__(self, tenant: object) -> bool:
        return isinstance(tenant, str) and bool(self._count) and tenant in self._bucket(self._number(tenant))

    def __iter__(self) -> Iterator[str]:
        for number in sorted(self._records):
            yield from self._bucket(number)

    def __len__(self) -> int:
        return self._count

    def set(self, tenant: str, limit: LiveLimit | None) -> None:
        """Set what holds for a tenant; None: nothing does."""
        number = self._number(tenant)
        rows = dict(self._bucket(number))
        if limit is None:
            rows.pop(tenant, None)
        else:
            rows[tenant] = row_of(limit, limit.until_ms)
        self.write(number, rows)

    def write(self, number: int, rows: dict[str, Row]) -> None:
        """Have a bucket hold these and no others."""
        ends = min([row[_UNTIL] for row in rows.values() if row[_UNTIL] is not None], default=None)
        record = BucketRecord(
            msgspec.Raw(msgspec.msgpack.encode(rows)), len(rows), ends, list(filter(stands_for_many, rows)),
            any(len(row) > _MAX_RUNNING and row[_MAX_RUNNING] is not None for row in rows.values()),
        )  # fmt: skip
        self._keep(number, record)
        self._changed[number] = encode(record) if rows else None

    def pop_ended(self, number: int, now_ms: int) -> dict[str, LiveLimit]:
        """Take out of a bucket what has ended by now."""
        rows = self._bucket(number)
        ended = {tenant: row for tenant, row in rows.items() if row[_UNTIL] is not None and row[_UNTIL] <= now_ms}
        self.write(number, {tenant: row for tenant, row in rows.items() if tenant not in ended})
        return {tenant: LiveLimit(*row) for tenant, row in ended.items()}

    def merge(self, number: int, rows: dict[str, Row]) -> None:
        """Add rows to a bucket."""
        before = self._bucket(number)
        self.write(number, {**before, **rows} if before else rows)

    def rows(self, number: int) -> dict[str, Row]:
        """Return what a bucket holds."""
        return self._bucket(number)

    @property
    def numbers(self) -> list[int]:
        """The buckets that hold something."""
        return list(self._records)

    @property
    def patterns(self) -> list[str]:
        """Those that stand for many tenants: `default` and globs."""
        return [name for record in self._records.values() if record.patterns for name in record.patterns]

    @property
    def some_run(self) -> bool:
        """Whether a limit of what runs is among them."""
        return any(record.some_run for record in self._records.values())

    def changes(self) -> dict[str, bytes | None]:
        """Return the state records that have changed since the last call; None: delete."""
        head = f"limit/{self.service}/{self.generation}/"
        changed = {f"{head}{number}": data for number, data in self._changed.items()}
        self._changed = {}
        return changed

    def clear(self) -> None:
        """Hold nothing any more."""
        for number in list(self._records):
            self.write(number, {})

    def _keep(self, number: int, record: BucketRecord) -> None:
        before = self._records.pop(number, None)
        self._count += record.count - (0 if before is None else before.count)
        if record.count:
            self._records[number] = record
        self.ends.pop(number, None)
        if record.ends is not None:
            self.ends[number] = record.ends
        self._last = (-1, {})

    def _number(self, tenant: str) -> int:
        return bucket_of(tenant, self.buckets)

    def _bucket(self, number: int) -> dict[str, Row]:
        last, rows = self._last
        if last != number:
            record = self._records.get(number)
            rows = {} if record is None else msgspec.msgpack.decode(record.rows, type=_ROWS)
            self._last = number, rows
        return rows


def row_of(limit: LiveLimit | PartRow, until_ms: int | None) -> Row:
    """Return a limit as a row."""
    row = (
        limit.requests_per_second, limit.burst_size, limit.window_size, limit.window_limit, until_ms,
        limit.max_running, limit.quotas, limit.windows,
    )  # fmt: skip
    return row if any(part is not None for part in row[_LEAST:]) else row[:_LEAST]
