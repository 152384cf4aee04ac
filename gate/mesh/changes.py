"""Changes of an owner's state since it was last written."""

from collections.abc import Collection, Mapping
from typing import Protocol

from gate.mesh.budget import Budget
from gate.mesh.held import Held, Key
from gate.mesh.ledger import Ledger
from gate.mesh.state import (
    OWNER,
    CellsRecord,
    LeaseRecord,
    OwnerRecord,
    Place,
    budget_record,
    held_record,
    record_key,
    write,
)


class Leased(Protocol):
    """What is kept of a holder."""

    seq: int
    since: int


class Changes:
    """Notes what is to be written. What a budget counts is written by chunks: most of them stay as they are."""

    def __init__(self) -> None:
        self.budgets: set[str] = set()
        self.counted: set[str] = set()  # budgets of which nothing else changed than what counts
        self.leases: set[Key] = set()
        self.parts: set[Held] = set()
        self.gone: set[Held] = set()
        self.cells: dict[str, dict[Place, str]] = {}  # keys of the records of what counts, by budget

    def drain(
        self, now: int, version: int, budgets: Mapping[str, Budget], leases: Mapping[Key, Leased]
    ) -> dict[str, bytes | None]:
        """Return the records that changed since the last call; None: delete it."""
        changes: dict[str, bytes | None] = {_place(held): None for held in self.gone}
        for name in self.budgets:
            budget = budgets.get(name)
            changes[record_key("budget", name)] = None if budget is None else write(budget_record(budget))
        for name in self.budgets | self.counted:
            budget, kept = budgets.get(name), self.cells.setdefault(name, {})
            changes |= _cells(() if budget is None else budget.ledgers, name, kept)
            if not kept:
                del self.cells[name]
        for key in self.leases:
            lease = leases.get(key)
            changes[record_key("lease", *key)] = (
                None if lease is None else write(LeaseRecord(key, lease.seq, lease.since))
            )
        for held in self.parts:
            changes[_place(held)] = write(held_record(held))
        if changes:
            changes[OWNER] = write(OwnerRecord(now, version))
        for noted in (self.budgets, self.counted, self.leases, self.parts, self.gone):
            noted.clear()
        return changes


def _place(held: Held) -> str:
    place = held.place = held.place or record_key("held", *held.key, held.name)
    return place


def _cells(ledgers: Collection[Ledger], name: str, kept: dict[Place, str]) -> dict[str, bytes | None]:
    """Return the records of what counts that are to be written or deleted; brings the keys of those kept up to date."""
    changes: dict[str, bytes | None] = {}
    for ledger in ledgers:
        for number in ledger.dirty & ledger.chunks.keys():
            place = ledger.size, number
            key = kept.get(place)
            if key is None:
                key = kept[place] = record_key("cells", name, *place)
            changes[key] = write(CellsRecord(name, ledger.size, *ledger.cells(number)))
        ledger.dirty.clear()
    if len(kept) > sum([len(ledger.chunks) for ledger in ledgers]):
        live = {(ledger.size, number) for ledger in ledgers for number in ledger.chunks}
        for place in kept.keys() - live:
            changes[kept.pop(place)] = None
    return changes
