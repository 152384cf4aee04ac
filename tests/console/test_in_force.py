"""What is set over the policy file is told by usage, however much was commanded since, and what is in force by both."""

import msgspec
import pytest

from gate.cli.commanded import as_json, in_words
from gate.console.anonymous import usage_without_names
from gate.console.commanded import AUDITS, Commanded
from gate.console.in_force import explained, in_force
from gate.console.told_policy import ToldPolicy
from gate.console.words import until
from gate.observe.usage import from_json, to_json
from gate.policy import parse_policy
from gate.policy.live import EXPLAINED, LiveService
from gate.protocol.policies import LimitSet, LiveLimit, Published
from tests.console.conftest import AT_MS, usage_of

OWN = LimitSet({"requests_per_second": "50", "burst_size": 80}, AT_MS + 1000, "ann", "campaign")
SHARED = LimitSet({"requests_per_second": "90"}, None, "bob", "the bank", group="both")
POLICY = parse_policy("""
groups: {both: {requests_per_second: 100, burst_size: 100}}
services:
  pay: {requests_per_second: 5, burst_size: 3, group: both, tenants: {acme: {burst_size: 1, requests_per_second: 2}}}
""")


def test_a_limit_is_shown_however_much_was_commanded_since(tell, group, audited):
    audited("set-limit", "pay", after={"requests_per_second": "50"})
    tell("pay", limit_set=OWN, group_limit_set=SHARED, limits_version=3, group_limits_version=1, tenants_limited=1_000)
    for _ in range(AUDITS + 1):
        audited("pause", "other")
    line = group.line("pay", AT_MS, names=True)
    assert (line.limit_set, line.group_limit_set, line.tenants_limited) == (OWN, SHARED, 1_000)
    assert line.limit_set.text == "requests_per_second 50, burst_size 80"
    hidden = group.line("pay", AT_MS, names=False).limit_set
    assert (hidden.who, hidden.why, hidden.text) == ("", "", OWN.text)
    assert group.line("pay", AT_MS + 1000, names=True).limit_set is None, "its end is over, and its owner may be away"
    tell("pay", limits_version=4)
    assert group.line("pay", AT_MS, names=True).limit_set is None


def test_usage_tells_it_as_json_and_strangers_no_names():
    shown = to_json(usage_of("pay")) | {"limit_set": msgspec.to_builtins(OWN)}
    assert from_json(shown).limit_set == OWN
    told = usage_without_names(shown)["limit_set"]
    assert (told["who"], told["why"], told["fields"]) == ("", "", OWN.fields)
    assert from_json(to_json(usage_of("pay"))).limit_set is None


def test_it_is_said_in_words_and_as_json():
    told = from_json(to_json(usage_of("pay")) | {
        "limit_set": msgspec.to_builtins(OWN), "group_limit_set": msgspec.to_builtins(SHARED), "tenants_limited": 2_000,
    })  # fmt: skip
    assert list(in_words(Commanded(), told, AT_MS, paused=False)) == [
        f"limit set by ann {until(AT_MS + 1000, AT_MS)} (requests_per_second 50, burst_size 80): campaign",
        "limit of group both set by bob until cleared (requests_per_second 90): the bank",
        "limits of 2,000 tenants are set over the policy file",
    ]
    assert as_json(Commanded(), told, AT_MS + 1000, paused=False)["limit_set"] is None


@pytest.mark.parametrize("fields", [{"requests_per_second": "much"}, {"burst_size": "x"}, {"nonsense": 1}, {}])
def test_what_no_gate_has_written_is_not_heeded(tell, group, fields):
    tell("pay", limit_set=LimitSet(fields), limits_version=1)
    record = group.record("pay")
    assert in_force(POLICY, [record], AT_MS).explain("pay")["requests_per_second"].value == 5
    assert group.line("pay", AT_MS, names=True) is not None


def test_what_is_in_force_is_the_file_with_what_is_set_over_it(tell, group):
    tell("pay", limit_set=OWN, group_limit_set=SHARED, limits_version=3, group_limits_version=1)
    record = group.record("pay")
    tenants = {"pay": {"acme": LiveLimit(burst_size=7), "over": LiveLimit(burst_size=9, until_ms=AT_MS)}}
    policy = in_force(POLICY, [record], AT_MS, tenants)
    fields = explained(policy, "pay", names=True)
    assert fields["requests_per_second"]["value"] == "50"
    assert fields["requests_per_second"]["source"].startswith("live until ")
    assert fields["tenants.acme.burst_size"] == {"value": 7, "source": "live", "line": None}
    assert "tenants.over.burst_size" not in fields, "its time is over"
    assert policy.explain_group("both")["requests_per_second"].source == "live"
    assert not [name for name in explained(policy, "pay", names=False) if name.startswith("tenants")]
    by_gate = POLICY.overlaid({
        "pay": LiveService(3, OWN.as_limit(), tenants["pay"]), "group:both": LiveService(1, SHARED.as_limit())
    })  # fmt: skip
    assert policy.version_of("pay") == by_gate.version_of("pay"), "what it decides is stamped so"
    later = in_force(POLICY, [record], AT_MS + 1000)
    assert explained(later, "pay", names=True)["requests_per_second"]["value"] == 5


async def test_the_policy_is_told_anew_only_when_something_changes(tell, group):
    asked = []

    async def look(wanted, others):
        asked.append((dict(wanted), others))
        return {"pay": {"acme": Published(1, LiveLimit(burst_size=len(asked)))}}

    told = ToldPolicy(look)

    async def fields(names=True):
        answer = msgspec.json.decode(await told.policy(POLICY, group.limited(), group.services(), AT_MS, names=names))
        return answer, answer["services"]["pay"]

    assert (await fields())[1]["requests_per_second"]["source"] == "exact"
    assert asked == [], "nothing is set for tenants"
    tell("pay", limit_set=OWN, group_limit_set=SHARED, limits_version=3, group_limits_version=1, tenants_limited=5)
    answer, service = await fields()
    assert service["requests_per_second"]["source"].startswith("live until ")
    assert service["tenants.acme.burst_size"]["value"] == 1
    assert answer["groups"]["both"]["requests_per_second"]["source"] == "live"
    assert answer["tenants_limited"] == {"pay": 5}
    assert asked == [({"pay": frozenset({"acme"})}, EXPLAINED)]
    tell("pay", limit_set=OWN, group_limit_set=SHARED, limits_version=3, group_limits_version=1, tenants_limited=5)
    assert (await fields())[1]["tenants.acme.burst_size"]["value"] == 1
    assert "acme" not in str(await fields(names=False)), "and nobody looks for a stranger"
    assert len(asked) == 1
    tell("pay", limit_set=OWN, group_limit_set=SHARED, limits_version=4, group_limits_version=1, tenants_limited=5)
    assert (await fields())[1]["tenants.acme.burst_size"]["value"] == 2
