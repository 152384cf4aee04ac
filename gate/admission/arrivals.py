"""What becomes of the fresh requests of a step, gathered per run and told as decisions."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gate.admission.model import UNTIL_RESUMED, Decision, Reason, Run, Verdict

if TYPE_CHECKING:
    from gate.admission.lanes import Queue

Outcome = tuple[int, Verdict, Reason | None, str | None, list[int] | None]  # count, ..., times


class Arrival:
    """A run on its way through a step: first some of it is admitted, then the rest is settled."""

    __slots__ = ("cost", "count", "deadline", "first", "late", "left", "never", "outcomes", "queue")

    def __init__(self, run: Run, queue: "Queue") -> None:
        self.first = run.first
        self.count = run.count
        self.cost = run.cost
        self.deadline = run.deadline
        self.queue = queue
        self.left = run.count
        self.late = False  # its deadline has passed
        self.never: str | None = None  # the limit that can never give its cost
        self.outcomes: list[Outcome] = []

    def decide(
        self,
        count: int,
        verdict: Verdict,
        reason: Reason | None = None,
        limit: str | None = None,
        times: list[int] | None = None,
    ) -> None:
        """Say what becomes of the next `count` requests of the run."""
        if times and times[0] >= UNTIL_RESUMED:
            times = None  # nobody knows when
        if count:
            self.left -= count
            self.outcomes.append((count, verdict, reason, limit, times))


def decisions(arrivals: Iterable[Arrival]) -> tuple[Decision, ...]:
    """Return the outcomes in order; neighbours that fared alike become one decision."""
    told: list[Decision] = []
    first = count = 0
    verdict: Verdict | None = None
    reason: Reason | None = None
    limit: str | None = None
    times: list[int] | None = None
    for arrival in arrivals:
        start = arrival.first
        for outcome in arrival.outcomes:
            same = outcome[1:4] == (verdict, reason, limit) and (outcome[4] is None) is (times is None)
            if same and start == first + count:
                count += outcome[0]
                if times is not None and outcome[4] is not None:
                    times += outcome[4]
            else:
                if verdict is not None:
                    told.append(Decision(first, count, verdict, reason, limit, None if times is None else tuple(times)))
                first = start
                count, verdict, reason, limit, times = outcome
                times = None if times is None else list(times)
            start += outcome[0]
    if verdict is not None:
        told.append(Decision(first, count, verdict, reason, limit, None if times is None else tuple(times)))
    return tuple(told)
