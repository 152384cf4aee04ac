"""Wake times of a shard's services: when each is to be looked at next although nothing arrives for it."""

import heapq
from collections.abc import Iterable


class WakeTimes:
    """Services to be looked at, with the next batch or at a time (broker time, ns). A look too many does no harm."""

    def __init__(self) -> None:
        self._soon: set[str] = set()  # changed by something else than a batch: to be written with the next one
        self._heap: list[tuple[int, str]] = []
        self._earliest: dict[str, int] = {}  # the earliest look that is planned, by service

    def wake_soon(self, service: str) -> None:
        """Look at a service with the next batch."""
        self._soon.add(service)

    def wake_at(self, service: str, moment: int) -> None:
        """Look at a service at `moment`, or earlier."""
        earliest = self._earliest.get(service)
        if earliest is not None and earliest <= moment:
            return
        self._earliest[service] = moment
        if len(self._heap) > 4 * len(self._earliest) + 64:  # mostly looks that earlier ones have replaced
            self._heap = [(planned, name) for name, planned in self._earliest.items()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (moment, service))

    def pop_due(self, now: int) -> set[str]:
        """Take away and return the services that are to be looked at as of `now`."""
        due, self._soon = self._soon, set()
        while self._heap and self._heap[0][0] <= now:
            moment, service = heapq.heappop(self._heap)
            if self._earliest.get(service) == moment:
                del self._earliest[service]
            due.add(service)
        return due

    def next(self, *others: int | None) -> int | None:
        """Return when the next look is planned, or the earliest of `others`; 0: at once, None: never."""
        if self._soon:
            return 0
        moments: Iterable[int | None] = (self._heap[0][0] if self._heap else None, *others)
        return min((moment for moment in moments if moment is not None), default=None)
