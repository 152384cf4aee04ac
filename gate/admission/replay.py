"""What an engine would do to a recorded stream of requests: the same engine, on the time of the records."""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from gate.admission.engine import Engine
from gate.admission.limits.budget import Budgets
from gate.admission.model import MS, EventKind, Reason, Run, Step, Verdict
from gate.limits import NEVER, Spec
from gate.policy import Overflow, Policy

ROOM: Final = 1_000
WAITING: Final = -1  # in `Outcome.decided`: not within the recording


@dataclass(frozen=True, slots=True)
class Request:
    """A recorded request. `at` is unix ms; `deadline` too."""

    at: int
    lane: str = ""
    tenant: str = ""
    cost: int = 1
    deadline: int | None = None


@dataclass(slots=True)
class Outcome:
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


def replay(service: str, policy: Policy, requests: Sequence[Request]) -> Outcome:
    """Play requests, in the order of their times, through an engine that starts full; then wait for what is parked.

    Of a group's budget the service is taken to have all: what others used is not in the recording.
    """
    offered = array("q", [request.at for request in requests])
    outcome = Outcome(policy.version, offered, array("q", [WAITING]) * len(requests), [None] * len(requests))
    if not requests:
        return outcome
    player = _Player(service, policy, requests, outcome)
    at = 0
    while at < len(requests):
        end = at + 1
        while end < len(requests) and requests[end].at <= requests[at].at:
            end += 1
        player.wait_until(requests[at].at * MS)
        player.offer(at, end)
        at = end
    player.wait_until(NEVER)
    return outcome


class _Player:
    """Parked requests have their number as offset: one partition, in the order of arrival."""

    def __init__(self, service: str, policy: Policy, requests: Sequence[Request], outcome: Outcome) -> None:
        self._requests = requests
        self._outcome = outcome
        self._now = requests[0].at * MS
        groups: dict[str, Spec] = {name: group.spec for name, group in policy.groups.items()}
        budgets = Budgets(self._now, groups)
        # what holds back would wait in its own topic: for the times that is the same; of workers nothing is recorded
        effective = replace(
            policy.effective(service), overflow=_waits(policy.effective(service).overflow), max_in_flight=None
        )
        self._engine = Engine(service, replace(effective, shadow=False), budgets, self._now, policy.version)

    def offer(self, first: int, end: int) -> None:
        """Let requests from `first` up to `end` come together."""
        self._now = max(self._now, self._requests[first].at * MS)
        step = self._engine.step(self._now, list(_runs(self._requests[first:end])), ROOM)
        parked = self._take(step, first)
        if parked:
            self._engine.parked([(0, number) for number in parked])

    def wait_until(self, moment: int) -> None:
        """Let parked requests go as their times come, before `moment`."""
        while (wake := self._engine.wake_at()) is not None and wake < moment:
            if moment == NEVER and not self._engine.waiting:
                break
            self._now = max(self._now, wake)
            self._take(self._engine.step(self._now, (), ROOM), 0)

    def _take(self, step: Step, first: int) -> list[int]:
        outcome, now = self._outcome, self._now // MS
        parked: list[int] = []
        for decision in step.decisions:
            numbers = range(first + decision.first, first + decision.first + decision.count)
            if decision.verdict is Verdict.DELAYED:
                parked += numbers
                outcome.delayed[decision.reason or Reason.LANE] += decision.count
                continue
            self._decide(numbers, decision.verdict, decision.reason, now)
        for pull in step.pulls:
            self._decide(range(pull.offset, pull.offset + pull.count), pull.verdict, pull.reason, now)
        outcome.breaches += sum(event.kind is EventKind.OPENED for event in self._engine.drain_events())
        self._engine.drain_changes()  # nobody keeps them
        return parked

    def _decide(self, numbers: Iterable[int], verdict: Verdict, reason: Reason | None, now: int) -> None:
        for number in numbers:
            self._outcome.decided[number] = now
            self._outcome.verdicts[number] = verdict
            if verdict is Verdict.REJECTED and reason is not None:
                self._outcome.rejected[reason] += 1


def _waits(overflow: Overflow) -> Overflow:
    return Overflow.DELAY if overflow is Overflow.HOLD else overflow


def _runs(requests: Sequence[Request]) -> Iterable[Run]:
    first = 0
    for number in range(1, len(requests) + 1):
        if number == len(requests) or _alike(requests[number]) != _alike(requests[first]):
            one = requests[first]
            deadline = None if one.deadline is None else one.deadline * MS
            yield Run(first, number - first, one.lane, one.tenant, one.cost, deadline)
            first = number


def _alike(request: Request) -> tuple[str, str, int, int | None]:
    return request.lane, request.tenant, request.cost, request.deadline
