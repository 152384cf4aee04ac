"""Waiting for one's turn: coroutines of any loop and threads, in one line per service, without polling.

Who is next sleeps until its time; all others sleep until they are next. So one wakes at a time, and takes its units
itself: nothing is charged for one that was cancelled.
"""

import asyncio
import math
import os
import threading
import time
from contextlib import suppress

from gate.limits.checks import shown
from gate.limits.errors import NeverAdmittedError
from gate.limits.keys import Keys
from gate.limits.spec import NEVER, SECOND
from gate.limits.wait_queue import Waiter, WaitQueue


class LoopWaiter(Waiter):
    """A coroutine that waits."""

    __slots__ = ("_loop", "_woken")

    def __init__(self, cost: int, tenant: str) -> None:
        super().__init__(cost, tenant)
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] = self._loop.create_future()

    def wake(self) -> None:
        """Wake it from whatever thread."""
        with suppress(RuntimeError):  # the loop was closed just now
            self._loop.call_soon_threadsafe(_set, self._woken)

    def lost(self) -> bool:
        """Tell whether its loop was closed."""
        return self._loop.is_closed()

    def look(self) -> None:
        """Begin to look: whoever wakes it from now on wakes it from the next sleep."""
        if self._woken.done():
            self._woken = self._loop.create_future()

    async def sleep(self, seconds: float) -> None:
        """Sleep for so long, or until somebody wakes it."""
        timer = self._loop.call_later(seconds, _set, self._woken) if seconds < math.inf else None
        try:
            await self._woken
        finally:
            if timer is not None:
                timer.cancel()


class ThreadWaiter(Waiter):
    """A thread that waits."""

    __slots__ = ("_woken",)

    def __init__(self, cost: int, tenant: str) -> None:
        super().__init__(cost, tenant)
        self._woken = threading.Event()

    def wake(self) -> None:
        """Wake it from whatever thread."""
        self._woken.set()

    def look(self) -> None:
        """Begin to look: whoever wakes it from now on wakes it from the next sleep."""
        self._woken.clear()

    def sleep(self, seconds: float) -> None:
        """Sleep for so long, or until somebody wakes it."""
        self._woken.wait(min(seconds, threading.TIMEOUT_MAX))


