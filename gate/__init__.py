"""An admission gate for message queues on Apache Kafka, and its limits as a library of their own."""

from gate.limits.config import RateLimitConfig
from gate.limits.errors import NeverAdmittedError
from gate.limits.rate_limiter import RateLimiter
from gate.limits.result import LimitState, RateLimitResult
from gate.limits.sync_rate_limiter import SyncRateLimiter
from gate.limits.token_bucket import TokenBucket

__all__ = [
    "LimitState",
    "NeverAdmittedError",
    "RateLimitConfig",
    "RateLimitResult",
    "RateLimiter",
    "SyncRateLimiter",
    "TokenBucket",
]
