"""Shares of requests in topics in limits that calls in processes have parts of: a service's, and its tenants'."""

from math import sqrt
from typing import Final

from gate.admission.breach_events import DecayingRate
from gate.admission.model import UNTIL_RESUMED
from gate.limits.limit import Limit
from gate.mesh.owner import Owner
from gate.mesh.queue_forecast import QueueForecast
from gate.units import MS, SECOND

_EXACT_BITS: Final = 4  # of what requests in topics want: small changes are not worth a new division
_SIGMAS: Final = 3  # by which a load that stays as it is hardly ever differs from its average
_FEW: Final = 2
_SMOOTH: Final = 4  # seconds that an average is over


class SharedLimits:
    """What calls in processes leave to the requests of one service: for them a limit of its own, which opens later.

    `limit` is the one to name where they do not fit. `covers_all`: the service has no limits beside those shared.
    """

    def __init__(
        self,
        service: str,
        names: tuple[str, ...],
        owner: Owner,
        limit: Limit | None,
        *,
        covers_all: bool,
    ) -> None:
        self.owner = service
        self.names = names
        self.limit = limit
        self.covers_all = covers_all
        self.now = 0
        self.short = 0  # units that did not fit; 0: nothing was too much
        self.closed = False  # as long as calls have limits of tenants whose requests share others'
        self._owner = owner
        self._forecasts: dict[int, list[QueueForecast]] = {}  # by what is wanted, made at `_forecast_at`
        self._forecast_at = -1

    @property
    def used(self) -> int:
        """Requests under way: it counts none."""
        return 0

    def fit(self, now: int, count: int, cost: int) -> int:
        """Return how many of `count` requests may go now beside what processes hold."""
        self.now = max(now, self.now)
        if self.short or self.closed:
            return 0
        room = min([self._owner.room(self.now, name) for name in self.names], default=cost * count)
        if room < cost:
            self.short = cost
            return 0
        return min(count, room // cost)

    def charge(self, now: int, count: int, cost: int) -> None:
        """Charge requests that go."""
        self.now = max(now, self.now)
        self._forecasts.clear()
        for name in self.names:
            self._owner.charge(self.now, name, count * cost)

    def ready_at(self, now: int, cost: int) -> int:
        """Return `now`, or UNTIL_RESUMED: the mesh says when it opens."""
        return now if self.fit(now, 1, cost) else UNTIL_RESUMED

    def time_of(self, start: int, units: int) -> int:
        """Return when the last of so many units may go, from `start` on, if all go on to want what they want now."""
        if self._forecast_at != self.now:
            self._forecast_at = self.now
            self._forecasts.clear()
        want = rounded(units)  # so many wait
        if want not in self._forecasts:
            budgets = self._owner.budgets
            known = [budgets[name] for name in self.names if name in budgets]
            self._forecasts[want] = [QueueForecast(budget, self.now, want * 1000) for budget in known]
        return max([start, *[forecast.time_of(units) for forecast in self._forecasts[want]]])

    def wants_more(self, want: int) -> bool:
        """Tell whether requests want more, in units per second, than parts were divided for."""
        budgets = [budget for name in self.names if (budget := self._owner.budgets.get(name)) is not None]
        return any(budget.queue_want < want * 1000 for budget in budgets)

    def open(self, now: int) -> None:
        """Let requests try again, as of now: who asks first may not know how late it is."""
        self.now = max(now, self.now)
        self.short = 0

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


def rounded(want: int) -> int:
    """Return a want without what is not worth a new division."""
    shift = max(0, want.bit_length() - _EXACT_BITS)
    return (want >> shift) << shift
