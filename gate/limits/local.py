# ruff: noqa: SLF001 - the decision is fused: it works on the key's state itself
"""Limits of one process: decided, read, changed and kept; for threads. `RateLimiter` adds what coroutines need."""

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from gate.limits import seconds
from gate.limits.checks import check_cost, check_spelling, shown
from gate.limits.config import RateLimitConfig
from gate.limits.errors import NeverAdmittedError
from gate.limits.forking import make_lock
from gate.limits.keys import DEFAULT_TENANT, GROUP, Key, Keys, Name, Refusals, Source, Waited, step_back, time_told
from gate.limits.rate_limits import Asked
from gate.limits.reading import dump_keys, load_keys, usage_of
from gate.limits.result import LimitState, RateLimitResult, states
from gate.limits.spec import NEVER, SECOND, Spec
from gate.limits.usage import Hooks, Usage
from gate.limits.wait_queue import Waiter
from gate.limits.waiting import ThreadWaiter, WaitQueues, wait_in_thread

_log = logging.getLogger(__name__)
ALLOWED: Final = (True, None)
_Waiter = TypeVar("_Waiter", bound=Waiter)
_MOST_PASSING: Final = 100_000


class LocalLimits:
    """Limits by service, charged together or not at all: what `RateLimiter` and `SyncRateLimiter` share."""

    def __init__(
        self,
        *,
        fail_open: bool = True,
        hooks: Hooks | None = None,
        clock: Callable[[], int] | None = None,
        default: RateLimitConfig | None = None,
        max_default_keys: int = _MOST_PASSING,
        source: Source | None = None,
    ) -> None:
        self._fail_open = fail_open
        self._hooks = hooks
        self._lock = make_lock()
        own = Source(None if default is None else _spec("default", default))
        self._book = Keys(clock, own if source is None else source, max_default_keys)
        self._clock = self._book.clock
        self._keys = self._book.known
        self._lines = WaitQueues(self._book, fail_open=fail_open)
        self._breaches: deque[tuple[str, float]] = deque()  # that hooks are to be told

    def check(
        self, service_id: str, current_time: float | None = None, cost: int = 1, tenant: str = ""
    ) -> tuple[bool, float | None]:
        """Decide about a request of `cost` units: (True, None), or (False, seconds until it would be admitted).

        `current_time` is in seconds of any clock. The delay is exact if nothing else comes, and `math.inf` if the cost
        is above the burst or a window's limit. Who comes while others wait for the service is behind them. Raises
        TypeError or ValueError for a bad service, tenant, cost or time.
        """
        self._lock.acquire()  # `with` takes twice the time
        try:
            wait = (
                self._decide_together(service_id, tenant, current_time, cost)
                if tenant
                else self._decide(service_id, current_time, cost)
            )
        finally:
            self._lock.release()
        if self._hooks is not None:
            self._tell(self._hooks, service_id, cost, wait)
        return ALLOWED if wait is None else (False, wait)

    def configure(self, service_id: str, config: RateLimitConfig | Spec, *, tenant: str = "") -> None:
        """Set or replace the limits of a service. What counts in its windows stays counted; no token is added.

        With `tenant`, those of one of its tenants, whose requests must keep to both; "default" stands for each tenant
        without limits of its own.
        """
        with self._lock:
            self._configure(service_id, config, tenant)

    def usage(self, service_id: str, current_time: float | None = None, *, tenant: str = "") -> Usage | None:
        """Return how much of its limits a service, or its tenant, uses; None for one without any."""
        with self._lock:
            return usage_of(self._book, service_id, tenant, current_time)

    def limits_changed(self) -> None:
        """Go over to the limits that the `source` gives now."""
        with self._lock:
            self._book.limits_changed()
            for service in list(self._book.waited):
                self._lines.limits_changed(service)

    def forget_idle(self, current_time: float | None = None) -> int:
        """Free the memory of all keys that are equal to new ones; return how many.

        Not needed for memory to stay bounded: each key that wakes up looks after two others.
        """
        told = current_time is not None
        with self._lock:
            now = self._clock() if current_time is None else seconds.to_ns(current_time)
            before = len(self._awake)
            self._book.forget(now, before, told=told)
            return before - len(self._awake)

    def snapshot(self) -> bytes:
        """Return the state of all keys that are not idle, for `restore` in another process or on another host."""
        return dump_keys(self._book, self._lock)

    def restore(self, data: bytes) -> None:
        """Take over what `snapshot` returned; limits that are set here count, else those of then. Raises StateError."""
        load_keys(self._book, self._lock, data)

    @property
    def _awake(self) -> deque[Name]:
        return self._book.awake

    def _decide(self, service_id: str, current_time: float | None, cost: int) -> float | None:
        """Charge the request if it fits: None. Else return the seconds to wait.

        Below the time it is `Limiter.try_take`, fused: a call more would be a tenth of it all.
        """
        try:
            key: Key | Spec | None = self._keys[service_id]  # `get` takes longer
        except KeyError:
            key = None
        except TypeError:  # what has no hash is no name
            check_spelling(service_id)
            raise
        if key.__class__ is not Key:
            check_cost(cost)
            if key is None:
                check_spelling(service_id)
                if current_time is not None:
                    seconds.to_ns(current_time)
            key = self._book.find(service_id, current_time)
            if key is None:
                return None if self._fail_open else math.inf
            if key.__class__ is Waited:
                return self._decide_together(service_id, "", current_time, cost)
        told = current_time is not None or key.told
        now = time_told(service_id, key, current_time) if told else self._clock() + key.shift
        if now < key.last:
            now = step_back(key, now)

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
                return self._refuse(service_id, key, _wait(key, now, current_time, ready))
            for window in key._more:
                window._add(now, cost)
        if now > key._edge:
            key._open(now)
        key.last = now
        key._full = full
        key._used += cost
        return None

    def _decide_together(self, service_id: str, tenant: str, current_time: float | None, cost: int) -> float | None:
        """Decide about a tenant's request: by its own limits and the service's, all or none."""
        check_cost(cost)
        keys = self._find(service_id, tenant, current_time)
        if not keys:
            return None if self._fail_open else math.inf
        times = [self._time(name, key, current_time) for name, key in keys]
        for place, (_, key) in enumerate(keys):
            if times[place] < key.last:
                times[place] = step_back(key, times[place])
        if service_id in self._book.waited:
            wait = self._behind(service_id, tenant, keys[0][1], current_time, cost)
            if wait is not None:
                return wait
        waits = [0.0]
        for (name, key), now in zip(keys, times, strict=True):
            ready = key.ready_at(now, cost)
            if ready > now:
                key.last = now
                waits.append(self._refuse(name, key, _wait(key, now, current_time, ready)))
        if len(waits) > 1:
            return max(waits)
        for (_, key), now in zip(keys, times, strict=True):
            key.charge(now, cost)
        return None

    def _find(self, service_id: str, tenant: str, current_time: float | None) -> list[tuple[Name, Key]]:
        """Return the keys that decide about a request: the service's first, if it has one."""
        check_spelling(service_id)
        if tenant:
            check_spelling(tenant, "tenant")
        if current_time is not None:
            seconds.to_ns(current_time)
        names = self._book.names(service_id, tenant)
        keys = [(name, self._book.find(name, current_time, names)) for name in names]
        return [(name, key) for name, key in keys if key is not None]

    def _time(self, name: Name, key: Key, current_time: float | None) -> int:
        """Return the time of a key, as told or as read."""
        told = current_time is not None or key.told
        return time_told(name, key, current_time) if told else self._clock() + key.shift

    def _behind(self, service_id: str, tenant: str, key: Key, current_time: float | None, cost: int) -> float | None:
        """Return the seconds that a request has to wait because others wait already; None: it need not."""
        line = self._lines.line(service_id)
        if line is None or current_time is not None:
            return None
        now = self._clock()
        if not line.holds_up(tenant, now):
            return None
        wait = line.wait_behind(cost, now)
        key.last = max(key.last, now + key.shift)
        return self._refuse(service_id, key, math.inf if wait == NEVER else wait / SECOND)

    def _refuse(self, name: Name, key: Key, wait: float) -> float:
        """Keep account of a refusal; return the seconds to wait."""
        refusals = self._book.refusals.get(name)
        if refusals is None:
            refusals = self._book.refusals[name] = Refusals()
        now = key.last - (key.shift if key.told else key.shift - self._book.epoch)
        windows = key.spec.windows
        if refusals.last is None or now - refusals.last >= (windows[0].size if windows else SECOND):
            refusals.breaches += 1
            if self._hooks is not None:
                self._breaches.append((name if isinstance(name, str) else name[0], wait))
        refusals.count += 1
        refusals.last = now
        return wait

    def _look(self, service_id: str, tenant: str, current_time: float | None, cost: int) -> RateLimitResult:
        """Return what a request would be told, and charge nothing."""
        check_cost(cost)
        keys = self._find(service_id, tenant, current_time)
        if not keys:
            return RateLimitResult(self._fail_open, None if self._fail_open else math.inf)
        wait = 0.0
        for name, key in keys:
            now = max(key.last, self._time(name, key, current_time))
            ready = key.ready_at(now, cost)
            if ready > now:
                wait = max(wait, _wait(key, now, current_time, ready))
        line = self._lines.line(service_id)
        if line is not None and line.holds_up(tenant, self._clock()):
            behind = line.wait_behind(cost, self._clock())
            wait = max(wait, math.inf if behind == NEVER else behind / SECOND)
        return RateLimitResult(wait == 0, wait or None, self._states(keys, current_time))

    def _states(self, keys: list[tuple[Name, Key]], current_time: float | None) -> tuple[LimitState, ...]:
        found: list[LimitState] = []
        for name, key in keys:
            now = max(key.last, self._time(name, key, current_time))
            found += states(key, now, "" if isinstance(name, str) else "group." if name[0] == GROUP else "tenant.")
        return tuple(found)

    def _hit(self, service_id: str, tenant: str, current_time: float | None, cost: int) -> RateLimitResult:
        if tenant:
            wait = self._decide_together(service_id, tenant, current_time, cost)
        else:
            wait = self._decide(service_id, current_time, cost)
        keys = self._find(service_id, tenant, current_time)
        return RateLimitResult(wait is None, wait, self._states(keys, current_time))

    def _hit_all(self, asked: Sequence[Asked]) -> list[RateLimitResult]:
        """Charge all requests, or none of them: each is decided as if those before it that fit were charged."""
        names = [self._names_of(service, tenant, cost) for service, tenant, cost in asked]
        kept = {name for of in names for name in of}
        found = [[(name, self._book.find(name, None, kept)) for name in of] for of in names]
        keys = [[(name, key) for name, key in of if key is not None] for of in found]
        each = {id(key): (name, key) for of in keys for name, key in of}
        times = {place: self._time(name, key, None) for place, (name, key) in each.items()}
        for place, (_, key) in each.items():
            if times[place] < key.last:
                times[place] = step_back(key, times[place])
        needs: dict[int, int] = {}  # of each key: what those need that fit
        waits = [
            self._wait_beside(needs, request, of, times) for request, of in zip(asked, keys, strict=True)
        ]  # fmt: skip
        if not any(waits):
            for place, (_, key) in each.items():
                key.charge(times[place], needs[place])
        return [
            RateLimitResult(not wait, wait or None, self._states(of, None))
            for wait, of in zip(waits, keys, strict=True)
        ]

    def _wait_beside(
        self, needs: dict[int, int], request: Asked, keys: list[tuple[Name, Key]], times: dict[int, int]
    ) -> float:
        """Return the seconds that a request has to wait if `needs` is charged; what it needs itself, if it fits."""
        service, tenant, cost = request
        if not keys:
            return 0.0 if self._fail_open else math.inf
        if service in self._book.waited:
            wait = self._behind(service, tenant, keys[0][1], None, cost)
            if wait is not None:
                return wait
        wait = 0.0
        for name, key in keys:
            now = times[id(key)]
            ready = key.ready_at(now, needs.get(id(key), 0) + cost)
            if ready > now:
                key.last = now
                wait = max(wait, self._refuse(name, key, _wait(key, now, None, ready)))
        if not wait:
            for _, key in keys:
                needs[id(key)] = needs.get(id(key), 0) + cost
        return wait

    def _names_of(self, service_id: str, tenant: str, cost: int) -> list[Name]:
        """Return the names of the keys that decide about a request, once it is known to be one."""
        check_cost(cost)
        check_spelling(service_id)
        if tenant:
            check_spelling(tenant, "tenant")
        return self._book.names(service_id, tenant)

    def _tell_all(self, asked: Sequence[Asked], results: Sequence[RateLimitResult]) -> None:
        if self._hooks is not None:
            for (service, _, cost), result in zip(asked, results, strict=True):
                self._tell(self._hooks, service, cost, result.retry_after)

    def _enter(self, service_id: str, cost: int, tenant: str, kind: type[_Waiter]) -> _Waiter | None:
        """Let one go at once: None. Else it waits."""
        key = self._keys.get(service_id)
        if key.__class__ is Key and not tenant and not key.told:  # what is usual, and fast
            if key.try_take(self._clock() + key.shift, cost) is None:
                return None
        else:
            check_cost(cost)
            check_spelling(service_id)
            check_spelling(tenant, "tenant")
        waiter = kind(cost, tenant)
        return waiter if self._lines.enter(service_id, waiter) else None

    def hit_now(
        self, service_id: str, cost: int = 1, *, tenant: str = "", current_time: float | None = None
    ) -> RateLimitResult:
        """Decide as `check` does, and tell what is left of each limit."""
        with self._lock:
            result = self._hit(service_id, tenant, current_time, cost)
        if self._hooks is not None:
            self._tell(self._hooks, service_id, cost, result.retry_after)
        return result

    def hit_all_now(self, asked: Sequence[Asked]) -> list[RateLimitResult]:
        """Decide about several requests as one: all are charged, or none."""
        with self._lock:
            results = self._hit_all(asked)
        self._tell_all(asked, results)
        return results

    def look(
        self, service_id: str, cost: int = 1, *, tenant: str = "", current_time: float | None = None
    ) -> RateLimitResult:
        """Tell what a request would be told, and charge nothing."""
        with self._lock:
            return self._look(service_id, tenant, current_time, cost)

    def wait(self, service_id: str, cost: int = 1, timeout: float | None = None, *, tenant: str = "") -> None:
        """Wait for one's turn in this thread, as `RateLimiter.acquire` does in a coroutine."""
        checked(timeout)
        with self._lock:
            waiter = self._enter(service_id, cost, tenant, ThreadWaiter)
        if waiter is not None:
            try:
                wait_in_thread(self._lines, self._lock, service_id, waiter, timeout)
            except (TimeoutError, NeverAdmittedError):
                self._gave_up(service_id, waiter)
                raise
        if self._hooks is not None:
            self._tell(self._hooks, service_id, cost, None)

    def remove(self, service_id: str, *, tenant: str = "") -> None:
        """Forget a service and its tenants, or one of these, with all limits, if it has any."""
        with self._lock:
            self._remove(service_id, tenant)

    def clear(self, service_id: str, *, tenant: str = "") -> None:
        """Forget what counts for a service and its tenants, or for one of these: all start full again."""
        with self._lock:
            self._reset(service_id, tenant)

    def _gave_up(self, service_id: str, waiter: Waiter) -> None:
        """Keep account of one that waited in vain."""
        with self._lock:
            wait = self._lines.expected(service_id, waiter)
            for name, key in self._find(service_id, waiter.tenant, None)[:1]:
                self._refuse(name, key, wait)
        if self._hooks is not None:
            self._tell(self._hooks, service_id, waiter.cost, wait)

    def _configure(self, service_id: str, config: RateLimitConfig | Spec, tenant: str) -> None:
        check_spelling(service_id)
        if tenant:
            check_spelling(tenant, "tenant")
        spec = _spec(service_id, config)
        if tenant == DEFAULT_TENANT:
            self._book.set_default(service_id, spec)
        else:
            self._book.set((service_id, tenant) if tenant else service_id, spec)
        self._lines.limits_changed(service_id)

    def _remove(self, service_id: str, tenant: str) -> None:
        check_spelling(service_id)
        for name in self._names(service_id, tenant):
            self._book.remove(name)
        self._lines.limits_changed(service_id)

    def _reset(self, service_id: str, tenant: str) -> None:
        check_spelling(service_id)
        for name in self._names(service_id, tenant):
            self._book.reset(name)
        self._lines.limits_changed(service_id)

    def _names(self, service_id: str, tenant: str) -> list[Name]:
        return [(service_id, tenant)] if tenant else [service_id, *self._book.tenants(service_id)]

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


def _wait(key: Key, now: int, current_time: float | None, ready: int) -> float:
    """Return the seconds until a key admits what it refuses at `now`."""
    if ready == NEVER:
        return math.inf
    return (ready - now) / SECOND if current_time is None else seconds.delay(current_time, ready - key.shift)


def checked(timeout: float | None) -> float | None:
    """Return a time to wait, in seconds. Raises TypeError or ValueError unless it is one, or None."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be seconds, or None, not {shown(timeout)} ({type(timeout).__name__})")
    if not timeout >= 0:
        raise ValueError(f"timeout must be at least 0 seconds, not {shown(timeout)}")
    return timeout


def _spec(service_id: str, config: RateLimitConfig | Spec) -> Spec:
    if isinstance(config, RateLimitConfig):
        return config.spec
    if not isinstance(config, Spec):
        raise TypeError(f"the limits of {service_id!r} must be a RateLimitConfig, not {shown(config)}")
    return config
