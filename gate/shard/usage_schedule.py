"""The schedule by which usage is published: often enough for who paces by it, and never all at once."""

import heapq
from collections.abc import Iterator
from typing import ClassVar, Final
from zlib import crc32

from gate.admission.model import MS

USAGE_RATE: Final = 16  # services whose usage is published in that time: many must not drown in their reports
USAGE_SLOTS: Final = 8  # times that at the longest: pacers that hear nothing for 10 s take the gate to be away


class UsageSchedule:
    """A timetable. Times in ns; the first report of a service is due at once."""

    EVERY: ClassVar[int] = 1_000 * MS

    def __init__(self, since: int) -> None:
        self._since = since
        self._heap: list[tuple[int, str]] = []
        self._planned: set[str] = set()
        self._last: dict[str, int] = {}

    def next(self) -> int | None:
        """Return when the next report is due; None: none is planned."""
        return self._heap[0][0] if self._heap else None

    def plan(self, service: str, services: int) -> None:
        """Have a service, of so many, published at a moment that it shares with some others."""
        if service in self._planned:
            return
        self._planned.add(service)
        moment = 0
        if service in self._last:
            slots = min(USAGE_SLOTS, max(1, services // USAGE_RATE))
            beat = (self._last[service] - self._since) // self.EVERY + 1
            beat += (crc32(service.encode()) - beat) % slots
            moment = self._since + beat * self.EVERY
        heapq.heappush(self._heap, (moment, service))

    def due(self, now: int) -> Iterator[str]:
        """Yield the services to be published now; they may be planned again meanwhile."""
        while self._heap and self._heap[0][0] <= now:
            service = heapq.heappop(self._heap)[1]
            self._planned.discard(service)
            self._last[service] = now
            yield service
