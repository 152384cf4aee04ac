"""Replay is the engine itself on recorded time: what it says is what would have happened."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gate.admission.model import Reason, Verdict
from gate.admission.replay import Request, replay
from gate.policy import parse_policy

T = 1_764_000_000_000


def outcome(policy: str, *requests: Request):
    return replay("pay", parse_policy(policy), requests)


def test_no_requests():
    assert outcome("defaults: {requests_per_second: 1}").admitted() == []


def test_a_burst_and_then_one_a_second():
    result = outcome("services: {pay: {requests_per_second: 1, burst_size: 2}}", *[Request(T)] * 5)
    assert result.admitted() == [T, T, T + 1000, T + 2000, T + 3000]
    assert result.waits() == [0, 0, 1000, 2000, 3000]
    assert result.delayed == {Reason.RATE: 3}
    assert result.breaches == 1


def test_a_quota_waits_for_the_next_day_of_its_calendar():
    midnight = T - T % 86_400_000 + 86_400_000 - 3_600_000  # of Berlin, in winter
    policy = "services: {pay: {quotas: [{limit: 2, per: day, timezone: Europe/Berlin}]}}"
    result = outcome(policy, *[Request(midnight - 1000)] * 5, Request(midnight))
    day = 86_400_000
    assert result.admitted() == [midnight - 1000] * 2 + [midnight] * 2 + [midnight + day] * 2
    assert result.delayed == {Reason.QUOTA: 4}


def test_hold_waits_as_delay_does():
    requests = [Request(T)] * 3
    held = outcome("services: {pay: {requests_per_second: 1, burst_size: 1, overflow: hold}}", *requests)
    assert held.waits() == [0, 1000, 2000]


def test_what_is_rejected_and_why():
    policy = "services: {pay: {requests_per_second: 1, burst_size: 2, max_delay: 1}}"
    requests = [Request(T, cost=3), Request(T), Request(T), Request(T), Request(T), Request(T, deadline_ms=T + 100)]
    result = outcome(policy, *requests)
    assert result.rejected == {Reason.NEVER: 1, Reason.MAX_DELAY: 1, Reason.DEADLINE: 1}
    assert result.verdicts.count(Verdict.ADMITTED) == 3


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 3)), max_size=80))
def test_everything_is_decided_and_never_over(steps):
    at, requests = T, []
    for gap, cost in steps:
        at += gap
        requests.append(Request(at, cost=cost))
    result = outcome(
        "services: {pay: {requests_per_second: 5, burst_size: 4, window_size: 2, window_limit: 9}}", *requests
    )
    assert all(verdict is Verdict.ADMITTED for verdict in result.verdicts)
    charged = sorted((time, request.cost) for time, request in zip(result.decided, requests, strict=True))
    for i, (start, _) in enumerate(charged):
        window = sum(cost for time, cost in charged[i:] if time < start + 2000)
        assert window <= 9
        for j in range(i, len(charged)):
            assert sum(cost for _, cost in charged[i : j + 1]) * 1000 <= 4 * 1000 + 5 * (charged[j][0] - start)
