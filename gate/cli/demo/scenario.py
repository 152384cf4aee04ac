"""The scenario of the demonstration: how requests come for each of its services."""

from dataclasses import dataclass
from typing import Final

BURST_FIRST: Final = 2.25  # seconds
BURST_EVERY: Final = 4.0


@dataclass(frozen=True, slots=True)
class Part:
    """How requests come for one service: a steady flow, and `burst` more at once every few seconds."""

    service: str
    mood: str
    per_second: int
    burst: int = 0

    def arrivals(self, seconds: float) -> list[float]:
        """Return when each request comes, in seconds from the start, ascending."""
        moments = [number / self.per_second for number in range(int(seconds * self.per_second))]
        start = BURST_FIRST
        while self.burst and start < seconds:
            moments += [start] * self.burst
            start += BURST_EVERY
        return sorted(moments)


PARTS: Final = (
    Part("search", "calm", per_second=60),
    Part("payments", "bursting", per_second=15, burst=90),
    Part("reports", "flooded", per_second=120),
)
