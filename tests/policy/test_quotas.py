"""Calendar quotas in a policy file: read strictly, inherited, spelt, compared, and no new version for who has none."""

import pytest

from gate.limits import Per, Quota
from gate.policy import PolicyError, parse_policy
from gate.policy.difference import difference
from gate.policy.wording import spell_spec

PAY = "services: {pay: {quotas: [{limit: 100, per: month, timezone: Europe/Berlin}, {limit: 10, per: day}]}}"


def test_quotas_are_those_of_the_file_shorter_periods_first() -> None:
    spec = parse_policy(PAY).effective("pay").spec
    assert spec.quotas == (Quota(10, Per.DAY, "UTC"), Quota(100, Per.MONTH, "Europe/Berlin"))
    assert spec.ceiling == 10
    assert spell_spec(spec) == "10 per day of UTC; 100 per month of Europe/Berlin"


def test_of_two_for_the_same_periods_the_lower_holds() -> None:
    policy = parse_policy("services: {pay: {quotas: [{limit: 9, per: week}, {limit: 7, per: week}]}}")
    assert policy.effective("pay").spec.quotas == (Quota(7, Per.WEEK),)


def test_quotas_are_inherited_whole_and_null_takes_them_away() -> None:
    text = "defaults: {quotas: [{limit: 1, per: day}]}\nservices: {a: {burst_size: 2}, b: {quotas: null}}\n"
    policy = parse_policy(text + "groups: {bank: {quotas: [{limit: 3, per: year}]}}")
    assert [len(policy.effective(name).spec.quotas) for name in ("a", "b", "c")] == [1, 0, 1]
    assert policy.groups["bank"].spec.quotas == (Quota(3, Per.YEAR),)
    assert (policy.explain("a")["quotas"].source, policy.explain("a")["quotas"].line) == ("defaults", 1)


def test_tenants_have_their_own() -> None:
    text = "services: {pay: {tenants: {default: {quotas: [{limit: 5, per: day}]}, acme: {quotas: null}}}}"
    service = parse_policy(text).effective("pay")
    spec = service.tenant("someone")
    assert spec is not None
    assert spec.quotas == (Quota(5, Per.DAY),)
    assert service.tenant("acme") is None


@pytest.mark.parametrize(
    ("quota", "message"),
    [
        ("{limit: 1, per: hour}", "write day, week, month or year"),
        ("{limit: 1, per: moth}", "did you mean month?"),
        ("{limit: 1, per: day, timezone: Europe/Berln}", 'unknown time zone "Europe/Berln"'),
        ("{limit: 1, per: day, timezone: Europe/Berln}", "did you mean Europe/Berlin?"),
        ("{limit: 1, per: day, timezone: Europe}", 'unknown time zone "Europe"'),
        ("{limit: 1, per: day, timezone: ../../etc/passwd}", "unknown time zone"),
        ("{limit: 1, per: day, timezone: 1}", "must be a time zone, not 1"),
        ("{limit: 0, per: day}", "limit"),
        ("{per: day}", "is missing"),
        ("{limit: 1, per: day, zone: UTC}", "unknown field"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(quota: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(f"services: {{pay: {{quotas: [{quota}]}}}}")
    assert message in "; ".join([str(caught.value), *[problem.hint for problem in caught.value.problems]])
    assert "services.pay.quotas[0]" in str(caught.value)


def test_a_difference_names_the_quota() -> None:
    (change,) = difference(parse_policy(PAY), parse_policy(PAY.replace("100", "200")))
    assert (change.kind, change.name, change.field) == ("service", "pay", "quotas")


def test_the_version_of_a_policy_without_quotas_is_as_ever() -> None:
    text = "defaults: {requests_per_second: 100, window_size: 60}\nservices: {pay: {windows: [{limit: 5, size: 1}]}}"
    assert parse_policy(text).version == "0e920d"
    assert parse_policy(text.replace("windows", "quotas: [{limit: 5, per: day}], windows")).version != "0e920d"
