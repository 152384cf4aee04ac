import re
import time
from fractions import Fraction
from pathlib import Path

import pytest

from gate.errors import GateError
from gate.limits import Spec, Window
from gate.policy import GroupPolicy, Overflow, ServicePolicy, load_policy, parse_policy
from gate.units import SECOND

EXAMPLE = Path(__file__).parents[2] / "examples" / "policy.yaml"
MINUTE = 60 * SECOND


def service(text, name="pay"):
    return parse_policy(text).service(name)


def test_the_example():
    policy = load_policy(EXAMPLE)
    assert policy.service("payments") == ServicePolicy(
        name="payments",
        spec=Spec(Fraction(10), 40, (Window(600, MINUTE),)),
        overflow=Overflow.DELAY,
        max_delay=3600 * SECOND,
        lanes={"interactive": Fraction(6), "default": Fraction(3), "batch": Fraction(1)},
        default_lane="default",
        group="bank-api",
        max_in_flight=500,
        worker_group="payments-workers",
    )
    assert policy.group("bank-api") == GroupPolicy("bank-api", Spec(Fraction(50), 50, (Window(3000, MINUTE),)))
    assert policy.group("nobody") is None
    assert policy.service("reports-eu").spec == Spec(
        Fraction(1, 6), 10, (Window(10, MINUTE), Window(100, 1440 * MINUTE))
    )
    search = policy.service("search")
    assert search.tenant("acme") == Spec(Fraction(50), 10, (Window(3000, MINUTE),))
    assert search.tenant("anyone") == search.tenant("") == Spec(Fraction(5), 10, (Window(300, MINUTE),))
    assert policy.service("payments").tenant("acme") is None
    assert policy.service("unheard-of").spec == Spec(Fraction(100), 150, (Window(6000, MINUTE),))
    assert policy.services == ("payments", "refunds", "bureau", "search", "imports", "notifications")
    assert policy.globs == ("reports-*",)


@pytest.mark.parametrize(
    ("fields", "rate", "burst", "windows"),
    [
        ("requests_per_second: 10", 10, 10, [(600, 60)]),
        ("requests_per_second: 2.5", Fraction(5, 2), 3, [(150, 60)]),
        ("requests_per_second: 1/h", Fraction(1, 3600), 1, [(1, 60)]),
        ("requests_per_second: 10/min, window_size: 90s", Fraction(1, 6), 1, [(15, 90)]),
        ("requests_per_second: 1/7s, window_size: 60", Fraction(1, 7), 1, [(8, 60)]),
        ("requests_per_second: 10, window_size: null", 10, 10, []),
        ("requests_per_second: 10, window_limit: 7", 10, 10, [(7, 60)]),
        ("requests_per_second: 10, window_limit: 7, window_size: 0.5", 10, 10, [(7, Fraction(1, 2))]),
        ("requests_per_second: 10, windows: [{limit: 9, size: 1h}, {limit: 5, size: 1}]", 10, 10,
         [(5, 1), (600, 60), (9, 3600)]),
        ("requests_per_second: 10, windows: [{limit: 9, size: 60}, {limit: 8, size: 1m}]", 10, 10, [(8, 60)]),
        ("requests_per_second: 10, windows: []", 10, 10, [(600, 60)]),
        ("requests_per_second: 1.0e12, window_size: 36500d", 10**12, 10**12, [(2**62, 36_500 * 86_400)]),
        ("requests_per_second: 1.0e-9, window_size: 1e-9", Fraction(1, 10**9), 1, [(1, Fraction(1, 10**9))]),
        ("burst_size: 1000000000000000, requests_per_second: 1", 1, 10**15, [(60, 60)]),
        ("window_limit: 7", None, None, [(7, 60)]),
        ("windows: [{limit: 7, size: 1}]", None, None, [(7, 1)]),
        ("window_size: 5", None, None, []),
        ("burst_size: 5", None, None, []),
        ("", None, None, []),
    ],
)  # fmt: skip
def test_limits_and_what_follows_from_them(fields, rate, burst, windows):
    expected = [Window(limit, int(size * SECOND)) for limit, size in windows]
    for text in (f"services: {{pay: {{{fields}}}}}", f"defaults: {{shadow: false, {fields}}}"):
        spec = service(text).spec
        assert (spec.rate, list(spec.windows)) == (rate, expected)
        if rate is not None:
            assert spec.burst == burst


def test_no_policy_is_told_from_no_limit():
    policy = parse_policy("services: {pay: {}, 'r-*': {}}")
    assert policy.service("pay").spec.rate is None
    assert policy.service("r-1").spec.rate is None
    assert policy.service("other") is None
    assert policy.effective("other") == ServicePolicy("other", policy.service("pay").spec)
    assert policy.explain("other") == {}
    assert policy.others() is None
    assert parse_policy("defaults: {}").service("other") is None
    assert parse_policy("defaults: {overflow: hold}").service("other").overflow is Overflow.HOLD


@pytest.mark.parametrize(
    ("priorities", "lanes", "default"),
    [
        ("null", [("default", 1)], "default"),
        ("{batch: 1, default: 3, interactive: 6}", [("interactive", 6), ("default", 3), ("batch", 1)], "default"),
        ("{fast: 0.7, slow: 0.3}", [("fast", Fraction(7, 10)), ("slow", Fraction(3, 10))], "slow"),
        ("{b: 1, a: 1, c: 2}", [("c", 2), ("a", 1), ("b", 1)], "a"),
    ],
)
def test_lanes_are_in_order_of_weight_and_the_lightest_takes_who_names_none(priorities, lanes, default):
    policy = service(f"services: {{pay: {{priorities: {priorities}}}}}")
    assert list(policy.lanes.items()) == lanes
    assert policy.default_lane == default


