"""Replay of recorded requests: what an engine would do to them, on the time of the records."""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from gate.admission.driver import Driver
from gate.admission.engine import Engine
from gate.admission.limits.budget import Budgets
from gate.admission.model import MS, Decision, EventKind, Pull, Reason, Run, Verdict
from gate.limits import NEVER, Spec
from gate.policy import Overflow, Policy

WAITING: Final = -1  # in `ReplayResult.decided`: not within the recording


@dataclass(frozen=True, slots=True)
class Request:
    """A recorded request. Times are unix ms."""

    at_ms: int
    lane: str = ""
    tenant: str = ""
    cost: int = 1
    deadline_ms: int | None = None
    start_ms: int | None = None


@dataclass(slots=True)
class ReplayResult:
    """What became of the requests, by their numbers."""

    policy: str  # version
    offered: "array[int]"  # ms, when each came
    decided: "array[int]"  # ms, when each was admitted or rejected; WAITING
    verdicts: list[Verdict | None]
    rejected: Counter[Reason] = field(default_factory=Counter)
    delayed: Counter[Reason] = field(default_factory=Counter)
    breaches: int = 0

    def admitted(self) -> list[int]:
        """Return the times of admission, ascending."""
        times = zip(self.decided, self.verdicts, strict=True)
        return sorted(time for time, verdict in times if verdict is Verdict.ADMITTED)

    def waits(self) -> list[int]:
        """Return how long each admitted request waited, ms, ascending."""
        rows = zip(self.offered, self.decided, self.verdicts, strict=True)
        return sorted(decided - came for came, decided, verdict in rows if verdict is Verdict.ADMITTED)


def replay(
    service: str, policy: Policy, requests: Sequence[Request], moments: Sequence[int] | None = None
) -> ReplayResult:
    """Play requests, in the order of their times, through an engine that starts full; then wait for what is parked.

    Of a group's budget the service is taken to have all: what others used is not in the recording. With `moments`,
    unix ms, the engine decides at these and no others, as a gate did whose every batch came a little late or early:
    then its decisions are that gate's, and what waits at the last of them is left so.
    """
    offered = array("q", [request.at_ms for request in requests])
    outcome = ReplayResult(policy.version, offered, array("q", [WAITING]) * len(requests), [None] * len(requests))
    if not requests:
        return outcome
    driver = _driver(service, policy, requests, outcome)
    if moments is not None:
        _play_at(moments, driver, requests)
        return outcome
    at = 0
    while at < len(requests):
        end = at + 1
        while end < len(requests) and requests[end].at_ms <= requests[at].at_ms:
            end += 1
        moment = requests[at].at_ms * MS
        driver.advance_to(moment - MS)
        driver.now = max(driver.now, moment)
        driver.offer(at, list(_runs(requests[at:end])))
        at = end
    driver.drain(NEVER)
    return outcome


def _play_at(moments: Sequence[int], driver: Driver, requests: Sequence[Request]) -> None:
    at = 0
    for moment in moments:
        end = at
        while end < len(requests) and requests[end].at_ms <= moment:
            end += 1
        driver.now = max(driver.now, moment * MS)
        driver.offer(at, list(_runs(requests[at:end])))
        at = end


class _Recorder:
    """Writes down what the driver tells."""

    def __init__(self, engine: Engine, outcome: ReplayResult) -> None:
        self._engine = engine
        self._outcome = outcome

    def decided(self, numbers: range, decision: Decision, now: int) -> None:
        """Take what was decided about requests that came now."""
        if decision.verdict is Verdict.DELAYED:
            self._outcome.delayed[decision.reason or Reason.LANE] += decision.count
        else:
            self._end(numbers, decision.verdict, decision.reason, now)

    def left(self, numbers: Sequence[int], pull: Pull, now: int) -> None:
        """Take that parked requests leave now."""
        self._end(numbers, pull.verdict, pull.reason, now)

    def stepped(self) -> None:
        """Count breaches; nobody keeps the state."""
        self._outcome.breaches += sum(event.kind is EventKind.OPENED for event in self._engine.drain_events())
        self._engine.drain_changes()

    def _end(self, numbers: Sequence[int], verdict: Verdict, reason: Reason | None, now: int) -> None:
        for number in numbers:
            self._outcome.decided[number] = now // MS
            self._outcome.verdicts[number] = verdict
            if verdict is Verdict.REJECTED and reason is not None:
                self._outcome.rejected[reason] += 1


def _driver(service: str, policy: Policy, requests: Sequence[Request], outcome: ReplayResult) -> Driver:
    now = requests[0].at_ms * MS
    groups: dict[str, Spec] = {name: replace(group.spec, running=None) for name, group in policy.groups.items()}
    effective = policy.effective(service).without_running()
    # what holds back would wait in its own topic: for the times that is the same; of workers nothing is recorded
    replayed = replace(effective, overflow=_waits(effective.overflow), max_in_flight=None, shadow=False)
    engine = Engine(service, replayed, Budgets(now, groups), now, policy.version)
    return Driver(engine, _Recorder(engine, outcome), now)


def _waits(overflow: Overflow) -> Overflow:
    return Overflow.DELAY if overflow is Overflow.HOLD else overflow


def _runs(requests: Sequence[Request]) -> Iterable[Run]:
    if not requests:
        return
    first = 0
    for number in range(1, len(requests) + 1):
        if number == len(requests) or _alike(requests[number]) != _alike(requests[first]):
            one = requests[first]
            deadline = None if one.deadline_ms is None else one.deadline_ms * MS
            start = None if one.start_ms is None else one.start_ms * MS
            yield Run(first, number - first, one.lane, one.tenant, one.cost, deadline, start)
            first = number


def _alike(request: Request) -> tuple[str, str, int, int | None, int | None]:
    return request.lane, request.tenant, request.cost, request.deadline_ms, request.start_ms
