"""Requests that brokers have been sent and have not answered, for errors that name broker and request."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

AVOIDED: Final = 10.0  # seconds
NEARLY: Final = 0.9  # of the time that something may take
LONG: Final = 1.0  # seconds without an answer that are worth telling


B = TypeVar("B")


@dataclass(eq=False, slots=True)
class Request:
    """A request to a broker that is under way."""

    node: Any
    name: str  # as Kafka calls it
    began: float  # monotonic seconds

    def __str__(self) -> str:
        return f"broker {self.node} did not answer {self.name} for {time.monotonic() - self.began:.1f} s"


@dataclass
class PendingRequests:
    """The requests of one client."""

    is_silent: Callable[[float], bool] = lambda _since: False  # some broker, as others know, since a moment
    unanswered: set[str] = field(default_factory=set)  # names of those that were sent and may arrive at any time
    _under_way: set[Request] = field(default_factory=set)
    _trouble: tuple[float, str] = (0.0, "")  # the last one: when, monotonic seconds, and what
    _away: float = 0.0  # when a broker was found to be away last, monotonic seconds

    def begin(self, node: Any, request: Any) -> Request:
        """Note that a request is sent."""
        asked = Request(node, type(request).__name__.removesuffix("Request"), time.monotonic())
        self._under_way.add(asked)
        return asked

    def answered(self, asked: Request) -> None:
        """Note that the answer is there."""
        self._under_way.discard(asked)

    def given_up(self, asked: Request, why: str = "") -> str:
        """Note that nobody waits for the answer any more, which says nothing about whether the request arrives."""
        self._under_way.discard(asked)
        self.unanswered.add(asked.name)
        return self.failed(why or str(asked))

    def ended(self, asked: Request, why: str = "") -> str:
        """Note the same of one whose broker is away: the connection has ended, or its time is over."""
        self._away = time.monotonic()
        return self.given_up(asked, why)

    def away(self, why: str) -> str:
        """Note that a broker is away, and why it could not be asked."""
        self._away = time.monotonic()
        return self.failed(why)

    def was_away(self, since: float) -> bool:
        """Tell whether some broker was found to be away since a moment, monotonic seconds, or is late."""
        now = time.monotonic()
        is_late = any(now - asked.began >= LONG for asked in self._under_way)
        return is_late or self._away >= since or self.is_silent(since)

    def failed(self, why: str) -> str:
        """Note why a broker could not be asked."""
        self._trouble = time.monotonic(), why
        return why

    def why(self, since: float) -> str | None:
        """Return what has been waited for in vain since a moment, monotonic seconds, if anything has."""
        oldest = min(self._under_way, key=lambda asked: asked.began, default=None)
        if oldest is not None and time.monotonic() - oldest.began >= LONG:
            return str(oldest)
        when, what = self._trouble
        return what if what and when >= since else None


class Silent:
    """Brokers that have not answered lately, as all clients of this process know them: others are asked first."""

    def __init__(self) -> None:
        self._until: dict[tuple[Any, Any], float] = {}  # by cluster and broker, monotonic seconds

    def add(self, cluster: Any, broker: Any) -> None:
        """Note that a broker does not answer."""
        self._until[cluster, broker] = time.monotonic() + AVOIDED

    def discard(self, cluster: Any, broker: Any) -> None:
        """Note that it does."""
        self._until.pop((cluster, broker), None)

    def since(self, cluster: Any, moment: float) -> bool:
        """Tell whether some broker did not answer since a moment, monotonic seconds: others may wait for it."""
        return any(where == cluster and until - AVOIDED >= moment for (where, _), until in self._until.items())

    def better(self, cluster: Any, brokers: Sequence[B]) -> Sequence[B]:
        """Return those that answer, as far as anybody knows; all, where there is none."""
        now = time.monotonic()
        return [one for one in brokers if self._until.get((cluster, one), 0.0) <= now] or brokers

    def first(self, cluster: Any, brokers: Sequence[B]) -> list[B]:
        """Return all, those that answer first, and in any order otherwise."""
        mixed = random.sample(brokers, len(brokers))
        better = self.better(cluster, mixed)
        return [*better, *(one for one in mixed if one not in better)]


class Asks(Protocol):
    """Who asks brokers."""

    @property
    def asked(self) -> PendingRequests:
        """Its requests."""


@asynccontextmanager
async def within(
    seconds: float, what: str, clients: Sequence[Asks] = (), *, if_away: float | None = None
) -> AsyncIterator[None]:
    """Bound the time that something takes; the TimeoutError says what it was, and which broker was waited for.

    Where a broker was away meanwhile it may take up to `if_away` seconds: until the cluster has others lead, there is
    nothing better to do than to wait.
    """
    began, allowed = time.monotonic(), seconds
    loop, bound = asyncio.get_running_loop(), asyncio.timeout(seconds)

    def look() -> None:
        nonlocal allowed
        if if_away is not None and any(client.asked.was_away(began) for client in clients):
            allowed = if_away
            bound.reschedule(loop.time() + if_away - NEARLY * seconds)

    nearly = loop.call_later(NEARLY * seconds, look)
    try:
        async with bound:
            yield
    except TimeoutError as error:
        if str(error):  # somebody has said more
            raise
        stood = time.monotonic() - began - allowed
        reasons = [f"; this process stood still for {stood:.0f} s meanwhile"] if stood >= LONG else []
        reasons += [f"; {why}" for client in clients if (why := client.asked.why(began)) is not None]
        raise TimeoutError(f"{what} took more than {allowed:g} s{''.join(reasons[:1])}") from None
    finally:
        nearly.cancel()
