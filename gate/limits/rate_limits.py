"""What every rate limiter offers, whether it decides alone or shares its limits with other processes.

`RateLimits` for asyncio and `SyncRateLimits` for threads are the same, with and without `await`. Middleware, transports
and the sidecar ask for one of these and nothing more.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from gate.limits.result import RateLimitResult
from gate.limits.turn import Turn
from gate.limits.usage import Usage

Asked = tuple[str, str, int]  # a service, one of its tenants or "", and a cost


class RateLimits(Protocol):
    """A rate limiter for asyncio. Each method raises TypeError or ValueError for a bad service, tenant or cost."""

    async def check_rate_limit(
        self, service_id: str, current_time: float | None = None, cost: int = 1, tenant: str = ""
    ) -> tuple[bool, float | None]:
        """Charge `cost` units if they fit: (True, None); else (False, seconds until they would)."""

    async def hit(self, service_id: str, cost: int = 1, *, tenant: str = "") -> RateLimitResult:
        """Do as `check_rate_limit` does, and tell what is left."""

    async def hit_all(self, asked: Sequence[Asked]) -> list[RateLimitResult]:
        """Charge all of several requests (service, tenant or "", cost), or none: budgets that they share count once.

        Each is answered as if those before it that fit were charged.
        """

    async def peek(self, service_id: str, cost: int = 1, *, tenant: str = "") -> RateLimitResult:
        """Tell what `hit` would, and charge nothing."""

    async def acquire(self, service_id: str, cost: int = 1, timeout: float | None = None, *, tenant: str = "") -> None:  # noqa: ASYNC109 - as the contract names it
        """Wait for one's turn, at most `timeout` seconds. Raises TimeoutError, NeverAdmittedError."""

    async def reset(self, service_id: str, *, tenant: str = "") -> None:
        """Forget what counts: start full again."""

    async def get_current_usage(
        self, service_id: str, current_time: float | None = None, *, tenant: str = ""
    ) -> Usage | None:
        """Return how much of its limits a service uses; None for one without any."""

    def limit(
        self,
        service_id: str | Callable[..., str],
        cost: int = 1,
        timeout: float | None = None,
        *,
        tenant: str = "",
    ) -> Turn:
        """Return what waits as `acquire` does: for `async with`, or as a decorator."""


class SyncRateLimits(Protocol):
    """A rate limiter for threads: as `RateLimits`, without `await`."""

    def check_rate_limit(
        self, service_id: str, current_time: float | None = None, cost: int = 1, tenant: str = ""
    ) -> tuple[bool, float | None]:
        """Charge `cost` units if they fit: (True, None); else (False, seconds until they would)."""

    def hit(self, service_id: str, cost: int = 1, *, tenant: str = "") -> RateLimitResult:
        """Do as `check_rate_limit` does, and tell what is left."""

    def hit_all(self, asked: Sequence[Asked]) -> list[RateLimitResult]:
        """Charge all of several requests (service, tenant or "", cost), or none: budgets that they share count once."""

    def peek(self, service_id: str, cost: int = 1, *, tenant: str = "") -> RateLimitResult:
        """Tell what `hit` would, and charge nothing."""

    def acquire(self, service_id: str, cost: int = 1, timeout: float | None = None, *, tenant: str = "") -> None:
        """Wait for one's turn, at most `timeout` seconds. Raises TimeoutError, NeverAdmittedError."""

    def reset(self, service_id: str, *, tenant: str = "") -> None:
        """Forget what counts: start full again."""

    def get_current_usage(
        self, service_id: str, current_time: float | None = None, *, tenant: str = ""
    ) -> Usage | None:
        """Return how much of its limits a service uses; None for one without any."""

    def limit(
        self,
        service_id: str | Callable[..., str],
        cost: int = 1,
        timeout: float | None = None,
        *,
        tenant: str = "",
    ) -> Turn:
        """Return what waits as `acquire` does: for `with`, or as a decorator."""
