"""Calendar quotas in an engine: charged by cost, told exactly, kept, shared and changed like the other limits."""

from datetime import datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest

from gate.admission.engine import Engine
from gate.admission.limits.budget import Budgets
from gate.admission.model import SECOND, Binding, Reason, Run, Verdict
from gate.limits import Per, Quota, Spec
from gate.policy import ServicePolicy, Tenants
from tests.admission.simulation import Simulation

BERLIN = ZoneInfo("Europe/Berlin")
DAY = 86_400 * SECOND


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()) * SECOND


NOON = at("2026-03-28T12:00")  # the day before a day of 23 hours
SUNDAY, MONDAY = at("2026-03-29T00:00"), at("2026-03-30T00:00")
DAILY = Quota(10, Per.DAY, "Europe/Berlin")


def limits(*quotas: Quota, rate: int | None = None, burst: int = 1) -> Spec:
    return Spec(None if rate is None else Fraction(rate), burst, (), quotas)


def test_what_waits_is_told_the_begin_of_the_day_in_which_it_goes() -> None:
    sim = Simulation(ServicePolicy("pay", limits(DAILY)), now=NOON)
    step = sim.offer(24)
    assert [(d.verdict, d.count, d.reason, d.limit) for d in step.decisions] == [
        (Verdict.ADMITTED, 10, None, None),
        (Verdict.DELAYED, 14, Reason.QUOTA, "pay.quota.day"),
    ]
    assert list(step.decisions[1].not_before or ()) == [SUNDAY] * 10 + [MONDAY] * 4
    assert MONDAY - SUNDAY == DAY - 3600 * SECOND
    assert sim.engine.usage(NOON).eta_seconds == (MONDAY - NOON) / SECOND
    sim.drain()
    assert list(sim.history.admitted_at) == [NOON] * 10 + [SUNDAY] * 10 + [MONDAY] * 4


def test_costs_are_charged_and_what_costs_more_than_a_quota_never_goes() -> None:
    sim = Simulation(ServicePolicy("pay", limits(DAILY)), now=NOON)
    step = sim.submit(Run(0, 3, cost=4), Run(3, 1, cost=11), Run(4, 1, cost=2))
    assert [(d.verdict, d.reason, d.limit) for d in step.decisions][2] == (
        Verdict.REJECTED, Reason.NEVER, "pay.quota.day",
    )  # fmt: skip
    sim.drain()
    assert list(sim.history.admitted_at) == [NOON, NOON, SUNDAY, 0, SUNDAY]


def test_usage_tells_what_is_left_and_when_it_renews() -> None:
    month = Quota(1_000, Per.MONTH, "Europe/Berlin")
    sim = Simulation(ServicePolicy("pay", limits(DAILY, month, rate=1, burst=50)), now=NOON)
    sim.offer(7)
    rate, day, longer = sim.engine.usage(NOON).limits
    assert (rate.name, rate.left, rate.renews_at) == ("pay.rate", None, None)
    assert (day.name, day.capacity, day.usage, day.left, day.renews_at) == ("pay.quota.day", 10, 0.7, 3, SUNDAY)
    assert (longer.name, longer.left, longer.renews_at) == ("pay.quota.month", 993, at("2026-04-01T00:00"))
    sim.offer(9)
    assert sim.engine.usage(NOON).binding == Binding(Reason.QUOTA, "pay.quota.day")


@pytest.mark.parametrize(("text", "left"), [("2026-03-28T13:00", 0), ("2026-03-29T00:00", 10)])
def test_a_restored_engine_goes_on_counting(text: str, left: int) -> None:
    sim = Simulation(ServicePolicy("pay", limits(DAILY)), now=NOON)
    sim.offer(13)
    sim.save()
    now = at(text)
    restored = Engine.restore("pay", sim.policy, Budgets(now, {}), now, "1", sim.state)
    pulled = sum(pull.count for pull in restored.step(now, (), 100).pulls)
    assert pulled == min(3, left)


def test_a_higher_quota_lets_go_of_what_waits_at_once() -> None:
    sim = Simulation(ServicePolicy("pay", limits(DAILY)), now=NOON)
    sim.offer(24)
    sim.set_policy(ServicePolicy("pay", limits(Quota(15, Per.DAY, "Europe/Berlin"))))
    sim.run_until(NOON)
    assert list(sim.history.admitted_at) == [NOON] * 15 + [0] * 9
    sim.drain()
    assert list(sim.history.admitted_at)[15:] == [SUNDAY] * 9


def test_tenants_and_groups_have_quotas_too() -> None:
    rule = {"quotas": (DAILY,), "window_size": None}
    tenants = Tenants.of({"default": rule})
    budgets = Budgets(NOON, {"bank": limits(Quota(20, Per.DAY, "Europe/Berlin"))})
    policy = ServicePolicy("pay", limits(), tenants=tenants, group="bank")
    sim = Simulation(policy, now=NOON, budgets=budgets)
    decisions = [d for run in ("a", "b", "c") for d in sim.offer(11, tenant=run).decisions]
    waits = [(d.count, d.reason, d.limit) for d in decisions if d.verdict is Verdict.DELAYED]
    assert waits == [
        (1, Reason.TENANT, "pay.tenant.a"),
        (1, Reason.TENANT, "pay.tenant.b"),
        (11, Reason.GROUP, "group.bank"),
    ]
    assert [usage.name for usage in sim.engine.usage(NOON).limits] == ["group.bank.quota.day"]
    sim.drain()
    assert sum(time == NOON for time in sim.history.admitted_at) == 20
    assert sum(time == SUNDAY for time in sim.history.admitted_at) == 12
    assert sum(time == MONDAY for time in sim.history.admitted_at) == 1  # what c may have of a day was 10


def test_a_backlog_of_centuries_is_told_that_nobody_knows_and_goes_on() -> None:
    lanes = {"default": Fraction(1), "hi": Fraction(2)}
    yearly = Quota(1, Per.YEAR, "Europe/Berlin")
    sim = Simulation(ServicePolicy("pay", limits(yearly), lanes=lanes), now=NOON)
    sim.submit(Run(0, 300), Run(300, 300, lane="hi"))
    assert sim.engine.usage(NOON).eta_seconds is None or sim.engine.usage(NOON).eta_seconds > 80 * 365 * 86_400
    for year in (2027, 2028, 2029):
        sim.now = at(f"{year}-01-01T00:00")
        sim.submit()
    times = sorted(time for time in sim.history.admitted_at if time)
    assert times == [NOON, *[at(f"{year}-01-01T00:00") for year in (2027, 2028, 2029)]]


def test_who_comes_late_into_another_day_delays_those_behind_and_they_are_told() -> None:
    sim = Simulation(ServicePolicy("pay", limits(DAILY)), now=NOON)
    sim.offer(14)
    sim.now = MONDAY + 5 * SECOND  # nobody woke the engine for more than a day
    step = sim.offer(20)
    told = [time for decision in step.decisions for time in decision.not_before or ()]
    sim.drain()
    assert told == [time for time in sim.history.admitted_at if time > MONDAY + 5 * SECOND]
    assert len(told) == 14
