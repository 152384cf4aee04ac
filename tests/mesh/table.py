"""A few holders and an owner at one table: every message is handed over, held back or given twice by hand."""

from collections.abc import Sequence

from gate.limits import Spec
from gate.mesh.holder import Holder
from gate.mesh.owner import Owner
from gate.mesh.terms import Terms
from gate.mesh.wire import Grant, Report
from gate.units import MS, SECOND
from tests.mesh.checker import over

NAMES = ("s",)
TERMS = Terms(period_ns=SECOND // 2, lease_ns=4 * SECOND, stock_ns=3 * SECOND // 4, turn_ns=1000 * SECOND)


class Table:
    """Owner and holders go by the true time, unless `fast` says by how many millionths a holder's clock is fast."""

    def __init__(self, spec: Spec, holders: int, terms: Terms = TERMS, fast: int = 0) -> None:
        self.now = 1000 * SECOND
        self.limits = {"s": spec}
        self.terms = terms
        self.fast = fast
        self.ahead = 0  # of the owner's clock
        self.owner = Owner(self.limits.get, terms)
        self.holders = [Holder(f"p{number}", 1, self.local, terms) for number in range(holders)]
        self.uses: list[tuple[int, int]] = []
        self.state: dict[str, bytes] = {}
        self.kept = True

    @property
    def local(self) -> int:
        return self.now + self.now * self.fast // 1_000_000

    def wait(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)

    def ask_for(self, number: int, units: int = 1000) -> None:
        """A holder wants much, but uses nothing."""
        holder = self.holders[number]
        (holder._held.get("s") or holder._meet("s")).wanted += units

    def report(self, number: int) -> Report:
        holder = self.holders[number]
        holder._next = self.local
        if "s" in holder._held:
            holder._held["s"].changed = True
        report = holder.report(self.local)
        assert report is not None
        return report

    def hear(self, *reports: Report) -> None:
        for report in reports:
            self.owner.receive(self.now + self.ahead, report)

    def step(self) -> list[Grant]:
        grants = self.owner.step(self.now + self.ahead)
        for key, value in self.owner.drain_changes(self.now + self.ahead).items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
        return grants

    def give(self, grants: Sequence[Grant]) -> None:
        for grant in grants:
            for holder in self.holders:
                holder.receive(self.local, grant)

    def round(self, *numbers: int, times: int = 1, units: int = 0, deaf: Sequence[int] = ()) -> None:
        """These report and are answered, a tenth of a second apart; whoever is deaf gets nothing."""
        for _ in range(times):
            for number in numbers:
                if units:
                    self.ask_for(number, units)
                self.hear(self.report(number))
            self.wait(0.01)
            names = [self.holders[number] for number in deaf]
            grants = self.step()
            self.give(
                [grant for grant in grants if (grant.holder, grant.epoch) not in [(h.name, h.epoch) for h in names]]
            )
            self.wait(0.09)

    def share(self, *numbers: int, seconds: float = 1.0, deaf: Sequence[int] = ()) -> None:
        """These want much until each has its part."""
        self.round(*numbers, times=round(seconds * 10), units=1000, deaf=deaf)

    def spend(self, number: int, most: int = 1000, cost: int = 1) -> int:
        count = 0
        while count < most and self.holders[number].check(self.local, NAMES, cost) is None:
            self.uses.append((self.now, cost))
            count += 1
        return count

    def queue(self) -> int:
        """The requests in topics take all they may."""
        units = self.owner.room(self.now + self.ahead, "s")
        if units:
            self.owner.charge(self.now + self.ahead, "s", units)
            self.uses.append((self.now, units))
        return units

    def take_over(self, ahead: int = -7 * SECOND) -> None:
        """Another owner, whose clock is so far ahead of the true time, goes on with what was kept."""
        self.ahead = ahead
        self.owner = Owner(self.limits.get, self.terms)
        self.owner.load(self.now + ahead, self.state)

    def problems(self, spec: Spec | None = None, begin: int = 0) -> list[str]:
        return over(spec or self.limits["s"], self.uses, begin)


BEFORE = MS  # an instant before
