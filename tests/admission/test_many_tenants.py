"""More tenants than a service tells apart: who comes then shares, nobody's limit is exceeded, and nothing stalls."""

import dataclasses
import gc
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.admission.engine import Engine
from gate.admission.limits.budget import Budgets
from gate.admission.model import MS, SECOND, Reason, Run, Verdict
from gate.admission.queues import sharing
from gate.admission.queues.sharing import is_shared, slot_of
from gate.admission.queues.tenants import SLICE
from gate.limits import Spec, Window
from gate.policy import Overflow, ServicePolicy, Tenants
from tests.admission.simulation import Simulation

START = 1_764_000_000 * SECOND
WIDE = Spec(Fraction(10**6), 10**6, ())
ONE_PER_SECOND = {"requests_per_second": Fraction(1), "burst_size": 2, "window_size": None}
SLOTS = {str(number) for number in range(2)}


@pytest.fixture(scope="module", autouse=True)
def _few_slots():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharing, "SLOTS", len(SLOTS))
        yield


def crowd(most, rules=None, spec=WIDE, **said):
    tenants = {"default": ONE_PER_SECOND} if rules is None else rules
    return ServicePolicy("svc", spec, max_tenants=most, tenants=Tenants.of(tenants), **said)


def sharers(sim, count, slot=None):
    """Return names that the engine has not seen, of one slot."""
    salt = sim.engine.state.tenants.salt
    slots = {}
    for number in range(1_000):
        slots.setdefault(slot_of(f"n{number}", "svc", salt), []).append(f"n{number}")
    return slots[slot or min(slots)][:count]


def verdicts(step):
    return [verdict for decision in step.decisions for verdict in [decision.verdict] * decision.count]


def test_no_more_are_remembered_than_the_bound_and_the_shared_limits():
    sim = Simulation(crowd(5), now=START)
    for batch in range(20):
        sim.submit(*[Run(n, 3, tenant=f"t{batch}-{n}") for n in range(0, 300, 3)])
    assert len(sim.engine.state.tenants) == 5 + len(SLOTS)
    sim.save()
    assert len([key for key in sim.state if key.startswith("tenant/")]) == 5 + len(SLOTS)
    usage = sim.engine.usage(sim.now)
    assert (usage.tenants, usage.shared_tenants, usage.shared_tenant_requests) == (7, 2, 20 * 300 - 5 * 3)


def test_who_shares_waits_in_line_and_is_told_so():
    sim = Simulation(crowd(1), now=START)
    sim.offer(1, tenant="first")
    one, two = sharers(sim, 2)
    step = sim.submit(Run(0, 1, tenant=one), Run(1, 2, tenant=two), Run(3, 1, tenant=one), Run(4, 1, tenant="first"))
    assert verdicts(step) == [Verdict.ADMITTED] * 2 + [Verdict.DELAYED] * 2 + [Verdict.ADMITTED]
    (delayed,) = (decision for decision in step.decisions if decision.verdict is Verdict.DELAYED)
    assert (delayed.reason, delayed.limit) == (Reason.TENANT, f"svc.shared-tenants.{min(SLOTS)}")
    assert delayed.not_before == (START + SECOND, START + 2 * SECOND)
    sim.drain()
    assert list(sim.history.admitted_at)[3:5] == [START + SECOND, START + 2 * SECOND]


def test_who_is_named_has_a_limit_of_its_own_whoever_came_before():
    sim = Simulation(crowd(1, {"default": ONE_PER_SECOND, "acme": {"burst_size": 3}}), now=START)
    sim.submit(*[Run(n, 1, tenant=f"t{n}") for n in range(100)])
    assert verdicts(sim.offer(4, tenant="acme")) == [Verdict.ADMITTED] * 3 + [Verdict.DELAYED]


def test_only_those_share_to_whom_the_same_rules_apply():
    sim = Simulation(crowd(1, {"default": ONE_PER_SECOND, "n1*": {"burst_size": 5}}), now=START)
    sim.offer(1, tenant="first")
    small, large = [
        next(name for name in sharers(sim, 500) if name.startswith("n1") is wide and name != "n1")
        for wide in (False, True)
    ]
    assert verdicts(sim.offer(6, tenant=large)) == [Verdict.ADMITTED] * 5 + [Verdict.DELAYED]
    assert verdicts(sim.offer(1, tenant=small)) == [Verdict.DELAYED]  # begins with what the slot has used


def test_a_limit_of_its_own_begins_with_what_the_shared_one_has_used():
    sim = Simulation(crowd(1), now=START)
    sim.offer(1, tenant="first")
    (one,) = sharers(sim, 1)
    assert verdicts(sim.offer(2, tenant=one)) == [Verdict.ADMITTED] * 2
    sim.set_policy(crowd(100))
    assert verdicts(sim.offer(1, tenant=one)) == [Verdict.DELAYED]
    assert [tenant.name for tenant in sim.engine.state.tenants if tenant.name == one] == [one]


