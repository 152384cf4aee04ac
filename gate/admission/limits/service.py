"""The limits that all requests of a service share: its own, its group's, and those of what is under way."""

from typing import NamedTuple

from gate.admission.limits.budget import Budget
from gate.admission.limits.in_flight import Concurrency, LagCounter, LimitsOfCalls
from gate.admission.limits.running_requests import GroupRunning, RunningCounter
from gate.admission.model import Reason
from gate.limits import Limiter
from gate.policy import ServicePolicy


class Bound(NamedTuple):
    """The limit that stopped the scheduler."""

    reason: Reason
    limit: str


class Limits:
    """The limits that all requests of a service share: its own, its group's, and those of what is under way."""

    def __init__(self, service: str, policy: ServicePolicy, budget: Budget | None, now: int) -> None:
        self.service = service
        self.limiter = Limiter(policy.spec, now)
        self.budget = budget
        self.in_flight = LagCounter(service, policy.in_flight)
        self.running = RunningCounter(service, policy.spec.running, policy.running_timeout)
        self.calls: LimitsOfCalls | None = None  # what calls in processes leave of the same limits
        self.concurrent: tuple[Concurrency, ...] = ()  # those in force
        self._enforce(policy)

    def reconfigure(self, policy: ServicePolicy, budget: Budget | None, now: int) -> None:
        """Go over to other limits, and maybe to another budget; what was used stays counted."""
        self.limiter.reconfigure(policy.spec, now)
        if self.budget is not None:
            self.budget.wait(self.service, 0, now)
            self.budget.runners.pop(self.service, None)
        self.budget = budget
        self.in_flight.limit = policy.in_flight
        self.running.limit, self.running.timeout = policy.spec.running, policy.running_timeout
        self._enforce(policy)

    def share(self, calls: LimitsOfCalls | None, policy: ServicePolicy) -> None:
        """Share the limits with calls in processes from now on; None: no longer."""
        self.calls = calls
        self._enforce(policy)

    def _enforce(self, policy: ServicePolicy) -> None:
        each: list[Concurrency] = [self.in_flight, self.running]
        if self.calls is not None:
            each.append(self.calls)
        if self.budget is not None:
            self.budget.runners[self.service] = self.running
            each.append(GroupRunning(self.budget))
        self.concurrent = tuple([concurrent for concurrent in each if concurrent.limit is not None])
        self.running.tracking = policy.tenants_run or any(
            concurrent.limit is not None and concurrent.limit.reason == Reason.RUNNING for concurrent in self.concurrent
        )

    def ceiling(self) -> tuple[int, str] | None:
        """Return the largest cost that can ever be admitted, and the limit that says so; None: no bound."""
        ceilings = []
        lowest = min(self.limiter.spec.limits, key=lambda limit: limit.capacity, default=None)
        if lowest is not None:
            ceilings.append((lowest.capacity, f"{self.service}.{lowest.name}"))
        if self.budget is not None and self.budget.limiter.spec.ceiling is not None:
            ceilings.append((self.budget.limiter.spec.ceiling, f"group.{self.budget.name}"))
        return min(ceilings, default=None)

    def limiters(self) -> list[Limiter]:
        """Return the limiters that a request is checked against."""
        return [self.limiter] if self.budget is None else [self.limiter, self.budget.limiter]

    def fit(self, now: int, count: int, cost: int) -> int:
        """Tell how many of `count` equal requests may go now."""
        for concurrent in self.concurrent:
            count = concurrent.fit(now, count, cost)
        fitting = self.limiter.fit(now, count, cost)
        if fitting and self.budget is not None:
            fitting = self.budget.fit(self.service, now, fitting, cost)
        return fitting

    def charge(self, now: int, count: int, cost: int) -> None:
        """Take what `fit` allowed."""
        self.in_flight.charge(now, count, cost)
        self.running.charge(now, count, cost)
        self.limiter.charge(now, count * cost)
        if self.budget is not None:
            self.budget.charge(self.service, now, count, cost)
        if self.calls is not None:
            self.calls.charge(now, count, cost)

    def fit_all(self, now: int, count: int, units: int) -> bool:
        """Tell whether `count` requests of so many units together may go now, all of them."""
        if any(concurrent.fit(now, count, 1) < count for concurrent in self.concurrent):
            return False
        if not units or not self.limiter.fit(now, 1, units):
            return not units
        if self.calls is not None and self.calls.fit(now, units, 1) < units:
            return False
        return self.budget is None or self.budget.fit(self.service, now, 1, units) > 0

    def charge_all(self, now: int, count: int, units: int) -> None:
        """Take what `fit_all` allowed."""
        self.in_flight.charge(now, count, 1)
        self.running.charge(now, count, 1)
        if units:
            self.limiter.charge(now, units)
            if self.budget is not None:
                self.budget.charge(self.service, now, 1, units)
            if self.calls is not None:
                self.calls.charge(now, 1, units)

    def let_pass(self, now: int, count: int) -> None:
        """Count requests that go whatever the limits say: they are under way, and take nothing else."""
        self.in_flight.charge(now, count, 1)
        self.running.charge(now, count, 1)

    def closed(self, now: int) -> Bound | None:
        """Name the limit that lets nothing go until somebody is done; None: none does."""
        for concurrent in self.concurrent:
            limit = concurrent.limit
            if limit is not None and not concurrent.fit(now, 1, 1):
                return Bound(Reason(limit.reason), f"{concurrent.owner}.{limit.name}")
        return None

    def closed_by_calls(self, now: int) -> bool:
        """Tell whether nothing goes until calls in processes have given up some of what they hold."""
        return self.calls is not None and not self.calls.fit(now, 1, 1)

    def own_ready_at(self, now: int, cost: int) -> int:
        """Return when the service's own limits let a request go, whatever its group's say."""
        own = [self.limiter.ready_at(now, cost), self.in_flight.ready_at(now, cost), self.running.ready_at(now, cost)]
        return max(own)

    def promises(self, now: int, waiting: int) -> bool:
        """Tell whether so many requests could go, all that wait, whenever those that run are done."""
        own = self.running.fit(now, waiting, 1) >= waiting
        return own and (self.budget is None or self.budget.promises(self.service, waiting))

    def bound(self, now: int, cost: int) -> Bound | None:
        """Name the limit that makes a request of this cost wait longest; None: none does."""
        closed = self.closed(now) if self.concurrent else None
        if closed is not None:
            return closed
        own = self.limiter.ready_at(now, cost)
        if self.budget is not None and (own <= now or self.budget.limiter.ready_at(now, cost) > own):
            return Bound(Reason.GROUP, f"group.{self.budget.name}")
        binding = self.limiter.binding(now, cost)
        return None if binding is None else Bound(Reason(binding.reason), f"{self.service}.{binding.name}")


def is_full(limiter: Limiter, now: int) -> bool:
    """Tell whether a bucket has nothing to gain by waiting: from here on capacity is lost."""
    return limiter.spec.rate is not None and limiter.bucket_fill(now) <= 0


def is_shifted(limiter: Limiter, now: int) -> bool:
    """Tell whether who comes late at `now` delays those behind."""
    return bool(limiter.spec.counted) or is_full(limiter, now)
