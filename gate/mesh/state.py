"""State of an owner, as records that are kept in the same transaction as what they grant."""

from collections import deque
from collections.abc import Mapping
from fractions import Fraction
from typing import Final, NamedTuple

import msgspec

from gate.limits import Limiter, Spec, StateError, Window
from gate.mesh.budget import FOREVER, Budget
from gate.mesh.held import Held, Key, Rest
from gate.mesh.terms import Terms

VERSION: Final = 1
_MARK: Final = bytes((VERSION,))
_ENCODE: Final = msgspec.msgpack.Encoder().encode
OWNER: Final = "owner"  # key of the record that tells when all was written


class OwnerRecord(msgspec.Struct, frozen=True, array_like=True, tag="owner"):
    """When the newest of all records was written, and the newest version of a part."""

    at: int
    version: int


class LeaseRecord(msgspec.Struct, frozen=True, array_like=True, tag="lease"):
    """A holder: its lease begins anew when somebody takes over."""

    key: Key
    seq: int
    since: int


class HeldRecord(msgspec.Struct, frozen=True, array_like=True, tag="held"):
    """What a holder has of a budget."""

    key: Key
    name: str
    acked: tuple[int, ...]
    acked_version: int
    pending: list[tuple[int, tuple[int, ...]]]
    counts: tuple[int, ...]
    counts_until: tuple[int, ...]
    granted: int
    accounted: int
    opened: int
    starts: list[tuple[int, int]]
    want: int
    stock: int
    void: int
    alone: tuple[int, int] | None = None  # units let go, and refused, without an owner


class CellsRecord(msgspec.Struct, frozen=True, array_like=True, tag="cells"):
    """Some of what counts in one window of a budget: most of that stays as it is from one step to the next."""

    name: str
    size: int  # ns of the window, as counted
    number: int  # of these cells
    at: int  # the newest time of the first cell
    apart: int  # ns between two cells
    units: list[int]


class BudgetRecord(msgspec.Struct, frozen=True, array_like=True, tag="budget"):
    """A budget: its limits then, and what its own part has. What counts in its windows is in records of its own."""

    name: str
    rate: tuple[int, int] | None
    burst: int
    sizes: tuple[tuple[int, int], ...]  # (limit, ns) of each window
    quotas: bytes
    own: tuple[int, ...]
    full: bytes  # ticks, which are more than 64 bits
    charged: int
    windows: tuple[tuple[tuple[int, int], ...], ...]  # what counts in them, as gates wrote once
    longs: tuple[tuple[tuple[int, int], ...], ...]
    direct: bool
    paused_until: int
    queue_want: int
    ask_want: int
    rests: list[tuple[int, int, int]]


Record = OwnerRecord | LeaseRecord | HeldRecord | BudgetRecord | CellsRecord
Place = tuple[int, int]  # of cells in a budget: size of the window, and number


def record_key(kind: str, *parts: object) -> str:
    """Return the key of a record; no two things have the same."""
    return "/".join([kind, *[f"{len(text)}:{text}" for text in map(str, parts)]])


def write(record: Record) -> bytes:
    """Return a record's value."""
    return _MARK + _ENCODE(record)


def read(data: bytes) -> Record:
    """Return what `write` wrote. Raises StateError for what is damaged or newer."""
    if data[:1] != _MARK:
        raise StateError(f"a record of the distributed limiter in version {data[:1].hex()}; this gate reads {VERSION}")
    try:
        record: Record = msgspec.msgpack.decode(data[1:], type=Record)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StateError(f"a damaged record of the distributed limiter: {error}") from None
    return record


def held_record(held: Held) -> HeldRecord:
    """Return what is kept of a holder's part."""
    return HeldRecord(
        held.key,
        held.name,
        held.acked,
        held.acked_version,
        held.pending,
        held.counts,
        held.counts_until,
        held.granted,
        held.accounted,
        held.opened,
        list(held.starts),
        held.want,
        held.stock,
        held.void,
        held.alone if any(held.alone) else None,
    )


