"""Worlds in which the tests of the limiters' common face run: one per implementation, with its own passing of time.

A further implementation is a further world: it opens a limiter with given limits, and runs a test's coroutine.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import Any, Protocol

from gate import DistributedRateLimiter, RateLimitConfig, RateLimiter
from gate.limits.rate_limits import RateLimits
from gate.policy import load_policy
from tests.limits.simulated import SimulatedLoop, simulate
from tests.system.gates import GateProcess, until

Limits = Mapping[str | tuple[str, str], RateLimitConfig]


class World(Protocol):
    alone: bool  # nobody else has anything of the limits, so that a unit that is lost on the way is a fault
    exact: bool  # time passes only where a test waits, so that it may be compared to the ns

    def run(self, work: Coroutine[Any, Any, None]) -> None: ...

    def open(self, limits: Limits) -> Any:
        """Return an asynchronous context manager that gives a limiter with these limits, by service or tenant."""


class Local:
    """`RateLimiter` on simulated time."""

    alone = True
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


class Shared:
    """`DistributedRateLimiter` with a real gate and a real broker. Each test has services of its own."""

    alone = False
    exact = False
    _numbers = count()

    def __init__(self, gate: GateProcess, bootstrap: str, prefix: str) -> None:
        self._gate = gate
        self._bootstrap = bootstrap
        self._prefix = prefix

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run(asyncio.wait_for(work, 300))

    @asynccontextmanager
    async def open(self, limits: Limits) -> AsyncIterator[Any]:
        own = f"t{next(self._numbers)}-"
        services: dict[str, Any] = {f"{own}new": {"requests_per_second": 1}}
        for name, config in sorted(limits.items(), key=str):
            service, tenant = (name, "") if isinstance(name, str) else name
            said = {
                "requests_per_second": str(config.requests_per_second),
                "burst_size": config.burst_size,
                "window_size": config.window_size,
                "window_limit": config.window_limit,
            }
            said = {key: value for key, value in said.items() if value is not None}
            entry = services.setdefault(own + service, {"tenants": {}})
            entry.update(said) if not tenant else entry["tenants"].update({tenant: said})
        head = self._gate.config.read_text().partition("services:")[0]
        self._gate.config.write_text(f"{head}services: {json.dumps(services)}\n")
        version = load_policy(self._gate.config).version
        await asyncio.to_thread(until, lambda: f"now={version}" in self._gate.text(), 60, self._gate.text)
        async with DistributedRateLimiter(self._bootstrap, prefix=self._prefix, patience=30) as limiter:
            yield _Renamed(limiter, own)


class _Renamed:
    """A limiter whose services are called otherwise by the gate."""

    def __init__(self, limiter: DistributedRateLimiter, own: str) -> None:
        self._limiter = limiter
        self._own = own

    def __getattr__(self, method: str) -> Callable[..., Any]:
        async def call(service: str, *args: Any, **options: Any) -> Any:
            with self._original():
                return await getattr(self._limiter, method)(self._own + service, *args, **options)

        return call

    def limit(self, service: str | Callable[..., str], *args: Any, **options: Any) -> Any:
        if isinstance(service, str):
            return self._limiter.limit(self._own + service, *args, **options)
        return self._limiter.limit(lambda *a, **o: self._own + service(*a, **o), *args, **options)

    @contextmanager
    def _original(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            error.args = tuple(str(arg).replace(self._own, "") for arg in error.args)
            raise


WORLDS: Mapping[str, Callable[..., World]] = {"RateLimiter": Local, "DistributedRateLimiter": Shared}