def test_who_shares_a_budget_shares_a_shard():
    policy = parse_policy("groups: {g: {}}\nservices: {pay: {group: g}, 'refund*': {group: g}, search: {}}")
    keys = [policy.shard_key(name) for name in ("pay", "refunds", "search", "unheard-of")]
    assert keys == ["group:g", "group:g", "search", "unheard-of"]


TENANTS = """
services:
  pay:
    tenants:
      default: {requests_per_second: 5, burst_size: 10}
      acme: {requests_per_second: 50}
      "acme-*": {burst_size: 7}
      acme-eu: {window_limit: 3}
      free: {requests_per_second: null}
  search: {tenants: {acme: {requests_per_second: 1}}}
"""


@pytest.mark.parametrize(
    ("tenant", "rate", "burst", "window"),
    [
        ("anyone", 5, 10, 300), ("", 5, 10, 300), ("default", 5, 10, 300), ("acme", 50, 10, 3000),
        ("acme-us", 5, 7, 300), ("acme-eu", 5, 7, 3), ("x" * 10_000, 5, 10, 300),
        ("*", 5, 10, 300), ("x?", 5, 10, 300), ("acme-*", 5, 7, 300), ("\x00\n", 5, 10, 300),
    ],
)  # fmt: skip
def test_tenants(tenant, rate, burst, window):
    assert service(TENANTS).tenant(tenant) == Spec(Fraction(rate), burst, (Window(window, MINUTE),))


def test_tenants_without_a_limit():
    assert service(TENANTS).tenant("free") is None
    assert service(TENANTS, "search").tenant("acme").rate == 1
    assert service(TENANTS, "search").tenant("corp") is None


def test_a_tenant_that_is_called_default_is_as_any_other():
    tenants = "{default: {requests_per_second: 1}, 'd*': {requests_per_second: 2}}"
    assert service(f"services: {{pay: {{tenants: {tenants}}}}}").tenant("default").rate == 2


def test_without_workers_to_watch_nothing_is_in_flight():
    policy = parse_policy("services: {'a*': {max_in_flight: 5, worker_group: w}, '*b': {worker_group: null}}")
    assert policy.service("a").max_in_flight == 5
    assert policy.service("ab").max_in_flight is None


def test_a_hundred_thousand_tenants_leave_nothing_behind():
    tenants = service(TENANTS).tenants
    assert len({id(tenants.spec(f"tenant-{i}")) for i in range(100_000)}) == 1


SAME = [
    """
defaults: {requests_per_second: 10, burst_size: 20}
templates: {t: {window_size: 60}}
groups: {g: {burst_size: 1}}
services: {pay: {max_delay: 3600}, 'r-*': {extends: t}}
""",
    """
# a comment
http: 8080
prefix: other
groups: {g: {burst_size: 1}}
templates: {t: {window_size: 1m}, unused: {burst_size: 3}}
services:
  'r-*':
    extends: t
  pay:
    max_delay: 1h
    window_size: 60
defaults: {burst_size: 20, requests_per_second: 600/min}
""",
]
OTHER = [
    SAME[0].replace("burst_size: 20", "burst_size: 21"),
    SAME[0].replace("3600", "3601"),
    SAME[0].replace("60}", "61}"),
    SAME[0].replace("r-*", "s-*"),
    SAME[0].replace("burst_size: 1}", "burst_size: 2}"),
    SAME[0].replace("max_delay: 3600", "max_delay: 3600, tenants: {acme: {burst_size: 2}}"),
    SAME[0].replace("max_delay: 3600", "max_delay: 3600, shadow: true"),
    SAME[0].replace("{max_delay: 3600}", "{max_delay: 3600}, search: {max_delay: 1}"),
]


def test_the_version_is_that_of_what_holds_not_of_how_it_is_written():
    one, other = (parse_policy(text).version for text in SAME)
    assert one == other
    assert re.fullmatch("[0-9a-f]{6}", one)


def test_the_version_changes_with_what_holds():
    versions = [parse_policy(text).version for text in [SAME[0], *OTHER]]
    assert len(set(versions)) == len(versions)


def test_ten_thousand_services_cost_no_more_than_ten_times_a_thousand():
    def seconds(services: int) -> float:
        entries = "\n".join(
            f"  service-{i}: {{extends: bulk, burst_size: {i + 1}, max_in_flight: 500, worker_group: workers-{i}}}"
            for i in range(services)
        )
        text = f"templates: {{bulk: {{requests_per_second: 10/min}}}}\nservices:\n{entries}\n"
        begun = time.process_time()
        policy = parse_policy(text)
        taken = time.process_time() - begun
        assert policy.service(f"service-{services - 1}").spec.burst == services
        return taken

    few = min(seconds(1_000) for _ in range(3))
    assert seconds(10_000) < 40 * few  # the square would be a hundred times


def test_a_policy_shows_little_of_itself_in_logs():
    assert len(repr(load_policy(EXAMPLE))) < 1500


def test_services_are_placed_into_other_groups_by_command():
    policy = parse_policy("""
groups: {bank: {requests_per_second: 5}, other: {requests_per_second: 5}}
services: {pay: {requests_per_second: 2}, mail: {group: bank}}
""")
    assert policy.placed({}) is policy
    assert policy.placed({"mail": "bank", "pay": None}) is policy
    placed = policy.placed({"pay": "bank", "mail": None})
    assert (placed.shard_key("pay"), placed.shard_key("mail")) == ("group:bank", "mail")
    assert placed.effective("pay").spec == policy.effective("pay").spec
    assert placed.version != policy.version
    assert policy.shard_key("pay") == "pay"
    with pytest.raises(GateError, match="no such group"):
        policy.placed({"pay": "nobody"})
