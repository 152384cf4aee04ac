"""When those who wait will be admitted: the limiter's state, charged ahead."""

from collections.abc import Iterator

from gate.limits.checks import check_amount, check_cost
from gate.limits.limiter import Limiter
from gate.limits.spec import NEVER


class Plan:
    """Gives every request that joins a queue the exact time of its admission, if nothing but the queue comes.

    It is a copy of the limiter whose clock runs ahead, so that a further request is one step, however many wait: the
    limiter, charged at the planned times, goes through the same states. One who joins is planned after all who joined
    before.
    """

    __slots__ = ("_ahead",)

    def __init__(self, limiter: Limiter) -> None:
        self._ahead = limiter.copy()

    def reserve(self, now: int, cost: int = 1) -> int:
        """Return the time (ns) at which `cost` units are admitted, and charge them there; NEVER changes nothing."""
        ready = self._ahead.ready_at(now, cost)
        if ready != NEVER:
            self._ahead.charge(ready, cost)
        return ready

    def reserve_many(self, now: int, count: int, cost: int = 1) -> Iterator[tuple[int, int]]:
        """Yield (time, how many) for `count` requests of `cost` units each, in order; nothing if they can never be."""
        check_amount("count", count, "requests")  # at once, not when the first is asked for
        check_cost(cost)
        return self._reserve_many(now, count, cost)

    def _reserve_many(self, now: int, count: int, cost: int) -> Iterator[tuple[int, int]]:
        while count:
            ready = self._ahead.ready_at(now, cost)
            if ready == NEVER:
                return
            fitting = self._ahead.take(ready, count, cost)
            count -= fitting
            yield ready, fitting