@pytest.mark.parametrize("rules", [None, {"default": ONE_PER_SECOND, "n*": {}, "n1": {}, "n2": {}, "n0": {}}])
def test_who_has_something_behind_a_shared_limit_goes_on_sharing(rules):
    sim = Simulation(crowd(1), now=START)
    sim.offer(1, tenant="first")
    (one,) = sharers(sim, 1)
    sim.offer(3, tenant=one)
    sim.set_policy(crowd(100))  # there is room now
    sim.offer(1, tenant=one)
    assert sim.engine.waiting == 2
    sim.drain()
    assert sim.now == START + 2 * SECOND
    assert {tenant.name for tenant in sim.engine.state.tenants if tenant.limiter.spec.burst} >= {"first"}
    assert not any(tenant.name == one for tenant in sim.engine.state.tenants)


def test_a_pause_of_one_who_shares_holds_all_of_them_back():
    sim = Simulation(crowd(1), now=START)
    sim.offer(1, tenant="first")
    one, two = sharers(sim, 2)
    sim.engine.pause(START, START + 5 * SECOND, one)
    sim.reopen()
    sim.set_policy(crowd(100))
    assert verdicts(sim.offer(1, tenant=two)) == [Verdict.DELAYED]
    sim.engine.resume(START, one)
    sim.drain()
    assert sim.now == START
    assert verdicts(sim.offer(1, tenant=one)) == [Verdict.ADMITTED]


def random_policy(rng, sizes):
    def rule():
        rate = Fraction(rng.choice([1, 2, 7, 10]), rng.choice([1, 3]))
        windows = tuple(Window(rng.choice([5, 10, 130]), s * SECOND) for s in sorted(rng.sample(sizes, 1)))
        return {
            "requests_per_second": rate, "burst_size": rng.choice([5, 8]), "window_size": None,
            "windows": windows if rng.random() < 0.5 else (),
        }  # fmt: skip

    rules = {"default": rule()}
    if rng.random() < 0.5:
        rules["t1*"] = rule()
    if rng.random() < 0.5:
        rules["t2"] = rule()
    return crowd(
        rng.choice([1, 2, 3]), rules, Spec(Fraction(rng.choice([3, 50, 1000])), 50, ()),
        overflow=rng.choice([Overflow.DELAY] * 4 + [Overflow.HOLD, Overflow.REJECT]),
        lanes=rng.choice([{"default": Fraction(1)}, {"hi": Fraction(2), "default": Fraction(1)}]),
    )  # fmt: skip


def random_batch(rng):
    runs, first = [], 0
    for _ in range(rng.choice([0, 1, 2, 4])):
        count = rng.choice([1, 1, 2, 5, 12])
        runs.append(Run(first, count, rng.choice(["", "hi"]), f"t{rng.choice([0, 1, 2, 3, 10, 11, 12, 13])}"))
        first += count
    return runs


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_the_same_with_and_without_a_restart_and_nobody_over(never_over, seed):
    rng = random.Random(seed)
    policy = random_policy(rng, [1, 5, 60])
    sims = [Simulation(policy, now=START, partitions=2, restart=restart) for restart in (False, True)]
    now, like = START, []
    for _ in range(50):
        wake, other = (sim.engine.wake_at() for sim in sims)
        assert wake == other
        later = now + rng.choice([0, 1, 100, 1_000, 7_000, 70_000]) * MS
        now = max(now, wake) if wake is not None and wake < later and rng.random() < 0.5 else later
        if rng.random() < 0.1:
            until, tenant = now + rng.choice([1, 10]) * SECOND, f"t{rng.choice([0, 1, 10])}"
            for sim in sims:
                sim.engine.pause(now, until, tenant) if until % 2 else sim.engine.resume(now, tenant)
        runs, steps = random_batch(rng), []
        like += [run for run in runs for _ in range(run.count)]
        for sim in sims:
            sim.now = now
            steps.append(sim.submit(*runs))
        assert steps[0] == steps[1]
    plain, restored = (dataclasses.replace(sim.engine.usage(now), tenants=0) for sim in sims)
    assert plain == restored
    assert sims[0].engine.state.tenants._own == sims[1].engine.state.tenants._own
    for tenant in {run.tenant for run in like}:
        admitted = [at for number, at in enumerate(sims[0].history.admitted_at) if at and like[number].tenant == tenant]
        never_over(policy.tenant(tenant), [(at, 1) for at in admitted])
    if policy.overflow is Overflow.DELAY:
        ends = {}
        for number, run in enumerate(like):
            if at := sims[0].history.admitted_at[number]:
                lane = run.lane if run.lane in policy.lanes else "default"
                assert at >= ends.get((lane, run.tenant), 0)
                ends[lane, run.tenant] = at


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_nobody_is_over_when_tenants_get_limits_of_their_own_again(never_over, seed):
    rng = random.Random(seed)
    policy = random_policy(rng, [1, 5, 60])
    sim, like, spec = Simulation(policy, now=START, restart=rng.random() < 0.5), [], policy.tenant("t0")
    for _ in range(50):
        sim.run_until(sim.now + rng.choice([0, 1, 100, 1_000, 7_000, 15_000]) * MS)
        if rng.random() < 0.2:
            named = dict.fromkeys(rng.sample(["t0", "t3"], rng.choice([0, 1])), policy.tenants.rules["default"])
            sim.set_policy(
                dataclasses.replace(
                    policy, max_tenants=rng.choice([1, 2, 50]), tenants=Tenants.of({**policy.tenants.rules, **named})
                )
            )
        runs = random_batch(rng)
        like += [run for run in runs for _ in range(run.count)]
        sim.submit(*runs)
    for tenant in ("t0", "t3"):
        admitted = [at for number, at in enumerate(sim.history.admitted_at) if at and like[number].tenant == tenant]
        never_over(spec, [(at, 1) for at in admitted])


