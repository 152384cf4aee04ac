"""The distributed rate limiter for threads.

>>> def main() -> None:
...     with SyncDistributedRateLimiter("localhost:9092") as limiter:
...         allowed, retry_after = limiter.check_rate_limit("api_service")
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from time import CLOCK_BOOTTIME, clock_gettime_ns
from types import TracebackType
from typing import Any, Self

from gate.client._background import Background
from gate.client._errors import NotConnectedError
from gate.config import Connection
from gate.distributed.holders import ALLOWED, NOTHING, Answer, Pending, Route
from gate.distributed.shared import ASK_AGAIN, Shared
from gate.limits.local import checked
from gate.limits.rate_limits import Asked
from gate.limits.result import RateLimitResult
from gate.limits.turn import Turn
from gate.limits.usage import Usage
from gate.limits.waiting import ThreadWaiter


class SyncDistributedRateLimiter:
    """`DistributedRateLimiter` without `await`, for threads, of which any number may use it.

    Its messages go through an event loop in a thread of its own, so that a thread that computes delays no renewal. In
    the child of a fork, as of a server that loads its program before it forks its workers, it begins anew by itself.
    """

    def __init__(self, bootstrap: str | Connection, **options: Any) -> None:
        self._shared = Shared(bootstrap, **options)
        self._background = self._new_background()
        self._connecting = threading.Lock()
        self._lock = self._shared.lock
        self._alone = self._shared.holders.alone

    def __enter__(self) -> Self:
        """Connect; raises what `DistributedRateLimiter` raises."""
        with self._shared.entering(type(self).__name__):
            self._background = self._new_background()
            self._background.start(self._shared.connect())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give up all that is held, and disconnect."""
        if self._shared.link is None:  # in a child that has asked for nothing
            self._shared.entered = False
        else:
            self._background.stop(self._shared.disconnect())

    @property
    def let_go(self) -> int:
        """Units that were let go without an owner, as `on_owner_away` says: they may be over the limits."""
        return self._shared.holders.let_go

    @property
    def owner_away(self) -> float:
        """For how many seconds an owner that was asked has not answered; below a second or two, all is well."""
        return self._shared.owner_away

    def check_rate_limit(
        self, service_id: str, current_time: float | None = None, cost: int = 1, tenant: str = ""
    ) -> tuple[bool, float | None]:
        """Charge `cost` units if they fit: (True, None); else (False, seconds until they may)."""
        if current_time is not None:
            self._shared.check_time(current_time)
        self._lock.acquire()  # `with` takes longer
        try:
            if not tenant:  # what is usual, in as few calls as can be
                now = clock_gettime_ns(CLOCK_BOOTTIME)
                try:
                    only = self._alone[service_id]  # `get` takes longer
                except KeyError:
                    only = NOTHING
                if now < only.decides_until:
                    if only.granting:
                        if only.take(now, cost):
                            return ALLOWED
                    elif only.part.try_take(now, cost) is None:  # type: ignore[union-attr]
                        only.wanted += cost
                        return ALLOWED
            answer = self._shared.decide(service_id, tenant, cost, None)
        finally:
            self._lock.release()
        return self._ask(service_id, tenant, cost) if isinstance(answer, Pending) else answer

    def hit(self, service_id: str, cost: int = 1, *, tenant: str = "") -> RateLimitResult:
        """Do as `check_rate_limit` does, and tell what this process has left, of which whole limits."""
        answer = self.check_rate_limit(service_id, None, cost, tenant)
        with self._shared.lock:
            return self._shared.result(self._shared.holders.routes.get((service_id, tenant)), cost, answer)

    def hit_all(self, asked: Sequence[Asked]) -> list[RateLimitResult]:
        """Charge all of several requests (service, tenant or "", cost), or none: budgets that they share count once.

        What the owner is asked for, as said above, stays charged where another one is refused after it.
        """
        for service, tenant, _ in asked:
            self._find(service, tenant)
        left, answers = list(range(len(asked))), dict[int, Answer]()
        while left:
            with self._shared.lock:
                found = self._shared.charge_all([asked[place] for place in left])
            if found is None:
                answers |= dict.fromkeys(left, ALLOWED)
                break
            place, wait = left.pop(found[0]), found[1]
            service, tenant, cost = asked[place]
            answers[place] = (False, wait) if wait else self.check_rate_limit(service, None, cost, tenant)
            if not answers[place][0]:
                break
        with self._shared.lock:
            return self._shared.results(asked, answers)

    def peek(self, service_id: str, cost: int = 1, *, tenant: str = "") -> RateLimitResult:
        """Tell what a call would be told by what this process holds now. Charges nothing, and asks nobody."""
        route = self._find(service_id, tenant)
        with self._shared.lock:
            return self._shared.result(route, cost, None)

    def acquire(self, service_id: str, cost: int = 1, timeout: float | None = None, *, tenant: str = "") -> None:
        """Wait for one's turn, as `DistributedRateLimiter.acquire` does; it blocks this thread."""
        checked(timeout)
        shared = self._shared
        route = self._find(service_id, tenant)
        end = math.inf if timeout is None else time.monotonic() + timeout
        if timeout == 0 and self.check_rate_limit(service_id, None, cost, tenant)[0]:
            return
        waiter = ThreadWaiter(cost, tenant)
        with shared.lock:
            if route is None or (timeout == 0 and cost <= route.most):
                raise shared.timed_out(service_id, route, cost, timeout)
            if not shared.enter(route, service_id, waiter):
                return
        self._wait(route, service_id, waiter, end, timeout)

    def limit(
        self, service_id: str | Callable[..., str], cost: int = 1, timeout: float | None = None, *, tenant: str = ""
    ) -> Turn:
        """Return what waits as `acquire` does before a block or a call: for `with`, or as a decorator."""
        return Turn(service_id, None, lambda service: self.acquire(service, cost, timeout, tenant=tenant))

    def reset(self, service_id: str, *, tenant: str = "") -> None:  # noqa: ARG002 - as of all limiters
        """Refuse, with GateError: what counts is not this process's alone."""
        raise self._shared.cannot_reset()

    def get_current_usage(
        self, service_id: str, current_time: float | None = None, *, tenant: str = ""
    ) -> Usage | None:
        """Return how much this process uses of what it holds; None for a service without limits."""
        self._shared.check_time(current_time)
        route = self._find(service_id, tenant)
        with self._shared.lock:
            return self._shared.usage(service_id, route)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _ask(self, service: str, tenant: str, cost: int) -> Answer:
        self._be_connected()
        shared = self._shared
        end = time.monotonic() + shared.patience
        waiter = ThreadWaiter(cost, tenant)
        while True:
            waiter.look()
            with shared.lock:
                answer = shared.decide(service, tenant, cost, waiter)
                if isinstance(answer, Pending) and time.monotonic() >= end:
                    return shared.give_up(service, tenant, cost, waiter)
            if not isinstance(answer, Pending):
                return answer
            waiter.sleep(min(ASK_AGAIN, max(0.0, end - time.monotonic())))

    def _find(self, service: str, tenant: str) -> Route | None:
        self._be_connected()
        end = time.monotonic() + self._shared.patience
        waiter = ThreadWaiter(1, tenant)
        while True:
            waiter.look()
            with self._shared.lock:
                route = self._shared.find(service, tenant, waiter)
            if route is not None or time.monotonic() >= end:
                return route
            waiter.sleep(min(ASK_AGAIN, max(0.0, end - time.monotonic())))

    def _wait(self, route: Route, service: str, waiter: ThreadWaiter, end: float, timeout: float | None) -> None:
        shared = self._shared
        try:
            while True:
                waiter.look()
                with shared.lock:
                    if waiter.gone:
                        return
                    left = end - time.monotonic()
                    if left <= 0:
                        raise shared.timed_out(service, route, waiter.cost, timeout)
                waiter.sleep(left)
        finally:
            with shared.lock:
                if not waiter.gone:
                    shared.holders.leave(route, waiter)

    def _be_connected(self) -> None:
        """Connect anew in the child of a fork. Raises NotConnectedError outside of `with`."""
        shared = self._shared
        if shared.link is not None:
            return
        if not shared.entered:
            raise NotConnectedError(type(self).__name__, sync=True)
        with self._connecting:
            if shared.link is None:
                self._background = self._new_background()  # the parent's thread is not here
                self._background.start(shared.connect())

    def _new_background(self) -> Background:
        return Background(type(self).__name__)
