"""Doors through which other programs meet a limit: ASGI middleware, transports of httpx, and the sidecar."""

from gate.doors.middleware import RateLimitMiddleware, by_client, by_header, by_path
from gate.doors.transport import AsyncRateLimitTransport, RateLimitTransport, TurnTimeoutError

__all__ = [
    "AsyncRateLimitTransport",
    "RateLimitMiddleware",
    "RateLimitTransport",
    "TurnTimeoutError",
    "by_client",
    "by_header",
    "by_path",
]
