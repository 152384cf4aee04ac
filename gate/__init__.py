"""An admission gate for message queues on Apache Kafka, and its limits as a library of their own."""

from gate.limits.config import RateLimitConfig
from gate.limits.rate_limiter import RateLimiter
from gate.limits.token_bucket import TokenBucket

__all__ = ["RateLimitConfig", "RateLimiter", "TokenBucket"]
