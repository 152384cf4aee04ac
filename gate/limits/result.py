# ruff: noqa: SLF001 - it reads what a limiter counts
"""What a rate limiter answers, with how full each limit is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from gate.limits.limiter import Limiter
from gate.limits.spec import SECOND, Window


class LimitState(NamedTuple):
    """One limit at one moment."""

    name: str  # "rate" of a bucket, "window", "quota"; "tenant.rate" and so on where it is the tenant's
    limit: int  # units that it gives at once, at most
    remaining: int  # units that it would give now
    more: float  # seconds until it would give one more; 0 where it gives all
    reset: float  # seconds until it gives all of them if nothing else comes
    window: float | None  # seconds in which it renews as a whole; None: by the calendar


@dataclass(frozen=True, slots=True)
class RateLimitResult:
    """The answer to one request. It is true if the request is allowed, and unpacks to `allowed, retry_after`.

    `states` holds each limit that was asked, after the decision; `limit`, `remaining` and `reset` are of the one that
    has least left, None where no limit applies.
    """

    allowed: bool
    retry_after: float | None  # seconds; None: allowed; inf: never
    states: tuple[LimitState, ...] = ()

    def __iter__(self) -> Iterator[bool | float | None]:
        return iter((self.allowed, self.retry_after))

    def __bool__(self) -> bool:
        return self.allowed

    @property
    def tightest(self) -> LimitState | None:
        """The limit that has least left, and of several the one that takes longest to renew."""
        return min(self.states, key=lambda state: (state.remaining, -state.reset), default=None)

    @property
    def limit(self) -> int | None:
        """The most units that the tightest limit gives at once."""
        tightest = self.tightest
        return None if tightest is None else tightest.limit

    @property
    def remaining(self) -> int | None:
        """Units that would be admitted now."""
        tightest = self.tightest
        return None if tightest is None else tightest.remaining

    @property
    def reset(self) -> float | None:
        """Seconds until the tightest limit gives all of its units, if nothing else comes."""
        tightest = self.tightest
        return None if tightest is None else tightest.reset


def states(limiter: Limiter, now: int, prefix: str = "") -> list[LimitState]:
    """Return how full each limit of a limiter is at `now`."""
    found = []
    spec = limiter.spec
    limits = iter(spec.limits)
    if spec.step:
        bucket = next(limits)
        missing = max(0, limiter._full - now * spec.scale)  # ticks
        left = max(0, (spec.depth - missing) // spec.step)
        window = spec.depth / spec.scale / SECOND
        more = missing - (spec.burst - left - 1) * spec.step if left < spec.burst else 0
        wait = _seconds(-(-more // spec.scale))
        reset = _seconds(-(-missing // spec.scale))
        found.append(LimitState(prefix + bucket.name, spec.burst, left, wait, reset, window))
    for limit, counter in zip(limits, limiter._counters(), strict=True):
        left = max(0, limit.capacity - counter._counted(now))
        wait = _seconds(counter._opens_at(now, left + 1) - now) if left < limit.capacity else 0.0
        renews = counter._renews_at(now)
        reset = _seconds((counter._empties_at() if renews is None else renews) - now)
        size = limit.size / SECOND if isinstance(limit, Window) else None
        found.append(LimitState(prefix + limit.name, limit.capacity, left, wait, reset, size))
    return found


def _seconds(wait: int) -> float:
    return max(0, wait) / SECOND
