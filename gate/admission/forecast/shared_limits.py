"""Forecast by the limits that all requests of a service share: when so many units will have been admitted."""

from gate.admission.forecast.fair_share import AdmissionTimes
from gate.admission.limits.service import Limits
from gate.admission.model import whole_ms
from gate.limits import Limiter


class SharedLimits:
    """The admission times of a service's shared limits, kept. They save work only: new ones would say the same."""

    __slots__ = ("_budget", "_limits", "_own")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._own: AdmissionTimes | None = None
        self._budget: AdmissionTimes | None = None

    def admitted(self, now: int, units: int) -> None:
        """Go on with what a step admitted."""
        if self._own is not None and not self._own.passed(now, units):
            self._own = None
        self._budget = None  # others draw on it

    def time_of(self, units: int, start: int) -> int:
        """Return when the last of so many units is admitted, from `start` on."""
        limits, calls = self._limits, self._limits.calls
        if calls is not None:
            start = calls.time_of(start, units)
            if calls.covers_all:
                return whole_ms(start)
        if self._own is None or not self._own.follow(start):
            self._own = AdmissionTimes([limits.limiter.copy()], start)
        time = max(start, self._own.time_of(units))
        if limits.budget is not None:
            if self._budget is None or not self._budget.follow(start):
                self._budget = AdmissionTimes([limits.budget.limiter.copy()], start)
            rivals = sum(min(waiting, units) for waiting in limits.budget.others(limits.service))
            time = max(time, self._budget.time_of(units + rivals))
        return time

    def keep_promises(self) -> None:
        """Let the limiters compress what was compressed to find times that were told."""
        if self._own is not None and self._limits.limiter.follow(self._own.limiter):
            self._own = None  # a new one would say otherwise
        if self._budget is not None and self._limits.budget is not None:
            self._limits.budget.limiter.follow(self._budget.limiter)


class DeepTenant:
    """A tenant's own limit, ahead of which more waits than is booked one by one: as exact as `fair_share`."""

    __slots__ = ("_times", "_units")

    def __init__(self, limiter: Limiter, units: int, at: int) -> None:
        self._times = AdmissionTimes([limiter.copy()], at)
        self._units = units

    @property
    def limiter(self) -> Limiter:
        """The limit, charged as far as was looked ahead."""
        return self._times.limiter

    def ready_at(self, now: int, cost: int) -> int:
        """Return when `cost` is admitted behind what waits."""
        return max(now, self._times.time_of(self._units + cost))

    def charge(self, now: int, units: int) -> None:  # noqa: ARG002 - as a limiter's
        """Let so many more units wait."""
        self._units += units
