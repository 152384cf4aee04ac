"""The broker's time, as an owner can know it: estimated from the timestamps that the broker gives to the changelog."""

from typing import Final

from gate.units import MS

DRIFT_PPM: Final = 100  # quartz is off by up to ~50 ppm; twice that lets old bounds breathe
SLEW: Final = 1_000  # an owner's clock runs at most 1/1000 faster or slower than its monotonic clock


class BrokerClock:
    """Broker time from (sent, received, stamp) triples; in between, the local monotonic clock fills. Times are ns.

    A record was stamped between the sending of its request and the arrival of the answer, so each triple bounds the
    offset (broker - local) from both sides: stamp - received <= offset < stamp + 1 ms - sent. Bounds are intersected
    (Marzullo's algorithm for one source), widened by drift as they age, and start anew when they contradict each other
    (the broker's clock was set, or another broker leads).

    Once an owner has asked for the time its clock never jumps, in either direction: it is steered by at most 1/1000. A
    step of the broker's clock therefore neither mints capacity nor holds anything up.
    """

    def __init__(self) -> None:
        self._low = self._high = 0
        self._observed: int | None = None  # local time of the newest observation
        self._local = 0
        self._now: int | None = None  # what was last told, at `_local`

    def observe(self, sent: int, received: int, stamp_ms: int) -> None:
        """Take in what the broker stamped on a record written between local times `sent` and `received`."""
        low, high = stamp_ms * MS - received, (stamp_ms + 1) * MS - sent
        if self._observed is None:
            self._low, self._high = low, high
        else:
            age = max(0, received - self._observed) * DRIFT_PPM // 1_000_000
            narrowed = max(low, self._low - age), min(high, self._high + age)
            self._low, self._high = narrowed if narrowed[0] < narrowed[1] else (low, high)
        self._observed = received

    @property
    def offset(self) -> int:
        """Broker time minus local time: the middle of what is possible."""
        return (self._low + self._high) // 2

    @property
    def error(self) -> int:
        """How far `offset` can be from the truth."""
        return (self._high - self._low) // 2

    def now(self, local: int) -> int:
        """Return the time to decide by at `local`; never less than before. Raises RuntimeError before `observe`."""
        if self._observed is None:
            raise RuntimeError("the broker's clock has not been observed yet")
        if self._now is None:
            self._now, self._local = local + self.offset, local
        elif (elapsed := local - self._local) > 0:
            ahead = local + self.offset - (self._now + elapsed)
            most = elapsed // SLEW
            self._now += elapsed + max(-most, min(most, ahead))
            self._local = local
        return self._now

    def advance_to(self, moment: int, local: int) -> None:
        """Tell no time before `moment`, which an earlier owner has decided by, from `local` on."""
        self._now = max(self.now(local), moment)
