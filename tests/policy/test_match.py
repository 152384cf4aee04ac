"""What belongs to a service of what Envoy asks: read strictly, and no new version for who has none."""

import pytest

from gate.policy import PolicyError, parse_policy
from gate.policy.compiled import Match
from gate.policy.settings import Unmatched

PAY = 'services: {pay: {match: {domain: edge, descriptors: {path: /pay, key: "*"}, tenant: key}}}'


def test_one_or_several_are_read() -> None:
    assert parse_policy(PAY).effective("pay").match == (Match("edge", {"path": "/pay", "key": "*"}, "key"),)
    two = "services: {pay: {match: [{domain: a, descriptors: {x: y}}, {domain: b, descriptors: {x: y}}]}}"
    assert [match.domain for match in parse_policy(two).effective("pay").match] == ["a", "b"]
    assert parse_policy("services: {pay: {}}").effective("pay").match == ()


def test_it_is_part_of_the_version_only_where_it_is_said() -> None:
    plain = parse_policy("services: {pay: {requests_per_second: 5}}")
    assert parse_policy("services: {pay: {requests_per_second: 5, match: null}}").version == plain.version
    said = "services: {pay: {requests_per_second: 5, match: {domain: a, descriptors: {x: y}}}}"
    assert parse_policy(said).version != plain.version


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("services: {pay: {match: {descriptors: {x: y}}}}", "domain"),
        ("services: {pay: {match: {domain: a}}}", "descriptors"),
        ("services: {pay: {match: {domain: a, descriptors: {}}}}", "at least one key"),
        ("services: {pay: {match: {domain: a, descriptors: {x: 5}}}}", 'write "5" in quotes'),
        ("services: {pay: {match: {domain: a, descriptors: {x: y}, tenent: x}}}", "did you mean tenant"),
        ("services: {pay: {match: {domain: a, descriptors: {x: y}, tenant: z}}}", '"z" is no key'),
        ("services: {'pay-*': {match: {domain: a, descriptors: {x: y}}}}", "only a service with a name of its own"),
        ("defaults: {match: {domain: a, descriptors: {x: y}}}", "only a service with a name of its own"),
        ("services: {a: &m {match: {domain: a, descriptors: {x: y}}}, b: *m}", 'matches what "a" matches'),
        ("unmatched: maybe", "allow or refuse"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text)
    assert message in str(caught.value) + str(caught.value.render())


def test_what_becomes_of_others_is_said_at_the_top() -> None:
    assert parse_policy("services: {}").settings.unmatched is Unmatched.ALLOW
    assert parse_policy("unmatched: refuse").settings.unmatched is Unmatched.REFUSE
