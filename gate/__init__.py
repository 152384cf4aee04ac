"""An admission gate for message queues on Apache Kafka, and its limits as a library of their own."""

from typing import TYPE_CHECKING, Any

from gate.limits.config import RateLimitConfig
from gate.limits.errors import NeverAdmittedError
from gate.limits.rate_limiter import RateLimiter
from gate.limits.result import LimitState, RateLimitResult
from gate.limits.sync_rate_limiter import SyncRateLimiter
from gate.limits.token_bucket import TokenBucket

if TYPE_CHECKING:
    from gate.distributed import DistributedRateLimiter, SyncDistributedRateLimiter

__all__ = [
    "DistributedRateLimiter",
    "LimitState",
    "NeverAdmittedError",
    "RateLimitConfig",
    "RateLimitResult",
    "RateLimiter",
    "SyncDistributedRateLimiter",
    "SyncRateLimiter",
    "TokenBucket",
]


def __getattr__(name: str) -> Any:
    """Load what needs Kafka's client when it is asked for: the limits alone need nothing."""
    if name in {"DistributedRateLimiter", "SyncDistributedRateLimiter"}:
        from gate import distributed  # noqa: PLC0415 - as said above

        return getattr(distributed, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
