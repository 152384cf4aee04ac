"""What is set live over a policy: field by field, and gone without a trace when it ends."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.errors import GateError
from gate.limits import Per, Quota, Window
from gate.policy import parse_policy
from gate.policy.compiled import ENDLESS
from gate.policy.errors import dotted
from gate.policy.live import LiveService, check, check_tenant
from gate.protocol.policies import LiveLimit
from gate.units import MS, SECOND

FILE = parse_policy("""
defaults: {overflow: reject, max_delay: 60}
groups: {bank: {requests_per_second: 50}}
services:
  pay: {requests_per_second: 100, burst_size: 150, group: bank,
        tenants: {default: {requests_per_second: 5, burst_size: 9}}}
  plain: {requests_per_second: 3}
""")
limits = st.builds(
    LiveLimit,
    requests_per_second=st.none() | st.sampled_from(["50", "10/min", "0", "0.5"]),
    burst_size=st.none() | st.integers(1, 99),
    window_size=st.none() | st.sampled_from(["60", "90s", "1h"]),
    window_limit=st.none() | st.integers(1, 10_000),
    until_ms=st.none() | st.integers(1, 2**53 - 1),
    max_running=st.none() | st.integers(1, 99),
    quotas=st.none() | st.sampled_from(["none", "5/day", "100000/month Europe/Berlin, 5/week"]),
    windows=st.none() | st.sampled_from(["none", "5/10s", "20/1s,5000/1d"]),
)


def over(service="pay", version=1, limit=None, **tenants):
    return FILE.overlaid({service: LiveService(version, limit, tenants)})


def test_what_is_set_counts_field_by_field_and_nothing_else_changes():
    policy = over(limit=LiveLimit(requests_per_second="50", burst_size=80)).service("pay")
    assert (policy.spec.rate, policy.spec.burst, policy.spec.windows[0].limit) == (50, 80, 3000)
    assert (policy.overflow, policy.group, policy.max_delay) == ("reject", "bank", 60 * SECOND)
    rate_alone = over(limit=LiveLimit(requests_per_second="10/min")).service("pay")
    assert (rate_alone.spec.rate, rate_alone.spec.burst) == (Fraction(1, 6), 150)


def test_of_a_tenant_it_is_over_what_all_tenants_have():
    policy = over(acme=LiveLimit(requests_per_second="50")).service("pay")
    assert (policy.tenant("acme").rate, policy.tenant("acme").burst) == (50, 9)
    assert policy.tenant("beta") == FILE.service("pay").tenant("beta")
    assert policy.names_tenant("acme")
    assert list(policy.named_tenants()) == ["acme"]
    first = over("plain", acme=LiveLimit(requests_per_second="50")).service("plain")
    assert first.tenant("acme").rate == 50
    assert first.tenant("beta") is None


def test_what_is_set_for_many_tenants_is_weaker_than_what_one_has_and_stronger_than_the_file():
    many = {"default": LiveLimit(requests_per_second="2"), "bank-*": LiveLimit(burst_size=20, quotas="5000/day")}
    policy = over(**many, **{"bank-a": LiveLimit(requests_per_second="7")}).service("pay")
    told = {name: policy.tenant(name) for name in ("beta", "bank-b", "bank-a")}
    assert {name: (spec.rate, spec.burst) for name, spec in told.items()} == {
        "beta": (2, 9), "bank-b": (2, 20), "bank-a": (7, 20),
    }  # fmt: skip
    assert told["bank-a"].quotas == (Quota(5000, Per.DAY, "UTC"),)
    assert list(policy.named_tenants()) == ["bank-a"]
    assert not policy.names_tenant("bank-*")
    assert policy.tenant("default") == policy.tenant("beta"), "a tenant of that name is one like others"
    origins = over(**many).explain("pay")
    assert origins["tenants.default.requests_per_second"].source == "live"
    quotas = origins[dotted(("tenants", "bank-*", "quotas"))]
    assert (origins["tenants.default.burst_size"].value, quotas.value) == (9, "5000/day")


def test_a_block_of_many_ends_for_who_is_given_a_rate():
    off, some = LiveLimit(requests_per_second="0", until_ms=7), LiveLimit(requests_per_second="5")
    policy = over(default=off, acme=some).service("pay")
    assert (policy.tenant_blocked_until("beta"), policy.tenant_blocked_until("acme")) == (7 * MS, 0)
    file = parse_policy("services: {pay: {requests_per_second: 9, tenants: {default: {requests_per_second: 0}}}}")
    policy = file.overlaid({"pay": LiveService(1, None, {"default": some})}).service("pay")
    assert (policy.tenant_blocked_until("beta"), policy.tenant("beta").rate) == (0, 5)


def test_windows_are_set_beside_that_of_window_size():
    minute, day = 60 * SECOND, 86_400 * SECOND
    policy = over(limit=LiveLimit(windows="20/1s, 5000/1d"), acme=LiveLimit(windows="7/10s")).service("pay")
    assert policy.spec.windows == (Window(20, SECOND), Window(6000, minute), Window(5000, day))
    assert policy.tenant("acme").windows == (Window(7, 10 * SECOND), Window(300, minute))
    lower = over(limit=LiveLimit(windows="100/60s")).service("pay")
    assert lower.spec.windows == (Window(100, minute),)
    shared = FILE.overlaid({"group:bank": LiveService(1, LiveLimit(windows="9/1h"))}).group("bank")
    assert shared.spec.windows == (Window(3000, minute), Window(9, 3600 * SECOND))
    file = parse_policy("services: {pay: {requests_per_second: 9, windows: [{limit: 5, size: 1h}]}}")
    none = file.overlaid({"pay": LiveService(1, LiveLimit(windows="none"))}).service("pay")
    assert (len(file.service("pay").spec.windows), len(none.spec.windows)) == (2, 1)
    told = over(limit=LiveLimit(windows="20/1s", until_ms=1_764_000_000_000)).explain("pay")["windows"]
    assert told.value == "20/1s"
    assert told.source.startswith("live until 2025-11-24")


def test_quotas_and_what_may_run_are_set_like_all_else():
    policy = over(limit=LiveLimit(max_running=20, quotas="5/day, 100/month Europe/Berlin")).service("pay")
    assert (policy.spec.running.capacity, policy.spec.rate) == (20, 100)
    assert policy.spec.quotas == (Quota(5, Per.DAY, "UTC"), Quota(100, Per.MONTH, "Europe/Berlin"))
    assert policy.counts_running
    file = parse_policy("services: {pay: {requests_per_second: 9, quotas: [{limit: 5, per: day}]}}")
    none = file.overlaid({"pay": LiveService(1, LiveLimit(quotas="none"))}).service("pay")
    assert (len(file.service("pay").spec.quotas), none.spec.quotas) == (1, ())
    one = over(acme=LiveLimit(max_running=3, burst_size=4)).service("pay")
    assert (one.tenants_run, one.tenant("acme").running.capacity, one.tenant("beta").running) == (True, 3, None)
    without = one.without_running()
    assert (without.tenants_run, without.tenant("acme").running, without.tenant("acme").burst) == (False, None, 4)
    assert not over(acme=LiveLimit(burst_size=4)).service("pay").tenants_run


def test_a_rate_of_0_blocks_and_leaves_the_limit_beneath_as_it_was():
    policy = over(limit=LiveLimit(requests_per_second="0", until_ms=7)).service("pay")
    assert (policy.blocked_until, policy.spec) == (7 * MS, FILE.service("pay").spec)
    tenant = over(acme=LiveLimit(requests_per_second="0")).service("pay")
    assert (tenant.tenant_blocked_until("acme"), tenant.tenant_blocked_until("beta")) == (ENDLESS, 0)
    assert tenant.tenant("acme") == FILE.service("pay").tenant("acme")


def test_who_is_blocked_by_the_file_is_not_where_a_rate_is_set_live():
    file = parse_policy("services: {pay: {requests_per_second: 0, tenants: {default: {requests_per_second: 0}}}}")
    assert (file.service("pay").blocked_until, file.service("pay").tenant_blocked_until("a")) == (ENDLESS, ENDLESS)
    some = LiveLimit(requests_per_second="5")
    policy = file.overlaid({"pay": LiveService(1, some, {"acme": some})}).service("pay")
    assert (policy.blocked_until, policy.tenant_blocked_until("acme")) == (0, 0)
    assert (policy.spec.rate, policy.tenant("acme").rate, policy.tenant_blocked_until("beta")) == (5, 5, ENDLESS)


def test_a_blocked_default_of_the_file_holds_for_none_that_has_a_rate():
    text = (
        "{defaults: {requests_per_second: 7}, services: {off: {requests_per_second: 0}, on: {requests_per_second: 1}}}"
    )
    file = parse_policy(text)
    assert (file.service("off").blocked_until, file.service("off").spec.rate) == (ENDLESS, 7)
    assert (file.service("on").blocked_until, file.service("on").spec.rate) == (0, 1)


@given(limits, st.booleans(), st.integers(1, 5))
def test_what_ends_leaves_nothing_behind(limit, of_tenant, version):
    live = over(version=version, **({"acme": limit} if of_tenant else {"limit": limit}))
    assert live.version_of("pay") != FILE.version
    assert live.version_of("plain") == live.version == FILE.version
    assert FILE.overlaid({}).service("pay") == FILE.service("pay")
    assert live.service("plain") == FILE.service("plain")
    told = live.explain("pay")
    for name, value in limit.fields.items():
        origin = told[f"tenants.acme.{name}" if of_tenant else name]
        assert (origin.value, origin.line, origin.source.startswith("live")) == (value, None, True)
        assert (" until " in origin.source) == (limit.until_ms is not None)


@pytest.mark.parametrize(
    ("limit", "tenant", "why"),
    [
        (LiveLimit(), "", "no limit is given"),
        (LiveLimit(until_ms=5), "", "no limit is given"),
        (
            LiveLimit(requests_per_second="ten"),
            "",
            'requests_per_second: must be a rate above 0, or 0 to block, not "ten"',
        ),
        (
            LiveLimit(requests_per_second="-1"),
            "",
            'requests_per_second: must be a rate above 0, or 0 to block, not "-1"',
        ),
        (LiveLimit(window_size="soon"), "", 'window_size: must be a length of time, not "soon"'),
        (LiveLimit(burst_size=0), "", "burst_size: must be at least 1, not 0"),
        (LiveLimit(requests_per_second="1" * 65), "", "requests_per_second: must have at most 64 characters"),
        (LiveLimit(quotas="5000"), "", 'quotas: must be a limit for each day, week, month, year, not "5000"'),
        (
            LiveLimit(quotas="5/day, 6/hour"),
            "",
            'quotas: must be a limit for each day, week, month, year, not "6/hour"',
        ),
        (LiveLimit(windows="60s"), "", 'windows: must be a limit and a length of time, not "60s"'),
        (LiveLimit(windows="5/soon"), "", 'windows: must be a length of time, not "soon"'),
        (LiveLimit(windows="5/1s, 0/1m"), "", "windows: must be at least 1, not 0"),
        (LiveLimit(quotas="0/day"), "", "quotas: must be at least 1, not 0"),
        (LiveLimit(quotas="5/day Europe/Berlni"), "", 'quotas: unknown time zone "Europe/Berlni"'),
        (LiveLimit(burst_size=1), " a", '" a" cannot be a tenant'),
    ],
)
def test_what_is_no_limit_is_refused(limit, tenant, why):
    with pytest.raises(GateError) as raised:
        check(limit)
        check_tenant(tenant)
    assert str(raised.value) == why
    assert raised.value.hint or "must" in why


def of_group(limit, version=1, **others):
    return FILE.overlaid({"group:bank": LiveService(version, limit), **others})


def test_what_is_set_for_a_group_counts_field_by_field_and_for_its_services_alone():
    live = of_group(LiveLimit(burst_size=7, max_running=3))
    spec, before = live.group("bank").spec, FILE.group("bank").spec
    assert (spec.rate, spec.burst, spec.running.capacity) == (50, 7, 3)
    assert (before.burst, before.running, live.service("pay")) == (50, None, FILE.service("pay"))
    assert live.version_of("pay") != FILE.version
    assert live.version_of("plain") == live.version == FILE.version
    assert FILE.overlaid({"group:gone": LiveService(1, LiveLimit(burst_size=7))}).groups == FILE.groups
    told = live.explain_group("bank")
    assert (told["burst_size"].value, told["burst_size"].source) == (7, "live")
    assert (told["requests_per_second"].source, told["requests_per_second"].line) == ("group", 3)


def test_each_change_of_a_group_or_of_its_service_is_another_version():
    some, own = LiveLimit(burst_size=7), LiveLimit(burst_size=9)
    versions = {
        of_group(some, version, **({"pay": LiveService(number, own)} if number else {})).version_of("pay")
        for version in (1, 2)
        for number in (0, 1, 2)
    }
    versions |= {FILE.overlaid({"pay": LiveService(number, own)}).version_of("pay") for number in (1, 2)}
    assert len(versions) == 8


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_group_of_0_blocks_its_services_whether_or_not_these_have_been_asked_for(asked_before):
    file = parse_policy("groups: {bank: {requests_per_second: 50}}\nservices: {'bank-*': {group: bank}, other: {}}")
    for name in ("bank-a", "other") if asked_before else ():
        assert file.service(name).blocked_until == 0
    live = file.overlaid({"group:bank": LiveService(1, LiveLimit(requests_per_second="0", until_ms=7))})
    assert (live.service("bank-a").blocked_until, live.service("other").blocked_until) == (7 * MS, 0)
    assert live.group("bank").spec == file.group("bank").spec
    assert file.service("bank-a").blocked_until == 0
    for own, until in (("5", 7), ("0", ENDLESS // MS)):  # what is set for a service itself lets it not past its group
        both = {**live.live, "bank-a": LiveService(1, LiveLimit(requests_per_second=own))}
        assert file.overlaid(both).service("bank-a").blocked_until // MS == until


def test_what_is_kept_of_a_group_is_on_its_own_shard_whatever_entry_would_match_its_name():
    file = parse_policy(
        "defaults: {group: bank}\ngroups: {bank: {requests_per_second: 5}, far: {requests_per_second: 5}}"
    )
    assert (file.shard_key("pay"), file.shard_key("group:far")) == ("group:bank", "group:far")
