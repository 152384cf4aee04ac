"""Services that share a budget: both limits hold, the reason names the one that bound, nobody starves."""

from fractions import Fraction

import pytest

from gate.admission.limits.budget import Budgets
from gate.admission.model import MS, SECOND, Reason, Run, Verdict
from gate.limits import Spec
from tests.admission.simulation import Simulation

START = 1_764_000_000 * SECOND
WIDE = Spec(Fraction(1_000), 1_000, ())


@pytest.fixture
def services(policy):
    def make(group: Spec, *limits: Spec, **said) -> list[Simulation]:
        budgets = Budgets(START, {"bank": group})
        return [Simulation(policy(own, group="bank", **said), now=START, budgets=budgets) for own in _named(limits)]

    def _named(limits):
        yield from limits

    return make


def together(sims: list[Simulation], until: int) -> None:
    """Wake whoever wants to be woken first, as a shard does."""
    for step in range(100_000):
        wakes = [(wake, index) for index, sim in enumerate(sims) if (wake := sim.engine.wake_at()) is not None]
        if not wakes or min(wakes)[0] > until:
            break
        wake, index = min(wakes)
        sims[index].now = max(wake, *(sim.now for sim in sims))
        sims[index].submit()
        assert step < 99_999, "they wake each other without end"
    for sim in sims:
        sim.now = until


def admitted(sim: Simulation) -> int:
    return sum(count for _, _, count in sim.history.admissions)


def distinct(sims: list[Simulation]) -> list[Simulation]:
    """A budget tells its services apart by name."""
    for number, sim in enumerate(sims):
        sim.engine.state.limits.service = f"svc{number}"
    return sims


def test_both_limits_are_checked_before_either_is_charged(services):
    (sim,) = services(Spec(Fraction(1), 2, ()), Spec(Fraction(10), 10, ()))
    step = sim.offer(5)
    assert [(d.count, d.verdict, d.reason, d.limit) for d in step.decisions] == [
        (2, Verdict.ADMITTED, None, None),
        (3, Verdict.DELAYED, Reason.GROUP, "group.bank"),
    ]
    assert sim.engine.state.limits.limiter.tokens(START) == 8
    assert step.decisions[1].not_before == tuple(START + n * SECOND for n in (1, 2, 3))
    sim.drain()
    assert all(stamp in (0, at) for at, stamp in zip(sim.history.admitted_at, sim.history.not_before, strict=True))


def test_a_cost_above_the_groups_ceiling_is_never(services):
    (sim,) = services(Spec(Fraction(1), 2, ()), WIDE)
    decision = sim.submit(Run(0, 1, cost=3)).decisions[0]
    assert (decision.reason, decision.limit) == (Reason.NEVER, "group.bank")


@pytest.mark.parametrize("burst", [1, 50])
def test_backlogs_share_a_budget_evenly_and_lose_none_of_it(services, burst):
    sims = distinct(services(Spec(Fraction(50), burst, ()), WIDE, WIDE, WIDE))
    for sim in sims:
        sim.offer(1_000)
    together(sims, START + 20 * SECOND)
    counts = [admitted(sim) for sim in sims]
    assert sum(counts) == burst + 1_000
    assert max(counts) - min(counts) <= burst + 1  # the first one found the burst


def test_what_one_cannot_use_the_other_gets(services):
    sims = distinct(services(Spec(Fraction(50), 1, ()), Spec(Fraction(10), 1, ()), WIDE))
    for sim in sims:
        sim.offer(2_000)
    together(sims, START + 20 * SECOND)
    slow, quick = (admitted(sim) for sim in sims)
    assert slow >= 199
    assert slow + quick >= 1_001 * 0.999


def test_a_single_request_does_not_wait_behind_anothers_backlog(services):
    sims = distinct(services(Spec(Fraction(50), 50, ()), WIDE, WIDE))
    sims[0].offer(5_000)
    together(sims, START + 10 * SECOND)
    sims[1].offer(1)
    together(sims, START + 11 * SECOND)
    waited = sims[1].history.admitted_at[0] - sims[1].history.submitted_at[0]
    assert waited <= 2 * 20 * MS


def test_a_service_that_hangs_holds_up_the_others_for_a_second_at_most(services):
    sims = distinct(services(Spec(Fraction(50), 1, ()), WIDE, WIDE))
    for sim in sims:
        sim.offer(2_000)
    together(sims[:1], START + 20 * SECOND)
    assert admitted(sims[0]) >= 950


def test_a_budget_goes_on_from_its_record(services):
    sims = distinct(services(Spec(Fraction(50), 5, ()), WIDE, WIDE))
    for sim in sims:
        sim.offer(100)
    together(sims, START + SECOND)
    old = sims[0].budgets
    records = {
        key: value for sim in sims for key, value in sim.engine.drain_changes().items() if key.startswith("group/")
    }
    assert set(records) == {"group/bank"}
    new = Budgets(START + SECOND, {"bank": Spec(Fraction(50), 5, ())}, records)
    later = START + 2 * SECOND
    for service in ("svc0", "svc1", "other"):
        fits = [budgets.get("bank").fit(service, later, 100, 1) for budgets in (old, new)]
        assert fits[0] == fits[1]
    assert Budgets(START, {}, records).get("bank") is None


def test_a_new_budget_takes_hold_at_once_and_mints_nothing(services):
    (sim,) = services(Spec(Fraction(10), 10, ()), WIDE)
    sim.offer(200)
    sim.budgets.set_groups(START, {"bank": Spec(Fraction(100), 10, ())})
    sim.set_policy(sim.policy)
    sim.run_until(START + SECOND)
    assert admitted(sim) == 110
