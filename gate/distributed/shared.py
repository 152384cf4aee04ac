"""What both distributed limiters are: holders behind a lock, a link to the owners, and new in the child of a fork."""

import asyncio
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, Final, Literal, get_args
from weakref import WeakSet

from gate.config import Connection
from gate.distributed.holders import ALLOWED, Answer, Holders, Pending, Route, Waiter
from gate.distributed.link import Link, now
from gate.errors import ArgumentError, GateError
from gate.limits.checks import shown
from gate.limits.forking import make_lock
from gate.limits.rate_limits import Asked
from gate.limits.result import RateLimitResult
from gate.limits.spec import SECOND
from gate.limits.usage import Usage
from gate.mesh.terms import Away

OnOwnerAway = Literal["closed", "open", "floor"]
PREFIX: Final = "gate"
CONNECT_TIMEOUT: Final = 30.0  # seconds
PATIENCE: Final = 2.0  # seconds in which an owner that is there has answered
ASK_AGAIN: Final = 0.2  # seconds

_limiters: "WeakSet[Shared]" = WeakSet()
_left_behind: list[Any] = []  # of parents: to end it here would end it there


class Shared:
    """Holders of one process, for whichever way of waiting."""

    def __init__(
        self,
        bootstrap: str | Connection,
        *,
        prefix: str = PREFIX,
        on_owner_away: OnOwnerAway = "closed",
        connect_timeout: float = CONNECT_TIMEOUT,
        patience: float = PATIENCE,
    ) -> None:
        if on_owner_away not in get_args(OnOwnerAway):
            raise ArgumentError(
                f"on_owner_away is {on_owner_away!r}", hint=f"one of {', '.join(map(repr, get_args(OnOwnerAway)))}"
            )
        if not 0 < patience < math.inf:
            raise ArgumentError(f"patience is {patience}", hint="patience is a number of seconds above 0")
        if not isinstance(bootstrap, Connection):
            bootstrap = Connection(bootstrap, prefix=prefix, connect_timeout=connect_timeout)
        elif (prefix, connect_timeout) != (PREFIX, CONNECT_TIMEOUT):
            raise ArgumentError(
                "prefix or connect_timeout is given beside a Connection, which has its own",
                hint="say them where the Connection is made",
            )
        self.connection = bootstrap
        self.patience = patience
        self.lock: Lock = make_lock()
        self.holders = Holders(Away(on_owner_away), now())
        self.link: Link | None = None
        self.entered = False
        self._entering = False  # while the first entering connects
        self._loop: asyncio.AbstractEventLoop | None = None  # of the link
        self._refusals: dict[str, tuple[int, int, float]] = {}  # count, breaches, last (unix seconds)
        _limiters.add(self)

    async def connect(self) -> None:
        """Connect, in the loop that runs."""
        link = Link(self.connection, self.holders, self.lock)
        await link.start()
        self.link, self.entered, self._loop = link, True, asyncio.get_running_loop()

    @contextmanager
    def entering(self, name: str) -> Iterator[None]:
        """Let nobody else enter it meanwhile: the second block's end would be the first one's too.

        Raises GateError where it is entered already, or somebody enters it just now.
        """
        with self.lock:
            if self._entering or (self.link is not None and not self._is_lost):
                raise GateError(f"the {name} is entered already", hint="enter it once, or make one for each block")
            self._entering = True
        try:
            yield
        finally:
            self._entering = False

    def check_loop(self, name: str) -> None:
        """Raise GateError where the loop in which it was entered has ended: nobody hears what owners answer."""
        if self.link is not None and self._is_lost:
            raise GateError(
                f"the event loop in which the {name} was entered has ended",
                hint="enter it, `async with`, in the loop that uses it, and leave it before that ends",
            )

    @property
    def _is_lost(self) -> bool:
        return self._loop is not None and self._loop.is_closed()

    async def disconnect(self) -> None:
        """Give up all that is held, and disconnect."""
        link, self.link, self.entered = self.link, None, False
        if link is not None and not self._is_lost:  # with a loop that is closed its connections are gone
            await link.close()
        with self.lock:
            self.holders.renew(now())

    def forked(self) -> None:
        """Be new: this is a child, and what its parent holds is its parent's."""
        _left_behind.append(self.link)
        self.link = None
        self._entering = False
        self.holders.waiting.clear()
        self.holders.woken.clear()
        self.holders.renew(now())

    def check_time(self, current_time: float | None) -> None:
        """Raise ValueError for a time of the caller's own."""
        if current_time is not None:
            raise ValueError("limits that others share go by their own clock: leave current_time out")

    def decide(self, service: str, tenant: str, cost: int, waiter: Waiter | None) -> Answer | Pending:
        """Decide, or have `waiter` woken when there is news; the lock is held."""
        answer = self.holders.decide(now(), service, tenant, cost)
        if answer is ALLOWED:
            return answer
        answer = self._told(service, tenant, cost, answer)
        if isinstance(answer, Pending) and waiter is not None:
            self.holders.waiting[waiter] = None
        return answer

    def charge_all(self, asked: Sequence[Asked]) -> tuple[int, float | None] | None:
        """Charge all calls, or none, as `Holders.charge_all` says; the lock is held."""
        found = self.holders.charge_all(now(), asked)
        if found is not None and found[1] is not None:
            self._refused(asked[found[0]][0])
        return found

    def results(self, asked: Sequence[Asked], answers: Mapping[int, Answer]) -> list[RateLimitResult]:
        """Return the answers, and of who was not asked for, what it would be told; the lock is held."""
        return [
            self.result(self.holders.routes.get((service, tenant)), cost, answers.get(place))
            for place, (service, tenant, cost) in enumerate(asked)
        ]

    def _told(self, service: str, tenant: str, cost: int, answer: Answer | Pending) -> Answer | Pending:
        if not isinstance(answer, Pending):
            self._refused(service)
        elif self.holders.is_hopeless(now(), service, tenant, round(self.patience * SECOND)):
            answer = self.holders.gave_up(now(), service, tenant, cost)  # others have waited for it in vain
            if answer is not ALLOWED:
                self._refused(service)
        if self.link is not None and self.holders.is_due(now()):
            self.link.poke()
        return answer

    @property
    def owner_away(self) -> float:
        """For how many seconds an owner that was asked has not answered; below a second or two, all is well."""
        with self.lock:
            return self.holders.away_for(now()) / SECOND

    def find(self, service: str, tenant: str, waiter: Waiter) -> Route | None:
        """Return what calls are charged to, or have `waiter` woken when there is news; the lock is held."""
        route = self.holders.find(now(), service, tenant)
        if route is None:
            self.holders.waiting[waiter] = None
            if self.link is not None:
                self.link.poke()
        return route

    def enter(self, route: Route, service: str, waiter: Waiter) -> bool:
        """Go at once: False; else wait in the queue; the lock is held. Raises NeverAdmittedError."""
        waits = self.holders.enter(now(), route, service, waiter)
        if self.link is not None:
            self.link.poke()
        return waits

    def give_up(self, service: str, tenant: str, cost: int, waiter: Waiter) -> Answer:
        """Return what is told when nobody answers; the lock is held."""
        self.holders.waiting.pop(waiter, None)
        answer = self.holders.gave_up(now(), service, tenant, cost)
        if answer is not ALLOWED:
            self._refused(service)
        return answer

    def result(self, route: Route | None, cost: int, answer: Answer | None) -> RateLimitResult:
        """Return an answer, or without one what it would be, with what is left; the lock is held."""
        if route is None:
            allowed, wait = answer or (False, 1.0)
            return RateLimitResult(allowed, wait)
        allowed, wait, states = self.holders.states(now(), route, cost)
        if answer is not None:
            allowed, wait = answer
        return RateLimitResult(allowed, wait, states)

    def usage(self, service: str, route: Route | None) -> Usage | None:
        """Return how much of what this process holds is used; the lock is held."""
        if route is None or route.holder is None:
            return None
        count, breaches, last = self._refusals.get(service, (0, 0, 0.0))
        rate, tokens, used, limit = route.holder.usage(now(), route.names[0])
        return Usage(rate, tokens, used, limit, used / limit if limit else 0.0, count, breaches, last or None)

    def timed_out(self, service: str, route: Route | None, cost: int, timeout: float | None) -> TimeoutError:
        """Return the error of one that waited in vain; the lock is held."""
        _, wait, _ = (False, None, ()) if route is None else self.holders.states(now(), route, cost)
        why = "no owner has answered" if wait is None else f"it needs {wait:.3f} s more if nobody else comes"
        return TimeoutError(f"{shown(service)} admitted no {cost} units within {timeout} s: {why}")

    @staticmethod
    def cannot_reset() -> GateError:
        """Return the error for who wants to forget what counts."""
        return GateError(
            "limits that others share can't be reset by one of them",
            hint="raise them in the gates' policy, which counts at once",
        )

    def _refused(self, service: str) -> None:
        count, breaches, last = self._refusals.get(service, (0, 0, 0.0))
        at = time.time()
        self._refusals[service] = count + 1, breaches + (at - last >= 1.0), at


def _forked() -> None:
    for limiter in list(_limiters):
        limiter.forked()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_forked)