class WaitQueues:
    """The queues of a rate limiter. Its lock is held by whoever calls."""

    def __init__(self, keys: Keys, *, fail_open: bool) -> None:
        self._keys = keys
        self._fail_open = fail_open
        self._lines: dict[str, WaitQueue] = {}

    def line(self, service: str) -> WaitQueue | None:
        """Return the line of a service, if anybody waits for it."""
        line = self._lines.get(service) if self._lines else None
        if line is not None and line.process != os.getpid():
            self._close(service)
            return None
        return line

    def enter(self, service: str, waiter: Waiter) -> bool:
        """Go at once if one may: False. Else wait behind the others. Raises NeverAdmittedError."""
        now = self._keys.clock()
        line = self.line(service) or WaitQueue(service, self._keys)
        self._check(service, line, waiter, now)
        if not len(line):
            self._lines[service] = line
            self._keys.wait_for(service, waited=True)
        line.join(waiter, now)
        return not self.go(service, waiter)

    def go(self, service: str, waiter: Waiter) -> bool:
        """Take the turn if it has come. Raises NeverAdmittedError where it never comes any more."""
        line = self.line(service)
        if line is None or waiter.gone:
            raise RuntimeError("who waits in the parent of a fork can't go on in the child")
        now = self._keys.clock()
        self._check(service, line, waiter, now)
        turn = line.turn(now)
        if turn is None or turn[0] is not waiter or turn[1] > now:
            line.arm(now)
            return False
        for name in line.names(waiter.tenant):
            self._keys.charge(name, waiter.cost, now)
        self.leave(service, waiter)
        return True

    def seconds_left(self, service: str, waiter: Waiter) -> float:
        """Return the seconds to sleep: inf for all but who is next."""
        line = self.line(service)
        turn = None if line is None else line.turn(now := self._keys.clock())
        return (turn[1] - now) / SECOND if turn is not None and turn[0] is waiter else math.inf

    def leave(self, service: str, waiter: Waiter) -> None:
        """Give the turn back, or on to the next."""
        line = self.line(service)
        if line is None:
            return
        now = self._keys.clock()
        line.leave(waiter, now)
        line.arm(now)
        if not len(line):
            self._close(service)

    def limits_changed(self, service: str) -> None:
        """Tell those who wait that the limits are others now."""
        line = self.line(service)
        if line is not None:
            line.limits_changed(self._keys.clock())

    def expected(self, service: str, waiter: Waiter) -> float:
        """Return the seconds until one would be admitted if nobody else waited."""
        now = self._keys.clock()
        ready = WaitQueue(service, self._keys).ready(waiter, now)
        return math.inf if ready == NEVER else (ready - now) / SECOND

    def _close(self, service: str) -> None:
        del self._lines[service]
        self._keys.wait_for(service, waited=False)

    def _check(self, service: str, line: WaitQueue, waiter: Waiter, now: int) -> None:
        names = line.names(waiter.tenant)
        if not self._fail_open and not any(self._keys.find(name, None) for name in names):
            raise NeverAdmittedError(
                f"{shown(service)} has no limits, and this limiter refuses what has none",
                hint="configure its limits first, or let the limiter have a default, or fail_open=True",
            )
        if line.ready(waiter, now) == NEVER:
            ceilings = [key.spec.ceiling for name in names if (key := self._keys.find(name, None)) is not None]
            most = min((ceiling for ceiling in ceilings if ceiling is not None), default=0)
            raise NeverAdmittedError(
                f"{shown(service)} can never admit {waiter.cost} units at once: its limits give at most {most}",
                hint="ask for less at a time, or raise its burst and its windows",
            )


async def wait_in_loop(
    lines: WaitQueues,
    lock: threading.Lock,
    service: str,
    waiter: LoopWaiter,
    timeout: float | None,  # noqa: ASYNC109 - its end is looked at with the turn, under one lock
) -> None:
    """Wait until it is `waiter`'s turn. Raises TimeoutError, NeverAdmittedError; cancelled, it gives its turn back."""
    end = None if timeout is None else asyncio.get_running_loop().time() + timeout
    try:
        while True:
            waiter.look()
            with lock:
                if lines.go(service, waiter):
                    return
                seconds = lines.seconds_left(service, waiter)
                left = math.inf if end is None else end - asyncio.get_running_loop().time()
                if left <= 0:
                    raise _timed_out(lines, service, waiter, timeout)
            await waiter.sleep(min(seconds, left))
    finally:
        with lock:
            lines.leave(service, waiter)


def wait_in_thread(
    lines: WaitQueues, lock: threading.Lock, service: str, waiter: ThreadWaiter, timeout: float | None
) -> None:
    """Do as `wait_in_loop` does, in a thread of its own."""
    end = None if timeout is None else time.monotonic() + timeout
    try:
        while True:
            waiter.look()
            with lock:
                if lines.go(service, waiter):
                    return
                seconds = lines.seconds_left(service, waiter)
                left = math.inf if end is None else end - time.monotonic()
                if left <= 0:
                    raise _timed_out(lines, service, waiter, timeout)
            waiter.sleep(min(seconds, left))
    finally:
        with lock:
            lines.leave(service, waiter)


def _timed_out(lines: WaitQueues, service: str, waiter: Waiter, timeout: float | None) -> TimeoutError:
    wait = lines.expected(service, waiter)
    behind = "others wait before it" if wait == 0 else f"it needs {wait:.3f} s more if nobody else comes"
    return TimeoutError(f"{shown(service)} admitted no {waiter.cost} units within {timeout} s: {behind}")


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
