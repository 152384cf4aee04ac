"""What the checker of records can't see: how long nothing was decided after a fault, and whether capacity was wasted.

Pure: times are ms of the broker's clock unless said otherwise.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from gate.limits import Limiter, Spec

MS: Final = 1_000_000
OUTAGE_MS: Final = 200  # without a decision while requests waited: more is an outage, and needs a fault to explain it
ALIVE_MS: Final = 500  # a shard that decided so short a time before a fault was working when it came


@dataclass
class History:
    """What was decided about the requests of one service, as (at, count) by the moment of decision."""

    decided: list[int] = field(default_factory=list)  # every moment, of whatever decision
    admitted: dict[int, int] = field(default_factory=dict)  # units
    parked: dict[int, int] = field(default_factory=dict)
    left: dict[int, int] = field(default_factory=dict)  # requests that left the delayed topic

    def add(self, kind: str, at: int, attempt: int, cost: int) -> None:
        """Take one stamped record."""
        if not self.decided or self.decided[-1] != at:
            self.decided.append(at)
        if kind == "delayed":
            self.parked[at] = self.parked.get(at, 0) + 1
        elif attempt > 1:
            self.left[at] = self.left.get(at, 0) + 1
        if kind == "admitted":
            self.admitted[at] = self.admitted.get(at, 0) + cost

    def moments(self) -> list[int]:
        """Return the moments of decisions, ascending."""
        return sorted(set(self.decided))


@dataclass(frozen=True, slots=True)
class Use:
    """How much of its limits a service used while requests of it waited and nothing was wrong."""

    admitted: int
    allowed: int
    outage_ms: int
    idle_ms: tuple[tuple[int, int], ...]  # (from, to) without a decision and without a fault to explain it

    @property
    def ratio(self) -> float:
        return self.admitted / self.allowed if self.allowed else 1.0


def use(history: History, spec: Spec, faults: Sequence[tuple[int, int]]) -> Use:
    """Compare what a service admitted with what its limits allowed, over the spans in which something of it was parked.

    A gap of more than OUTAGE_MS between two decisions that touches one of `faults` (from, to) is an outage: it belongs
    to no span. A gap without such an excuse counts against the gate. At the start of a span the limits stand where the
    service's own history has brought them; from there on the ideal admits whatever fits, ms by ms, of what there is.
    """
    moments = history.moments()
    limiter = Limiter(spec, 0)
    ideal: Limiter | None = None
    waiting = admitted = allowed = ahead = outage = 0  # ahead: of the real one, within the span
    idle: list[tuple[int, int]] = []
    for before, at in pairwise([0, *moments]):
        if at - before > OUTAGE_MS and waiting:
            if any(start <= at and before <= end for start, end in faults):
                outage += at - before
                ideal = None
            else:
                idle.append((before, at))
        taken = history.admitted.get(at, 0)
        limiter.charge(at * MS, taken)
        waiting += history.parked.get(at, 0) - history.left.get(at, 0)
        if ideal is not None:
            there = taken + waiting - ahead
            most = _greedy(ideal, before * MS, at * MS, there)
            ahead += most - taken
            allowed += most
            admitted += taken
        if waiting <= 0:
            ideal = None
        elif ideal is None:
            ideal, ahead = limiter.copy(), 0
    return Use(admitted, allowed, outage, tuple(idle))


def _greedy(ideal: Limiter, start: int, end: int, most: int) -> int:
    """Admit from `start` to `end` (ns) whatever fits at each whole ms, `most` at the most; return how much."""
    taken, now = 0, start
    while now <= end and taken < most:
        taken += ideal.take(now, most - taken)
        now = max(now + MS, -(-ideal.ready_at(now) // MS) * MS)
    return taken


@dataclass(frozen=True, slots=True)
class Silence:
    """How long a shard decided nothing after a fault. Only where nothing else happened in the meantime."""

    kind: str
    shard: int
    ms: int


def silences(
    faults: Iterable[tuple[int, str, frozenset[int]]],
    decided: Mapping[int, Sequence[int]],
    incidents: Sequence[int],
    settled: int,
) -> list[Silence]:
    """Return the time without decisions of each shard that a fault (at, kind, shards) took from its owner.

    `decided` holds the moments of decisions by shard, ascending; `incidents` the times of all faults: a silence is not
    measured if another one falls into it, or comes less than `settled` before it.
    """
    result: list[Silence] = []
    times = sorted(incidents)
    for at, kind, shards in faults:
        for shard in shards:
            moments = decided.get(shard, ())
            index = bisect_right(moments, at)
            if index == 0 or index == len(moments) or at - moments[index - 1] > ALIVE_MS:
                continue  # it was silent already, or has nothing to do any more
            until = moments[index]
            if kind == "leave":  # it goes on until it has left: the longest pause of the next seconds
                last = bisect_right(moments, at + 3_000)
                until = at + max((b - a for a, b in pairwise(moments[index - 1 : last + 1])), default=0)
            if bisect_right(times, until) - bisect_left(times, at - settled) <= 1:  # itself
                result.append(Silence(kind, shard, until - at))
    return result


def quantile(values: Iterable[int], q: float) -> int:
    """Return the q-quantile (nearest rank); 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0
