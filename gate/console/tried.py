"""A limit that is tried on what was recorded: the engine decides by it, beside what the one in force does. No I/O."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from gate.admission.model import Verdict
from gate.admission.replay import WAITING, ReplayResult, replay
from gate.kafka.recorded_decisions import Recording, disagreements
from gate.policy import Policy
from gate.policy.live import LiveService
from gate.protocol.policies import LiveLimit

LOSERS: Final = 5


@dataclass(frozen=True, slots=True)
class Played:
    """What a policy did to the recording, or would have done."""

    admitted: int
    at_once: int
    rejected: int
    p99_seconds: float | None  # that an admitted request waited; None: none was
    longest_seconds: float | None
    drained_seconds: float  # after the end of the recording, until the last that waits is through


@dataclass(frozen=True, slots=True)
class Loser:
    """Requests of one lane and tenant that come later, or not at all."""

    lane: str
    tenant: str
    requests: int
    later_seconds: float  # each, on the average
    rejected: int  # that were not before


@dataclass(frozen=True, slots=True)
class Tried:
    """Another limit beside the one in force, over the same requests."""

    requests: int
    since_ms: int
    cut: bool
    per_second: float | None  # that was tried; None: windows alone limit
    own: Played
    other: Played
    losers: Sequence[Loser] = ()
    winners: int = 0  # requests that go sooner
    same: int = 0  # decisions in which an engine with the gate's policy and moments agrees with the gate
    compared: int = 0
    carried: int = 0  # waited when the recording begins


def scaled(policy: Policy, service: str, percent: int) -> tuple[Policy, float | None]:
    """Return a policy in which a service may have another share of its limit, as if set live, and its rate."""
    spec = policy.effective(service).spec
    factor = Fraction(percent, 100)
    rate = None if spec.rate is None else spec.rate * factor
    window = spec.windows[0] if len(spec.windows) == 1 else None
    limit = LiveLimit(
        requests_per_second=None if rate is None else _written(rate),
        burst_size=None if spec.rate is None else (round(spec.burst * factor) if factor > 1 else spec.burst),
        window_limit=None if window is None else max(1, round(window.limit * factor)),
    )
    shown = None if rate is None else float(rate)
    return (policy if percent == 100 or not limit.says else policy.overlaid({service: LiveService(1, limit)})), shown


def try_limit(service: str, policy: Policy, recording: Recording, percent: int) -> Tried:
    """Play a recording with the limit in force, and with `percent` of it."""
    requests = recording.requests
    changed, rate = scaled(policy, service, percent)
    own, other = replay(service, policy, requests), replay(service, changed, requests)
    end = max(recording.moments, default=0)
    compared = [one for one in recording.decisions if one.policy == policy.version_of(service)]
    same = 0
    if compared:
        wrong = {one.id for one, _ in disagreements(recording, replay(service, policy, requests, recording.moments))}
        same = sum(one.id not in wrong for one in compared)
    losers, winners = _compared(requests_of(recording), own, other)
    return Tried(
        len(requests), recording.since_ms, recording.cut, rate, _played(own, end), _played(other, end), losers, winners,
        same, len(compared), recording.carried,
    )  # fmt: skip


def requests_of(recording: Recording) -> list[tuple[str, str]]:
    """Return lane and tenant of each request."""
    return [(one.lane, one.tenant) for one in recording.requests]


def _played(result: ReplayResult, end: int) -> Played:
    waits = result.waits()
    last = max(result.decided, default=0)
    return Played(
        admitted=len(waits),
        at_once=sum(wait == 0 for wait in waits),
        rejected=sum(result.rejected.values()),
        p99_seconds=waits[min(len(waits) - 1, len(waits) * 99 // 100)] / 1000 if waits else None,
        longest_seconds=waits[-1] / 1000 if waits else None,
        drained_seconds=max(0, last - end) / 1000,
    )


def _compared(who: Sequence[tuple[str, str]], own: ReplayResult, other: ReplayResult) -> tuple[list[Loser], int]:
    later: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])  # requests, ms, rejected
    winners = 0
    for number, key in enumerate(who):
        before, after = own.verdicts[number], other.verdicts[number]
        delay = other.decided[number] - own.decided[number]
        if after is Verdict.REJECTED and before is not Verdict.REJECTED:
            later[key][0] += 1
            later[key][2] += 1
        elif before is Verdict.REJECTED and after is not Verdict.REJECTED:
            winners += 1
        elif WAITING in {other.decided[number], own.decided[number]}:
            later[key][0] += own.decided[number] != WAITING
        elif delay > 0:
            later[key][0] += 1
            later[key][1] += delay
        else:
            winners += delay < 0
    ranked = sorted(later.items(), key=lambda item: (-item[1][2], -item[1][1]))
    found = [
        Loser(lane, tenant, count, delay / 1000 / max(1, count - rejected), rejected)
        for (lane, tenant), (count, delay, rejected) in ranked
        if count
    ]
    return found[:LOSERS], winners


def _written(rate: Fraction) -> str:
    """Write a rate as a policy file takes it."""
    return str(rate.numerator) if rate.denominator == 1 else f"{rate.numerator}/{rate.denominator}s"
