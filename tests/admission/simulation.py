"""An engine over the simulated log and clock, with the history of every request: months of traffic in seconds."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from gate.admission.breach_events import AlertSchedule
from gate.admission.driver import ROOM, Driver
from gate.admission.engine import Engine
from gate.admission.limits.budget import Budgets
from gate.admission.model import Decision, Event, Pull, Reason, Run, Step, Verdict
from gate.policy import ServicePolicy


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

    def decided(self, numbers: range, decision: Decision, now: int) -> None:
        """Take what was decided about requests that came now."""
        begin, count = numbers.start, len(numbers)
        if decision.verdict is Verdict.ADMITTED:
            self.admit(begin, count, now)
        elif decision.verdict is Verdict.REJECTED:
            self.reject(begin, count, now, decision.reason)
        for number in numbers:
            self.decisions[number] += 1
        if decision.not_before is not None:
            self.not_before[begin : begin + count] = array("q", decision.not_before)

    def left(self, numbers: Sequence[int], pull: Pull, now: int) -> None:
        """Take that parked requests leave now."""
        begin = 0
        for end in range(1, len(numbers) + 1):
            self.decisions[numbers[end - 1]] += 1
            if end == len(numbers) or numbers[end] != numbers[end - 1] + 1:
                if pull.verdict is Verdict.ADMITTED:
                    self.admit(numbers[begin], end - begin, now)
                else:
                    self.reject(numbers[begin], end - begin, now, pull.reason)
                begin = end


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
        schedule: AlertSchedule | None = None,
    ) -> None:
        self.policy = policy
        self.version = 1
        self.budgets = budgets or Budgets(now, {})
        self.history = History()
        self.state: dict[str, bytes] = {}
        self.steps = 0
        self._schedule = schedule
        self._restart = restart  # after every step
        engine = Engine(policy.name, policy, self.budgets, now, "1", schedule=schedule)
        self._driver = Driver(engine, self, now, partitions)

    @property
    def engine(self) -> Engine:
        return self._driver.engine

    @property
    def now(self) -> int:
        return self._driver.now

    @now.setter
    def now(self, now: int) -> None:
        self._driver.now = now

    def submit(self, *runs: Run, room: int = ROOM) -> Step:
        """Let the runs arrive now."""
        count = runs[-1].first + runs[-1].count if runs else 0
        return self._driver.offer(self.history.grow(count, self.now), runs, room)

    def offer(self, count: int, **like: object) -> Step:
        """Let `count` requests that are alike arrive now."""
        return self.submit(Run(0, count, **like))  # type: ignore[arg-type]

    def run_until(self, time: int, *, late: Callable[[], int] | None = None, room: int = ROOM) -> Self:
        """Wake the engine whenever it wants to be woken, up to and with `time`; each time `late()` ns too late."""
        self._driver.advance_to(time, late, room)
        return self

    def drain(self, *, limit: int = 2**62) -> Self:
        """Go on until nothing is parked."""
        if not self._driver.drain(limit):
            wake = self.engine.wake_at()
            raise RuntimeError(f"{self.engine.waiting} requests are stuck at {self.now}: next wake {wake}")
        return self

    def set_policy(self, policy: ServicePolicy) -> None:
        """Change the policy now."""
        self.policy = policy
        self.version += 1
        self.engine.set_policy(self.now, policy, str(self.version))

    def reopen(self) -> None:
        """Throw the engine away and go on from its records."""
        self.save()
        self._driver.engine = Engine.restore(
            self.policy.name,
            self.policy,
            self.budgets,
            self.now,
            str(self.version),
            self.state,
            schedule=self._schedule,
        )

    def save(self) -> None:
        """Bring the records up to date, as the shell does with every batch."""
        for key, value in self.engine.drain_changes().items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value

    def decided(self, numbers: range, decision: Decision, now: int) -> None:
        self.history.decided(numbers, decision, now)

    def left(self, numbers: Sequence[int], pull: Pull, now: int) -> None:
        self.history.left(numbers, pull, now)

    def stepped(self) -> None:
        self.steps += 1
        self.history.events += self.engine.drain_events()
        if self._restart:
            self.reopen()
