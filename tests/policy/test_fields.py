from fractions import Fraction

import pytest
from pydantic_core import PydanticCustomError

from gate.policy.fields import read_count, read_duration, read_rate, read_ratio, read_weight
from gate.policy.names import Glob, globs_of, read_label, read_service, read_tenant
from gate.policy.wording import spell_duration, spell_rate, spell_value
from gate.units import SECOND

MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND


@pytest.mark.parametrize(
    ("written", "ns"),
    [
        (60, MINUTE), (0.5, SECOND // 2), (0.1, 100_000_000), (1e-9, 1), (1e-12, 1), ("500ms", 500_000_000),
        ("90s", 90 * SECOND),
        ("1m", MINUTE), ("1min", MINUTE), ("1h30m", 90 * MINUTE), ("1.5h", 90 * MINUTE), ("7d", 7 * DAY),
        ("0.000000001s", 1), (100 * 365 * 86_400, 36_500 * DAY),
    ],
)  # fmt: skip
def test_durations(written, ns):
    assert read_duration(written) == ns


@pytest.mark.parametrize(
    "written",
    [0, -1, 0.0, -0.5, float("inf"), float("nan"), True, None, "", "0", "1h30", "1:30", "h", "-1h", "0s", "1H", "1y",
     "1e3s", "36501d", [], {}, 100 * 365 * 86_400 + 1, 10**400, "9" * 500 + "s", "yes"],
)  # fmt: skip
def test_what_is_no_duration(written):
    with pytest.raises(PydanticCustomError):
        read_duration(written)


@pytest.mark.parametrize(
    ("written", "rate"),
    [
        (10, 10), (0, 0), ("0", 0), (2.5, Fraction(5, 2)), (0.1, Fraction(1, 10)), ("10/min", Fraction(1, 6)),
        ("1/3s", Fraction(1, 3)),
    ],
)  # fmt: skip
def test_rates(written, rate):
    assert read_rate(written) == rate


@pytest.mark.parametrize(
    "written", [False, -1, float("nan"), float("inf"), True, None, "", "ten", "10/", "/s", "10/fortnight", [], {}]
)
def test_what_is_no_rate(written):
    with pytest.raises(PydanticCustomError):
        read_rate(written)


@pytest.mark.parametrize("written", [0, -1, 1.0, True, "1", None, 10**15 + 1, 2**63])
def test_what_is_no_count(written):
    with pytest.raises(PydanticCustomError):
        read_count(written)


@pytest.mark.parametrize("written", [0, -1, 0.0, float("nan"), float("inf"), True, False, "1", None, 1e300, 1e-300])
def test_what_is_no_weight(written):
    with pytest.raises(PydanticCustomError):
        read_weight(written)


def test_weights_are_exact():
    assert [read_weight(weight) for weight in (6, 0.1, 0.5)] == [6, Fraction(1, 10), Fraction(1, 2)]


@pytest.mark.parametrize("written", [0, -0.1, 1.1, 80, True, float("nan"), "0.8", None])
def test_what_is_no_ratio(written):
    with pytest.raises(PydanticCustomError):
        read_ratio(written)


@pytest.mark.parametrize("name", ["pay", "a.b-c_d", "404", "reports-*", "*", "?x", "A" * 249])
def test_services(name):
    assert read_service(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a b", "a/b", "ä", "a[b]", "a\n", "a\x00", 404, None, True, "{service}"]
)
def test_what_is_no_service(name):
    with pytest.raises(PydanticCustomError):
        read_service(name)


@pytest.mark.parametrize("name", ["acme", "Müller & Söhne", "a[b]", "acme-*", "x" * 256])
def test_tenants(name):
    assert read_tenant(name) == name


@pytest.mark.parametrize("name", ["", " acme", "acme\n", "a\x00b", "x" * 257, "x" * 10_000, 7, None])
def test_what_is_no_tenant(name):
    with pytest.raises(PydanticCustomError):
        read_tenant(name)


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "*", "x" * 65, 7, None])
def test_what_is_no_label(name):
    with pytest.raises(PydanticCustomError):
        read_label(name)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("reports-*", "reports-eu", True), ("reports-*", "reports-", True), ("reports-*", "reports", False),
        ("reports-*", "my-reports-x", False),
        ("*", "", True), ("?", "", False), ("a?c", "abc", True), ("a.c", "abc", False), ("a*c*e", "abcde", True),
        ("a*c*e", "abcd", False),
        ("[ab]*", "[ab]x", True), ("[ab]*", "ax", False), ("*", "a\nb", True), ("a*", "a\n", True),
        ("*a", "a\n", False),
        ("A*", "ab", False),
    ],
)  # fmt: skip
def test_globs_match_whole_names_and_nothing_but_two_signs_is_special(pattern, name, matches):
    assert Glob.compile(pattern).matches(name) is matches


def test_the_more_literal_glob_is_the_more_specific_and_equals_stay_in_order():
    assert [glob.pattern for glob in globs_of(["ab*", "*", "b", "a*", "*b", "?*", "abc*"])] == [
        "*",
        "?*",
        "a*",
        "*b",
        "ab*",
        "abc*",
    ]


def test_a_glob_takes_no_time_that_a_hostile_name_could_stretch():
    # With a matcher that backtracks, this would not end.
    assert not Glob.compile("*a" * 30 + "b").matches("a" * 10_000)


@pytest.mark.parametrize(
    ("ns", "text"),
    [(SECOND, "1s"), (MINUTE, "1m"), (90 * SECOND, "90s"), (HOUR, "1h"), (DAY, "1d"), (1_500_000_000, "1500ms"),
     (1, "0.000000001s")],
)  # fmt: skip
def test_spelt_durations_read_back(ns, text):
    assert spell_duration(ns) == text
    assert read_duration(text) == ns


@pytest.mark.parametrize(
    ("rate", "text"),
    [(10, "10/s"), (Fraction(1, 6), "10/min"), (Fraction(1, 3600), "1/h"),
     (Fraction(5, 2), "150/min"), (Fraction(1, 7), "1/7s")],
)  # fmt: skip
def test_spelt_rates_read_back(rate, text):
    assert spell_rate(Fraction(rate)) == text
    assert read_rate(text) == rate


def test_values_are_spelt_on_one_line():
    assert spell_value({"a": 6, "b": 0.5}) == "a: 6, b: 0.5"
    assert (
        spell_value([{"limit": 100, "size": "1d"}, {"limit": 5, "size": 1}])
        == "[{limit: 100, size: 1d}, {limit: 5, size: 1}]"
    )
    assert [spell_value(value) for value in (None, True, "x", ["a", "b"])] == ["none", "true", "x", "[a, b]"]
