# ruff: noqa: SLF001 - the decision is fused: it works on the key's state itself
"""The limits as a library: for threads and for asyncio, with a clock, without Kafka."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gate.limits import seconds
from gate.limits.checks import check_cost, check_spelling, shown
from gate.limits.codec import Writer, seal, unseal
from gate.limits.config import RateLimitConfig
from gate.limits.forking import make_lock
from gate.limits.limiter import Limiter
from gate.limits.spec import MOST, NEVER, SECOND, Spec
from gate.limits.token_bucket import checked_clock
from gate.limits.usage import Hooks, Usage

_log = logging.getLogger(__name__)
_ALLOWED: Final = (True, None)
# A step back of the caller's clock: less is threads that overtake one another, and is waited out.
_STEP: Final = SECOND


class _Key(Limiter):
    """The limiter of a service that was used of late."""

    __slots__ = ("shift", "told")

    def __init__(self, spec: Spec, now: int) -> None:
        super().__init__(spec, now)
        self.told = False  # whether callers pass the time
        self.shift = 0  # ns from their clock, or else from ours, to the limiter's time, which is never set back


@dataclass(slots=True)
class _Refusals:
    count: int = 0
    breaches: int = 0
    last: int | None = None  # ns of the caller's clock


class RateLimiter:
    """Limits by service: a token bucket and sliding windows, charged together or not at all.

    Safe for threads and for asyncio. One lock is held for the microseconds of a decision; a coroutine never waits for
    it, it lets others run and comes again. A child of a fork goes on with a copy of its own.

    The time is read from a clock that never steps, or passed in, for one service always the one or always the other:
    where a decision mixes them, ValueError is raised and nothing is charged.

    A time that is up to one second before the newest is taken as the newest. One that is further back is a clock that
    was set: time goes on from there, and what passed since the last decision is lost, no more.
    """

    def __init__(
        self, *, fail_open: bool = True, hooks: Hooks | None = None, clock: Callable[[], int] | None = None
    ) -> None:
        self._fail_open = fail_open
        self._hooks = hooks
        self._clock = checked_clock(clock)
        # Set once, so that the time runs on whatever is done to the wall clock.
        self._epoch = 0 if clock else time.time_ns() - time.monotonic_ns()
        self._lock = make_lock()
        self._keys: dict[str, Spec | _Key] = {}  # an idle key is its spec alone
        self._refusals: dict[str, _Refusals] = {}
        self._awake: deque[str] = deque()  # names of the keys that are not idle, as far as known
        self._breaches: deque[tuple[str, float]] = deque()  # that hooks are to be told

    def check(self, service_id: str, current_time: float | None = None, cost: int = 1) -> tuple[bool, float | None]:
        """Decide about a request of `cost` units: (True, None), or (False, seconds until it would be admitted).

        `current_time` is in seconds of any clock. The delay is exact if nothing else comes, and `math.inf` if the cost
        is above the burst or a window's limit. Raises TypeError or ValueError for a bad service, cost or time.
        """
        self._lock.acquire()  # `with` takes twice the time
        try:
            wait = self._decide(service_id, current_time, cost)
        finally:
            self._lock.release()
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
        check_spelling(service_id)
        await self._acquire()
        try:
            self._keys.pop(service_id, None)
            self._refusals.pop(service_id, None)
        finally:
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
                    out.numbers(self._offset(key), int(key.told))
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
                key.told = bool(told)
                key.shift = shift if told else shift + self._epoch
                keys[name] = key
            self._keys |= keys
            self._awake.extend(keys)

    async def _acquire(self) -> None:
        while not self._lock.acquire(blocking=False):  # noqa: ASYNC110 - threads hold it too, for microseconds
            await asyncio.sleep(0)

    def _configure(self, service_id: str, config: RateLimitConfig) -> None:
        check_spelling(service_id)
        if not isinstance(config, RateLimitConfig):
            raise TypeError(f"the limits of {service_id!r} must be a RateLimitConfig, not {shown(config)}")
        key = self._keys.get(service_id)
        if isinstance(key, _Key):
            key.reconfigure(config.spec, self._now(key))
        else:
            self._keys[service_id] = config.spec

    def _usage(self, service_id: str, current_time: float | None) -> Usage | None:
        check_spelling(service_id)
        time_told = None if current_time is None else seconds.to_ns(current_time)
        known = self._keys.get(service_id)
        if known is None:
            return None
        key = known if isinstance(known, _Key) else self._new(known, told=time_told is not None)
        if time_told is not None and not key.told:
            raise _mixed(service_id, told=True)
        now = self._now(key) if time_told is None else min(time_told + key.shift, MOST)
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
        """Charge the request if it fits: None. Else return the seconds to wait.

        Below the time it is `Limiter.try_take`, fused: a call more would be a tenth of it all.
        """
        try:
            key = self._keys.get(service_id)
        except TypeError:  # what has no hash is no name
            check_spelling(service_id)
            raise
        if key.__class__ is not _Key:
            check_cost(cost)
            if key is None:
                check_spelling(service_id)
                if current_time is not None:
                    seconds.to_ns(current_time)
                return None if self._fail_open else math.inf
            key = self._wake(service_id, current_time)
        told = current_time is not None or key.told
        now = _time_told(service_id, key, current_time) if told else self._clock() + key.shift
        if now < key.last:
            now = self._step_back(key, now)

        if cost.__class__ is not int or cost < 1:
            check_cost(cost)
        spec = key.spec
        start = now * spec.scale
        full = key._full
        if full < start:  # noqa: PLR1730
            full = start
        full += cost * spec.step
        if full > start + spec.depth or key._used + cost > key._window.limit or key._more:
            ready = key._when(now, full, cost)
            if ready > now:
                key.last = now
                return self._refuse(service_id, key, current_time, ready)
            for window in key._more:
                window._add(now, cost)
        if now > key._edge:
            key._open(now)
        key.last = now
        key._full = full
        key._used += cost
        return None

    def _refuse(self, service_id: str, key: _Key, current_time: float | None, ready: int) -> float:
        """Keep account of a refusal; return the seconds to wait."""
        if ready == NEVER:
            wait = math.inf
        elif current_time is None:
            wait = (ready - key.last) / SECOND
        else:
            wait = seconds.delay(current_time, ready - key.shift)
        refusals = self._refusals.get(service_id)
        if refusals is None:
            refusals = self._refusals[service_id] = _Refusals()
        now = key.last - (key.shift if key.told else key.shift - self._epoch)
        if refusals.last is None or now - refusals.last >= key.spec.windows[0].size:
            refusals.breaches += 1
            if self._hooks is not None:
                self._breaches.append((service_id, wait))
        refusals.count += 1
        refusals.last = now
        return wait

    def _step_back(self, key: _Key, now: int) -> int:
        """Return the limiter's time after its clock was set back; a step of less than a second is waited out."""
        if now < key.last - _STEP:
            key.shift += key.last - now
        return key.last

    def _offset(self, key: _Key) -> int:
        """Return the ns from unix time, or the callers', to the limiter's."""
        return key.shift if key.told else key.shift - self._epoch

    def _now(self, key: _Key) -> int:
        """Return the time of a key: the newest it was told, where callers pass it."""
        return key.last if key.told else self._clock() + key.shift

    def _new(self, spec: Spec, *, told: bool) -> _Key:
        key = _Key(spec, -MOST)
        key.told = told
        key.shift = 0 if told else self._epoch
        return key

    def _wake(self, service_id: str, current_time: float | None) -> _Key:
        told = current_time is not None
        self._forget(self._clock() if current_time is None else seconds.to_ns(current_time), 2, told=told)
        known = self._keys[service_id]
        key = self._keys[service_id] = self._new(known if isinstance(known, Spec) else known.spec, told=told)
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


def _time_told(service_id: str, key: _Key, current_time: float | None) -> int:
    """Return the limiter's time where callers pass theirs. Raises ValueError unless they always do."""
    if current_time is None:
        raise _mixed(service_id, told=False)
    now = seconds.to_ns(current_time) + key.shift
    if not key.told:
        raise _mixed(service_id, told=True)
    return now


def _mixed(service_id: str, *, told: bool) -> ValueError:
    this, before = ("passes current_time", "did not") if told else ("passes no current_time", "did")
    return ValueError(
        f"a caller of {shown(service_id)} {this}, and one before it {before}: the two clocks can't be compared;"
        " pass the time always or never for one service"
    )
