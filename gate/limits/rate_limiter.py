"""The limits as a library: for asyncio and for threads, with a clock, without Kafka."""

import asyncio
from collections.abc import Callable, Sequence

from gate.limits.config import RateLimitConfig
from gate.limits.errors import NeverAdmittedError
from gate.limits.local import ALLOWED, LocalLimits, checked
from gate.limits.rate_limits import Asked
from gate.limits.reading import usage_of
from gate.limits.result import RateLimitResult
from gate.limits.spec import Spec
from gate.limits.sync_rate_limiter import SyncRateLimiter
from gate.limits.turn import Turn
from gate.limits.usage import Usage
from gate.limits.waiting import LoopWaiter, wait_in_loop


class RateLimiter(LocalLimits):
    """Limits by service: a token bucket and sliding windows, charged together or not at all.

    Safe for threads and for asyncio. One lock is held for the microseconds of a decision; a coroutine never waits for
    it, it lets others run and comes again. A child of a fork goes on with a copy of its own.

    The time is read from a clock that never steps, or passed in, for one service always the one or always the other:
    where a decision mixes them, ValueError is raised and nothing is charged.

    A time that is up to one second before the newest is taken as the newest. One that is further back is a clock that
    was set: time goes on from there, and what passed since the last decision is lost, no more.

    A service without limits is allowed, or refused with `fail_open=False`; with `default` each has these limits, for
    itself as long as there are at most `max_default_keys` such at once, and what comes beyond shares one. A `source`
    gives limits that are said elsewhere, as in a policy: of services, tenants, and groups that share a budget.
    """

    @property
    def sync(self) -> SyncRateLimiter:
        """The same limiter without `await`, for threads."""
        return SyncRateLimiter(self)

    async def check_rate_limit(
        self, service_id: str, current_time: float | None = None, cost: int = 1, tenant: str = ""
    ) -> tuple[bool, float | None]:
        """Decide as `check` does, without ever blocking the loop."""
        if not self._lock.acquire(blocking=False):
            await self._acquire_lock()
        try:
            wait = (
                self._decide_together(service_id, tenant, current_time, cost)
                if tenant
                else self._decide(service_id, current_time, cost)
            )
        finally:
            self._lock.release()
        if self._hooks is not None:
            self._tell(self._hooks, service_id, cost, wait)
        return ALLOWED if wait is None else (False, wait)

    async def hit(
        self, service_id: str, cost: int = 1, *, tenant: str = "", current_time: float | None = None
    ) -> RateLimitResult:
        """Decide as `check_rate_limit` does, and tell what is left of each limit."""
        await self._acquire_lock()
        try:
            result = self._hit(service_id, tenant, current_time, cost)
        finally:
            self._lock.release()
        if self._hooks is not None:
            self._tell(self._hooks, service_id, cost, result.retry_after)
        return result

    async def hit_all(self, asked: Sequence[Asked]) -> list[RateLimitResult]:
        """Charge all of several requests (service, tenant or "", cost), or none: budgets that they share count once.

        Each is answered as if those before it that fit were charged.
        """
        await self._acquire_lock()
        try:
            results = self._hit_all(asked)
        finally:
            self._lock.release()
        self._tell_all(asked, results)
        return results

    async def peek(
        self, service_id: str, cost: int = 1, *, tenant: str = "", current_time: float | None = None
    ) -> RateLimitResult:
        """Tell what `hit` would, and charge nothing."""
        await self._acquire_lock()
        try:
            return self._look(service_id, tenant, current_time, cost)
        finally:
            self._lock.release()

    async def acquire(self, service_id: str, cost: int = 1, timeout: float | None = None, *, tenant: str = "") -> None:  # noqa: ASYNC109 - as users of other limiters call it
        """Wait until `cost` units are admitted, behind all who wait already; at once if nobody does and they fit.

        Nothing polls: who is next sleeps until its time, the others until they are next. Nobody overtakes, so a large
        cost does not starve; tenants that have limits of their own hold up only themselves. Cancelled, it gives its
        turn to the next, uncharged.

        Raises TimeoutError after `timeout` seconds (0: unless it may go at once); NeverAdmittedError, at once, for what
        no waiting helps; ValueError for a service whose callers pass the time.
        """
        checked(timeout)
        await self._acquire_lock()
        try:
            waiter = self._enter(service_id, cost, tenant, LoopWaiter)
        finally:
            self._lock.release()
        if waiter is not None:
            try:
                await wait_in_loop(self._lines, self._lock, service_id, waiter, timeout)
            except (TimeoutError, NeverAdmittedError):
                self._gave_up(service_id, waiter)
                raise
        if self._hooks is not None:
            self._tell(self._hooks, service_id, cost, None)

    def limit(
        self, service_id: str | Callable[..., str], cost: int = 1, timeout: float | None = None, *, tenant: str = ""
    ) -> Turn:
        """Return what waits as `acquire` does before a block or a call: for `async with`, `with`, or as a decorator."""
        return Turn(
            service_id,
            lambda service: self.acquire(service, cost, timeout, tenant=tenant),
            lambda service: self.wait(service, cost, timeout, tenant=tenant),
        )

    async def configure_limit(self, service_id: str, config: RateLimitConfig | Spec, *, tenant: str = "") -> None:
        """Do as `configure` does."""
        await self._acquire_lock()
        try:
            self._configure(service_id, config, tenant)
        finally:
            self._lock.release()

    async def remove_limit(self, service_id: str, *, tenant: str = "") -> None:
        """Forget a service and its tenants, or one of these, with all limits, if it has any."""
        await self._acquire_lock()
        try:
            self._remove(service_id, tenant)
        finally:
            self._lock.release()

    async def reset(self, service_id: str, *, tenant: str = "") -> None:
        """Forget what counts for a service and its tenants, or for one of these: all start full again."""
        await self._acquire_lock()
        try:
            self._reset(service_id, tenant)
        finally:
            self._lock.release()

    async def get_current_usage(
        self, service_id: str, current_time: float | None = None, *, tenant: str = ""
    ) -> Usage | None:
        """Do as `usage` does."""
        await self._acquire_lock()
        try:
            return usage_of(self._book, service_id, tenant, current_time)
        finally:
            self._lock.release()

    async def _acquire_lock(self) -> None:
        while not self._lock.acquire(blocking=False):  # noqa: ASYNC110 - threads hold it too, for microseconds
            await asyncio.sleep(0)
