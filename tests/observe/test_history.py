"""What gates record of their services, and what becomes of it in steps."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.admission.model import MS, LaneUsage, LimitUsage, Reason, Total, Verdict
from gate.observe.history import MOST, MOST_POINTS, Point, Recorder, Stretch, partition_of, point_of, stretches_of
from gate.observe.track import Change, Track

AT_MS = 1_764_025_120_000


@pytest.fixture
def told(usage):
    """Make a usage: how many were admitted on arrival and after waiting, how many delayed, how many wait."""

    def make(at_ms=AT_MS, admitted=0, pulled=0, delayed=0, waiting=0, service="pay", **fields):
        return usage(
            service=service, at=at_ms * MS, lanes=(LaneUsage("", 1.0, waiting, waiting, 1, 0.0),),
            totals=(
                Total("", Verdict.ADMITTED, None, False, admitted),
                Total("", Verdict.ADMITTED, None, True, pulled),
                Total("", Verdict.DELAYED, Reason.RATE, False, delayed),
            ),
            **fields,
        )  # fmt: skip

    return make


def tracked(recorders, service="pay", *, shuffled=False):
    """Read what gates wrote, in the order in which they did."""
    track = Track()
    for recorder in recorders:
        for partition, value in recorder.drain(8):
            assert partition == partition_of(service, 8) or service not in value.decode()
            if (found := stretches_of(value, service)) is not None:
                track.take(*found)
    return track


def test_a_point_counts_what_came_and_what_was_admitted_sooner_or_later(told):
    assert point_of(told(AT_MS, 70, 30, 50, 20)) == Point(AT_MS, 120, 100, 20, 100.0)
    assert point_of(told(limits=())).limit is None
    quota = LimitUsage("pay.quota.day", 9, 0.1, 0.0, 9, 5)
    assert point_of(told(limits=(quota,))).limit is None, "a calendar quota is no rate"


@given(st.lists(st.tuples(*[st.integers(0, 10**12)] * 4, st.none() | st.floats(0, 1e9)), min_size=1))
def test_a_stretch_is_read_back(rows):
    points = [Point(*row) for row in rows]
    assert Stretch.of("9f2c01", points).points() == points


def test_of_what_is_old_one_point_in_ten_seconds_is_enough(told):
    recorder, track = Recorder("a:1"), Track(AT_MS + 45_000)
    for second in range(60):
        recorder.take(told(AT_MS + second * 1_000, 3 * second, waiting=second))
    ((_, value),) = recorder.drain(8)
    track.take(*stretches_of(value, "pay"))
    assert len(track) == 4 + 15
    steps = track.steps(AT_MS, AT_MS + 59_000, 1_000)
    assert steps.waiting[-14:] == list(range(46, 60))
    assert set(steps.granted[9:]) == {3.0}


def test_a_record_can_be_read_by_itself_and_says_of_which_gate_it_is(told):
    recorder = Recorder("a:1")
    recorder.take(told(AT_MS, 10))
    list(recorder.drain(8))
    recorder.take(told(AT_MS + 1_000, 30))
    ((_, value),) = recorder.drain(8)
    gate, (stretch,) = stretches_of(value, "pay")
    assert gate == "a:1"
    assert stretch.points() == [Point(AT_MS, 10, 10, 0, 100.0), Point(AT_MS + 1_000, 30, 30, 0, 100.0)]
    assert list(recorder.drain(8)) == []


def test_what_is_not_told_of_is_not_found_and_what_is_no_record_is_refused(told):
    recorder = Recorder("a:1")
    recorder.take(told(service="pay-2"))
    ((_, value),) = recorder.drain(8)
    assert stretches_of(value, "pay") is None
    assert stretches_of(value, "a:1") is None
    for broken in (b'"pay"', b'{"gate": "a", "services": {"pay": 5}}', b'\xff"pay"', b"[" * 100_000 + b'"pay"'):
        with pytest.raises(ValueError):
            stretches_of(broken, "pay")


def test_what_came_after_a_pause_came_at_its_end(told):
    recorder = Recorder("a:1")
    recorder.take(told(AT_MS, 10))
    recorder.take(told(AT_MS + 3_600_000, 110))
    steps = tracked([recorder]).steps(AT_MS, AT_MS + 3_600_000, 10_000)
    assert steps.granted[-1] == 10.0
    assert set(steps.granted[:-1]) == {0.0}


def test_all_that_was_admitted_is_in_the_steps_although_a_gate_died_before_it_had_written(told):
    dead, heir = Recorder("a:1"), Recorder("b:2")
    for second in range(20):
        dead.take(told(AT_MS + second * 1_000, 100 * second))
    written = tracked([dead])
    for second in range(20, 40):
        dead.take(told(AT_MS + second * 1_000, 100 * second))  # lost with it
    for second in range(45, 60):
        heir.take(told(AT_MS + second * 1_000, 100 * second))
    for _, value in heir.drain(8):
        written.take(*stretches_of(value, "pay"))
    steps = written.steps(AT_MS, AT_MS + 60_000, 1_000)
    assert sum(steps.granted) == pytest.approx(5_900)
    assert steps.granted[30] == pytest.approx(100.0), "over what nobody knows it is spread"
    assert written.changes == [Change(AT_MS + 45_000, "take-over", "b:2", "a:1")]


def test_a_batch_that_failed_is_not_counted_twice_and_a_reset_is_no_loss(told):
    recorder = Recorder("a:1")
    for second, admitted in enumerate((1_000, 1_100, 1_000, 1_120, 5, 25)):  # told, failed, again; reset
        recorder.take(told(AT_MS + second * 1_000, admitted))
    steps = tracked([recorder]).steps(AT_MS, AT_MS + 5_000, 1_000)
    assert steps.granted == [100.0, 0.0, 20.0, 5.0, 20.0]


def test_before_the_first_point_nothing_is_known_and_behind_the_last_nothing_came(told):
    track = Track()
    assert track.steps(AT_MS, AT_MS + 2_000, 1_000).granted == [None, None]
    track.add(Point(AT_MS, 5, 5, 7, None), "a:1", "p")
    steps = track.steps(AT_MS - 2_000, AT_MS + 3_000, 1_000)
    assert steps.granted == [None, None, 0.0, 0.0, 0.0]
    assert steps.waiting == [None, 7, 7, 7, 7]
    assert set(steps.limit) == {None}
    assert json.loads(json.dumps(steps.as_json()))["step_ms"] == 1_000


def test_a_change_of_the_policy_is_told_at_its_time(told):
    recorder = Recorder("a:1")
    recorder.take(told(AT_MS, policy="aaaaaa"))
    recorder.take(told(AT_MS + 1_000, policy="aaaaaa"))
    recorder.take(told(AT_MS + 2_000, policy="bbbbbb"))
    assert tracked([recorder]).changes == [Change(AT_MS + 2_000, "policy", "bbbbbb", "aaaaaa")]


def test_what_is_older_than_a_quarter_of_an_hour_is_kept_in_steps_of_ten_seconds_for_a_day():
    track = Track()
    for second in range(100_000):
        track.add(Point(AT_MS + second * 1_000, 3 * second, 2 * second, second, 1.0), "a:1", "p")
    assert len(track) < 8_640 + 900 + 1_000 + 2
    end = AT_MS + 99_999_000
    assert set(track.steps(end - 900_000, end, 1_000).waiting) == set(range(99_100, 100_000))
    day = track.steps(end - 86_000_000, end, 10_000)
    assert set(day.offered) == {3.0}
    assert sum(day.granted) * 10 == pytest.approx(2 * 86_000)


def test_a_point_that_comes_twice_or_late_changes_nothing(told):
    recorder, track = Recorder("a:1"), Track()
    recorder.take(told(AT_MS, 1))
    recorder.take(told(AT_MS, 2))
    recorder.take(told(AT_MS - 1, 3))
    ((_, value),) = recorder.drain(8)
    for _ in range(2):
        track.take(*stretches_of(value, "pay"))
    assert len(track) == 1


def test_many_services_are_told_in_records_that_brokers_take(told):
    recorder = Recorder("a:1")
    one = told()
    for number in range(10_000):
        for second in range(4):
            recorder.take(replace(one, service=f"service-{number:05}", at=(AT_MS + second * 8_000) * MS))
    records = list(recorder.drain(8))
    assert len(records) == sum(-(-count // MOST) for count in _per_partition())
    assert max(len(value) for _, value in records) < 500_000
    assert sum(value.count(b'"policy"') for _, value in records) == 10_000


def _per_partition():
    counts = [0] * 8
    for number in range(10_000):
        counts[partition_of(f"service-{number:05}", 8)] += 1
    return counts


def test_what_can_not_be_written_does_not_pile_up(told, monkeypatch):
    monkeypatch.setattr("gate.observe.history.MOST_POINTS", 50)
    recorder = Recorder("a:1")
    for second in range(100):
        recorder.take(told(AT_MS + second * 1_000, second))
    assert recorder.lost == 50
    assert MOST_POINTS > 10_000 * 8
    assert len(tracked([recorder])) == 50
    recorder.take(told(AT_MS + 100_000, 100))
    assert tracked([recorder]).newest_ms == AT_MS + 100_000


def test_a_service_that_comes_back_begins_anew(told):
    recorder = Recorder("a:1")
    recorder.take(told(AT_MS, 10))
    list(recorder.drain(8))
    recorder.forget("pay")
    recorder.take(told(AT_MS + 60_000, 70))
    ((_, value),) = recorder.drain(8)
    assert [len(stretch.at_ms) for stretch in stretches_of(value, "pay")[1]] == [1]


@pytest.mark.parametrize("column", ["at_ms", "offered", "granted", "waiting"])
@pytest.mark.parametrize("number", [2**63, -(2**63), 10**400, -1], ids=["2**63", "-(2**63)", "10**400", "-1"])
def test_numbers_that_no_gate_can_have_told_are_passed_over(column, number):
    points = {"at_ms": [AT_MS], "offered": [1], "granted": [1], "waiting": [0], "limit": [None], "policy": "p"}
    forged = {"gate": "x", "services": {"pay": [{**points, column: [number]}]}}
    track = Track()
    track.take(*stretches_of(json.dumps(forged).encode(), "pay"))
    assert len(track) == 0
    track.add(Point(AT_MS, 1, 1, 0, None), "a:1", "p")
    assert track.steps(AT_MS - 1_000, AT_MS, 1_000).waiting == [0]


def test_counts_that_rise_and_fall_without_end_fit():
    track = Track()
    for number in range(3_000):
        track.add(Point(AT_MS + number, number % 2 * 2**53, 0, 0, None), "a:1", "p")
    assert track.newest_ms == AT_MS + 2_999


def test_a_point_of_the_future_does_not_hide_what_comes_until_then():
    track = Track()
    for at_ms in (AT_MS, AT_MS + 10**12, AT_MS + 1_000):
        track.take("a:1", [Stretch.of("p", [Point(at_ms, 1, 1, 0, None)])], AT_MS + 2_000)
    assert [point.at_ms for point in track.since(0)] == [AT_MS, AT_MS + 1_000]
