"""Policies and judges for the engine's tests."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction

import pytest

from gate.limits import Spec, Window
from gate.policy import ServicePolicy, Tenants

SECOND = 1_000_000_000
START = 1_764_000_000 * SECOND


@pytest.fixture
def start() -> int:
    return START


@pytest.fixture
def spec() -> Callable[..., Spec]:
    def make(rate: object = None, burst: int = 1, **windows: int) -> Spec:
        """`rate` units per second; windows as w10=5: 5 units in 10 s."""
        sizes = sorted((int(name[1:]) * SECOND, limit) for name, limit in windows.items())
        return Spec(
            None if rate is None else Fraction(rate), burst, tuple(Window(limit, size) for size, limit in sizes)
        )

    return make


@pytest.fixture
def policy(spec: Callable[..., Spec]) -> Callable[..., ServicePolicy]:
    def make(limits: Spec | None = None, *, weights: Mapping[str, int] | None = None, **said: object) -> ServicePolicy:
        lanes = {name: Fraction(weight) for name, weight in (weights or {"default": 1}).items()}
        said.setdefault("default_lane", "default" if "default" in lanes else next(iter(lanes)))
        tenants = said.get("tenants")
        if isinstance(tenants, Mapping):
            said["tenants"] = Tenants.of(tenants)
        return ServicePolicy("svc", limits or spec(10, 10), lanes=lanes, **said)

    return make


@pytest.fixture(scope="session")
def never_over() -> Callable[[Spec, Iterable[tuple[int, int]]], None]:
    def judge(limits: Spec, admissions: Iterable[tuple[int, int]]) -> None:
        """Recompute bucket and true windows from (time, units) of what was admitted, by the definition."""
        log = sorted(admissions)
        tokens, last = Fraction(limits.burst), START
        for at, units in log:
            if limits.rate is not None:
                tokens = min(Fraction(limits.burst), tokens + limits.rate * (at - last) / SECOND) - units
                assert tokens >= 0, f"bucket over by {-tokens} at {at}"
            last = at
        for quota in limits.quotas:
            periods: Counter[tuple[int, int]] = Counter()
            for at, units in log:
                periods[quota.calendar.period(at)] += units
            assert max(periods.values(), default=0) <= quota.limit, f"{quota} is exceeded: {periods}"
        for window in limits.windows:
            first = used = 0
            for at, units in log:
                used += units
                while log[first][0] <= at - window.size:
                    used -= log[first][1]
                    first += 1
                assert used <= window.limit, f"window of {window} holds {used} at {at}"

    return judge
