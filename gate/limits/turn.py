"""A turn that is waited for: before a block, or before each call of a function."""

import functools
import inspect
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from gate.limits.checks import shown

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Turn:
    """What `limit` of a rate limiter returns: a context manager, an asynchronous one, and a decorator.

    As a decorator it serves functions and coroutine functions; there the service may be a function of their arguments.
    It may be used again and again, and by several at once: each entry waits for a turn of its own.
    """

    def __init__(
        self,
        service: str | Callable[..., str],
        wait: Callable[[str], Awaitable[object]] | None,
        wait_in_thread: Callable[[str], object] | None,
    ) -> None:
        if not isinstance(service, str) and not callable(service):
            raise TypeError(f"service must be text, or a function of the arguments, not {shown(service)}")
        self._service = service
        self._wait = wait
        self._wait_in_thread = wait_in_thread

    async def __aenter__(self) -> Self:
        await self._waiting("async with")(self._name("async with"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give nothing back: what was admitted counts."""

    def __enter__(self) -> Self:
        self._blocking("with")(self._name("with"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give nothing back: what was admitted counts."""

    def __call__(self, function: _Function) -> _Function:
        """Return the function, which from now on waits for a turn before each call."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function.__qualname__} is a generator: wait for a turn inside it, with `limit`")
        if inspect.iscoroutinefunction(function):
            wait = self._waiting("a coroutine function")

            @functools.wraps(function)
            async def in_turn(*args: Any, **kwargs: Any) -> Any:
                await wait(self._service if isinstance(self._service, str) else self._service(*args, **kwargs))
                return await function(*args, **kwargs)

            return cast("_Function", in_turn)
        wait_in_thread = self._blocking("a function that is no coroutine")

        @functools.wraps(function)
        def in_turn_of_thread(*args: Any, **kwargs: Any) -> Any:
            wait_in_thread(self._service if isinstance(self._service, str) else self._service(*args, **kwargs))
            return function(*args, **kwargs)

        return cast("_Function", in_turn_of_thread)

    def _name(self, use: str) -> str:
        if not isinstance(self._service, str):
            raise TypeError(f"`{use}` has no arguments to find the service from: name the service")
        return self._service

    def _waiting(self, use: str) -> Callable[[str], Awaitable[object]]:
        if self._wait is None:
            raise TypeError(f"this limiter is for threads and can't serve {use}: use the asynchronous one")
        return self._wait

    def _blocking(self, use: str) -> Callable[[str], object]:
        if self._wait_in_thread is None:
            raise TypeError(f"this limiter is for asyncio and can't serve {use}: use the one for threads")
        return self._wait_in_thread
