"""At most so many requests run: against a plain list of what runs, and in what a user sees of it."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gate.admission.limits.budget import Budgets
from gate.admission.model import MS, SECOND, Binding, Reason, Run, Verdict
from gate.limits import Running, Spec
from gate.policy import Overflow, ServicePolicy, Tenants
from tests.admission.conftest import START
from tests.admission.simulation import Simulation

TIMEOUT = 100 * SECOND
FREE = Spec(None, 1, ())


def most(count: int, spec: Spec = FREE) -> Spec:
    return Spec(spec.rate, spec.burst, spec.windows, spec.quotas, Running(count))


def ids(*numbers: int) -> list[str]:
    return [f"{number}" for number in numbers]


def running(sim: Simulation) -> list[int]:
    return [number for at, first, count in sim.history.admissions for number in range(first, first + count)]


def test_no_more_run_than_may_until_one_is_done(policy, start):
    sim = Simulation(policy(most(3)), now=start)
    step = sim.offer(5)
    assert [(d.count, d.verdict, d.reason, d.limit, d.not_before) for d in step.decisions] == [
        (3, Verdict.ADMITTED, None, None, None),
        (2, Verdict.DELAYED, Reason.RUNNING, "svc.running", None),
    ]
    assert sim.engine.usage(start).binding == Binding(Reason.RUNNING, "svc.running")
    assert sim.engine.usage(start).running == 3
    assert sim.engine.done(start, ids(1, 1, 77, 3)) == 1  # once, and of those that run
    sim.run_until(sim.now + 1)
    sim.submit()
    assert running(sim) == [0, 1, 2, 3]
    sim.submit()
    assert sim.engine.waiting == 1


def test_what_nobody_tells_is_done_when_its_time_is_over(policy, start):
    sim = Simulation(policy(most(2), running_timeout=TIMEOUT), now=start)
    sim.offer(3)
    sim.run_until(start + TIMEOUT - MS)
    assert sim.engine.waiting == 1
    sim.run_until(start + TIMEOUT)
    assert (sim.engine.waiting, sim.engine.usage(sim.now).running) == (0, 1)


def test_who_is_told_of_when_its_time_is_over_does_not_count(policy, start):
    sim = Simulation(policy(most(2), running_timeout=TIMEOUT), now=start)
    sim.offer(2)
    assert sim.engine.done(start + TIMEOUT - MS, ids(0)) == 1
    assert sim.engine.done(start + TIMEOUT, ids(1)) == 0  # though nobody waits for its place, and no step came between
    assert sim.engine.usage(start + TIMEOUT).running == 0


def test_a_time_is_promised_only_to_those_that_go_whatever_workers_do(policy, spec, start):
    sim = Simulation(policy(most(4, spec(1, 1))), now=start)
    (_, waits) = sim.offer(3).decisions
    assert waits.not_before == (start + SECOND, start + 2 * SECOND)
    assert sim.offer(2).decisions[0].not_before is None
    sim.run_until(start + 60 * SECOND)
    assert [at for at, _, _ in sim.history.admissions] == [start + second * SECOND for second in range(4)]


def test_a_tenant_at_its_bound_holds_up_no_other(policy, start):
    tenants = {"default": {"max_running": 1}, "vip": {"max_running": 2}}
    sim = Simulation(policy(FREE, tenants=tenants), now=start)
    step = sim.submit(Run(0, 3, tenant="a"), Run(3, 1, tenant="b"), Run(4, 3, tenant="vip"))
    assert running(sim) == [0, 3, 4, 5]
    reasons = {(d.reason, d.limit, d.not_before) for d in step.decisions if d.verdict is Verdict.DELAYED}
    assert reasons == {(Reason.RUNNING, f"svc.tenant.{name}.running", None) for name in ("a", "vip")}
    sim.engine.done(sim.now, ids(4))
    sim.submit()
    assert running(sim)[4:] == [6]
    sim.reopen()
    sim.engine.done(sim.now, ids(0))
    sim.submit(Run(0, 1, tenant="c"))
    assert sorted(running(sim)[5:]) == [1, 7]


@pytest.mark.parametrize(("overflow", "verdict"), [(Overflow.REJECT, Verdict.REJECTED), (Overflow.HOLD, Verdict.HELD)])
def test_no_time_is_told_by_other_overflows(policy, start, overflow, verdict):
    sim = Simulation(policy(most(2), overflow=overflow), now=start)
    _, over = sim.offer(3).decisions
    assert (over.verdict, over.reason, over.not_before) == (verdict, Reason.RUNNING, None)
    if overflow is Overflow.HOLD:
        assert sim.engine.wake_at() > sim.now
    sim.engine.done(sim.now, ids(0))
    if overflow is Overflow.HOLD:
        assert sim.engine.wake_at() == sim.now  # it is looked at again
    assert sim.offer(1).decisions[0].verdict is Verdict.ADMITTED


def test_shadow_counts_what_runs_and_lets_all_go(policy, start):
    sim = Simulation(policy(most(2), shadow=True), now=start)
    step = sim.offer(5)
    assert [(d.count, d.reason) for d in step.decisions] == [(2, None), (3, Reason.RUNNING)]
    assert sim.engine.usage(start).running == 5
    assert sim.engine.done(start, ids(0, 4)) == 2


def test_services_of_a_group_share_what_may_run(policy, start):
    budgets = Budgets(start, {"bank": most(3)})
    one, two = (
        Simulation(replace(policy(FREE, group="bank"), name=name), now=start, budgets=budgets)
        for name in ("one", "two")
    )
    one.offer(9)
    assert two.offer(9).decisions[0].limit == "group.bank.running"
    for _ in range(4):  # each takes its turn
        assert one.engine.done(start, ids(*range(9))) + two.engine.done(start, ids(*range(9))) >= 1
        one.submit()
        two.submit()
        assert budgets.get("bank").running == 3
    assert min(len(running(one)), len(running(two))) >= 6


def test_a_bound_that_is_lowered_lets_those_that_run_end(policy, start):
    sim = Simulation(policy(most(4)), now=start)
    sim.offer(6)
    sim.set_policy(policy(most(2)))
    sim.engine.done(start, ids(0, 1))
    sim.submit()
    assert sim.engine.waiting == 2
    sim.engine.done(start, ids(2))
    sim.submit()
    assert sim.engine.waiting == 1


def test_what_is_gone_before_it_runs_takes_no_place(policy, start):
    sim = Simulation(policy(most(2)), now=start)
    sim.offer(1)
    step = sim.engine.step(start, [Run(0, 2)], 10)
    assert [part.requests for part in step.started] == [1]
    with pytest.raises(ValueError, match="2 ids for 1 started"):
        sim.engine.name_running(["a", "b"])
    with pytest.raises(RuntimeError, match="before name_running"):
        sim.engine.parked([(0, 7)])
        sim.engine.step(start, [], 10)
    sim.engine.name_running([None])
    assert sim.engine.usage(start).running == 1


class Comparison(RuleBasedStateMachine):
    """Nothing but a list of what runs: who may go, and that none waits who might."""

    @initialize(
        limit=st.sampled_from([None, 1, 3, 8]), own=st.sampled_from([None, 1, 2]), restart=st.booleans(),
        overflow=st.sampled_from([Overflow.DELAY, Overflow.REJECT]),
    )  # fmt: skip
    def begin(self, limit: int | None, own: int | None, restart: bool, overflow: Overflow) -> None:
        self.limit, self.own = limit, own
        rules = {"a": {"max_running": own}, "b": {"max_running": own}} if own else {}
        policy = ServicePolicy(
            "svc", FREE if limit is None else most(limit), lanes={"hi": Fraction(3), "default": Fraction(1)},
            overflow=overflow, tenants=Tenants.of(rules) if rules else None, running_timeout=TIMEOUT,
        )  # fmt: skip
        self.sim = Simulation(policy, now=START, restart=restart)
        self.tenant: list[str] = []
        self.runs: dict[int, int] = {}
        self.seen = 0

    def note(self) -> None:
        """Take what was admitted."""
        self.runs = {number: at for number, at in self.runs.items() if at + TIMEOUT > self.sim.now}
        for at, first, count in self.sim.history.admissions[self.seen :]:
            self.runs |= dict.fromkeys(range(first, first + count), at)
        self.seen = len(self.sim.history.admissions)

    @rule(
        runs=st.lists(
            st.tuples(st.sampled_from(["hi", ""]), st.sampled_from(["", "a", "b"]), st.integers(1, 4)), max_size=4
        )
    )
    def arrive(self, runs: list[tuple[str, str, int]]) -> None:
        at, made = 0, []
        for lane, tenant, count in runs:
            made.append(Run(at, count, lane, tenant))
            self.tenant += [tenant] * count
            at += count
        self.sim.submit(*made)
        self.note()

    @rule(wait=st.sampled_from([1, 20, 60, 101]))
    def later(self, wait: int) -> None:
        self.sim.run_until(self.sim.now + wait * SECOND + MS)
        self.note()

    @rule(which=st.lists(st.integers(0, 60), max_size=6))
    def told(self, which: list[int]) -> None:
        """Of any: also of those that wait, were never there, or are done."""
        self.sim.run_until(self.sim.now + MS)
        self.note()
        ended = {number for number in which if number in self.runs}
        is_counted = self.limit is not None or self.own is not None
        assert self.sim.engine.done(self.sim.now, ids(*which)) == (len(ended) if is_counted else 0)
        for number in ended:
            del self.runs[number]
        self.sim.submit()
        self.note()

    @invariant()
    def never_above_and_never_idle(self) -> None:
        if not hasattr(self, "sim"):
            return
        by_tenant = {name: sum(self.tenant[number] == name for number in self.runs) for name in ("", "a", "b")}
        if self.limit is not None:
            assert len(self.runs) <= self.limit
        if self.own is not None:
            assert max(by_tenant["a"], by_tenant["b"]) <= self.own
        history = self.sim.history
        waiting = [n for n in range(len(self.tenant)) if not history.admitted_at[n] and not history.rejected_at[n]]
        assert self.sim.engine.waiting == len(waiting)
        if self.limit is None or len(self.runs) < self.limit:
            free = [n for n in waiting if not self.tenant[n] or not self.own or by_tenant[self.tenant[n]] < self.own]
            assert free == []


TestComparison = Comparison.TestCase
TestComparison.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
