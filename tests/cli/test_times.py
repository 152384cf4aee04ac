"""Times as people write them."""

import time
from datetime import UTC, datetime

import pytest

from gate.cli.options import told_seconds
from gate.cli.times import moment
from gate.units import SECOND, parse_duration


@pytest.fixture(autouse=True)
def berlin(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "now", "then"),
    [
        ("18:30", "2026-01-31T17:00:00Z", "2026-01-31T17:30:00Z"),
        ("18:30", "2026-01-31T17:30:00Z", "2026-02-01T17:30:00Z"),
        ("tomorrow 9:00", "2026-01-31T23:30:00Z", "2026-02-02T08:00:00Z"),
        ("tomorrow 9:00", "2026-03-28T12:00:00Z", "2026-03-29T07:00:00Z"),  # the day on which summer time begins
        ("9:00", "2026-10-24T12:00:00Z", "2026-10-25T08:00:00Z"),  # and ends
        ("today 18:30:15", "2026-01-31T20:00:00Z", "2026-01-31T17:30:15Z"),
        ("2026-05-01T09:00", "2026-01-31T20:00:00Z", "2026-05-01T07:00:00Z"),
    ],
)
def test_a_time_is_meant_by_the_local_clock(text, now, then):
    assert moment(text, datetime.fromisoformat(now)) == datetime.fromisoformat(then)


@pytest.mark.parametrize("text", ["noon", "25:00", "yesterday 9:00", "tomorrow", ""])
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match="is no time; give 18:30, tomorrow 9:00"):
        moment(text, datetime.now(UTC))


@pytest.mark.parametrize(
    ("seconds", "told"), [(30.0, "30s"), (86_400.0, "1d"), (5400.0, "90m"), (7200.0, "2h"), (0.5, "0.5s"), (None, None)]
)
def test_help_tells_a_default_as_it_is_written(seconds, told):
    assert told_seconds(seconds) == told
    assert seconds is None or parse_duration(told) == seconds * SECOND
