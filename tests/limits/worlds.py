"""Worlds in which the tests of the limiters' common face run: one per implementation, with its own passing of time.

A further implementation is a further world: it opens a limiter with given limits, and runs a test's coroutine.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

from gate import RateLimitConfig, RateLimiter
from gate.limits.interface import RateLimits
from tests.limits.simulated import SimulatedLoop, simulate

Limits = Mapping[str | tuple[str, str], RateLimitConfig]


class World(Protocol):
    exact: bool  # time passes only where a test waits, so that it may be compared to the ns

    def run(self, work: Coroutine[Any, Any, None]) -> None: ...

    def open(self, limits: Limits) -> Any:
        """Return an asynchronous context manager that gives a limiter with these limits, by service or tenant."""


class Local:
    """`RateLimiter` on simulated time."""

    exact = True

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        simulate(work)

    @asynccontextmanager
    async def open(self, limits: Limits) -> AsyncIterator[RateLimits]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        limiter = RateLimiter(clock=loop.clock)
        for name, config in limits.items():
            service, tenant = (name, "") if isinstance(name, str) else name
            limiter.configure(service, config, tenant=tenant)
        yield limiter


WORLDS: Mapping[str, type[World]] = {"RateLimiter": Local}
