"""One grammar of lengths of time, for policy files, options and variables."""

import pytest

from gate.policy.fields import read_duration
from gate.units import MS, SECOND, parse_duration

MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("90", 90 * SECOND), ("1.5", 1500 * MS), ("90s", 90 * SECOND), ("90 s", 90 * SECOND), (" 90s ", 90 * SECOND),
        ("250ms", 250 * MS), ("1m", MINUTE), ("1min", MINUTE), ("2 h", 2 * HOUR), ("1h30m", 90 * MINUTE),
        ("1h 30 min", 90 * MINUTE), ("1.5h", 90 * MINUTE), ("7d", 7 * DAY), ("1d1h1m1s1ms", DAY + HOUR + 61_001 * MS),
        ("0.1s", 100 * MS), ("0.000000001", 1), ("0.0000001ms", 1), ("0", 0), ("0s", 0),
    ],
)  # fmt: skip
def test_a_length_of_time(text, ns):
    assert parse_duration(text) == ns
    if ns:
        assert read_duration(text) == ns


@pytest.mark.parametrize(
    "text",
    ["", " ", "soon", "h", "5 parsecs", "1:30", "-1h", "+5", "1h-30m", "1H", "1y", "1e3s", "1h30", "30 1h", "1 2",
     "1..5s", ".5s", "5.s", "inf", "nan", "1_000", "\u0661s", "1\ts", "9" * 500 + "s"],
)  # fmt: skip
def test_what_is_none_is_told_how_it_is_written(text):
    with pytest.raises(ValueError, match="write seconds as a number, or text such as 500ms, 90s, 1m, 1h30m"):
        parse_duration(text)
