"""Pacing: a pipeline goes as fast as the gate admits, and its backlog stays where it should.

>>> async def main(items):
...     async with Pacer("localhost:9092", "payments", max_wait=30.0) as pacer:
...         async for item in pacer.pace(items):
...             ...  # send it to the gate
"""

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from math import inf
from types import TracebackType
from typing import Final, Self, TypeVar, get_args

from gate.client._connection import CONNECT_TIMEOUT, PREFIX, connection, positive
from gate.client._errors import ArgumentError
from gate.client._reports import follow
from gate.client._throttle import Estimate, Throttle, WhenAway
from gate.client._usage import Usage
from gate.config import Connection
from gate.log import get_logger
from gate.progress import bar

_SHOW_EVERY: Final = 0.1  # s

T = TypeVar("T")

log = get_logger("gate.client.pacing")


class _Pacing(ABC):
    """What both twins have in common: a throttle, and what it is told. Not thread-safe."""

    def __init__(
        self,
        bootstrap: str | Connection,
        service: str,
        *,
        prefix: str = PREFIX,
        max_wait: float | None = None,
        max_backlog: int | None = None,
        priority: str | None = None,
        cost: int = 1,
        when_away: WhenAway = "wait",
        away_after: float = 10.0,
        connect_timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        if max_wait is None and max_backlog is None:
            max_wait = 30.0
        if cost < 1:
            raise ArgumentError(f"cost is {cost}", hint="a request costs 1 or more")
        positive(max_wait=max_wait, away_after=away_after)
        if max_backlog is not None and max_backlog < 1:
            raise ArgumentError(f"max_backlog is {max_backlog}", hint="give 1 request or more")
        if when_away not in get_args(WhenAway):
            raise ArgumentError(f"when_away is {when_away!r}", hint="it is 'wait' or 'go_on'")
        self._connection = connection(bootstrap, prefix, connect_timeout)
        self._bootstrap, self._names = self._connection.bootstrap, self._connection.names
        self._service = service
        self._names.check_service_name(service)
        self._priority = priority
        self._cost = cost
        self._when_away = when_away
        self._throttle = Throttle(
            max_wait=max_wait, max_backlog=max_backlog, when_away=when_away, away_after=away_after
        )
        self._told_away = False

    @property
    def released(self) -> int:
        """How many requests were released."""
        return self._throttle.released

    def estimate(self) -> Estimate | None:
        """Return what the gate's newest report means for this pipeline now; None before the first one."""
        return self._throttle.estimate(time.monotonic())

    def eta_seconds(self, left: int) -> float | None:
        """Return after how many seconds the last of `left` more requests will be admitted; None: not known."""
        estimate = self.estimate()
        if estimate is None or not estimate.rate or estimate.wait == inf:
            return None
        return estimate.wait + left / estimate.rate

    async def _follow(self) -> None:
        await follow(self._bootstrap, self._names.usage, self._service, self._heard)

    @abstractmethod
    def _heard(self, usage: Usage) -> None:
        """Take what a gate reports."""

    def _take(self, count: int) -> float:
        if count < 1:
            raise ArgumentError(f"count is {count}", hint="acquire 1 request or more")
        now = time.monotonic()
        pause = self._throttle.take(now, count)
        if self._throttle.is_away(now):
            if not self._told_away:
                what = "going on at its last rate" if self._when_away == "go_on" else "waiting for it"
                log.warning(f"no gate reports usage; {what}", service=self._service, topic=self._names.usage)
            self._told_away = True
        return pause

    def _report(self, usage: Usage) -> None:
        self._throttle.report(time.monotonic(), usage.report(self._priority, self._cost))
        if self._told_away:
            log.info("the gate reports usage again", service=self._service)
        self._told_away = False


class Pacer(_Pacing):
    """Slows a pipeline down to what the gate admits.

    `max_wait` (seconds; 30 unless said) or `max_backlog` (requests), or both, say how far the pipeline may be ahead of
    the gate; it settles at about half of that, two pipelines together at two thirds, and so on, at equal rates.
    `priority` and `cost` are those of the requests. When no gate was heard of for `away_after` seconds, "wait" releases
    nothing more than fits below the target, and "go_on" goes on at the last known rate. Entering raises
    BrokerUnreachableError if no broker answers within `connect_timeout`; later a broker that is gone is a gate that is
    away.
    """

    async def __aenter__(self) -> Self:
        self._news = asyncio.Event()
        await self._connection.reach()
        self._following = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._following.cancel()
        await asyncio.wait([self._following])

    async def acquire(self, count: int = 1) -> None:
        """Return when `count` requests may be sent. Cancelled, or in a timeout: none was taken."""
        while pause := self._take(count):
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._news.wait()

    async def pace(
        self, items: Iterable[T] | AsyncIterable[T], *, total: int | None = None, progress: bool = False
    ) -> AsyncIterator[T]:
        """Yield each item when it may be sent.

        With `progress`, a bar on stderr shows on a terminal when the last of `total` items will be admitted; the length
        of `items` is taken where it is known.
        """
        with _shown(self, items, total, progress) as show:
            async for item in _each(items):
                await self.acquire()
                show()
                yield item

    def _heard(self, usage: Usage) -> None:
        self._report(usage)
        self._news.set()


class SyncPacer(_Pacing):
    """`Pacer` for plain scripts: `with SyncPacer(...) as pacer: for item in pacer.pace(items): ...`.

    Any number of threads may use it.
    """

    def __enter__(self) -> Self:
        self._news = threading.Condition()
        started: Future[Callable[[], object]] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen(started)), name="pacer", daemon=True)
        self._thread.start()
        self._end = started.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._thread.join()

    def acquire(self, count: int = 1) -> None:
        """Return when `count` requests may be sent."""
        with self._news:
            while pause := self._take(count):
                self._news.wait(pause)

    def pace(self, items: Iterable[T], *, total: int | None = None, progress: bool = False) -> Iterator[T]:
        """Yield each item when it may be sent; see `Pacer.pace`."""
        with _shown(self, items, total, progress) as show:
            for item in items:
                self.acquire()
                show()
                yield item

    async def _listen(self, started: "Future[Callable[[], object]]") -> None:
        try:
            await self._connection.reach()
        except BaseException as error:  # noqa: BLE001 - raised where the pacer is entered
            started.set_exception(error)
            return
        following = asyncio.create_task(self._follow())
        started.set_result(partial(asyncio.get_running_loop().call_soon_threadsafe, following.cancel))
        await asyncio.wait([following])

    def _heard(self, usage: Usage) -> None:
        with self._news:
            self._report(usage)
            self._news.notify_all()


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


@contextmanager
def _shown(pacing: _Pacing, items: object, total: int | None, progress: bool) -> Iterator[Callable[[], None]]:
    """Yield a function to call once per item."""
    if not progress:
        yield lambda: None
        return
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    done, shown_at = 0, -inf
    with bar("paced", total) as show:

        def step() -> None:
            nonlocal done, shown_at
            done += 1
            now = time.monotonic()
            if now >= shown_at + _SHOW_EVERY or done == total:
                shown_at = now
                show(done, None if total is None else pacing.eta_seconds(total - done))

        yield step
