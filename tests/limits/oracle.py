"""What a limiter must answer, by brute force: rationals, a list of all that was admitted, one request at a time."""

from collections import Counter
from datetime import datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

from gate.limits import Per, Quota, Spec

SECOND = 10**9


def period(quota: Quota, now: int) -> tuple[int, ...]:
    """Name the period that a moment lies in by what a calendar on the wall shows."""
    day = datetime.fromtimestamp(now // SECOND, ZoneInfo(quota.timezone)).date()
    match quota.per:
        case Per.DAY:
            return day.year, day.month, day.day
        case Per.WEEK:
            return day.isocalendar()[:2]
        case Per.MONTH:
            return day.year, day.month
    return (day.year,)


class Oracle:
    """A bucket as a fraction of tokens, each window as a list of (time, units), each quota as sums."""

    def __init__(self, spec: Spec, now: int) -> None:
        self.spec, self.last = spec, now
        self.level = Fraction(spec.burst)
        self.logs: dict[int, list[tuple[int, int]]] = {window.size: [] for window in spec.windows}
        self.quotas: dict[Quota, Counter[tuple[int, ...]]] = {quota: Counter() for quota in spec.quotas}

    def at(self, now: int) -> int:
        now = max(now, self.last)
        if self.spec.rate is not None:
            self.level = min(Fraction(self.spec.burst), self.level + self.spec.rate * (now - self.last) / SECOND)
        self.last = now
        return now

    def used(self, now: int, size: int, extra: int = 0) -> int:
        return sum(units for time, units in self.logs[size] if time + size + extra > now)

    def counted(self, now: int, quota: Quota) -> int:
        return self.quotas[quota][period(quota, now)]

    def fits(self, now: int, units: int, cells: int = 0) -> bool:
        """Tell whether `units` fit; with `cells`, even if each window lasted longer by one of so many parts of it."""
        now = self.at(now)
        enough = self.spec.rate is None or units <= self.level
        enough = enough and all(self.counted(now, quota) + units <= quota.limit for quota in self.spec.quotas)
        return enough and all(
            self.used(now, window.size, window.size // cells + 1 if cells else 0) + units <= window.limit
            for window in self.spec.windows
        )

    def charge(self, now: int, units: int) -> None:
        now = self.at(now)
        self.level -= units
        for log in self.logs.values():
            log.append((now, units))
        for quota, periods in self.quotas.items():
            periods[period(quota, now)] += units

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
        self.quotas = {quota: self.taken_over(quota, now) for quota in spec.quotas}
        self.spec = spec

    def taken_over(self, quota: Quota, now: int) -> Counter[tuple[int, ...]]:
        """What a new quota counts: what the same one did, else the one of the next longer period, else the longest."""
        order = list(Per)
        alike = [old for old in self.quotas if old.per == quota.per]
        same = [old for old in alike if old.timezone == quota.timezone]
        known = same or alike
        others = sorted(self.quotas, key=lambda old: order.index(old.per))
        longer = [old for old in others if order.index(old.per) > order.index(quota.per)]
        sources = known[:1] or longer[:1] or others[-1:]
        return Counter({period(quota, now): self.counted(now, old) for old in sources})
