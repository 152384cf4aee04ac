"""Forecast for a single queue: a copy of the limiters, charged ahead with everything that waits.

A queue served first in, first out by limiters that are never idle admits at times that depend on nothing else, so each
new request costs one step, whatever the backlog. The copy moves in whole milliseconds, as the gate's clock does, and is
exact for any mix of costs.
"""

from collections.abc import Iterable, Sequence

from gate.admission.model import FOREVER, MS, whole_ms
from gate.limits import Limiter


def ready_at(limiters: Iterable[Limiter], now: int, cost: int) -> int:
    """Return the first whole millisecond from `now` at which all limiters admit `cost` if nothing else comes."""
    ready = now
    for limiter in limiters:  # asked for each request that waits, and max() over a generator takes twice the time
        soonest = limiter.ready_at(now, cost)
        if soonest > ready:  # noqa: PLR1730 - as above
            ready = soonest
    return whole_ms(ready)


class SingleQueue:
    """Limiters charged ahead."""

    __slots__ = ("at", "limiters")

    def __init__(self, limiters: Sequence[Limiter], at: int) -> None:
        self.limiters = limiters  # copies: the forecast's own
        self.at = at  # the time of the last one booked

    def book(self, count: int, cost: int, latest: int, own: Limiter | None = None) -> tuple[list[int], int]:
        """Book up to `count` requests one behind the other, as far as their times are not after `latest`.

        `own` is a copy, charged ahead, of a further limit, the tenant's. Returns the times, and the time of
        the first request that was not booked.
        """
        limiters = self.limiters if own is None else [*self.limiters, own]
        latest = min(latest, FOREVER)
        times: list[int] = []
        time = before = self.at
        several = True  # went at the last moment; where only one did, the next moment mostly takes one as well
        # Steps before all is tried in one go (below 0: never, for one alone it takes longer), and after a vain try.
        singly, pause = (0 if len(limiters) == 1 < count else -1), 1
        while count:
            if singly == 0:
                booked = limiters[0].take_apart(time, count, cost, MS, latest)
                if booked:
                    times += booked
                    count -= len(booked)
                    self.at = time = booked[-1]
                    several = True
                    continue
                singly, pause = pause, 2 * pause
            singly -= 1
            before, time = time, ready_at(limiters, time, cost)
            if time > latest:
                break
            fitting = 1  # for that the time was asked
            if several or time == before:
                fitting = count
                for limiter in limiters:
                    fitting = limiter.fit(time, fitting, cost)
                several = fitting > 1
            for limiter in limiters:
                limiter.charge(time, fitting * cost)
            times += [time] * fitting
            count -= fitting
            self.at = time
        return times, time
