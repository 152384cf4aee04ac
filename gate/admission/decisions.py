"""Decisions of a step, put together from the outcomes of its runs."""

from collections.abc import Iterable

from gate.admission.model import Decision, Reason, Verdict
from gate.admission.queues.queue import Arrival


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
