"""The track of one service: what its history tells, put together and divided into steps. No I/O, no clock."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isnan, nan
from typing import Any, Final, NamedTuple

from gate.observe.history import COARSE_MS, Point, Stretch

FINE_MS: Final = 900_000  # for so long each point is kept, and of what is older one in COARSE_MS
KEPT_MS: Final = 86_400_000
AHEAD_MS: Final = 60_000  # by which a gate's clock may be ahead of a reader's
MARKS: Final = 500
_MOST: Final = 2**53  # of what a point tells: no gate has more
_FULL: Final = 2**62  # of what is counted on
_THINNED_EVERY: Final = 1_000  # points


class Change(NamedTuple):
    """Another gate, or another policy."""

    at_ms: int
    kind: str  # `take-over` or `policy`
    now: str
    before: str


@dataclass(frozen=True, slots=True)
class Steps:
    """A service in steps of equal length. Rates per second; None: nothing is known of that time."""

    start_ms: int
    step_ms: int
    offered: Sequence[float | None]
    granted: Sequence[float | None]
    waiting: Sequence[int | None]  # at the end of each step
    limit: Sequence[float | None]

    def as_json(self) -> dict[str, Any]:
        """Return them as columns."""
        return {
            "start_ms": self.start_ms, "step_ms": self.step_ms, "offered": self.offered, "granted": self.granted,
            "waiting": self.waiting, "limit": self.limit,
        }  # fmt: skip


class Track:
    """Points in order: each of the last 15 minutes, before that one in 10 s, for 24 hours; 40 bytes each.

    Before `fine_ms`, unix ms, one in 10 s is enough from the start.
    """

    def __init__(self, fine_ms: int = 0) -> None:
        self._fine_ms = fine_ms
        self._at: array[int] = array("q")
        self._offered: array[int] = array("q")
        self._granted: array[int] = array("q")
        self._waiting: array[int] = array("q")
        self._limit: array[float] = array("d")
        self._told = [0, 0]  # offered and granted, as gates told them last
        self._since_thinned = 0
        self.gate = self.policy = ""  # of the newest point
        self.changes: list[Change] = []

    def __len__(self) -> int:
        return len(self._at)

    @property
    def newest_ms(self) -> int | None:
        """When the newest point was; None: there is none."""
        return self._at[-1] if self._at else None

    def take(self, gate: str, stretches: Iterable[Stretch], until_ms: int = _MOST) -> None:
        """Take what a record tells up to a time: what is later would hide all that comes until then.

        Raises ValueError where it can't be read.
        """
        for stretch in stretches:
            for point in stretch.points(self._fine_ms):
                if point.at_ms <= until_ms:
                    self.add(point, gate, stretch.policy)

    def add(self, point: Point, gate: str, policy: str) -> None:
        """Take a point; one that is no newer than the newest is passed over, and one that no gate can have told.

        Neither gate nor policy need be known.
        """
        if self._at and point.at_ms <= self._at[-1]:
            return
        if min(point[:4]) < 0 or max(point[:4]) > _MOST:
            return
        for kind, before, now in (("take-over", self.gate, gate), ("policy", self.policy, policy)):
            if before and now and before != now:
                self.changes.append(Change(point.at_ms, kind, now, before))
        self.gate, self.policy = gate or self.gate, policy or self.policy
        del self.changes[:-MARKS]
        self._count_on(self._offered, 0, point.offered)
        self._count_on(self._granted, 1, point.granted)
        self._at.append(point.at_ms)
        self._waiting.append(point.waiting)
        self._limit.append(nan if point.limit is None else point.limit)
        self._since_thinned += 1
        if self._since_thinned >= _THINNED_EVERY:
            self._thin()

    def since(self, at_ms: int) -> Iterator[Point]:
        """Yield the points after a time."""
        for i in range(bisect_right(self._at, at_ms), len(self._at)):
            limit = None if isnan(self._limit[i]) else self._limit[i]
            yield Point(self._at[i], self._offered[i], self._granted[i], self._waiting[i], limit)

    def follow(self, other: "Track") -> None:
        """Take the points of another track of the same service that are newer than all of this one."""
        for point in other.since(self.newest_ms or 0):
            self.add(point, "", "")
        last = self.changes[-1].at_ms if self.changes else 0
        self.changes += [change for change in other.changes if change.at_ms > last]
        self.gate, self.policy = other.gate or self.gate, other.policy or self.policy

    def _count_on(self, column: "array[int]", kind: int, now: int) -> None:
        if column:
            more, self._told[kind] = _counted(self._told[kind], now)
            column.append(min(_FULL, column[-1] + more))
        else:
            self._told[kind] = now
            column.append(now)

    def _thin(self) -> None:
        now, at = self._at[-1], self._at
        first = max(0, bisect_right(at, now - KEPT_MS) - 1)
        fine = bisect_right(at, now - FINE_MS)
        coarse = [
            i for i, j in pairwise(range(first, fine + 1)) if j == fine or at[i] // COARSE_MS != at[j] // COARSE_MS
        ]
        kept = [*coarse, *range(max(first, fine), len(at))]
        for name in ("_at", "_offered", "_granted", "_waiting", "_limit"):
            column = getattr(self, name)
            setattr(self, name, array(column.typecode, [column[i] for i in kept]))
        self._since_thinned = 0

    def steps(self, start_ms: int, end_ms: int, step_ms: int) -> Steps:
        """Return what was in each step from `start_ms` on, up to `end_ms` or up to a step beyond.

        Between two points requests are taken to have come evenly; behind the newest nothing has come.
        """
        edges = range(start_ms, end_ms + step_ms, step_ms)
        places = [bisect_right(self._at, edge) - 1 for edge in edges]
        offered = self._rates(self._offered, edges, places)
        granted = self._rates(self._granted, edges, places)
        ends = places[1:]
        limits = [None if i < 0 or isnan(self._limit[i]) else self._limit[i] for i in ends]
        return Steps(start_ms, step_ms, offered, granted, [None if i < 0 else self._waiting[i] for i in ends], limits)

    def _rates(self, column: "array[int]", edges: Sequence[int], places: Sequence[int]) -> list[float | None]:
        counts = [None if i < 0 else self._count(column, i, edge) for i, edge in zip(places, edges, strict=True)]
        seconds = (edges[1] - edges[0]) / 1000 if len(edges) > 1 else 1.0
        return [None if a is None or b is None else round((b - a) / seconds, 4) for a, b in pairwise(counts)]

    def _count(self, column: "array[int]", i: int, edge: int) -> float:
        if i + 1 == len(column):
            return column[i]
        share = (edge - self._at[i]) / (self._at[i + 1] - self._at[i])
        return column[i] + share * (column[i + 1] - column[i])


def _counted(last: int, now: int) -> tuple[int, int]:
    """Return how many more there are if a gate tells `now`, and from what on the next count is taken.

    A count falls a little where a batch failed of which a gate had told, and which is decided again; to next to nothing
    where the state was reset.
    """
    if now >= last:
        return now - last, now
    return (now, now) if now < last // 2 else (0, last)
