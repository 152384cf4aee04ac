"""What a hostile run came to, and the bounds it must keep."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final

from tests.hostile import stage

MB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds and bytes. Those of time hold on a machine of its own."""

    pause: float = inf  # of innocents' decisions, beyond what it is without strangers
    take_over: float = inf  # beyond the session
    memory: float = inf  # of each gate, at any time


LONG: Final = Bounds(2.0, 2.0, 200 * MB)
MANY_TENANTS: Final = Bounds(inf, 5.0, 300 * MB)
SHORT: Final = Bounds(memory=256 * MB)  # beside other tests, outputs wait longer for the broker


@dataclass
class Report:
    """Times are unix ms."""

    seed: int
    problems: list[str] = field(default_factory=list)
    taken: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    verdicts: Mapping[str, int] = field(default_factory=dict)
    requests: int = 0
    innocent: int = 0
    calm_from: float = 0.0
    hostile_from: float = inf
    hostile_until: float = inf
    until: float = 0.0
    kills: list[tuple[float, frozenset[int]]] = field(default_factory=list)
    take_overs: list[dict[int, int | None]] = field(default_factory=list)
    calm: dict[int, int] = field(default_factory=dict)  # longest pause by shard, ms
    hostile: dict[int, int] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
    bytes: Mapping[str, int] = field(default_factory=dict)
    complaints: Mapping[str, int] = field(default_factory=dict)  # lines of the gates' logs, and how often

    def apply(self, bounds: Bounds) -> None:
        """Add to the problems what is not within bounds."""
        for shard, ms in self.hostile.items():
            most = self.calm.get(shard, 0) + 1000 * bounds.pause
            if ms > most:
                self.problems.append(f"pause: innocents on shard {shard} stood for {ms} ms; at most {most:.0f} ms")
        for taken in self.take_overs:
            for shard, after in taken.items():
                if after is None or after > 1000 * (stage.SESSION + bounds.take_over):
                    told = "never" if after is None else f"after {after} ms"
                    most = stage.SESSION + bounds.take_over
                    self.problems.append(f"take-over: shard {shard} went on {told}; at most {most:g} s")
        for gate, size in self.memory.items():
            if size > bounds.memory:
                self.problems.append(f"memory: {gate} took {size / MB:.0f} MB; at most {bounds.memory / MB:.0f} MB")

    def lines(self) -> Iterator[str]:
        """Yield the report for a terminal."""
        hostile = self.requests - self.innocent
        yield f"seed {self.seed}: {hostile:,} hostile requests and {self.innocent:,} innocent ones"
        yield f"  taken by the broker: {_counts(self.taken)}"
        yield f"  refused by the broker (batches): {_counts(self.refused)}"
        yield f"  ends: {_counts(self.verdicts)}"
        for shard in sorted(self.calm):
            yield (
                f"  longest pause of innocents on shard {shard}: {self.calm[shard] / 1000:.2f} s alone,"
                f" {self.hostile.get(shard, 0) / 1000:.2f} s beside strangers"
            )
        for (at, _), taken in zip(self.kills, self.take_overs, strict=False):
            told = ", ".join(f"shard {n} {'never' if ms is None else f'{ms / 1000:.2f} s'}" for n, ms in taken.items())
            when = (at - self.calm_from) / 1000
            yield f"  SIGKILL at {when:.1f} s, next decision about an innocent request: {told or 'it owned none'}"
        yield "  most memory: " + ", ".join(f"{gate} {size / MB:.0f} MB" for gate, size in self.memory.items())
        yield "  topics of strangers: " + ", ".join(f"{kind} {size / MB:.1f} MB" for kind, size in self.bytes.items())
        yield f"  seconds: {(self.until - self.calm_from) / 1000:.0f}"
        for line, count in sorted(self.complaints.items(), key=lambda item: -item[1])[:12]:
            yield f"  {count:5} x {line[:170]}"
        if self.problems:
            yield "problems:"
            yield from (f"  {line}" for line in self.problems)
        else:
            yield "all bounds hold"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "none"
