"""Transports of httpx that wait their turn before each request, and come back when a 429 says so."""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import httpx

from gate.doors.fields import read_retry_after
from gate.limits.checks import shown
from gate.limits.rate_limits import RateLimits, SyncRateLimits

_TOO_MANY: Final = 429
_UNAVAILABLE: Final = 503
_SAFE_TO_REPEAT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})  # RFC 9110, 9.2.2

Service = str | Callable[[httpx.Request], str | None]


class TurnTimeoutError(httpx.TimeoutException, TimeoutError):
    """A request whose turn did not come within its time. It was not sent."""


class _Rules:
    """What both transports do alike: whose limits count, and how long a server wants nobody to come."""

    def __init__(
        self, service: Service, cost: int, timeout: float | None, retries: int, max_retry_after: float
    ) -> None:
        self.cost = cost
        self.timeout = timeout
        self._service = service
        self._retries = retries
        self._max_retry_after = max_retry_after
        self._held_until: dict[str, float] = {}  # by service, in seconds of the transport's clock

    def service(self, request: httpx.Request) -> str | None:
        """Return whose limits count for a request; None: nobody's."""
        return self._service if isinstance(self._service, str) else self._service(request)

    def held(self, service: str, now: float) -> float:
        """Return the seconds for which the server wants nobody to come."""
        return max(0.0, self._held_until.get(service, now) - now)

    def comes_again(
        self, service: str, request: httpx.Request, response: httpx.Response, tries: int, now: float
    ) -> bool:
        """Hold all requests back for as long as a response asks; tell whether this one is to be sent again."""
        if response.status_code not in {_TOO_MANY, _UNAVAILABLE}:
            return False
        wait = read_retry_after(response.headers.get("retry-after"))
        if wait is None:
            return False
        until = now + min(wait, self._max_retry_after)
        self._held_until[service] = max(until, self._held_until.get(service, until))
        can = isinstance(request.stream, httpx.ByteStream)  # any other is used up
        may = response.status_code == _TOO_MANY or request.method in _SAFE_TO_REPEAT
        return can and may and tries <= self._retries and wait <= self._max_retry_after

    def too_late(self, service: str, request: httpx.Request, why: str) -> TurnTimeoutError:
        """Return the error for a request whose turn comes too late."""
        return TurnTimeoutError(
            f"{request.method} {request.url.host} had no turn of {shown(service)} within {self.timeout} s: {why}",
            request=request,
        )


class AsyncRateLimitTransport(httpx.AsyncBaseTransport):
    """For `httpx.AsyncClient(transport=...)`: each request waits until the limiter admits it.

    `service` names whose limits count: a text, or a function of the request that returns None for what has no limit.
    A request that has no turn within `timeout` seconds (0: at once; None: however long it takes) is not sent, and
    TurnTimeoutError raised. After a 429, or a 503, with `Retry-After` no request of the service is sent until then, and
    this one is sent again, up to `retries` times, if its body can be and the wait is at most `max_retry_after` seconds.
    """

    def __init__(
        self,
        limiter: RateLimits,
        service: Service = "http",
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        cost: int = 1,
        timeout: float | None = None,
        retries: int = 2,
        max_retry_after: float = 60.0,
    ) -> None:
        self._limiter = limiter
        self._transport = httpx.AsyncHTTPTransport() if transport is None else transport
        self._rules = _Rules(service, cost, timeout, retries, max_retry_after)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request in its turn."""
        service = self._rules.service(request)
        if service is None:
            return await self._transport.handle_async_request(request)
        clock = asyncio.get_running_loop().time
        tries = 0
        while True:
            await self._wait(service, request, clock)
            response = await self._transport.handle_async_request(request)
            tries += 1
            if not self._rules.comes_again(service, request, response, tries, clock()):
                return response
            await response.aclose()

    async def _wait(self, service: str, request: httpx.Request, clock: Callable[[], float]) -> None:
        end = None if self._rules.timeout is None else clock() + self._rules.timeout
        while (held := self._rules.held(service, clock())) > 0:
            if end is not None and clock() + held > end:
                raise self._rules.too_late(service, request, f"the server asks for {held:.3f} s without requests")
            await asyncio.sleep(held)
        try:
            await self._limiter.acquire(service, self._rules.cost, None if end is None else max(0.0, end - clock()))
        except TimeoutError as error:
            raise self._rules.too_late(service, request, str(error)) from error

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._transport.__aexit__(exc_type, exc_value, traceback)

    async def aclose(self) -> None:
        """Close the transport below."""
        await self._transport.aclose()


class RateLimitTransport(httpx.BaseTransport):
    """For `httpx.Client(transport=...)`, in any number of threads: as `AsyncRateLimitTransport`.

    The limiter is `RateLimiter().sync`, a `SyncRateLimiter`, or another one for threads.
    """

    def __init__(
        self,
        limiter: SyncRateLimits,
        service: Service = "http",
        *,
        transport: httpx.BaseTransport | None = None,
        cost: int = 1,
        timeout: float | None = None,
        retries: int = 2,
        max_retry_after: float = 60.0,
    ) -> None:
        self._limiter = limiter
        self._transport = httpx.HTTPTransport() if transport is None else transport
        self._rules = _Rules(service, cost, timeout, retries, max_retry_after)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request in its turn."""
        service = self._rules.service(request)
        if service is None:
            return self._transport.handle_request(request)
        tries = 0
        while True:
            self._wait(service, request)
            response = self._transport.handle_request(request)
            tries += 1
            if not self._rules.comes_again(service, request, response, tries, time.monotonic()):
                return response
            response.close()

    def _wait(self, service: str, request: httpx.Request) -> None:
        clock = time.monotonic
        end = None if self._rules.timeout is None else clock() + self._rules.timeout
        while (held := self._rules.held(service, clock())) > 0:
            if end is not None and clock() + held > end:
                raise self._rules.too_late(service, request, f"the server asks for {held:.3f} s without requests")
            time.sleep(held)
        try:
            self._limiter.acquire(service, self._rules.cost, None if end is None else max(0.0, end - clock()))
        except TimeoutError as error:
            raise self._rules.too_late(service, request, str(error)) from error

    def __enter__(self) -> Self:
        self._transport.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._transport.__exit__(exc_type, exc_value, traceback)

    def close(self) -> None:
        """Close the transport below."""
        self._transport.close()
