"""What is plotted of a service: its track, kept up by the feed, and the marks beside it."""

import gzip
import json
from collections.abc import Iterator

import pytest

from gate.admission.model import Total, Verdict
from gate.config import Connection
from gate.console.charts import Charts, since_for, step_for
from gate.console.feed import Feed
from gate.console.history import MOST, WRITTEN_MS, Histories, point_of
from gate.observe.history import Point
from gate.observe.track import Track
from tests.console.conftest import AT_MS


class Read:
    """What the history topic has; counts who reads it."""

    def __init__(self) -> None:
        self.times: list[tuple[str, int]] = []
        self.fault: Exception | None = None

    async def __call__(self, _topic, service, since_ms, fine_ms, **_options) -> Track:
        self.times.append((service, since_ms))
        if self.fault is not None:
            raise self.fault
        track = Track(fine_ms)
        for second in range(60):
            track.add(Point(AT_MS - 60_000 + second * 1_000, 10 * second, 5 * second, second, 5.0), "a:1", "9f2c01")
        return track


@pytest.fixture
def read(monkeypatch) -> Read:
    reads = Read()
    monkeypatch.setattr("gate.console.history.read_history", reads)
    return reads


@pytest.fixture
def feed(group, read, monkeypatch) -> Iterator[Feed]:
    feed = Feed(Connection("localhost:9092"))
    feed.group = group
    feed._ready.set()
    monkeypatch.setattr(feed, "look", lambda: None)
    return feed


def totals(admitted):
    return (Total("", Verdict.ADMITTED, None, False, admitted), Total("", Verdict.ADMITTED, None, True, 4))


def test_a_record_is_a_point_as_its_gate_writes_it(group, tell):
    tell("pay", backlog=3, totals=totals(9))
    assert point_of(group.record("pay")) == Point(AT_MS, 9, 13, 3, 100.0)


async def test_a_track_is_read_once_and_kept_up_by_the_feed(group, tell, feed, read):
    tell("pay", totals=totals(700))
    charts = Charts(feed, lambda: AT_MS)
    shown = await charts.plotted("pay", 60_000, 1_000, names=True)
    assert shown["granted"][5] == 5.0
    assert len(shown["granted"]) == 60
    tell("pay", at_ms=AT_MS + 1_000, totals=totals(730))
    feed.histories.told("pay", group.record("pay"))
    assert (await feed.histories.track("pay", AT_MS - 60_000, AT_MS + 2_000)).newest_ms == AT_MS + 1_000
    assert len(read.times) == 1


async def test_a_longer_time_is_read_anew_and_a_window_that_moves_on_is_not(tell, feed, read):
    tell("pay")
    for since_ms in (60_000, 900_000, 86_400_000, 60_000, 86_400_000):
        await Charts(feed, lambda: AT_MS).plotted("pay", since_ms, 10_000, names=True)
    assert [AT_MS - since for _, since in read.times] == [
        60_000 + AT_MS % 10_000, 900_000 + AT_MS % 10_000, 86_400_000 + AT_MS % 10_000,
    ]  # fmt: skip


async def test_all_who_look_are_answered_the_same_for_some_seconds(tell, feed, read):
    tell("pay")
    now = [AT_MS]
    charts = Charts(feed, lambda: now[0])
    first = await charts.packed("pay", 60_000, 1_000, names=True)
    now[0] += 3_000
    assert await charts.packed("pay", 60_000, 1_000, names=True) is first
    assert await charts.packed("pay", 60_000, 1_000, names=False) is not first
    now[0] += 2_000
    assert await charts.packed("pay", 60_000, 1_000, names=True) is not first
    assert json.loads(gzip.decompress(first))["step_ms"] == 1_000
    assert await charts.packed("no-such", 60_000, 1_000, names=True) is None


async def test_what_gates_had_not_written_when_it_was_read_is_read_once_more(group, tell, feed, read):
    tell("pay", totals=totals(700))
    histories = feed.histories
    first = await histories.track("pay", AT_MS - 60_000, AT_MS)
    tell("pay", at_ms=AT_MS + 1_000, totals=totals(730))
    histories.told("pay", group.record("pay"))
    for later in (WRITTEN_MS - 1, WRITTEN_MS, 2 * WRITTEN_MS, 9 * WRITTEN_MS):
        track = await histories.track("pay", AT_MS - 60_000 + later, AT_MS + later)
    assert len(read.times) == 2
    assert track is not first
    assert track.newest_ms == AT_MS + 1_000, "what the feed has told meanwhile is kept"


async def test_what_can_not_be_read_is_asked_again_and_what_is_now_is_shown(tell, feed, read):
    tell("pay", backlog=3)
    read.fault = TimeoutError()
    charts = Charts(feed, lambda: AT_MS)
    shown = await charts.plotted("pay", 60_000, 1_000, names=True)
    assert shown["waiting"][-1] in {3, None}
    assert len(feed.histories) == 0
    read.fault = None
    assert (await charts.plotted("pay", 60_000, 1_000, names=True))["granted"][5] == 5.0


async def test_those_that_were_looked_at_last_are_kept(read):
    histories = Histories(Connection("localhost:9092"))
    for number in range(2 * MOST):
        await histories.track(f"s{number}", AT_MS, AT_MS)
        await histories.track("s0", AT_MS, AT_MS)
    assert len(histories) == MOST
    assert len(read.times) == 2 * MOST
    histories.clear()
    assert len(histories) == 0


async def test_marks_are_what_the_history_and_the_topics_tell_and_who_only_with_names(tell, feed, read, audited):
    tell("pay", owner="b:2", policy="aaaaaa")
    audited("pause", "pay", who="ann", reason="the bank is down")
    charts = Charts(feed, lambda: AT_MS + 1_000)
    named = (await charts.plotted("pay", 60_000, 1_000, names=True))["marks"]
    assert [(mark["kind"], mark["what"]) for mark in named] == [
        ("take-over", "b:2 took over from a:1"),
        ("policy", "policy aaaaaa, before 9f2c01"),
        ("pause", "pause by ann: the bank is down"),
    ]
    bare = (await charts.plotted("pay", 60_000, 1_000, names=False))["marks"]
    assert [mark["what"] for mark in bare][2] == "pause"


def test_steps_are_no_finer_than_what_is_kept():
    assert (step_for(900_000, 0), step_for(900_001, 0), step_for(900_000, 60_000)) == (1_000, 10_000, 60_000)
    assert step_for(86_400_000, 1) == 10_000
    assert (since_for(1), since_for(10**12)) == (10_000, 86_400_000)


async def test_a_step_is_no_longer_than_what_is_looked_at(tell, feed, read):
    tell("pay")
    since_ms = since_for(60_000)
    shown = await Charts(feed, lambda: AT_MS).plotted("pay", since_ms, step_for(since_ms, 10**21), names=True)
    assert shown["step_ms"] == 60_000
    ((_, start_ms),) = read.times
    assert AT_MS - 2 * since_ms < start_ms <= AT_MS - since_ms, "not before all time"
