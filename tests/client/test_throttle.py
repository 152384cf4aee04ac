"""The throttle before the real engine, under simulated time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.admission.engine import Engine
from gate.admission.limits.budget import Budgets
from gate.admission.model import Run, Verdict
from gate.client._throttle import Report, Throttle
from gate.client._usage import decode
from gate.observe.usage import encode, to_json
from tests.client.pipelines import EPOCH, SERVICE, Pipeline, World, policy_of

LIMIT = "requests_per_second: 1000, burst_size: 100, window_size: null"


def world(*items, max_wait=2.0, since=(0.0, 0.0, 0.0), policy=LIMIT, lanes=("", "", ""), **conditions):
    pipelines = [
        Pipeline(Throttle(max_wait=max_wait), count, since=start, lane=lane)
        for count, start, lane in zip(items, since, lanes, strict=False)
    ]
    return World(policy, pipelines, **conditions)


@pytest.mark.parametrize("max_wait", [30.0, 2.0])
def test_a_pipeline_takes_no_longer_than_the_limit_asks_for(max_wait):
    done = world(60_000, max_wait=max_wait).run(70)
    assert 59.5 <= done.finished <= 60 * 1.02
    assert done.worst(1.0) <= max_wait
    assert done.least(1.0, 59.0) > 0.05  # the gate always has something to admit


def test_the_backlog_may_be_the_target():
    done = World(LIMIT, [Pipeline(Throttle(max_backlog=1000), 10_000)]).run(15)
    assert done.finished <= 10 * 1.02
    assert done.worst(0.0) <= 1.0
    assert done.least(1.0, 9.0) > 0.05


def test_reports_may_be_doubled_and_late():
    late = world(20_000, delay=lambda at: (int(at) * 7 % 4) * 0.8, copies=2).run(30)
    assert late.finished <= 20 * 1.02
    assert late.worst(1.0) <= 2.0


@pytest.mark.parametrize(("limit", "ideal"), [(3000, 5 + 15_000 / 3000), (400, 5 + 15_000 / 400)])
def test_a_changed_limit_is_followed(limit, ideal):
    done = world(20_000, changes={5: LIMIT.replace("1000", str(limit))}).run(60)
    assert done.finished <= ideal + 0.5  # it is told within a second, and half of that is in the backlog
    assert done.worst(1.0, 5.0) <= 2.0
    assert done.worst(8.0) <= 2.0  # what waited as the limit was cut waits longer; then the target holds again


@pytest.mark.parametrize("max_wait", [30.0, 2.0])
def test_a_gate_that_is_away_finds_a_bounded_backlog(max_wait):
    done = world(30_000, max_wait=max_wait, away=[(10, 30)]).run(60)
    assert done.worst(10.0, 30.0) <= max_wait + 3.0  # for three seconds it might only be late
    assert done.worst(33.0) <= max_wait
    assert done.finished <= 50 * 1.02


def test_a_pipeline_may_go_on_without_a_gate():
    going = Pipeline(Throttle(max_wait=2.0, when_away="go_on", away_after=5.0), 20_000)
    World(LIMIT, [going], away=[(5, 1e9)]).run(25)
    assert going.between(5, 11) <= 6000
    assert 4900 <= going.between(12, 17) <= 5100


def test_pipelines_that_come_one_after_another_share_evenly():
    three = world(30_000, 30_000, 30_000, since=[0, 5, 15]).run(35, until_done=False)
    shares = [[p.between(start, start + 5) for p in three.pipelines] for start in (10, 25, 30)]
    assert shares[0][0] == pytest.approx(2500, rel=0.1)
    assert shares[0][1] == pytest.approx(2500, rel=0.1)
    for share in shares[1] + shares[2]:
        assert share == pytest.approx(5000 / 3, rel=0.1)
    assert three.worst(1.0) <= 2.0
    assert three.least(1.0, 35.0) > 0.05


def test_pipelines_that_start_together_share_evenly():
    three = world(5_000, 5_000, 5_000).run(20)
    assert three.finished <= 15 * 1.02
    for pipeline in three.pipelines:
        assert pipeline.between(5, 10) == pytest.approx(5000 / 3, rel=0.1)
    assert three.worst(1.0) <= 4.0  # none can know of the others before the second report
    assert three.worst(5.0) <= 2.0


def test_others_that_ask_no_pacer_are_made_room_for():
    done = world(14_000, others=lambda at: 3 if at < 20 else 0).run(30)
    assert done.finished <= 20 * 1.03
    assert done.worst(1.0) <= 2.0


def test_a_lane_has_its_own_backlog():
    policy = "requests_per_second: 80, burst_size: 8, window_size: null, priorities: {fast: 3, slow: 1}"
    both = world(2_000, 2_000, policy=policy, lanes=("fast", "slow")).run(20, until_done=False)
    fast, slow = both.pipelines
    assert fast.between(10, 20) == pytest.approx(600, rel=0.1)
    assert slow.between(10, 20) == pytest.approx(200, rel=0.1)


def test_requests_that_cost_more_are_fewer():
    dear = Pipeline(Throttle(max_wait=2.0), 2_000, cost=10)
    done = World(LIMIT, [dear]).run(25)
    assert done.finished <= 20 * 1.02
    assert done.worst(1.0) <= 2.0


def test_a_slow_limit_is_paced_too():
    slow = Pipeline(Throttle(max_wait=30.0), 20)
    done = World("requests_per_second: 1, burst_size: 1, window_size: null", [slow]).run(30)
    assert done.finished <= 20 * 1.02
    assert done.worst(0.0) <= 20.0


# Step by step

REPORT = Report(at=1000.0, wait=0.0, backlog=0, rate=100.0, arrived=0, admitted=0, paused=False)


def drained(throttle, now, seconds):
    """Count what a greedy pipeline gets until `now + seconds`, asking every 10 ms."""
    before = throttle.released
    for tick in range(round(seconds * 100)):
        while throttle.released - before < 10_000 and not throttle.take(now + tick / 100):
            pass
    return throttle.released - before


def test_before_the_first_report_a_few_are_released():
    throttle = Throttle(max_wait=30.0)
    assert throttle.take(0.0) == 0.0
    assert throttle.take(0.0) == pytest.approx(0.1)
    assert drained(throttle, 0.0, 60.0) == 99


def test_no_limit_is_no_pacing():
    throttle = Throttle(max_wait=1.0)
    throttle.report(0.0, Report(1000.0, 0.0, 0, float("inf"), 0, 0, paused=False))
    assert all(throttle.take(0.0) == 0.0 for _ in range(10_000))
    assert throttle.estimate(0.0) == (0.0, float("inf"))


@pytest.mark.parametrize("rate", [100.0, float("inf")])
def test_a_pause_is_waited_for(rate):
    throttle = Throttle(max_wait=30.0, away_after=1.0)
    throttle.report(0.0, Report(1000.0, float("inf"), 5, rate, 5, 0, paused=True))
    assert drained(throttle, 0.0, 20.0) == 0
    assert not throttle.is_away(20.0)
    throttle.report(20.0, Report(1020.0, 0.05, 5, rate, 5, 0, paused=False))
    assert drained(throttle, 20.0, 1.0) > 100


def test_many_at_once_are_released_and_paid_for_later():
    throttle = Throttle(max_wait=10.0)
    throttle.report(0.0, REPORT)
    assert throttle.take(0.0, 5000) == 0.0
    assert throttle.take(0.1) > 0
    assert drained(throttle, 0.1, 5.0) == 0


def test_an_older_report_is_passed_over():
    throttle = Throttle(max_wait=10.0)
    assert throttle.report(0.0, REPORT)
    assert not throttle.report(0.1, REPORT)
    assert not throttle.report(0.1, Report(999.0, 0.0, 0, 1.0, 0, 0, paused=False))
    assert drained(throttle, 0.1, 1.0) == pytest.approx(150, abs=15)


def test_away_is_told_when_something_was_due():
    throttle = Throttle(max_wait=10.0, away_after=5.0)
    throttle.report(0.0, REPORT)
    assert not throttle.is_away(1000.0)  # a quiet service is not reported about
    throttle.take(1000.0)
    assert not throttle.is_away(1004.0)
    assert throttle.is_away(1005.0)
    throttle.report(1006.0, Report(2006.0, 0.0, 0, 100.0, 1, 1, paused=False))
    assert not throttle.is_away(1100.0)


numbers = st.floats(0.0, 1e12) | st.just(float("inf"))
reports = st.builds(
    Report,
    at=st.floats(0.0, 1e10),
    wait=numbers,
    backlog=st.integers(0, 2**63),
    rate=numbers,
    arrived=st.integers(0, 2**63),
    admitted=st.integers(0, 2**63),
    paused=st.booleans(),
)


@given(st.lists(st.tuples(st.floats(0.0, 50.0), reports, st.integers(1, 10_000)), max_size=20), st.booleans())
def test_whatever_is_reported_gives_a_pause_to_act_on(steps, by_backlog):
    throttle = Throttle(max_wait=None if by_backlog else 2.0, max_backlog=100 if by_backlog else None)
    now = 0.0
    for pause, report, count in steps:
        now += pause
        throttle.report(now, report)
        assert 0.0 <= throttle.take(now, count) <= 0.1
        assert throttle.level(now) >= 0.0
        estimate = throttle.estimate(now)
        assert estimate is not None
        assert estimate.wait >= 0
        assert estimate.rate >= 0


@pytest.mark.parametrize("target", [{"max_wait": 5.0}, {"max_backlog": 50}])
@pytest.mark.parametrize(
    "limits",
    [
        "requests_per_second: 1000, burst_size: 1000, max_in_flight: 3, worker_group: w",
        "requests_per_second: 2, burst_size: 2",
    ],
)
def test_what_is_held_back_in_the_request_topic_holds_the_pipeline_back(target, limits):
    throttle = Throttle(**target)
    policy = policy_of(f"{limits}, window_size: null, overflow: hold")
    engine = Engine(SERVICE, policy, Budgets(EPOCH, {}), EPOCH, "1")
    engine.set_in_flight(EPOCH, 3)
    released = decided = seen = 0
    for tick in range(6_000):
        now, at = tick / 100, EPOCH + tick * 10**7
        while released - decided < 10_000 and not throttle.take(now):
            released += 1
        if tick % 10 == 0 and released > decided:  # as a shard looks at a partition
            again = [(0, seen - decided)] if seen > decided else []
            step = engine.step(at, [Run(0, released - decided)], 0, again)
            went = sum(d.count for d in step.decisions if d.verdict is Verdict.ADMITTED)
            seen, decided = released, decided + went
            engine.holding.looked(0, seen, held=seen > decided)
        if tick % 100 == 0:
            throttle.report(now, decode(encode(to_json(engine.usage(at)))).report())
    assert released - decided <= 120  # before the first report some are let go for a trial


@pytest.mark.parametrize(
    "forged",
    [
        b'"at_ms": 1' + 400 * b"0",
        b'"lanes": [{"name": "", "weight": 1, "eta_seconds": 0, "backlog": 1' + 400 * b"0" + b"}]",
        b'"lanes": [{"name": "", "weight": 0, "eta_seconds": 0, "backlog": 1}]', b'"x": ' + 100_000 * b"[",
    ],
)  # fmt: skip
def test_usage_that_no_gate_can_have_told_is_refused(forged):
    sound = b'"service": "pay", "at_ms": 1, "requests_per_second": 1, "limits": [], "lanes": [], "totals": []'
    assert decode(b"{" + sound + b"}").at_ms == 1
    with pytest.raises(ValueError):
        decode(b"{" + sound + b", " + forged + b"}")
