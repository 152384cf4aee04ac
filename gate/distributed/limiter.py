"""The distributed rate limiter for asyncio.

>>> async def main() -> None:
...     async with DistributedRateLimiter("localhost:9092") as limiter:
...         allowed, retry_after = await limiter.check_rate_limit("api_service")
...         await limiter.acquire("api_service", timeout=5.0)
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from time import CLOCK_BOOTTIME, clock_gettime_ns
from types import TracebackType
from typing import Any, Self

from gate.client._errors import NotConnectedError
from gate.config import Connection
from gate.distributed.holders import ALLOWED, NOTHING, Answer, Pending, Route
from gate.distributed.shared import ASK_AGAIN, Shared
from gate.limits.local import checked
from gate.limits.rate_limits import Asked
from gate.limits.result import RateLimitResult
from gate.limits.turn import Turn
from gate.limits.usage import Usage
from gate.limits.waiting import LoopWaiter


class DistributedRateLimiter:
    """Limits of a gate's policy, shared by all processes that ask and by the requests in its topics: never over.

    The methods are those of `RateLimiter`. A call is decided here, in microseconds, by the part of the limit that this
    process holds. It waits for an answer of the service's owner, some 20 ms and at most `patience` seconds, where a
    service is asked for the first time, where so little is allowed that nobody can hold a part of it, and for a cost
    above the part.

    `on_owner_away` says what becomes of calls when no owner answers and the lease of some 10 s has ended: "closed"
    refuses, "open" lets all go, "floor" goes on with the last part, halved with each lease; the latter two for a minute
    at most, and `let_go` counts what they let go. In the child of a fork it is a new holder, and connects anew at its
    first call.

    Raises BrokerUnreachableError and NoGateError when it is entered, ArgumentError for arguments that make no sense.
    """

    def __init__(self, bootstrap: str | Connection, **options: Any) -> None:
        self._shared = Shared(bootstrap, **options)
        self._connecting = False
        self._lock = self._shared.lock
        self._alone = self._shared.holders.alone

    async def __aenter__(self) -> Self:
        """Connect; raises GateError where it is entered already, or is being entered."""
        with self._shared.entering(type(self).__name__):
            await self._shared.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give up all that is held, and disconnect."""
        await self._shared.disconnect()

    @property
    def let_go(self) -> int:
        """Units that were let go without an owner, as `on_owner_away` says: they may be over the limits."""
        return self._shared.holders.let_go

    @property
    def owner_away(self) -> float:
        """For how many seconds an owner that was asked has not answered; below a second or two, all is well."""
        return self._shared.owner_away

    async def check_rate_limit(
        self, service_id: str, current_time: float | None = None, cost: int = 1, tenant: str = ""
    ) -> tuple[bool, float | None]:
        """Charge `cost` units if they fit: (True, None); else (False, seconds until they may).

        The seconds are what it takes if nothing else comes, here or elsewhere; `math.inf` where no waiting helps.
        Raises TypeError or ValueError for a bad service, tenant or cost, and for `current_time`: the clock is the
        gate's. NotConnectedError outside of `async with`.
        """
        lock = self._lock
        if current_time is not None:
            self._shared.check_time(current_time)
        if not lock.acquire(blocking=False):
            await self._take_lock()
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
            lock.release()
        if isinstance(answer, Pending):
            return await self._ask(service_id, tenant, cost)
        return answer

    async def hit(self, service_id: str, cost: int = 1, *, tenant: str = "") -> RateLimitResult:
        """Do as `check_rate_limit` does, and tell what this process has left, of which whole limits."""
        answer = await self.check_rate_limit(service_id, None, cost, tenant)
        await self._take_lock()
        try:
            return self._shared.result(self._shared.holders.routes.get((service_id, tenant)), cost, answer)
        finally:
            self._shared.lock.release()

    async def hit_all(self, asked: Sequence[Asked]) -> list[RateLimitResult]:
        """Charge all of several requests (service, tenant or "", cost), or none: budgets that they share count once.

        What the owner is asked for, as said above, stays charged where another one is refused after it.
        """
        for service, tenant, _ in asked:
            await self._find(service, tenant)
        left, answers = list(range(len(asked))), dict[int, Answer]()
        while left:
            await self._take_lock()
            try:
                found = self._shared.charge_all([asked[place] for place in left])
            finally:
                self._shared.lock.release()
            if found is None:
                answers |= dict.fromkeys(left, ALLOWED)
                break
            place, wait = left.pop(found[0]), found[1]
            service, tenant, cost = asked[place]
            answers[place] = (False, wait) if wait else await self.check_rate_limit(service, None, cost, tenant)
            if not answers[place][0]:
                break
        await self._take_lock()
        try:
            return self._shared.results(asked, answers)
        finally:
            self._shared.lock.release()

    async def peek(self, service_id: str, cost: int = 1, *, tenant: str = "") -> RateLimitResult:
        """Tell what a call would be told by what this process holds now. Charges nothing, and asks nobody."""
        route = await self._find(service_id, tenant)
        await self._take_lock()
        try:
            return self._shared.result(route, cost, None)
        finally:
            self._shared.lock.release()

    async def acquire(self, service_id: str, cost: int = 1, timeout: float | None = None, *, tenant: str = "") -> None:  # noqa: ASYNC109 - as the contract names it
        """Wait for one's turn behind all who wait in this process, at most `timeout` seconds. What waits is a want.

        Between processes it goes by what each wants, not by who came first. What it takes to ask the owner, as said
        above, comes on top of `timeout`. Raises TimeoutError, and NeverAdmittedError for what no waiting helps.
        """
        checked(timeout)
        loop, shared = asyncio.get_running_loop(), self._shared
        route = await self._find(service_id, tenant)
        end = math.inf if timeout is None else loop.time() + timeout
        if timeout == 0 and (await self.check_rate_limit(service_id, None, cost, tenant))[0]:
            return
        waiter = LoopWaiter(cost, tenant)
        await self._take_lock()
        try:
            if route is None or (timeout == 0 and cost <= route.most):
                raise shared.timed_out(service_id, route, cost, timeout)
            if not shared.enter(route, service_id, waiter):
                return
        finally:
            shared.lock.release()
        await self._wait(route, service_id, waiter, end, timeout)

    def limit(
        self, service_id: str | Callable[..., str], cost: int = 1, timeout: float | None = None, *, tenant: str = ""
    ) -> Turn:
        """Return what waits as `acquire` does before a block or a call: for `async with`, or as a decorator."""
        return Turn(service_id, lambda service: self.acquire(service, cost, timeout, tenant=tenant), None)

    async def reset(self, service_id: str, *, tenant: str = "") -> None:  # noqa: ARG002 - as of all limiters
        """Refuse, with GateError: what counts is not this process's alone."""
        raise self._shared.cannot_reset()

    async def get_current_usage(
        self, service_id: str, current_time: float | None = None, *, tenant: str = ""
    ) -> Usage | None:
        """Return how much this process uses of what it holds; None for a service without limits."""
        self._shared.check_time(current_time)
        route = await self._find(service_id, tenant)
        await self._take_lock()
        try:
            return self._shared.usage(service_id, route)
        finally:
            self._shared.lock.release()

    # -- inside ----------------------------------------------------------------------------------------------------

    async def _ask(self, service: str, tenant: str, cost: int) -> Answer:
        """Wait for the owner's answer."""
        await self._be_connected()
        loop, shared = asyncio.get_running_loop(), self._shared
        end = loop.time() + shared.patience
        waiter = LoopWaiter(cost, tenant)
        while True:
            waiter.look()
            await self._take_lock()
            try:
                answer = shared.decide(service, tenant, cost, waiter)
                if isinstance(answer, Pending) and loop.time() >= end:
                    return shared.give_up(service, tenant, cost, waiter)
            finally:
                shared.lock.release()
            if not isinstance(answer, Pending):
                return answer
            await waiter.sleep(min(ASK_AGAIN, max(0.0, end - loop.time())))

    async def _find(self, service: str, tenant: str) -> Route | None:
        """Return what calls are charged to; None: no owner has answered."""
        await self._be_connected()
        loop = asyncio.get_running_loop()
        end = loop.time() + self._shared.patience
        waiter = LoopWaiter(1, tenant)
        while True:
            waiter.look()
            await self._take_lock()
            try:
                route = self._shared.find(service, tenant, waiter)
            finally:
                self._shared.lock.release()
            if route is not None or loop.time() >= end:
                return route
            await waiter.sleep(min(ASK_AGAIN, max(0.0, end - loop.time())))

    async def _wait(
        self,
        route: Route,
        service: str,
        waiter: LoopWaiter,
        end: float,
        timeout: float | None,  # noqa: ASYNC109 - for the message
    ) -> None:
        loop, shared = asyncio.get_running_loop(), self._shared
        try:
            while True:
                waiter.look()
                await self._take_lock()
                try:
                    if waiter.gone:
                        return
                    left = end - loop.time()
                    if left <= 0:
                        raise shared.timed_out(service, route, waiter.cost, timeout)
                finally:
                    shared.lock.release()
                await waiter.sleep(left)
        finally:
            with shared.lock:
                if not waiter.gone:
                    shared.holders.leave(route, waiter)

    async def _be_connected(self) -> None:
        """Connect anew in the child of a fork. Raises NotConnectedError outside of `async with`."""
        shared = self._shared
        if shared.link is not None:
            shared.check_loop(type(self).__name__)
            return
        if not shared.entered:
            raise NotConnectedError(type(self).__name__)
        if self._connecting:
            return  # another call does it
        self._connecting = True
        try:
            await shared.connect()
        finally:
            self._connecting = False

    async def _take_lock(self) -> None:
        while not self._shared.lock.acquire(blocking=False):  # noqa: ASYNC110 - threads hold it too, for microseconds
            await asyncio.sleep(0)
