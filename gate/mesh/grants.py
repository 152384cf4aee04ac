"""Grants from long windows and quotas: they stay whole, and holders get a few units at a time."""

from collections.abc import Collection, Iterator
from typing import Final

from gate.limits import Limiter, Spec, Window
from gate.mesh.division import fill
from gate.mesh.held import Held
from gate.mesh.ledger import Ledger
from gate.mesh.terms import Terms, longer, shorter
from gate.mesh.wire import NONE, BudgetReport
from gate.units import SECOND

CREDIT: Final = 1000 * SECOND  # of one unit: flows are in units per 1,000 s
_CHUNKS: Final = 10  # into which units that come free later are put
_PLENTY: Final = 2**62  # units, where nothing is granted from


class Grants:
    """Counts each unit that is out as if it were used all the time, until it is known when it was.

    A unit that was used counts from then on, in the one exact ledger of each window. One that comes free soon is
    granted before that, with the time from which on it may be used.
    """

    def __init__(self, spec: Spec, now: int, terms: Terms) -> None:
        self.terms = terms
        self.outstanding = 0
        self._seen: int | None = None  # when the next two were found; None: they are to be found anew
        self._free = self._soon = 0  # units that are free, and those that come free in a short time, too
        self.longs: list[Ledger] = []
        self.quotas: Limiter | None = None
        self.reconfigure(now, spec)

    def reconfigure(self, now: int, spec: Spec) -> None:
        """Go over to other limits; what stays stays counted."""
        self._seen = None
        known = {ledger.size: ledger for ledger in self.longs}
        windows = long_windows(spec, self.terms)
        self.longs = [known.get(longer(window.size)) or Ledger(0, longer(window.size)) for window in windows]
        for ledger, window in zip(self.longs, windows, strict=True):
            ledger.limit = window.limit
        quotas = Spec(None, 1, (), spec.quotas)
        if not spec.quotas:
            self.quotas = None
        elif self.quotas is None:
            self.quotas = Limiter(quotas, now)
        else:
            self.quotas.reconfigure(quotas, now)

    def used(self, now: int, at: int, units: int) -> None:
        """Count units that were used at `at` at the latest."""
        self._seen = None
        for ledger in self.longs:
            ledger.add(at, units)
        if self.quotas is not None:
            self.quotas.charge(now, units)

    def account(self, now: int, held: Held, entry: BudgetReport) -> None:
        """Take what a holder tells of its units; what it told before changes nothing."""
        before = position = held.accounted
        uses = []
        for run in entry.runs:
            if run.position > position:
                if run.age >= 0:
                    uses.append((now - shorter(run.age), run.position - position))
                elif run.age != NONE:
                    uses.append((now, run.position - position))
                position = run.position
        if entry.consumed > position:
            uses.append((now, entry.consumed - position))
            position = entry.consumed
        if position == before:
            return
        self._seen = None
        if uses:
            for ledger in self.longs:
                ledger.add_all(uses)
            if self.quotas is not None:
                for _, units in uses:
                    self.quotas.charge(now, units)
        granted, held.accounted = held.granted, position
        if position <= granted:
            self.outstanding -= position - before
        else:
            held.granted = position
            self.outstanding -= granted - before

    def end(self, now: int, held: Held, until: int, *, left: bool) -> None:
        """Count what a holder that is gone has not told of as used at the end of its lease; who left told all."""
        self._seen = None
        if held.outstanding and not left:
            self.used(now, until, held.outstanding)
        self.outstanding -= held.outstanding

    def full(self, now: int) -> bool:
        """Tell whether nothing is out or counts any more."""
        for ledger in self.longs:
            ledger.expire(now)
        counted = any(ledger.counted for ledger in self.longs)
        return not self.outstanding and not counted and (self.quotas is None or self.quotas.idle(now))

    def debts(self, now: int) -> list[int]:
        """Return by how much each limit is promised beyond what is free, windows first; below 0: free units."""
        for ledger in self.longs:
            ledger.expire(now)
        debts = [ledger.counted + self.outstanding - ledger.limit for ledger in self.longs]
        if self.quotas is not None:
            debts += [self.outstanding - fill.left for fill in self.quotas.fills(now) if fill.left is not None]
        return debts

    def ready(self, now: int, units: int) -> list[int | None]:
        """Return when each limit has so many free; None: nobody knows."""
        times: list[int | None] = []
        for ledger, debt in zip(self.longs, self.debts(now), strict=False):
            if debt + units > 0:
                times.append(ledger.freed(debt + units))
        if self.quotas is not None:
            if self.quotas.fit(now, 1, units + self.outstanding) < 1:
                times.append(min(self.quotas.ready_at(now, units), now + self.terms.lease_ns))
            renewals = [fill.renews_at for fill in self.quotas.fills(now) if fill.renews_at is not None]
            soon = now + self.terms.longest_use_by_ns  # a call must not be counted in one period and go in the next
            times += [renewal for renewal in renewals if renewal <= soon]
        return times

    def pace(self, now: int, holders: Collection[Held], own: int) -> None:
        """Divide what is free, or comes free within a lease, among those who want it; `own` is the owner's want.

        It is the flow that is divided, not the total: who comes new has his share of it at once.
        """
        debts = self.debts(now)
        flow = _PLENTY
        for ledger, debt in zip(self.longs, debts, strict=False):
            ahead = min(ledger.size, self.terms.lease_ns)
            units = ledger.until(now + ahead) - debt + (0 if own else ledger.until(now + self.terms.stock_ns))
            flow = min(flow, max(0, units) * CREDIT // ahead)
        for debt in debts[len(self.longs) :]:
            flow = min(flow, max(0, -debt) * CREDIT // self.terms.lease_ns)
        wants = [held.want for held in holders]
        if own + sum(wants) <= flow:
            for held in holders:
                held.pace = held.want
            return
        amounts = fill(flow, [own, *wants])
        for held, amount in zip(holders, amounts[1:], strict=True):
            held.pace = min(amount, held.want)

    def top_up(self, now: int, held: Held, marked: int, version: Iterator[int]) -> bool:
        """Grant what it wants in a short time, at most what is or comes free beside `marked`; tell whether it got any.

        `marked` units are kept for another.
        """
        pace, stock_ns, period_ns = held.pace, self.terms.stock_ns, self.terms.period_ns
        stock = held.stock = -(-pace * stock_ns // CREDIT) or 1
        units = stock - held.granted + held.accounted
        credit = stock * CREDIT
        if pace != held.want:  # else there is enough for all
            credit = min(held.credit + pace * min(now - held.credited, 2 * period_ns), credit)
            units = min(units, credit // CREDIT)
        held.credit, held.credited = credit, now
        if units <= 0:
            return False
        if now != self._seen:
            self._look(now)
        if units > self._soon - marked:
            units = self._soon - marked
            if units <= 0:
                return False
        held.credit = credit - units * CREDIT
        if held.starts or units > self._free - marked:  # else `open` finds them
            self._schedule(now, held, units, [debt + marked for debt in self.debts(now)[: len(self.longs)]])
        held.granted += units
        self.outstanding += units
        self._free -= units
        self._soon -= units
        held.pending.append((next(version), held.shape))
        return True

    def _look(self, now: int) -> None:
        """Find what may be granted: for many holders in one step it is only less by what each of them gets."""
        longs, debts, later = self.longs, self.debts(now), now + self.terms.stock_ns
        count = len(longs)
        self._free = min([-debt for debt in debts[:count]], default=_PLENTY)
        soon = [ledger.until(later) - debt for ledger, debt in zip(longs, debts[:count], strict=True)]
        self._soon = min(soon + [-debt for debt in debts[count:]], default=_PLENTY)
        self._seen = now

    def _schedule(self, now: int, held: Held, units: int, debts: list[int]) -> None:
        """Say from when on each of some more units may be used: the next that come free are theirs."""
        held.open(now)
        free = min(units, max(0, -max(debts, default=-units)))
        if free == units and not held.starts:
            return
        if free and held.starts:
            held.starts.append((held.granted + free, now))
        step = -(-(units - free) // _CHUNKS) or 1
        for end in range(free + step, units + step, step):
            count, time = min(end, units), now
            for ledger, debt in zip(self.longs, debts, strict=True):
                if debt + count > 0 and (freed := ledger.freed(debt + count) or now) > time:
                    time = freed
            if not held.starts:
                held.opened = held.granted + free
            held.starts.append((held.granted + count, time))


def long_windows(spec: Spec, terms: Terms) -> list[Window]:
    """Return the windows that are not divided."""
    return [window for window in spec.windows if window.size > terms.short_ns]
