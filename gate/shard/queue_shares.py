"""Shares of requests in topics in limits that calls in processes have parts of: a service's, and its tenants'."""

from gate.admission.breach_events import DecayingRate
from gate.admission.model import UNTIL_RESUMED
from gate.limits.limit import Limit
from gate.mesh.owner import Owner
from gate.units import MS


class SharedLimits:
    """What calls in processes leave to the requests of one service: for them a limit of its own, which opens later."""

    def __init__(self, service: str, names: tuple[str, ...], owner: Owner, limit: Limit | None) -> None:
        self.owner = service
        self.names = names
        self.limit = limit  # the one to name where they do not fit
        self.now = 0
        self.short = 0  # units that did not fit; 0: nothing was too much
        self.closed = False  # as long as calls have limits of tenants whose requests share others'
        self._owner = owner

    @property
    def used(self) -> int:
        """Requests under way: it counts none."""
        return 0

    def fit(self, now: int, count: int, cost: int) -> int:
        """Return how many of `count` requests may go now beside what processes hold."""
        if self.short or self.closed:
            return 0
        self.now = max(now, self.now)
        room = min([self._owner.room(self.now, name) for name in self.names], default=cost * count)
        if room < cost:
            self.short = cost
            return 0
        return min(count, room // cost)

    def charge(self, now: int, count: int, cost: int) -> None:
        """Charge requests that go."""
        self.now = max(now, self.now)
        for name in self.names:
            self._owner.charge(self.now, name, count * cost)

    def ready_at(self, now: int, cost: int) -> int:
        """Return `now`, or UNTIL_RESUMED: the mesh says when it opens."""
        return now if self.fit(now, 1, cost) else UNTIL_RESUMED

    def opens_at(self, now: int) -> int:
        """Return when what did not fit may; at the latest when parts are divided anew."""
        return max([now + MS, *[self._owner.opens_at(now, name, self.short) for name in self.names]])


class TenantShare:
    """What calls leave to the requests of one tenant, of the limits that are the tenant's own."""

    def __init__(self, owner: Owner, name: str) -> None:
        self.name = name  # of the budget
        self._owner = owner
        self._offered = DecayingRate()

    def offer(self, now: int, units: int) -> None:
        """Note how many units came."""
        self._offered.add(now, units)

    def wants(self, now: int) -> int:
        """Return about how many units come in a second."""
        return round(self._offered.at(now))

    def fit(self, now: int, count: int, cost: int) -> int:
        """Return how many of `count` requests may go now beside what processes hold."""
        return min(count, self._owner.room(now, self.name) // cost)

    def charge(self, now: int, count: int, cost: int) -> None:
        """Charge requests that go."""
        self._owner.charge(now, self.name, count * cost)

    def ready_at(self, now: int, cost: int) -> int:
        """Return `now`, or when to look again: at the latest when parts are divided anew."""
        return now if self.fit(now, 1, cost) else max(now + MS, self._owner.opens_at(now, self.name, cost))
