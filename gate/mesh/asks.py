"""Direct requests of one budget: who asks, whose turn it is, and for whom units are kept together."""

from typing import Final, NamedTuple

from gate.mesh.held import Key
from gate.mesh.terms import Terms
from gate.units import MS, SECOND

_TURN: Final = 20 * MS  # by which who was served later is told to come later
_MOST_WAITING: Final = 1_000  # whose turns are kept apart
_GRACE: Final = 300 * MS  # for which who may ask again is waited for
_LEASES: Final = 2  # for which a dear call is remembered


class Earmark(NamedTuple):
    """Units that are kept for one who asks for many, until they are enough."""

    key: Key
    units: int
    until: int


class Asks:
    """Keeps account of calls that no part can carry."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.units = 0  # asked for since the last division
        self.want = 0  # units per 1,000 s
        self._big = (0, 0)  # the dearest call of late, and until when it is remembered
        self._earmark: Earmark | None = None
        self._served: dict[Key, int] = {}  # when each got its last answer
        self._waiting: dict[Key, int] = {}  # until when each is believed to want one
        self._told: dict[Key, tuple[int, int]] = {}  # when each may ask again, and for how much
        self._queue_served = -1  # when requests in topics took any last

    def hear(self, now: int, key: Key, cost: int) -> int:
        """Note a request; return how many units must be free for it, with what is kept for another."""
        self.units += cost
        self._big = (max(cost, self._big[0] if now < self._big[1] else 0), now + _LEASES * self.terms.lease_ns)
        kept = self._earmark is not None and now < self._earmark.until and self._earmark.key != key
        return cost + self.kept(now) if kept else cost

    def deny(self, now: int, key: Key, cost: int, wait: int, *, first: bool, queued: bool) -> int:
        """Return the ns after which to ask again: whoever has waited longer for an answer comes a little earlier.

        `first`: nobody else has units kept, so that a dear call may have. `queued`: requests in topics wait, too.
        """
        mine = self._served.get(key, -1)
        rank = sum(1 for other in self._waiting if other != key and self._served.get(other, -1) < mine)
        rank += queued and self._queue_served < mine
        later = wait + rank * _TURN
        if key in self._waiting or len(self._waiting) < _MOST_WAITING:
            self._waiting[key] = now + later + self.terms.lease_ns
            self._told[key] = now + later, cost
        if cost > 1 and first:
            self._earmark = Earmark(key, cost, now + later + 2 * self.terms.period_ns)
        return later

    def serve(self, now: int, key: Key) -> None:
        """Note that a request is granted."""
        self._served[key] = now
        self._waiting.pop(key, None)
        self._told.pop(key, None)
        if self._earmark is not None and self._earmark.key == key:
            self._earmark = None

    def forget(self, key: Key) -> None:
        """Forget a holder that is gone."""
        self._waiting.pop(key, None)
        self._told.pop(key, None)
        self._served.pop(key, None)

    def serve_queue(self, now: int) -> None:
        """Note that requests in topics took some."""
        self._queue_served = now

    def owed(self, now: int) -> tuple[int, int]:
        """Return how many units requests in topics leave to who comes before them, and until when.

        They are one more that asks, in turn: else they would have taken each unit before anybody can ask for it.
        """
        told = self._told
        for key in [key for key, (at, _) in told.items() if at + _GRACE <= now]:
            del told[key]
            self._served[key] = now  # it has let its turn go by
        owed = [told[key] for key in told if self._served.get(key, -1) < self._queue_served]
        return (max(cost for _, cost in owed), min(at for at, _ in owed) + _GRACE) if owed else (0, now)

    def kept(self, now: int) -> int:
        """Return how many units are kept for one that asked for many."""
        return self._earmark.units if self._earmark is not None and now < self._earmark.until else 0

    def dearest(self, now: int) -> int:
        """Return the cost of the dearest call of late, while there are any."""
        return self._big[0] if now < self._big[1] and self.want else 0

    def measure(self, now: int, elapsed: int) -> None:
        """End a period."""
        self.want = max(self.units * 1000 * SECOND // elapsed, self.want // 2)
        self.units = 0
        self._waiting = {key: until for key, until in self._waiting.items() if now < until}
        kept = now - _LEASES * self.terms.lease_ns
        self._served = {key: at for key, at in self._served.items() if at > kept or key in self._told}
        if not self.kept(now):
            self._earmark = None
