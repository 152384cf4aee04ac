"""The limits by plain counting: whether an admitted history ever went over. Exact integers, one pass."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import groupby
from math import ceil

from gate.limits import Spec

SECOND = 1_000_000_000
Limits = list[tuple[Spec | None, int]]


def by_time(used: Mapping[tuple[int, Spec | None], int]) -> list[tuple[int, Limits]]:
    """Sort usage by time: (ns, [(spec, units), ...]). Where a policy changed within a moment, both hold."""
    moments: dict[int, Limits] = {}
    for (at, spec), units in used.items():
        moments.setdefault(at, []).append((spec, units))
    return sorted(moments.items())


def excesses(name: str, used: Mapping[tuple[int, Spec | None], int]) -> Iterator[str]:
    """Yield each moment at which `name` had more than a bucket or a window allows."""
    moments = by_time(used)
    yield from _bucket(name, moments)
    for size in sorted({w.size for _, group in moments for spec, _ in group if spec for w in spec.windows}):
        yield from _window(name, moments, size)


def _bucket(name: str, moments: Sequence[tuple[int, Limits]]) -> Iterator[str]:
    """Refill and take. A change of limits lay anywhere between two moments, so the higher rate counts for all of it."""
    level = Fraction(0)
    last: tuple[int, Fraction] | None = None  # time and rate; None: full, or no bucket
    for at, group in moments:
        specs = [spec for spec, _ in group if spec is not None and spec.rate is not None]
        if len(specs) < len(group) or not specs:
            last = None
            continue
        burst = max(spec.burst for spec in specs)
        rate = max(spec.rate for spec in specs if spec.rate is not None)
        if last is None:
            level = Fraction(burst)
        else:
            level = min(Fraction(burst), level + max(rate, last[1]) * (at - last[0]) / SECOND)
        last = at, rate
        level -= sum(units for _, units in group)
        if level < 0:
            yield f"over: {name} took {ceil(-level)} more than its bucket held at {at // 1_000_000}"
            level = Fraction(0)


def _window(name: str, moments: Sequence[tuple[int, Limits]], size: int) -> Iterator[str]:
    """Count what was used in (t - size, t] at each t. A window counts from when it was introduced."""
    inside: deque[tuple[int, int]] = deque()
    total = 0
    for at, group in moments:
        limits = [w.limit for spec, _ in group if spec for w in spec.windows if w.size == size]
        if len(limits) < len(group):
            inside.clear()
            total = 0
            continue
        while inside and inside[0][0] <= at - size:
            total -= inside.popleft()[1]
        units = sum(units for _, units in group)
        inside.append((at, units))
        total += units
        if total > max(limits):
            seconds = size // SECOND
            yield f"over: {name} had {total} of {max(limits)} in the {seconds} s up to {at // 1_000_000}"


def late(admitted: Sequence[tuple[int, int, int]], spec: Spec, allowed: int) -> Iterator[tuple[int, int]]:
    """Yield (admitted at, could have gone at) where that is more than `allowed` ns apart.

    `admitted` holds (at, arrived, cost), by time; of what went in one moment the first that could have gone counts.
    """
    level, last = Fraction(spec.burst), 0
    inside: list[deque[tuple[int, int]]] = [deque() for _ in spec.windows]
    for at, group in groupby(admitted, key=lambda request: request[0]):
        requests = list(group)
        earliest = min(max(arrived, _ready(spec, level, last, inside, cost)) for _, arrived, cost in requests)
        if at - earliest > allowed:
            yield at, earliest
        units = sum(cost for _, _, cost in requests)
        if spec.rate is not None:
            level, last = min(Fraction(spec.burst), level + spec.rate * (at - last) / SECOND) - units, at
        for used, window in zip(inside, spec.windows, strict=True):
            used.append((at, units))
            while used[0][0] <= at - window.size:
                used.popleft()


def _ready(spec: Spec, level: Fraction, last: int, inside: Sequence[deque[tuple[int, int]]], cost: int) -> int:
    time = last
    if spec.rate is not None and level < cost:
        time += ceil((cost - level) * SECOND / spec.rate)
    for used, window in zip(inside, spec.windows, strict=True):
        total = sum(units for _, units in used)
        for at, units in used:
            if total + cost <= window.limit:
                break
            total -= units
            time = max(time, at + window.size)
    return time
