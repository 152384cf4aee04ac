"""Driver of an engine outside Kafka: a clock, and a delayed topic in memory. Nothing else differs.

For replay, scenarios and tests. The engine is called as the shell calls it: a step with what has arrived, then the
places of what was delayed, then again at the time at which it wants to be woken.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from gate.admission.engine import Engine
from gate.admission.model import MS, Decision, Pull, Run, Started, Step, Verdict

ROOM: Final = 1_000  # parked requests pulled per step


class Outcomes(Protocol):
    """Who is told what becomes of requests, by their numbers."""

    def decided(self, numbers: range, decision: Decision, now: int) -> None:
        """Take what was decided about requests that came now."""

    def left(self, numbers: Sequence[int], pull: Pull, now: int) -> None:
        """Take that parked requests leave now."""

    def stepped(self) -> None:
        """Note that a step has ended: events and changes of the engine may be drained."""


class Driver:
    """One engine under a simulated clock."""

    def __init__(self, engine: Engine, outcomes: Outcomes, now: int, partitions: int = 1) -> None:
        self.engine = engine
        self.now = now
        self._outcomes = outcomes
        self._logs = [array("q") for _ in range(partitions)]  # numbers of the requests in the delayed topic

    def offer(self, first: int, runs: Sequence[Run], room: int = ROOM) -> Step:
        """Let runs arrive now, of requests that are numbered from `first`."""
        step = self.engine.step(self.now, runs, room)
        for pull in step.pulls:
            self._outcomes.left(self._logs[pull.partition][pull.offset : pull.offset + pull.count], pull, self.now)
        places: list[tuple[int, int]] = []
        for decision in step.decisions:
            numbers = range(first + decision.first, first + decision.first + decision.count)
            if decision.verdict is Verdict.DELAYED:
                places += [self._park(number) for number in numbers]
            self._outcomes.decided(numbers, decision, self.now)
        if places:
            self.engine.parked(places)
        if step.started:
            self.engine.name_running([f"{number}" for part in step.started for number in self._numbers(first, part)])
        self._outcomes.stepped()
        return step

    def _numbers(self, first: int, part: Started) -> Sequence[int]:
        begin = part.first if part.partition is not None else first + part.first
        numbers = range(begin, begin + part.requests)
        return numbers if part.partition is None else self._logs[part.partition][begin : begin + part.requests]

    def advance_to(self, time: int, late: Callable[[], int] | None = None, room: int = ROOM) -> None:
        """Wake the engine whenever it wants to be woken, up to and with `time`; each time `late()` ns too late."""
        while (wake := self.engine.wake_at()) is not None and wake <= time:
            delay = 0 if late is None else late() // MS * MS
            self.now = max(self.now, wake + delay)
            self.offer(0, (), room)
        self.now = max(self.now, time)

    def drain(self, limit: int) -> bool:
        """Go on until nothing is parked; False: something is, and the engine does not want to be woken by `limit`."""
        while self.engine.waiting or self.engine.scheduled:
            wake = self.engine.wake_at()
            if wake is None or wake > limit:
                return False
            self.advance_to(wake)
        return True

    def _park(self, number: int) -> tuple[int, int]:
        partition = number % len(self._logs)
        log = self._logs[partition]
        log.append(number)
        return partition, len(log) - 1
