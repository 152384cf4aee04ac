"""A limit that is tried on what was recorded: the engine decides by it, beside what the one in force does. No I/O."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from gate.admission.model import Verdict
from gate.admission.replay import WAITING, ReplayResult, replay
from gate.kafka.recorded_decisions import Recording, disagreements
from gate.limits import Spec, Window
from gate.policy import Policy
from gate.protocol.policies import MAX_COUNT

LOSERS: Final = 5


@dataclass(frozen=True, slots=True)
class Change:
    """Another limit: `percent` of the one in force, windows included for which nothing else is said."""

    percent: int = 100
    windows: tuple[tuple[int, int], ...] = ()  # size in ns, and what it is to hold, in units of cost


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
    windows: Sequence[Window]  # that were tried
    own: Played
    other: Played
    losers: Sequence[Loser] = ()
    winners: int = 0  # requests that go sooner
    same: int = 0  # decisions in which an engine with the gate's policy and moments agrees with the gate
    compared: int = 0
    carried: int = 0  # waited when the recording begins


def scaled(policy: Policy, service: str, change: Change) -> tuple[Policy, Spec]:
    """Return a policy in which a service has another limit, and that limit."""
    before = policy.effective(service).spec
    factor, given = Fraction(change.percent, 100), dict(change.windows)
    windows = tuple(
        Window(given.get(window.size) or min(max(1, round(window.limit * factor)), MAX_COUNT), window.size)
        for window in before.windows
    )
    spec = replace(
        before,
        rate=None if before.rate is None else before.rate * factor,
        burst=min(round(before.burst * factor), MAX_COUNT) if before.rate is not None and factor > 1 else before.burst,
        windows=windows,
    )
    return (policy if spec == before else policy.with_spec(service, spec)), spec


def try_limit(service: str, policy: Policy, recording: Recording, change: Change) -> Tried:
    """Play a recording with the limit in force, and with another one."""
    requests = recording.requests
    changed, spec = scaled(policy, service, change)
    own, other = replay(service, policy, requests), replay(service, changed, requests)
    end = max(recording.moments, default=0)
    is_by_one = {one.policy for one in recording.decisions} == {policy.version_of(service)}
    compared = recording.decisions if is_by_one else []
    same = 0
    if compared:
        wrong = {one.id for one, _ in disagreements(recording, replay(service, policy, requests, recording.moments))}
        same = sum(one.id not in wrong for one in compared)
    losers, winners = _compared(requests_of(recording), own, other)
    return Tried(
        len(requests), recording.since_ms, recording.cut, None if spec.rate is None else float(spec.rate), spec.windows,
        _played(own, end), _played(other, end), losers, winners, same, len(compared), recording.carried,
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
