"""Concurrency of a service: limits of what is under way, which open when somebody is done, and not by time alone."""

from typing import Protocol

from gate.admission.model import UNTIL_RESUMED
from gate.limits import InFlight
from gate.limits.limit import Limit


class Concurrency(Protocol):
    """A limit of the requests that are under way, in force or not: for them what a `Limiter` is for units."""

    @property
    def owner(self) -> str:
        """Whose limit it is: a service, or a group as `group.NAME`."""

    @property
    def limit(self) -> Limit | None:
        """The limit, as it describes itself; None: there is none now."""

    @property
    def used(self) -> int:
        """Requests under way, as far as is known."""

    def fit(self, now: int, count: int, cost: int) -> int:
        """Return how many of `count` requests may go now."""

    def charge(self, now: int, count: int, cost: int) -> None:
        """Count requests that go, whether they fit or not."""

    def ready_at(self, now: int, cost: int) -> int:
        """Return when a further request may go; UNTIL_RESUMED where nobody knows."""


class LimitsOfCalls(Concurrency, Protocol):
    """What calls in processes leave of limits that they share."""

    @property
    def covers_all(self) -> bool:
        """Whether there are no limits beside those that calls share."""

    def time_of(self, start: int, units: int) -> int:
        """Return when the last of so many units may go, from `start` on, if all go on to want what they want now."""


class LagCounter:
    """What workers have not finished, by their lag as it was last reported and by what was admitted since."""

    __slots__ = ("admitted", "lag", "limit", "owner")

    def __init__(self, service: str, limit: InFlight | None) -> None:
        self.owner = service
        self.limit = limit
        self.lag: int | None = None  # None: not known, so nothing is held back
        self.admitted = 0  # since it was reported

    @property
    def used(self) -> int:
        """Requests that are in flight; 0 where nothing is known."""
        return 0 if self.lag is None else self.lag + self.admitted

    def fit(self, now: int, count: int, cost: int) -> int:  # noqa: ARG002 - workers tell no times, and count requests
        """Return how many of `count` requests may go now."""
        if self.limit is None or self.lag is None:
            return count
        return max(0, min(count, self.limit.capacity - self.lag - self.admitted))

    def charge(self, now: int, count: int, cost: int) -> None:  # noqa: ARG002 - as in fit
        """Count requests that go."""
        self.admitted += count

    def ready_at(self, now: int, cost: int) -> int:
        """Return `now`, or UNTIL_RESUMED: only the workers' next report opens it."""
        return now if self.fit(now, 1, cost) else UNTIL_RESUMED

    def report(self, lag: int | None) -> bool:
        """Take how many requests the workers have not finished; tell whether that is news."""
        news = (self.lag, self.admitted) != (lag, 0)
        self.lag, self.admitted = lag, 0
        return news
