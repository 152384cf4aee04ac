"""Read-ahead: which scheduled requests are to be read a moment before they are due, so that none is waited for then."""

from typing import Final

from gate.shard.wake_times import WakeTimes
from gate.units import MS

AHEAD: Final = 500 * MS  # a batch of a busy machine, and what it takes to read
MOST: Final = 4_000  # requests of a service at a time


class ReadAhead:
    """Up to when the scheduled requests of each service of a shard were asked for, and when to go on (broker time).

    It knows no request, so that nothing is to be told to it where one is cancelled or goes elsewhere.
    """

    def __init__(self) -> None:
        self._times = WakeTimes()
        self._until: dict[str, int] = {}  # ms

    def plan(self, service: str, start: int | None) -> None:
        """Note when the first one of a service is due, in ms; None: nothing is scheduled."""
        if start is not None:
            until = self._until.get(service, 0)
            moment = start * MS - AHEAD if start > until else until * MS - AHEAD // 2
            self._times.wake_at(service, moment)

    def next(self) -> int | None:
        """Return when `take` will next have something, in ns; None: not by itself."""
        return self._times.next()

    def take(self, now: int) -> dict[str, tuple[int, int]]:
        """Return of which services to ask for those that are due after the one and up to the other time, in ms."""
        asked = {}
        for service in self._times.pop_due(now):
            after = self._until.get(service, 0)
            self._until[service] = max(after, (now + AHEAD) // MS)
            asked[service] = after, self._until[service]
        return asked
