"""Numbers and times as people read them."""

import pytest

from gate.console import words
from gate.observe.usage import FOREVER_MS

AT_MS = 1_764_025_123_456


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (6.1e-135, "0"), (0.004, "0"), (0.36, "0.36"), (1.94, "1.9"), (3.0, "3"), (99.96, "100.0"),
     (1234.4, "1,234"), (1_200_000, "1.2 M"), (37_000_000, "37 M"), (1e308, "countless"), (2**80, "countless")],
)  # fmt: skip
def test_a_number_is_short(value, said):
    assert words.number(value) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "unknown"), (0, "now"), (0.4, "0.4 s"), (9.96, "10.0 s"), (42.4, "42 s"), (119, "119 s"), (150, "2.5 min"),
     (7_200, "2.0 h"), (86_400 * 40, "40 d")],
)  # fmt: skip
def test_a_length_of_time_is_short(seconds, said):
    assert words.duration(seconds) == said


def test_a_time_has_its_date_on_another_day():
    assert words.clock(AT_MS, AT_MS + 1000) == "22:58:43"
    assert words.clock(AT_MS, AT_MS + 86_400_000) == "2025-11-24 22:58"
    assert words.until(FOREVER_MS, AT_MS) == words.until(None, AT_MS) == "until resumed"


@pytest.mark.parametrize("at_ms", [FOREVER_MS - 1, 10**15, -(10**15), -(10**18)])
def test_a_time_that_no_calendar_has_is_a_time_all_the_same(at_ms):
    assert words.clock(at_ms, AT_MS) == f"{at_ms} ms"


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "none"), (True, "true"), (60, "60"), ({"high": 6, "low": 1}, "high: 6, low: 1"), (["a", "b"], "a, b")],
)
def test_a_value_of_a_policy_reads_as_in_its_file(value, said):
    assert words.text(value) == said


@pytest.mark.parametrize(
    ("per_second", "said"),
    [(0, "0/s"), (1 / 3600, "1/h"), (10 / 60, "0.17/s"), (1 / 60, "1/min"), (1 / 86400, "1/day"), (1000, "1,000/s")],
)
def test_a_limit_is_never_said_to_be_0_where_it_gives_something(per_second, said):
    assert words.limit(per_second) == said


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("requests_per_second", "requests_|per_|second"),
        ("tenants.acme.burst_size", "tenants.|acme.|burst_|size"),
        ("payments", "payments"),
        ("gate.requests.pay-3@91", "gate.|requests.|pay-|3@|91"),
        ("internationalization" * 2, "internationa|lizationinte|rnationaliza|tion"),
        ('<b>"&', "&lt;b&gt;&#34;&amp;"),
        ("x" * 24, "x" * 12 + "|" + "x" * 12),
    ],
)
def test_a_long_name_may_be_broken_where_its_parts_end(name, told):
    assert words.soft(name) == told.replace("|", "<wbr>")
