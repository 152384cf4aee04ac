"""Calls that shards make at the same time, and of which one is enough."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class CoalescedCall(Generic[T]):
    """Makes one call for all who wait for one, begun after the last of them asked; one at a time."""

    def __init__(self, call: Callable[[], Awaitable[T]]) -> None:
        self._call = call
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[T] | None = None  # not begun yet

    async def __call__(self) -> T:
        """Return what the call returns, or raise what it raises. Who is cancelled leaves the others waiting."""
        if self._next is None:
            self._next = asyncio.create_task(self._begin())
            self._next.add_done_callback(_look)  # all who wait may be gone by then
        return await asyncio.shield(self._next)

    async def _begin(self) -> T:
        async with self._turn:
            self._next = None
            return await self._call()


def _look(task: "asyncio.Task[T]") -> None:
    if not task.cancelled():
        task.exception()