def test_idle_ones_are_forgotten_although_nothing_comes():
    policy = crowd(30_000)
    sim = Simulation(policy, now=START)
    sim.submit(*[Run(n, 1, tenant=f"t{n}") for n in range(20_000)])
    sim.reopen()
    sim.run_until(START + 60 * SECOND)
    sim.save()
    assert len(sim.engine.state.tenants) <= 1_000
    assert sim.engine.wake_at() is None


def slices(work):
    """Let work end and return the number of its slices, and what it returned."""
    count = 1
    while True:
        try:
            next(work)
        except StopIteration as end:
            return count, end.value
        count += 1


def parked_crowd(count):
    sim = Simulation(crowd(10**6, spec=Spec(Fraction(100), 100, ())), now=START)
    for batch in range(0, count, 4_000):
        sim.submit(*[Run(n, 1, tenant=f"t{batch + n}") for n in range(4_000)])
    sim.save()
    return sim


def test_no_more_than_some_are_restored_changed_or_written_at_once():
    sim = parked_crowd(20_000)
    args = (sim.policy.name, sim.policy, Budgets(START, {}), START, "1", dict(sim.state))
    count, engine = slices(Engine.restoring(*args))
    assert count >= 2 * 20_000 // SLICE
    assert engine.waiting == sim.engine.waiting
    faster = dataclasses.replace(sim.policy, spec=Spec(Fraction(200), 200, ()))
    count, _ = slices(engine.changing_policy(START, faster, "2"))
    assert count >= 3 * 20_000 // SLICE
    assert len(engine.drain_changes()) >= 20_000
    engine.pause(START, START + SECOND, "t1")
    assert len(engine.drain_changes()) <= 2  # the tenant, and the service


def tenants_in_memory():
    return sum(type(each).__name__ == "Tenant" for each in gc.get_objects())


@pytest.fixture
def without_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collector")
def test_what_is_closed_is_freed_at_once():
    before = tenants_in_memory()
    sim = parked_crowd(4_000)
    assert tenants_in_memory() >= before + 4_000
    sim.engine.close()
    sim._driver.engine = None
    assert tenants_in_memory() <= before


@pytest.mark.usefixtures("without_collector")
def test_who_is_forgotten_is_freed_at_once():
    """Else a pass of the collector over all that a gate holds stops it for half a second now and then."""
    before = tenants_in_memory()
    sim = Simulation(crowd(10**6), now=START)
    sim.submit(*[Run(n, 3, tenant=f"t{n}") for n in range(0, 12_000, 3)])  # one waits of each
    sim.run_until(START + 60 * SECOND)
    sim.save()
    remembered = len(sim.engine.state.tenants)
    assert remembered <= 1_000
    assert tenants_in_memory() <= before + remembered


def test_those_that_a_limit_lets_go_at_once_go_in_parts():
    sim = Simulation(crowd(10**6), now=START)
    for _ in range(3):
        sim.submit(*[Run(n, 1, tenant=f"t{n}") for n in range(9_000)])
    sim.save()
    sim.engine.drain_changes()
    sim.now = sim.engine.wake_at()
    sim.submit(room=10**6)
    assert len(sim.engine.drain_changes()) < 9_000
    sim.run_until(sim.now)
    assert sim.engine.waiting == 0
    assert sim.now == START + SECOND
    assert not any(is_shared(tenant.name) for tenant in sim.engine.state.tenants)


def test_a_step_without_room_for_all_touches_only_those_that_go():
    sim = parked_crowd(20_000)
    waiting = sim.engine.waiting
    sim.set_policy(dataclasses.replace(sim.policy, spec=WIDE))
    sim.engine.drain_changes()
    sim.now += SECOND
    step = sim.submit(Run(0, 3, tenant="t19999"), Run(3, 2, tenant="new"), room=1_000)
    assert sim.engine.waiting == waiting - 1_000 + 3
    assert verdicts(step) == [Verdict.DELAYED] * 3 + [Verdict.ADMITTED] * 2  # it has something parked, or nothing
    assert len([key for key in sim.engine.drain_changes() if key.startswith("tenant/")]) <= 1_002
    assert sim.engine.wake_at() == sim.now
