"""The limits as a library: for threads and for asyncio, with a clock, without Kafka."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Final

from gate.limits import seconds
from gate.limits.codec import Writer, seal, unseal
from gate.limits.config import RateLimitConfig
from gate.limits.limiter import Limiter, check_cost
from gate.limits.rates import parse_rate
from gate.limits.spec import NEVER, SECOND, Spec
from gate.limits.usage import Hooks, Usage

_log = logging.getLogger(__name__)
_ALLOWED: Final = (True, None)
# A step back of the caller's clock: less is threads that overtake one another, and is waited out.
_STEP: Final = SECOND


def steady_clock() -> Callable[[], int]:
    """Return a clock in unix ns that is set once, now, and then runs on whatever is done to the wall clock."""
    start = time.time_ns() - time.monotonic_ns()
    monotonic = time.monotonic_ns
    return lambda: monotonic() + start


class TokenBucket:
    """A bucket of `burst_size` tokens that is refilled at `rate` tokens per second, without drift. Thread-safe."""

    def __init__(self, rate: float | str, burst_size: int, *, clock: Callable[[], int] | None = None) -> None:
        self._clock = clock or steady_clock()
        self._lock = Lock()
        self._limiter = Limiter(Spec(parse_rate(rate), burst_size, ()), self._clock())

    def try_consume(self, tokens: int = 1) -> bool:
        """Take `tokens` if they are there; more than `burst_size` never are."""
        with self._lock:
            return self._limiter.try_take(self._clock(), tokens) is None

    def retry_after(self, tokens: int = 1) -> float:
        """Return the seconds until `tokens` are there, if nobody takes any; `math.inf` if they never are."""
        with self._lock:
            now = self._clock()
            ready = self._limiter.ready_at(now, tokens)
        return math.inf if ready == NEVER else seconds.span(ready - now)

    @property
    def tokens(self) -> float:
        """The tokens that are there."""
        with self._lock:
            return float(self._limiter.tokens(self._clock()))


class _Key(Limiter):
    """The limiter of a service that was used of late."""

    __slots__ = ("shift", "told")

    def __init__(self, spec: Spec, now: int) -> None:
        super().__init__(spec, now)
        self.shift = 0  # ns by which this limiter's time runs ahead of the caller's clock, which was set back
        self.told = False  # whether callers pass the time


@dataclass(slots=True)
class _Refusals:
    count: int = 0
    breaches: int = 0
    last: int | None = None  # ns of the caller's clock


class RateLimiter:
    """Limits by service: a token bucket and sliding windows, charged together or not at all.

    Safe for threads and for asyncio. One lock is held for the microseconds of a decision; a coroutine never waits for
    it, it lets others run and comes again. The time is read from a clock that never steps, or passed in; the callers
    of one service should do all the one or all the other.

    A time that is up to one second before the newest is taken as the newest. One that is further back is a clock that
    was set: time goes on from there, and what passed since the last decision is lost, no more.
    """

    def __init__(
        self, *, fail_open: bool = True, hooks: Hooks | None = None, clock: Callable[[], int] | None = None
    ) -> None:
        self._fail_open = fail_open
        self._hooks = hooks
        self._clock = clock or steady_clock()
        self._lock = Lock()
        self._keys: dict[str, Spec | _Key] = {}  # an idle key is its spec alone
        self._refusals: dict[str, _Refusals] = {}
        self._awake: deque[str] = deque()  # names of the keys that are not idle, as far as known
        self._breaches: deque[tuple[str, float]] = deque()  # that hooks are to be told

    def check(self, service_id: str, current_time: float | None = None, cost: int = 1) -> tuple[bool, float | None]:
        """Decide about a request of `cost` units: (True, None), or (False, seconds until it would be admitted).

        `current_time` is in seconds of any clock. The delay is exact if nothing else comes, and `math.inf` if the cost
        is above the burst or a window's limit. Raises TypeError or ValueError for a bad cost or time.
        """
        with self._lock:
            wait = self._decide(service_id, current_time, cost)
        if self._hooks is not None:
            self._tell(self._hooks, service_id, cost, wait)
        return _ALLOWED if wait is None else (False, wait)

    async def check_rate_limit(
        self, service_id: str, current_time: float | None = None, cost: int = 1
    ) -> tuple[bool, float | None]:
        """Decide as `check` does, without ever blocking the loop."""
        if not self._lock.acquire(blocking=False):
            await self._acquire()
        try:
            wait = self._decide(service_id, current_time, cost)
        finally:
            self._lock.release()
        if self._hooks is not None:
            self._tell(self._hooks, service_id, cost, wait)
        return _ALLOWED if wait is None else (False, wait)

    def configure(self, service_id: str, config: RateLimitConfig) -> None:
        """Set or replace the limits of a service. What counts in its windows stays counted; no token is added."""
        with self._lock:
            self._configure(service_id, config)

    async def configure_limit(self, service_id: str, config: RateLimitConfig) -> None:
        """Do as `configure` does."""
        await self._acquire()
        try:
            self._configure(service_id, config)
        finally:
            self._lock.release()

    async def remove_limit(self, service_id: str) -> None:
        """Forget a service and its limits, if it has any."""
        await self._acquire()
        self._keys.pop(service_id, None)
        self._refusals.pop(service_id, None)
        self._lock.release()

    def usage(self, service_id: str, current_time: float | None = None) -> Usage | None:
        """Return how much of its limits a service uses; None for a service without any."""
        with self._lock:
            return self._usage(service_id, current_time)

    async def get_current_usage(self, service_id: str, current_time: float | None = None) -> Usage | None:
        """Do as `usage` does."""
        await self._acquire()
        try:
            return self._usage(service_id, current_time)
        finally:
            self._lock.release()

    def forget_idle(self, current_time: float | None = None) -> int:
        """Free the memory of all keys that are equal to new ones; return how many.

        Not needed for memory to stay bounded: each key that wakes up looks after two others.
        """
        told = current_time is not None
        with self._lock:
            now = self._clock() if current_time is None else seconds.to_ns(current_time)
            before = len(self._awake)
            self._forget(now, before, told=told)
            return before - len(self._awake)

    def snapshot(self) -> bytes:
        """Return the state of all keys that are not idle, for `restore` in another process or on another host."""
        out = Writer()
        for name in list(self._keys):
            with self._lock:  # for one key at a time: they are independent, and decisions go on
                key = self._keys.get(name)
                if isinstance(key, _Key):
                    out.raw(name.encode())
                    out.numbers(key.shift, int(key.told))
                    out.raw(key.dump())
        return seal(out)

    def restore(self, data: bytes) -> None:
        """Take over what `snapshot` returned; limits that are set here count, else those of then. Raises StateError."""
        source = unseal(data)
        with source.checked(), self._lock:
            keys = {}
            while source.left:
                name = source.raw().decode()
                shift, told = source.numbers(2)
                known = self._keys.get(name)
                key = _Key.load(known.spec if isinstance(known, _Key) else known, source.raw())
                key.shift, key.told = shift, bool(told)
                keys[name] = key
            self._keys |= keys
            self._awake.extend(keys)

    async def _acquire(self) -> None:
        while not self._lock.acquire(blocking=False):  # noqa: ASYNC110 - threads hold it too, for microseconds
            await asyncio.sleep(0)

    def _configure(self, service_id: str, config: RateLimitConfig) -> None:
        if not isinstance(config, RateLimitConfig):
            raise TypeError(f"the limits of {service_id!r} must be a RateLimitConfig, not {config!r}")
        key = self._keys.get(service_id)
        if isinstance(key, _Key):
            key.reconfigure(config.spec, self._now(key))
        else:
            self._keys[service_id] = config.spec

    def _usage(self, service_id: str, current_time: float | None) -> Usage | None:
        known = self._keys.get(service_id)
        if known is None:
            return None
        key = known if isinstance(known, _Key) else _Key(known, 0)
        now = self._now(key) if current_time is None else seconds.to_ns(current_time) + key.shift
        view = key.copy()  # whoever looks ahead moves no clock
        used, limit = view.fullest(now)
        span = min(SECOND, *(window.size for window in view.spec.windows))
        refusals = self._refusals.get(service_id) or _Refusals()
        return Usage(
            requests_per_second=view.spent(now, span) * SECOND / span,
            tokens=float(view.tokens(now)),
            window_used=used,
            window_limit=limit,
            window_fill=used / limit,
            refused=refusals.count,
            breaches=refusals.breaches,
            last_refusal=None if refusals.last is None else refusals.last / SECOND,
        )

    def _decide(self, service_id: str, current_time: float | None, cost: int) -> float | None:
        """Charge the request if it fits: None. Else return the seconds to wait."""
        key = self._keys.get(service_id)
        now = self._clock() if current_time is None else seconds.to_ns(current_time)
        if not isinstance(key, _Key):
            if key is None:
                check_cost(cost)
                return None if self._fail_open else math.inf
            key = self._wake(service_id, key, now, told=current_time is not None)
        if current_time is not None:
            key.told = True
        now += key.shift
        if now < key.last - _STEP:
            key.shift += key.last - now
            now = key.last
        ready = key.try_take(now, cost)
        if ready is None:
            return None
        if ready == NEVER:
            wait = math.inf
        elif current_time is None:
            wait = seconds.span(ready - now)
        else:
            wait = seconds.delay(current_time, ready - key.shift)
        self._refuse(service_id, key, wait)
        return wait

    def _now(self, key: _Key) -> int:
        """Return the time of a key: its own, where callers pass it."""
        return key.last if key.told else self._clock() + key.shift

    def _wake(self, service_id: str, spec: Spec, now: int, *, told: bool) -> _Key:
        self._forget(now, 2, told=told)
        key = self._keys[service_id] = _Key(spec, now)
        self._awake.append(service_id)
        return key

    def _forget(self, now: int, count: int, *, told: bool) -> None:
        """Look at `count` of the keys that are awake, in turn, and put those to sleep that are idle by their clock."""
        for _ in range(min(count, len(self._awake))):
            name = self._awake.popleft()
            key = self._keys.get(name)
            if not isinstance(key, _Key):
                continue
            if key.told == told and key.idle(now + key.shift):
                self._keys[name] = key.spec
            else:
                self._awake.append(name)

    def _refuse(self, service_id: str, key: _Key, wait: float) -> None:
        refusals = self._refusals.setdefault(service_id, _Refusals())
        now = key.last - key.shift
        if refusals.last is None or now - refusals.last >= key.spec.windows[0].size:
            refusals.breaches += 1
            if self._hooks is not None:
                self._breaches.append((service_id, wait))
        refusals.count += 1
        refusals.last = now

    def _tell(self, hooks: Hooks, service_id: str, cost: int, wait: float | None) -> None:
        try:
            if service_id in self._keys:
                hooks.on_decision(service_id, wait is None, cost, wait)
            else:
                hooks.on_unknown(service_id, wait is None)
            while self._breaches:
                hooks.on_breach(*self._breaches.popleft())
        except Exception:  # noqa: BLE001 - whatever it is, it is not the caller's
            _log.exception("a hook of the rate limiter failed; the decision about %r stands", service_id)
