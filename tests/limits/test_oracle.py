"""The limiter against the oracle: any order of requests, costs, batches, limit changes, restores and clock steps."""

from fractions import Fraction

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gate.limits import NEVER, Limiter, Per, Quota, Spec, Window
from gate.limits.window_log import LOG_RUNS, Ring
from tests.limits.oracle import SECOND, Oracle

START = 1_764_025_123 * SECOND

rates = st.one_of(
    st.none(),
    st.fractions(min_value=Fraction(1, 1000), max_value=1000, max_denominator=1000),
    st.sampled_from([Fraction(1, 3), Fraction(10, 60), Fraction(5, 2), Fraction(10**12), Fraction(1, 10**9)]),
)


def quotas(limits: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[Quota, ...]]:
    zones = st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe"])
    some = st.lists(st.builds(Quota, limits, st.sampled_from(Per), zones), max_size=2, unique_by=lambda one: one.per)
    return some.map(tuple)


def specs(limits: st.SearchStrategy[int], sizes: st.SearchStrategy[int]) -> st.SearchStrategy[Spec]:
    windows = st.lists(st.builds(Window, limits, sizes), max_size=3, unique_by=lambda window: window.size).map(tuple)
    return st.builds(Spec, rates, st.integers(1, 300), windows, st.one_of(st.just(()), quotas(limits)))


small = specs(st.integers(1, 40), st.sampled_from([1, 10, 999, SECOND, 3 * SECOND, 60 * SECOND, 61 * SECOND + 1]))
large = specs(st.integers(1, 3000), st.sampled_from([1000, 4999, SECOND // 7, SECOND, 10 * SECOND + 1]))
costs = st.one_of(st.just(1), st.integers(1, 50))
gaps = st.one_of(
    st.integers(0, 3), st.integers(0, SECOND // 100), st.integers(0, 2 * SECOND), st.integers(0, 70 * SECOND)
)


class Machine(RuleBasedStateMachine):
    """Every answer must be the oracle's while runs are exact; in cells, it lies between those of two exact windows."""

    strategy = small

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        spec = data.draw(self.strategy)
        self.now = START
        self.limiter = Limiter(spec, self.now)
        self.oracle = Oracle(spec, self.now)
        self.inexact = False
        self.carried = False  # something was in cells when the limits changed: it counts in a shorter window for longer

    def compressed(self) -> bool:
        # what was in cells when the limits changed stays rounded until it expires
        rings = any(isinstance(window._log, Ring) for window in self.limiter._windows())
        idle = self.limiter.idle(self.now)
        self.inexact = rings or (self.inexact and not idle)
        self.carried = self.carried and not idle
        return self.inexact

    def judge(self, fitting: int, count: int, cost: int) -> None:
        exact = self.oracle.fit(self.now, count, cost)
        if not self.compressed():
            assert fitting == exact
            return
        assert fitting <= exact
        if fitting < count and not self.carried:
            assert not self.oracle.fits(self.now, (fitting + 1) * cost, cells=1000)

    @rule(gap=gaps)
    def wait(self, gap: int) -> None:
        self.now += gap

    @rule(days=st.integers(1, 400), gap=gaps)
    def wait_for_long(self, days: int, gap: int) -> None:
        self.now += days * 86_400 * SECOND + gap

    @rule(gap=st.integers(1, 100 * SECOND), cost=costs)
    def step_back(self, gap: int, cost: int) -> None:
        last = self.limiter.last
        assert self.limiter.copy().fit(last - gap, 1, cost) == self.limiter.copy().fit(last, 1, cost)
        assert self.limiter.copy().ready_at(last - gap, cost) == self.limiter.copy().ready_at(last, cost)

    @rule(count=st.integers(1, 60), cost=costs)
    def batch(self, count: int, cost: int) -> None:
        fitting = self.limiter.fit(self.now, count, cost)
        self.judge(fitting, count, cost)
        single = self.limiter.copy()
        assert [single.try_take(self.now, cost) is None for _ in range(fitting)] == [True] * fitting
        if fitting < count:
            assert single.copy().try_take(self.now, cost) is not None
        self.limiter.charge(self.now, fitting * cost)
        if fitting:
            self.oracle.charge(self.now, fitting * cost)
        assert single.dump() == self.limiter.dump()

    @rule(gap=st.integers(1, SECOND // 50), times=st.integers(1, 200), cost=costs)
    def stream(self, gap: int, times: int, cost: int) -> None:
        for _ in range(times):
            self.now += gap
            taken = self.limiter.take(self.now, 1, cost)
            self.judge(taken, 1, cost)
            if taken:
                self.oracle.charge(self.now, cost)

    @rule(cost=costs)
    def ready(self, cost: int) -> None:
        ready = self.limiter.ready_at(self.now, cost)
        binding = self.limiter.binding(self.now, cost)
        assert (binding is None) == (ready == self.now)
        if ready == NEVER:
            ceiling = self.limiter.spec.ceiling
            assert ceiling is not None
            assert cost > ceiling
            return
        if self.now < ready < 2**62:
            assert self.limiter.copy().take(ready - 1, 1, cost) == 0
            assert self.limiter.copy().take(ready, 1, cost) == 1
            self.now = ready

    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        spec = data.draw(self.strategy)
        self.carried = self.compressed()
        tokens = self.limiter.tokens(self.now) if self.limiter.spec.rate else None
        self.limiter.reconfigure(spec, self.now)
        if tokens is not None and spec.rate is not None:
            assert min(tokens, spec.burst) - self.limiter.tokens(self.now) < Fraction(1, 10**9) * max(1, spec.rate)
            assert self.limiter.tokens(self.now) <= tokens
        self.oracle.reconfigure(spec, self.now)
        if spec.rate is not None:  # less than one tick is lost by rounding up; the oracle goes on from there
            self.oracle.level = self.limiter.tokens(self.now)

    @rule()
    def restore(self) -> None:
        data = self.limiter.dump()
        self.limiter = Limiter.load(self.limiter.spec, data)
        assert self.limiter.dump() == data

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "limiter"):
            return
        now = self.oracle.at(self.now)
        if self.limiter.spec.rate is not None:
            assert self.limiter.tokens(now) == self.oracle.level
            assert self.limiter.bucket_fill(now) == float(1 - self.oracle.level / self.limiter.spec.burst)
        full = self.oracle.level == self.limiter.spec.burst or self.limiter.spec.rate is None
        empty = not any(self.oracle.used(now, size) for size in self.oracle.logs)
        empty = empty and not any(self.oracle.counted(now, quota) for quota in self.oracle.quotas)
        if self.limiter.idle(now):
            assert full
            assert empty
        elif not self.compressed():
            assert not (full and empty)


class LargeMachine(Machine):
    strategy = large


TestExact = Machine.TestCase
TestCompressed = LargeMachine.TestCase
TestExact.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
TestCompressed.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


@given(st.integers(1, LOG_RUNS), st.lists(gaps, min_size=1, max_size=400))
@settings(max_examples=50, deadline=None)
def test_a_limit_that_fits_the_log_is_never_compressed(limit: int, waits: list[int]) -> None:
    limiter = Limiter(Spec(None, 1, (Window(limit, 60 * SECOND),)), START)
    now = START
    for gap in waits:
        now += gap
        limiter.take(now, 3)
        assert not isinstance(limiter._log, Ring)
