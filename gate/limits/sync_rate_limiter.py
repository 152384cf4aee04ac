"""The rate limiter for threads, with the names of the one for asyncio."""

from collections.abc import Callable, Sequence
from typing import Any

from gate.limits.config import RateLimitConfig
from gate.limits.local import LocalLimits
from gate.limits.rate_limits import Asked
from gate.limits.result import RateLimitResult
from gate.limits.spec import Spec
from gate.limits.turn import Turn


class SyncRateLimiter:
    """`RateLimiter` without `await`, for threads: with limits of its own, or as `RateLimiter.sync` with that one's."""

    def __init__(self, limits: LocalLimits | None = None, **options: Any) -> None:
        self._limits = LocalLimits(**options) if limits is None else limits
        self.check_rate_limit = self._limits.check
        self.get_current_usage = self._limits.usage

    def hit(
        self, service_id: str, cost: int = 1, *, tenant: str = "", current_time: float | None = None
    ) -> RateLimitResult:
        """Do as `check_rate_limit` does, and tell what is left."""
        return self._limits.hit_now(service_id, cost, tenant=tenant, current_time=current_time)

    def hit_all(self, asked: Sequence[Asked]) -> list[RateLimitResult]:
        """Charge all of several requests (service, tenant or "", cost), or none: budgets that they share count once."""
        return self._limits.hit_all_now(asked)

    def peek(
        self, service_id: str, cost: int = 1, *, tenant: str = "", current_time: float | None = None
    ) -> RateLimitResult:
        """Tell what `hit` would, and charge nothing."""
        return self._limits.look(service_id, cost, tenant=tenant, current_time=current_time)

    def acquire(self, service_id: str, cost: int = 1, timeout: float | None = None, *, tenant: str = "") -> None:
        """Wait for one's turn, as `RateLimiter.acquire` does; it blocks this thread, so not in a running loop."""
        self._limits.wait(service_id, cost, timeout, tenant=tenant)

    def limit(
        self, service_id: str | Callable[..., str], cost: int = 1, timeout: float | None = None, *, tenant: str = ""
    ) -> Turn:
        """Return a context manager and decorator that waits as `acquire` does."""
        return Turn(service_id, None, lambda service: self.acquire(service, cost, timeout, tenant=tenant))

    def configure_limit(self, service_id: str, config: RateLimitConfig | Spec, *, tenant: str = "") -> None:
        """Set or replace the limits of a service, or of its tenant."""
        self._limits.configure(service_id, config, tenant=tenant)

    def remove_limit(self, service_id: str, *, tenant: str = "") -> None:
        """Forget a service and its tenants, or one of these, with all limits."""
        self._limits.remove(service_id, tenant=tenant)

    def reset(self, service_id: str, *, tenant: str = "") -> None:
        """Forget what counts for a service and its tenants, or for one of these."""
        self._limits.clear(service_id, tenant=tenant)
