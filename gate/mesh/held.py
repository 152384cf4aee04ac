"""What one holder has of a budget, as far as the owner knows."""

from collections import deque
from typing import NamedTuple

from gate.mesh.terms import longer
from gate.mesh.wire import BudgetReport

Key = tuple[str, int]  # a holder and its epoch
Shape = tuple[int, ...]  # a part: rate in nano-units per second, burst, and the limit of each divided window


class Held:
    """Part and granted units of one holder.

    Granted units are numbered: of those up to `accounted` it is known what became of them.
    """

    __slots__ = (
        "accounted",
        "acked",
        "acked_version",
        "alone",
        "counts",
        "counts_until",
        "credit",
        "credited",
        "granted",
        "key",
        "name",
        "opened",
        "pace",
        "pending",
        "place",
        "starts",
        "stock",
        "target",
        "void",
        "want",
    )

    def __init__(self, key: Key, name: str, now: int, nothing: Shape, position: int) -> None:
        self.key = key
        self.name = name  # of the budget
        self.acked: Shape = nothing
        self.acked_version = 0
        self.pending: list[tuple[int, Shape]] = []  # sent since, oldest first
        self.target: Shape = nothing
        self.counts: tuple[int, ...] = ()  # units that count in each divided window
        self.counts_until: tuple[int, ...] = ()
        self.granted = self.accounted = position
        self.opened = position  # up to which they may be used at once
        self.starts: deque[tuple[int, int]] = deque()  # (position, time): up to which from then on
        self.void = 0  # position up to which units were granted under other limits
        self.want = 0  # units per 1,000 s
        self.pace = 0  # of the long windows' flow, in units per 1,000 s
        self.credit = 0
        self.credited = now
        self.stock = 0
        self.place = ""  # key of its record
        self.alone = (0, 0)  # units that it let go, and refused, without an owner, as it told

    @property
    def shape(self) -> Shape:
        """The newest part that was sent."""
        return self.pending[-1][1] if self.pending else self.acked

    @property
    def version(self) -> int:
        """Version of the newest part that was sent."""
        return self.pending[-1][0] if self.pending else self.acked_version

    @property
    def outstanding(self) -> int:
        """Granted units of which nobody knows yet what became of them."""
        return self.granted - self.accounted

    def open(self, now: int) -> None:
        """Note which of the granted units may be used by now."""
        starts = self.starts
        while starts and starts[0][1] <= now:
            self.opened = starts.popleft()[0]
        if not starts:
            self.opened = self.granted

    def acknowledge(self, now: int, entry: BudgetReport, sizes: tuple[int, ...]) -> None:
        """Note which part it has applied, and what counts in its windows."""
        pending = self.pending
        if entry.version > self.acked_version:
            if pending and pending[-1][0] == entry.version:  # usual: it has the newest
                self.acked_version, self.acked = pending[-1]
                pending.clear()
            else:
                for version, shape in pending:
                    if version == entry.version:
                        self.acked, self.acked_version = shape, version
                self.pending = [sent for sent in pending if sent[0] > self.acked_version]
        elif not entry.version and any(self.acked):
            self.acked = (0,) * len(self.acked)  # it has let its lease lapse
        if sizes and len(entry.counts) == len(sizes):
            self.counts = entry.counts
            self.counts_until = tuple([now + longer(longer(size)) for size in sizes])

    def lonely(self, entry: BudgetReport) -> tuple[int, int]:
        """Return what is new of the units that it let go, and refused, without an owner."""
        alone, told = entry.alone or (0, 0), entry.told or (0, 0)
        known = max(self.alone[0], told[0]), max(self.alone[1], told[1])
        let_go, refused = max(0, alone[0] - known[0]), max(0, alone[1] - known[1])
        self.alone = (known[0] + let_go, known[1] + refused)
        return let_go, refused

    def reserved(self, now: int) -> Shape:
        """Return what it may be using: the largest of what it has acknowledged and all that was sent since.

        In windows also what it has used and still counts, whatever its part is by now.
        """
        most = self.acked
        for _, shape in self.pending:
            most = tuple(map(max, most, shape))
        for window, until in enumerate(self.counts_until):
            if now < until and self.counts[window] > most[2 + window]:
                most = (*most[: 2 + window], self.counts[window], *most[3 + window :])
        return most

    def lingers_until(self, now: int) -> int:
        """Return when less will be reserved, with no word of its own, as something does not count any more; 0: not."""
        most = self.reserved(now)
        known = zip(self.counts, self.counts_until, most[2:], strict=True) if self.counts_until else ()
        return min([until for count, until, units in known if now < until and count and count == units], default=0)


class Rest(NamedTuple):
    """What of a window's part still counts although its holder is gone."""

    until: int
    window: int
    units: int
