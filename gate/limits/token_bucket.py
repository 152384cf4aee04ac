"""A token bucket as a library, for threads."""

import math
import time
from collections.abc import Callable

from gate.limits.checks import bad_time, shown
from gate.limits.forking import make_lock
from gate.limits.limiter import Limiter
from gate.limits.rates import parse_rate
from gate.limits.spec import MOST, NEVER, SECOND, Spec


class TokenBucket:
    """A bucket of `burst_size` tokens that is refilled at `rate` tokens per second, without drift. Thread-safe."""

    def __init__(self, rate: float | str, burst_size: int, *, clock: Callable[[], int] | None = None) -> None:
        self._clock = checked_clock(clock)
        self._lock = make_lock()
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
        return math.inf if ready == NEVER else (ready - now) / SECOND

    @property
    def tokens(self) -> float:
        """The tokens that are there."""
        with self._lock:
            return float(self._limiter.tokens(self._clock()))


def checked_clock(clock: Callable[[], int] | None) -> Callable[[], int]:
    """Return `clock`, or else the monotonic one. Raises TypeError where it gives no whole ns."""
    if clock is None:
        return time.monotonic_ns
    if not callable(clock):
        raise TypeError(f"clock must be a function that returns whole ns, as time.monotonic_ns, not {shown(clock)}")
    if type(now := clock()) is not int:
        raise TypeError(f"clock must return whole ns, as time.monotonic_ns, not {shown(now)} ({type(now).__name__})")
    if not -MOST <= now <= MOST:
        raise bad_time(now)
    return clock
