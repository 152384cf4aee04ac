"""The ASGI middleware: answers 429 to what is over a limit, and tells everybody what is left.

For Starlette, FastAPI and whatever else speaks ASGI; it reads no body and holds no response back.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gate.doors.fields import rate_limit_fields, retry_after_field, violated
from gate.limits.checks import shown
from gate.limits.rate_limits import RateLimits
from gate.limits.result import RateLimitResult

_PROBLEM: Final = "https://iana.org/assignments/http-problem-types#quota-exceeded"
_LONGEST: Final = 128  # characters of a key; a longer one is known by its hash
_NOBODY: Final = "-"
_TRY_AGAIN_LATER: Final = 1013  # RFC 6455's registry


class RateLimitMiddleware:
    """Asks a limiter before each request and WebSocket.

    `service` names whose limits count: a text, or a function of the ASGI scope that returns None for what has no limit,
    such as a health check. `key` returns the tenant: see `by_client`, `by_header`; limits of each come from
    `configure_limit(service, config, tenant="default")`. `cost` is in units. A request waits at most `max_wait`
    seconds for its turn before it is refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        limiter: RateLimits,
        service: str | Callable[[Scope], str | None] = "http",
        *,
        key: Callable[[Scope], str] | None = None,
        cost: int | Callable[[Scope], int] = 1,
        max_wait: float = 0.0,
        fields: bool = True,
    ) -> None:
        if not callable(getattr(limiter, "hit", None)):
            raise TypeError(f"limiter must be a RateLimiter or a DistributedRateLimiter, not {shown(limiter)}")
        self._app = app
        self._limiter = limiter
        self._service = service
        self._key = key
        self._cost = cost
        self._max_wait = max_wait
        self._fields = fields

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        service = self._service if isinstance(self._service, str) else self._service(scope)
        if service is None:
            await self._app(scope, receive, send)
            return
        cost = self._cost if isinstance(self._cost, int) else self._cost(scope)
        tenant = "" if self._key is None else self._key(scope)
        result = await self._ask(service, cost, tenant)
        headers = _encoded(rate_limit_fields(result)) if self._fields else []
        if result.allowed:
            await self._app(scope, receive, _with(headers, send) if headers else send)
        else:
            await _refuse(scope, send, result, cost, headers)

    async def _ask(self, service: str, cost: int, tenant: str) -> RateLimitResult:
        if not self._max_wait:
            return await self._limiter.hit(service, cost, tenant=tenant)
        seen = await self._limiter.peek(service, cost, tenant=tenant)
        if seen.retry_after is not None and seen.retry_after > self._max_wait:
            return seen  # its turn comes too late, and it need not wait to learn that
        try:
            await self._limiter.acquire(service, cost, self._max_wait, tenant=tenant)
        except TimeoutError:
            return await self._limiter.hit(service, cost, tenant=tenant)
        seen = await self._limiter.peek(service, 1, tenant=tenant)
        return RateLimitResult(allowed=True, retry_after=None, states=seen.states)


def by_client(scope: Scope) -> str:
    """Return the address of the client, as the server knows it; behind a proxy let uvicorn trust its headers."""
    client = scope.get("client")
    return str(client[0]) if client else _NOBODY


def by_path(scope: Scope) -> str:
    """Return the path."""
    return str(scope["path"])


def by_header(name: str) -> Callable[[Scope], str]:
    """Return a function that gives a header's value, such as an API key; all who send none share one key."""
    wanted = name.lower().encode("latin-1")

    def read(scope: Scope) -> str:
        value = next((value for header, value in scope["headers"] if header == wanted), b"").strip()
        if not value:
            return _NOBODY
        text: str = value.decode("latin-1")
        return text if len(text) <= _LONGEST else hashlib.sha256(value).hexdigest()

    return read


def _with(headers: list[tuple[bytes, bytes]], send: Send) -> Send:
    """Return a `send` that adds headers to a response, unless the application has set them."""

    async def sending(message: Message) -> None:
        if message["type"] in {"http.response.start", "websocket.http.response.start", "websocket.accept"}:
            given = list(message.get("headers", ()))
            own = {bytes(name).lower() for name, _ in given}
            message = {**message, "headers": [*given, *[header for header in headers if header[0] not in own]]}
        await send(message)

    return sending


async def _refuse(
    scope: Scope, send: Send, result: RateLimitResult, cost: int, headers: Iterable[tuple[bytes, bytes]]
) -> None:
    prefix = ""
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER})
            return
        prefix = "websocket."
    problem = {
        "type": _PROBLEM,
        "title": "Request cannot be satisfied as assigned quota has been exceeded",
        "status": 429,
        "violated-policies": violated(result, cost),
    }
    body = json.dumps(problem).encode()
    about = {"content-type": "application/problem+json", "content-length": str(len(body)), "cache-control": "no-store"}
    start = [*_encoded(about | retry_after_field(result.retry_after)), *headers]
    await send({"type": f"{prefix}http.response.start", "status": 429, "headers": start})
    await send({"type": f"{prefix}http.response.body", "body": body})


def _encoded(fields: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
