"""What a limiter must answer, by brute force: rationals, a list of all that was admitted, one request at a time."""

from fractions import Fraction

from gate.limits import Spec

SECOND = 10**9


class Oracle:
    """A bucket as a fraction of tokens, each window as a list of (time, units)."""

    def __init__(self, spec: Spec, now: int) -> None:
        self.spec, self.last = spec, now
        self.level = Fraction(spec.burst)
        self.logs: dict[int, list[tuple[int, int]]] = {window.size: [] for window in spec.windows}

    def at(self, now: int) -> int:
        now = max(now, self.last)
        if self.spec.rate is not None:
            self.level = min(Fraction(self.spec.burst), self.level + self.spec.rate * (now - self.last) / SECOND)
        self.last = now
        return now

    def used(self, now: int, size: int, extra: int = 0) -> int:
        return sum(units for time, units in self.logs[size] if time + size + extra > now)

    def fits(self, now: int, units: int, cells: int = 0) -> bool:
        """Tell whether `units` fit; with `cells`, even if each window lasted longer by one of so many parts of it."""
        now = self.at(now)
        enough = self.spec.rate is None or units <= self.level
        return enough and all(
            self.used(now, window.size, window.size // cells + 1 if cells else 0) + units <= window.limit
            for window in self.spec.windows
        )

    def charge(self, now: int, units: int) -> None:
        now = self.at(now)
        self.level -= units
        for log in self.logs.values():
            log.append((now, units))

    def fit(self, now: int, count: int, cost: int) -> int:
        fitting = 0
        while fitting < count and self.fits(now, (fitting + 1) * cost):
            fitting += 1
        return fitting

    def reconfigure(self, spec: Spec, now: int) -> None:
        now = self.at(now)
        if spec.rate is not None:
            self.level = Fraction(spec.burst) if self.spec.rate is None else min(self.level, Fraction(spec.burst))
        kept = {size: [entry for entry in log if entry[0] + size > now] for size, log in self.logs.items()}
        larger = {window.size: [size for size in kept if size >= window.size] for window in spec.windows}
        self.logs = {
            size: list(kept[min(sources) if sources else max(kept)]) if kept else [] for size, sources in larger.items()
        }
        self.spec = spec
