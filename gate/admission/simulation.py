"""An engine over a simulated log and a simulated clock: months of traffic in seconds, and nothing else differs.

For replay, scenarios and tests. The engine is called as the shell calls it: a step with what has arrived, then the
places of what was delayed, then again at the time at which it wants to be woken.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from gate.admission.engine import Engine
from gate.admission.limits.budget import Budgets
from gate.admission.model import MS, Event, Reason, Run, Step, Verdict
from gate.policy import ServicePolicy

ROOM: Final = 1_000  # parked requests pulled per step


@dataclass(slots=True)
class History:
    """What became of each request, by its number. Times in ns; 0: not so."""

    submitted_at: "array[int]" = field(default_factory=lambda: array("q"))
    admitted_at: "array[int]" = field(default_factory=lambda: array("q"))
    rejected_at: "array[int]" = field(default_factory=lambda: array("q"))
    not_before: "array[int]" = field(default_factory=lambda: array("q"))  # as stamped when it was delayed or refused
    decisions: "array[int]" = field(default_factory=lambda: array("B"))  # how often it was decided about
    refusals: dict[int, Reason | None] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    admissions: list[tuple[int, int, int]] = field(default_factory=list)  # at, number of the first, count

    def grow(self, count: int, now: int) -> int:
        """Add `count` new requests and return the first one's number."""
        first = len(self.submitted_at)
        self.submitted_at.extend([now] * count)
        for column in (self.admitted_at, self.rejected_at, self.not_before):
            column.frombytes(bytes(8 * count))
        self.decisions.frombytes(bytes(count))
        return first

    def admit(self, first: int, count: int, now: int) -> None:
        """Note an admission."""
        self.admissions.append((now, first, count))
        self.admitted_at[first : first + count] = array("q", [now]) * count

    def reject(self, first: int, count: int, now: int, reason: Reason | None) -> None:
        """Note a refusal for good."""
        self.rejected_at[first : first + count] = array("q", [now]) * count
        for number in range(first, first + count):
            self.refusals[number] = reason


class Simulation:
    """One service under a simulated clock."""

    def __init__(
        self,
        policy: ServicePolicy,
        *,
        now: int,
        budgets: Budgets | None = None,
        partitions: int = 1,
        restart: bool = False,
    ) -> None:
        self.now = now
        self.policy = policy
        self.version = 1
        self.budgets = budgets or Budgets(now, {})
        self.engine = Engine(policy.name, policy, self.budgets, now, "1")
        self.history = History()
        self.state: dict[str, bytes] = {}
        self.steps = 0
        self._restart = restart  # after every step
        self._partitions = partitions
        self._logs: list[list[int]] = [[] for _ in range(partitions)]  # numbers of the requests in the delayed topic

    def submit(self, *runs: Run, room: int = ROOM) -> Step:
        """Let the runs arrive now."""
        count = runs[-1].first + runs[-1].count if runs else 0
        first = self.history.grow(count, self.now)
        step = self.engine.step(self.now, runs, room)
        self._apply(first, step)
        self.steps += 1
        return step

    def offer(self, count: int, **like: object) -> Step:
        """Let `count` requests that are alike arrive now."""
        return self.submit(Run(0, count, **like))  # type: ignore[arg-type]

    def run_until(self, time: int, *, late: Callable[[], int] | None = None, room: int = ROOM) -> Self:
        """Wake the engine whenever it wants to be woken, up to and with `time`; each time `late()` ns too late."""
        while (wake := self.engine.wake_at()) is not None and wake <= time:
            delay = late() if late is not None else 0
            self.now = max(self.now, wake + delay // MS * MS)
            self.submit(room=room)
        self.now = max(self.now, time)
        return self

    def drain(self, *, limit: int = 2**62) -> Self:
        """Go on until nothing is parked."""
        while self.engine.waiting:
            wake = self.engine.wake_at()
            if wake is None or wake > limit:
                raise RuntimeError(f"{self.engine.waiting} requests are stuck at {self.now}: next wake {wake}")
            self.run_until(wake)
        return self

    def set_policy(self, policy: ServicePolicy) -> None:
        """Change the policy now."""
        self.policy = policy
        self.version += 1
        self.engine.set_policy(self.now, policy, str(self.version))

    def reopen(self) -> None:
        """Throw the engine away and go on from its records."""
        self.save()
        self.engine = Engine.restore(
            self.policy.name, self.policy, self.budgets, self.now, str(self.version), self.state
        )

    def save(self) -> None:
        """Bring the records up to date, as the shell does with every batch."""
        for key, value in self.engine.drain_changes().items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value

    def _apply(self, first: int, step: Step) -> None:
        history, now = self.history, self.now
        for pull in step.pulls:
            numbers = self._logs[pull.partition][pull.offset : pull.offset + pull.count]
            self._leave(numbers, pull.verdict, pull.reason)
        places: list[tuple[int, int]] = []
        for decision in step.decisions:
            begin = first + decision.first
            end = begin + decision.count
            if decision.verdict is Verdict.ADMITTED:
                history.admit(begin, decision.count, now)
            elif decision.verdict is Verdict.REJECTED:
                history.reject(begin, decision.count, now, decision.reason)
            elif decision.verdict is Verdict.DELAYED:
                places += self._park(range(begin, end))
            for number in range(begin, end):
                history.decisions[number] += 1
            if decision.not_before is not None:
                history.not_before[begin:end] = array("q", decision.not_before)
        if places:
            self.engine.parked(places)
        history.events += self.engine.drain_events()
        if self._restart:
            self.reopen()

    def _park(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        places = []
        for number in numbers:
            partition = number % self._partitions
            places.append((partition, len(self._logs[partition])))
            self._logs[partition].append(number)
        return places

    def _leave(self, numbers: list[int], verdict: Verdict, reason: Reason | None) -> None:
        begin = 0
        for end in range(1, len(numbers) + 1):
            self.history.decisions[numbers[end - 1]] += 1
            if end == len(numbers) or numbers[end] != numbers[end - 1] + 1:
                if verdict is Verdict.ADMITTED:
                    self.history.admit(numbers[begin], end - begin, self.now)
                else:
                    self.history.reject(numbers[begin], end - begin, self.now, reason)
                begin = end
