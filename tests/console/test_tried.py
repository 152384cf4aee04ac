"""Another limit on a recording: what it would have done, who loses, whether the engine repeats what the gate did."""

from fractions import Fraction

import pytest

from gate.admission.replay import Request, replay
from gate.console.tenant import tenant_policy, tenant_seen
from gate.console.tried import Change, scaled, try_limit
from gate.kafka.recorded_decisions import RecordedDecision, Recording, disagreements
from gate.policy import parse_policy

T = 1_764_000_000_000
POLICY = parse_policy("""
services:
  pay: {requests_per_second: 2, burst_size: 2, window_size: 10, window_limit: 20}
  split: {tenants: {acme: {requests_per_second: 5, burst_size: 9}}}
  block: {requests_per_second: 1/3s, burst_size: 1}
""")


def recording(*requests: Request, policy=POLICY) -> Recording:
    """Return what a gate would have recorded that decides at once."""
    result = replay("pay", policy, requests)
    told = Recording(T, moments=sorted({*result.offered, *result.decided}))
    for number, request in enumerate(requests):
        at_once = result.decided[number] == request.at_ms
        verdict = result.verdicts[number].value
        told.decisions.append(
            RecordedDecision(
                f"t-0@{number}", request, verdict if at_once else "delayed", None if at_once else "rate", None,
                policy.version, ("t", 0, number), None, result.decided[number], verdict,
            )
        )  # fmt: skip
    return told


REQUESTS = [Request(T + 100 * (n // 3), tenant="acme" if n % 3 else "zeta") for n in range(12)]


def test_the_limit_in_force_does_what_it_did():
    tried = try_limit("pay", POLICY, recording(*REQUESTS), Change(100))
    assert (tried.same, tried.compared, tried.requests) == (12, 12, 12)
    assert tried.own == tried.other
    assert (tried.losers, tried.winners, tried.per_second) == ([], 0, 2.0)


def test_half_of_it_takes_twice_as_long_and_says_whom():
    tried = try_limit("pay", POLICY, recording(*REQUESTS), Change(50))
    assert tried.per_second == 1.0
    assert tried.other.longest_seconds == pytest.approx(2 * tried.own.longest_seconds, abs=0.5)
    assert tried.other.admitted == 12
    assert {loser.tenant for loser in tried.losers} == {"acme", "zeta"}
    assert sum(loser.requests for loser in tried.losers) == 10, "two go at once in both"
    assert try_limit("pay", POLICY, recording(*REQUESTS), Change(200)).winners > 5


def test_what_the_gate_did_otherwise_is_named():
    told = recording(*REQUESTS)
    told.decisions[5].ended_ms += 1
    ((one, how),) = disagreements(told, replay("pay", POLICY, told.requests, told.moments))
    assert one.id == "t-0@5"
    assert how.endswith(f"and was admitted at {one.ended_ms}")
    assert try_limit("pay", POLICY, told, Change(100)).same == 11


def test_a_rate_is_scaled_exactly():
    changed, spec = scaled(POLICY, "block", Change(50))
    assert changed.effective("block").spec.rate == POLICY.effective("block").spec.rate / 2
    assert spec.rate == Fraction(1, 6)
    spec = scaled(POLICY, "pay", Change(300))[0].effective("pay").spec
    assert (spec.rate, spec.burst, spec.windows[0].limit) == (6, 6, 60)
    assert scaled(POLICY, "pay", Change(100))[0] is POLICY


WINDOWED = parse_policy("""
services: {pay: {requests_per_second: 50, burst_size: 50, windows: [{limit: 6, size: 10}, {limit: 500, size: 1h}]}}
""")
TEN = 10_000_000_000  # ns


def test_a_window_is_moved_by_itself_or_with_the_limit():
    limits = lambda change: [one.limit for one in scaled(WINDOWED, "pay", change)[1].windows]  # noqa: E731
    assert limits(Change()) == [6, 3000, 500]
    assert limits(Change(50)) == [3, 1500, 250], "all of them, or the one that stays would bind"
    assert limits(Change(50, ((TEN, 100),))) == [100, 1500, 250]
    assert limits(Change(100, ((1, 7),))) == [6, 3000, 500], "there is no such window"
    assert scaled(WINDOWED, "pay", Change(100, ((TEN, 6),)))[0] is WINDOWED


def test_a_larger_window_lets_those_go_that_it_held_back():
    told = recording(*REQUESTS, policy=WINDOWED)
    own = try_limit("pay", WINDOWED, told, Change())
    assert (own.same, own.compared, own.own) == (12, 12, own.other)
    assert own.own.at_once == 6
    wider = try_limit("pay", WINDOWED, told, Change(100, ((TEN, 12),)))
    assert (wider.other.at_once, wider.winners, wider.losers) == (12, 6, [])
    narrower = try_limit("pay", WINDOWED, told, Change(100, ((TEN, 3),)))
    assert narrower.other.at_once == 3
    assert {loser.tenant for loser in narrower.losers} == {"acme", "zeta"}
    assert narrower.other.drained_seconds == pytest.approx(narrower.own.drained_seconds + 20, abs=0.5)


def test_what_several_policies_decided_is_not_compared_with_one():
    told = recording(*REQUESTS)
    told.decisions[0].policy = "before"
    assert try_limit("pay", POLICY, told, Change()).compared == 0


def test_a_tenant_is_seen_in_a_recording():
    told = recording(*REQUESTS)
    told.decisions[-1].ended = told.decisions[-1].ended_ms = None
    for one in told.decisions:
        one.limit = "pay.rate" if one.reason else None
    seen = tenant_seen(told, "acme")
    assert (seen.requests, seen.waiting, seen.rejected) == (8, 1, 0)
    assert seen.share == pytest.approx(2 / 3)
    assert seen.oldest_ms == REQUESTS[-1].at_ms
    assert [(verdict, why) for verdict, why, _ in seen.reasons] == [("delayed", "rate")]
    assert tenant_seen(told, "nobody").requests == 0


def test_limits_of_a_tenant_come_with_their_origin():
    explained = {name: origin.as_json() for name, origin in POLICY.explain("split").items()}
    shown = tenant_policy(POLICY, "split", "acme", explained)
    assert {limit.name for limit in shown["limits"]} >= {"rate"}
    assert shown["fields"]["burst_size"]["value"] == 9
    assert tenant_policy(POLICY, "split", "nobody", explained)["limits"] == []
    assert tenant_policy(None, "pay", "acme", {})["limits"] is None
