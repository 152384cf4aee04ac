"""Held requests: looked at, and left in their topic. Each counts once, however often it is seen."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from gate.admission.model import Verdict
from gate.admission.state import HoldingRecord

MOST_COST: Final = 2**40  # that a held request counts with: a sum of what no limit ever admits fits into no record


class Holding:
    """The held requests of one service. They lie in front of each partition, so an offset says which were seen."""

    __slots__ = ("again", "behind", "requests", "seen", "units")

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}  # by partition, the offset behind the last one that was looked at
        self.requests: Counter[str] = Counter()  # by lane
        self.units: Counter[str] = Counter()
        self.again: Sequence[tuple[int, int]] = ()  # first and count of those in the batch that were seen before
        self.behind = 0  # requests that are not decided, by the ends of the topic, as last told

    @property
    def total(self) -> int:
        """How many wait, seen or not."""
        seen = self.requests.total()
        return max(seen, self.behind) if seen else 0

    @property
    def total_units(self) -> int:
        """How much they cost; those that were not seen are taken to be like the others."""
        seen = self.requests.total()
        return self.units.total() * self.total // seen if seen else 0

    def known(self, first: int, count: int) -> int:
        """Tell how many of these requests of the batch were held before."""
        return sum(max(0, min(first + count, begin + more) - max(first, begin)) for begin, more in self.again)

    def count(self, lane: str, verdict: Verdict, first: int, count: int, cost: int) -> int:
        """Take what was decided about requests of the batch; return how many of them were held before."""
        known = self.known(first, count) if self.again else 0
        change = count - known if verdict is Verdict.HELD else -known
        if change:
            self.requests[lane] += change
            self.units[lane] += change * min(cost, MOST_COST)
        return known

    def looked(self, partition: int, end: int, *, held: bool) -> None:
        """Note that a partition was looked at up to `end`; `held`: some of that stays where it is."""
        if held:
            self.seen[partition] = max(end, self.seen.get(partition, 0))
        elif self.seen.get(partition, end + 1) <= end:
            self.forget(partition)

    def forget(self, partition: int) -> None:
        """Note that nothing of a partition is held any more."""
        self.seen.pop(partition, None)
        if not self.seen:
            self.requests.clear()
            self.units.clear()

    def record(self) -> HoldingRecord | None:
        """Return what is kept; None: nothing is held."""
        return HoldingRecord(self.seen, self.requests, self.units) if self.seen or self.requests else None

    def restore(self, record: HoldingRecord) -> None:
        """Take what was kept."""
        self.seen = record.seen
        self.requests, self.units = Counter(record.requests), Counter(record.units)
