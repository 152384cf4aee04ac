"""Shares of requests in topics in limits that calls in processes have parts of: a service's, and its tenants'."""

from math import sqrt
from typing import Final

from gate.admission.breach_events import DecayingRate
from gate.admission.model import UNTIL_RESUMED
from gate.limits.limit import Limit
from gate.mesh.owner import Owner
from gate.units import MS, SECOND

_SIGMAS: Final = 3  # by which a load that stays as it is hardly ever differs from its average
_FEW: Final = 2
_SMOOTH: Final = 4  # seconds that an average is over


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

    def wants_more(self, want: int) -> bool:
        """Tell whether requests want more, in units per second, than parts were divided for."""
        budgets = [budget for name in self.names if (budget := self._owner.budgets.get(name)) is not None]
        return any(budget.queue_want < want * 1000 for budget in budgets)

    def opens_at(self, now: int) -> int:
        """Return when what did not fit may; at the latest when parts are divided anew."""
        return max([now + MS, *[self._owner.opens_at(now, name, self.short) for name in self.names]])


class QueueLoad:
    """How many requests of a service come in a second. Chance is smoothed; another load is believed after a second.

    As holders measure what they want (`gate.mesh.holding`): whoever is slower to say so has the smaller part meanwhile.
    """

    __slots__ = ("_arrivals", "_since", "per_second")

    def __init__(self, now: int, arrivals: int, per_second: float) -> None:
        self.per_second = per_second
        self._since = now
        self._arrivals = arrivals  # by then

    def measure(self, now: int, arrivals: int) -> None:
        """Take how many requests have come so far."""
        elapsed = (now - self._since) / SECOND
        if elapsed < 1:
            return
        came, expected = arrivals - self._arrivals, self.per_second * elapsed
        if abs(came - expected) > _SIGMAS * sqrt(expected) + _FEW:
            self.per_second = came / elapsed
        else:
            self.per_second += (came / elapsed - self.per_second) / _SMOOTH
        self._since, self._arrivals = now, arrivals


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
