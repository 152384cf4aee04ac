"""A limit of 0: what comes is refused or waits for its end, and what waits already stays."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.admission.model import MS, SECOND, Reason, Run, Verdict
from gate.limits import NEVER
from gate.policy import parse_policy
from gate.policy.live import LiveService
from gate.protocol.policies import LiveLimit
from tests.admission.simulation import Simulation

START = 1_764_000_000_000 * MS
A, D, R, H = Verdict.ADMITTED, Verdict.DELAYED, Verdict.REJECTED, Verdict.HELD
BLOCKED, TENANT, RATE = Reason.BLOCKED, Reason.TENANT, Reason.RATE


def policy(overflow, *, service=None, acme=None, more=""):
    """Return the policy of a service with rates set live: (rate, seconds from the start at which it ends; None)."""
    text = f"""
        services:
          pay: {{requests_per_second: 10, burst_size: 2, window_size: null, overflow: {overflow}{more},
                 tenants: {{acme: {{requests_per_second: 5, burst_size: 2, window_size: null}}}}}}"""

    def live(said):
        if said is None:
            return None
        rate, end = said
        return LiveLimit(requests_per_second=rate, until_ms=None if end is None else (START + end * SECOND) // MS)

    tenants = {} if acme is None else {"acme": live(acme)}
    return parse_policy(text).overlaid({"pay": LiveService(1, live(service), tenants)}).service("pay")


def table(step):
    return [
        (d.first, d.count, d.verdict, d.reason, d.limit, d.not_before and (d.not_before[-1] - START) // MS)
        for d in step.decisions
    ]


@pytest.mark.parametrize(
    ("overflow", "end", "expected"),
    [
        ("delay", None, [(0, 3, R, BLOCKED, "pay", None)]),
        ("delay", 60, [(0, 3, D, BLOCKED, "pay", 60_100)]),
        ("reject", None, [(0, 3, R, BLOCKED, "pay", None)]),
        ("reject", 60, [(0, 3, R, BLOCKED, "pay", 60_000)]),
        ("hold", None, [(0, 3, H, BLOCKED, "pay", None)]),
        ("hold", 60, [(0, 3, H, BLOCKED, "pay", 60_000)]),
        ("delay, max_delay: 30", 60, [(0, 3, R, Reason.MAX_DELAY, "pay.max-delay", 60_000)]),
        ("delay, shadow: true", None, [(0, 3, A, BLOCKED, "pay", None)]),
    ],
)  # fmt: skip
def test_overflow_decides_what_becomes_of_what_comes_to_a_blocked_service(overflow, end, expected):
    sim = Simulation(policy(overflow, service=("0", end)), now=START)
    assert table(sim.offer(3)) == expected


@pytest.mark.parametrize(
    ("overflow", "end", "expected"),
    [
        ("delay", None, [(0, 2, A, None, None, None), (2, 3, R, BLOCKED, "pay.tenant.acme", None)]),
        ("delay", 60, [(0, 2, A, None, None, None), (2, 3, D, BLOCKED, "pay.tenant.acme", 60_200)]),
        ("reject", None, [(0, 2, A, None, None, None), (2, 3, R, BLOCKED, "pay.tenant.acme", None)]),
        ("hold", None, [(0, 2, A, None, None, None), (2, 3, H, BLOCKED, "pay.tenant.acme", None)]),
    ],
)  # fmt: skip
def test_overflow_decides_what_becomes_of_what_comes_from_a_blocked_tenant(overflow, end, expected):
    sim = Simulation(policy(overflow, acme=("0", end)), now=START)
    assert table(sim.submit(Run(0, 2, tenant="beta"), Run(2, 3, tenant="acme"))) == expected


def test_a_tenant_whose_name_is_all_that_a_policy_says_is_blocked_by_the_file():
    text = "services: {pay: {tenants: {default: {requests_per_second: 0}, acme: {requests_per_second: 5}}}}"
    sim = Simulation(parse_policy(text).service("pay"), now=START)
    step = sim.submit(Run(0, 1, tenant="beta"), Run(1, 1, tenant="acme"), Run(2, 1))
    assert [(d.first, d.verdict, d.reason) for d in step.decisions] == [
        (0, R, BLOCKED), (1, A, None), (2, R, BLOCKED)
    ]  # fmt: skip


@pytest.mark.parametrize("who", [{"service": ("0", None)}, {"acme": ("0", None)}])
def test_what_is_parked_already_stays_and_goes_in_order_when_the_block_ends(who):
    free, blocked = policy("delay"), policy("delay", **who)
    sim = Simulation(free, now=START)
    sim.submit(Run(0, 6, tenant="acme"))
    assert sim.engine.waiting == 4
    sim.engine.set_policy(START, blocked, "b")
    sim.run_until(START + 100 * SECOND)
    assert sim.engine.waiting == 4
    assert sim.engine.usage(sim.now).binding.reason is BLOCKED
    sim.submit(Run(0, 2, tenant="acme"))
    assert sim.engine.waiting == 4  # new ones are refused: nobody knows when they could go
    sim.engine.set_policy(sim.now, free, "a")
    sim.drain()
    assert [bool(at) for at in sim.history.admitted_at] == [True] * 6 + [False] * 2
    assert list(sim.history.admitted_at[2:6]) == sorted(sim.history.admitted_at[2:6])


def test_a_block_mints_nothing():
    """Neither the bucket nor the window begins anew where a limit was 0 for a moment."""
    text = "services: {pay: {requests_per_second: 1, burst_size: 5, window_size: 60, window_limit: 5}}"
    file = parse_policy(text)
    sim = Simulation(file.service("pay"), now=START)
    sim.offer(5)
    for limit in (LiveLimit(requests_per_second="0"), None):
        sim.engine.set_policy(sim.now, file.overlaid({"pay": LiveService(1, limit)}).service("pay"), str(limit))
    step = sim.offer(5)
    assert {d.verdict for d in step.decisions} == {D}
    assert min(min(d.not_before) for d in step.decisions) == START + 60 * SECOND


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(["acme", "beta", "gone"]), st.integers(0, 4), st.integers(1, 5)), max_size=12),
    st.sampled_from(["delay", "reject"]),
    st.integers(1, 20),
    st.booleans(),
)
def test_nothing_of_a_blocked_tenant_goes_before_its_end_and_others_go_as_ever(come, overflow, end, whole):
    blocked = policy(overflow, **{"service" if whole else "acme": ("0", end)})
    sim = Simulation(blocked, now=START)
    tenants = []
    for tenant, seconds, count in come:
        sim.run_until(sim.now + seconds * SECOND)
        sim.submit(Run(0, count, tenant=tenant))
        tenants += [tenant] * count
    sim.drain()
    for tenant, at, refused in zip(tenants, sim.history.admitted_at, sim.history.rejected_at, strict=True):
        assert bool(at) != bool(refused)
        if at and (whole or tenant == "acme"):
            assert at >= START + end * SECOND
        if overflow == "delay":
            assert at


@pytest.mark.parametrize(
    ("service", "told"), [(("0", 60), START + 60 * SECOND), (("0", None), NEVER), (("5", None), None), (None, None)]
)
def test_usage_tells_until_when_it_is_blocked(service, told):
    sim = Simulation(policy("delay", service=service), now=START)
    assert sim.engine.usage(START).blocked_until == told
    assert sim.engine.usage(START + 60 * SECOND).blocked_until == (NEVER if told == NEVER else None)
