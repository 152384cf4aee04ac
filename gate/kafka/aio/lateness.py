"""Brokers that are late: before an answer is waited for in vain, the others are asked whether they have given one up.

A broker that stands still, or that is cut off, keeps its connections, so that a request to it ends with its own timeout
only. The cluster knows better: it has others lead after `broker.session.timeout.ms`, and lists the broker no more.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

LATE: Final = 1.0  # seconds without an answer; a long poll takes half of it
AGAIN: Final = 0.5  # seconds, until it is looked again


class Lateness:
    """What one client waits for, by broker. `let_go` is to end all that waits for one that is given up."""

    def __init__(self, is_given_up: Callable[[Any], Awaitable[bool]], let_go: Callable[[Any], None]) -> None:
        self._is_given_up = is_given_up
        self._let_go = let_go
        self._late: Counter[Any] = Counter()  # waits that take too long
        self._looking: dict[Any, asyncio.Task[None]] = {}
        self._bounds: dict[Any, set[asyncio.Timeout]] = {}

    @contextmanager
    def awaiting(self, node: Any) -> Iterator[None]:
        """Look after a broker while the block waits for it, once that takes long."""
        is_late = False

        def doubt() -> None:
            nonlocal is_late
            is_late = True
            self._late[node] += 1
            if node not in self._looking:
                self._looking[node] = asyncio.create_task(self._look(node), name=f"look-after-{node}")

        timer = asyncio.get_running_loop().call_later(LATE, doubt)
        try:
            yield
        finally:
            timer.cancel()
            if is_late:
                self._late[node] -= 1

    @asynccontextmanager
    async def bounded(self, node: Any) -> AsyncIterator[None]:
        """Do the same, and raise TimeoutError in the block when the broker is given up."""
        bounds = self._bounds.setdefault(node, set())
        with self.awaiting(node):
            async with asyncio.timeout(None) as bound:
                bounds.add(bound)
                try:
                    yield
                finally:
                    bounds.discard(bound)

    async def _look(self, node: Any) -> None:
        try:
            while self._late[node]:
                if await self._is_given_up(node):
                    for bound in self._bounds.get(node, ()):
                        bound.reschedule(asyncio.get_running_loop().time())
                    self._let_go(node)
                await asyncio.sleep(AGAIN)
        finally:
            del self._looking[node]

    def stop(self) -> None:
        """Look after none any more."""
        for task in self._looking.values():
            task.cancel()