def budget_record(budget: Budget) -> BudgetRecord:
    """Return what is kept of a budget."""
    spec, parts, grants = budget.spec, budget.parts, budget.grants
    full = parts.account.full
    return BudgetRecord(
        budget.name,
        None if spec.rate is None else (spec.rate.numerator, spec.rate.denominator),
        spec.burst,
        tuple([(window.limit, window.size) for window in spec.windows]),
        b"" if grants.quotas is None else grants.quotas.dump(),
        parts.own,
        full.to_bytes(full.bit_length() // 8 + 1, "big", signed=True),
        parts.account.charged,
        tuple([() for _ in parts.windows]),
        tuple([() for _ in grants.longs]),
        budget.direct,
        budget.paused_until,
        budget.queue_want,
        budget.asks.want,
        [(rest.until, rest.window, rest.units) for rest in parts.rests],
    )


class Restored(NamedTuple):
    """What a new owner goes on with."""

    version: int
    budgets: dict[str, Budget]
    cells: dict[str, dict[Place, str]]  # keys of the records of what counts in each budget's windows
    leases: dict[Key, tuple[int, int, dict[str, Held]]]  # seq, since which version, and what each holds


def restore(now: int, records: Mapping[str, bytes], terms: Terms) -> Restored:
    """Read all records, their times moved so that the newest was written just now.

    The clocks of two machines are not compared: what time has passed in between counts for nothing, which is safe.
    Raises StateError.
    """
    found = [read(data) for data in records.values()]
    cells: dict[str, dict[Place, str]] = {}
    head = next((record for record in found if isinstance(record, OwnerRecord)), OwnerRecord(now, 0))
    shift = now - head.at
    budgets = {record.name: _budget(now, record, shift, terms) for record in found if isinstance(record, BudgetRecord)}
    leases: dict[Key, tuple[int, int, dict[str, Held]]] = {
        record.key: (record.seq, record.since, {}) for record in found if isinstance(record, LeaseRecord)
    }
    for record in found:
        if isinstance(record, HeldRecord):
            if record.key not in leases or record.name not in budgets:
                raise StateError(f"a part of {record.name!r} for {record.key!r}, who or which is not known")
            budget = budgets[record.name]
            held = budget.held[record.key] = _held(now, record, shift, budget)
            budget.grants.outstanding += held.outstanding
            budget.parts.note(now, held)
            leases[record.key][2][record.name] = held
        elif isinstance(record, CellsRecord):
            place = record.size, record.number
            cells.setdefault(record.name, {})[place] = record_key("cells", record.name, *place)
            if record.name in budgets:
                _count(budgets[record.name], record, shift)
    return Restored(head.version, budgets, cells, leases)


def _count(budget: Budget, record: CellsRecord, shift: int) -> None:
    uses = [(record.at + shift + place * record.apart, units) for place, units in enumerate(record.units) if units > 0]
    for ledger in budget.ledgers:
        if ledger.size == record.size:
            ledger.add_all(uses)


def _held(now: int, record: HeldRecord, shift: int, budget: Budget) -> Held:
    held = Held(record.key, record.name, now, budget.parts.nothing, record.granted)
    held.acked, held.acked_version, held.pending = record.acked, record.acked_version, record.pending
    held.counts = record.counts
    held.counts_until = tuple([until + shift for until in record.counts_until])
    held.accounted, held.opened, held.want, held.stock = record.accounted, record.opened, record.want, record.stock
    held.void, held.alone = record.void, record.alone or (0, 0)
    held.starts = deque([(position, at + shift) for position, at in record.starts])
    return held


def _budget(now: int, record: BudgetRecord, shift: int, terms: Terms) -> Budget:
    quotas = Limiter.load(None, record.quotas) if record.quotas else None
    spec = Spec(
        None if record.rate is None else Fraction(*record.rate),
        record.burst,
        tuple([Window(limit, size) for limit, size in record.sizes]),
        quotas.spec.quotas if quotas is not None else (),
    )
    budget = Budget(record.name, spec, now, terms)
    parts, grants = budget.parts, budget.grants
    grants.quotas = quotas
    parts.set_own(now, record.own)
    parts.account.charged = record.charged + shift
    parts.account.full = int.from_bytes(record.full, "big", signed=True) + shift * parts.account.nano
    for ledger, cells in zip((*parts.windows, *grants.longs), (*record.windows, *record.longs), strict=True):
        for at, units in cells:
            ledger.add(at + shift, units)
    budget.direct, budget.paused_until = record.direct, record.paused_until
    if 0 < budget.paused_until < FOREVER:
        budget.paused_until += shift
    budget.queue_want, budget.asks.want = record.queue_want, record.ask_want
    parts.rests = [Rest(until + shift, window, units) for until, window, units in record.rests]
    return budget
