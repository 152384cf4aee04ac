"""Ratios of ours to others, measured round by round, and the file they are kept in."""

import json
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = Path("build/bench.json")


@dataclass(frozen=True, slots=True)
class Result:
    """Ours divided by the other, so smaller is better: the median of the rounds, their least and greatest."""

    name: str
    ratio: float
    min: float
    max: float
    unit: str


def from_rounds(name: str, ours: list[float], others: list[float], unit: str) -> Result:
    """Return the ratio of each round to its own rival: what slows the machine slows both."""
    ratios = [mine / other for mine, other in zip(ours, others, strict=True)]
    return Result(name, round(statistics.median(ratios), 4), round(min(ratios), 4), round(max(ratios), 4), unit)


def write(results: list[Result], file: Path = FILE) -> None:
    """Merge `results` into the file, by name."""
    entries = {entry["name"]: entry for entry in (json.loads(file.read_text()) if file.exists() else [])}
    entries |= {result.name: asdict(result) for result in results}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([entries[name] for name in sorted(entries)], indent=1) + "\n")


def measure(contenders: Mapping[str, Callable[[int], object]], rounds: int, count: int) -> dict[str, list[float]]:
    """Run each contender `count` times in each round, in random order; return its CPU ns per call, by round."""
    costs: dict[str, list[float]] = {name: [] for name in contenders}
    for name in contenders:
        contenders[name](count // 10)  # warm up
    for _ in range(rounds):
        for name in random.sample(list(contenders), len(contenders)):
            start = time.thread_time_ns()
            contenders[name](count)
            costs[name].append((time.thread_time_ns() - start) / count)
    return costs
