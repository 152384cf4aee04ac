# ruff: noqa: SLF001 - a limiter is its own first window and looks into its further ones
"""The state of one key: a token bucket and sliding windows that are charged together or not at all."""

from fractions import Fraction
from typing import Final, Literal, Self

from gate.limits.codec import Writer, seal, unseal
from gate.limits.spec import NEVER, Spec, Window
from gate.limits.window import SlidingWindow

_UNBOUNDED: Final = Window(2**62, 1)


class Limiter(SlidingWindow):
    """Decides about one key. It reads no clock, is not thread-safe, and starts with all of its burst.

    The bucket is GCRA: it keeps the time at which it will be full again, in ticks of `Spec.scale` to the ns (ITU-T
    I.371; Brandur Leach's throttled is the known implementation). The limiter is itself the first of its windows, which
    saves an object for each key.

    Every `now` is ns; one before the newest seen is taken as the newest seen.
    """

    __slots__ = ("_full", "_last", "_more", "spec")

    def __init__(self, spec: Spec, now: int) -> None:
        super().__init__(spec.windows[0] if spec.windows else _UNBOUNDED)
        self.spec = spec
        self._last = now
        self._full = now * spec.scale  # ticks
        self._more = tuple(SlidingWindow(window) for window in spec.windows[1:])
        if not spec.windows:
            self._edge = NEVER  # no run is ever opened

    def fit(self, now: int, count: int, cost: int = 1) -> int:
        """Return how many of `count` requests of `cost` units each fit at `now`; charge none."""
        if type(cost) is not int or cost < 1:
            raise _bad_cost(cost)
        now = self._advance(now)
        spec = self.spec
        if spec.step:
            start = now * spec.scale
            debt = self._full - start
            count = min(count, (spec.depth - max(debt, 0)) // (spec.step * cost))
        for window in self._windows():
            window._expire(now)
            count = min(count, (window._window.limit - window._used) // cost)
        return max(count, 0)

    def charge(self, now: int, units: int) -> None:
        """Charge `units` at `now` without asking; the caller asked `fit`."""
        now = self._advance(now)
        if units <= 0:
            return
        spec = self.spec
        start = now * spec.scale
        self._full = max(self._full, start) + units * spec.step
        for window in self._windows():
            window._add(now, units)

    def take(self, now: int, count: int, cost: int = 1) -> int:
        """Charge as many of `count` requests of `cost` units each as fit at `now`; return how many."""
        fitting = self.fit(now, count, cost)
        self.charge(now, fitting * cost)
        return fitting

    def ready_at(self, now: int, cost: int = 1) -> int:
        """Return the earliest time from `now` on that admits `cost` if nothing else comes; NEVER if none does."""
        now = self._advance(now)
        return max(self._bucket_at(now, cost), *(window._opens_at(now, cost) for window in self._windows()), now)

    def binding(self, now: int, cost: int = 1) -> Literal["rate", "window"] | None:
        """Return which limit makes `cost` wait longest; None if it need not wait."""
        now = self._advance(now)
        bucket = self._bucket_at(now, cost)
        window = max((window._opens_at(now, cost) for window in self._windows()), default=now)
        if bucket <= now and window <= now:
            return None
        return "window" if window > bucket else "rate"

    def tokens(self, now: int) -> Fraction:
        """Return the units in the bucket at `now`; without a bucket, the smallest room of a window."""
        now = self._advance(now)
        spec = self.spec
        if spec.step:
            return spec.burst - Fraction(max(0, self._full - now * spec.scale), spec.step)
        return Fraction(min((window._window.limit - window._used for window in self._windows()), default=0))

    def window_fill(self, now: int) -> float:
        """Return the share of the fullest window that is used at `now`; above 1 where the limit was lowered since."""
        now = self._advance(now)
        fill = 0.0
        for window in self._windows():
            window._expire(now)
            fill = max(fill, window._used / window._window.limit)
        return fill

    def idle(self, now: int) -> bool:
        """Tell whether this is equal to a new limiter, so that it may be forgotten."""
        now = self._advance(now)
        for window in self._windows():
            window._expire(now)
        return self._full <= now * self.spec.scale and not any(window._used for window in self._windows())

    def reconfigure(self, spec: Spec, now: int) -> None:
        """Go over to other limits. What counts in a window stays counted; tokens are capped and never added.

        A window takes over what the old window of its size counts; without one, what the next larger counts, or else
        the largest. A first bucket starts full.
        """
        now = self._advance(now)
        twin = type(self)(spec, now)
        old = self.spec
        if spec.step and old.step:
            missing = max(0, self._full - now * old.scale)
            # what was missing from the old burst and what the bursts differ by is missing from the new one
            ticks = (spec.burst - old.burst) * spec.step + -(-missing * spec.step // old.step)
            twin._full = now * spec.scale + max(0, ticks)
        sources = sorted(self._windows(), key=lambda window: window._window.size)
        for window in twin._windows():
            larger = (source for source in sources if source._window.size >= window._window.size)
            source = next(larger, sources[-1] if sources else None)
            if source is not None:
                window._adopt(source, now)
        twin._copy_into(self)

    def copy(self) -> Self:
        """Return an independent copy; charged at the same times, it stays equal."""
        return self._copy_into(object.__new__(type(self)))

    def dump(self) -> bytes:
        """Return the whole state, with the limits it was made for, versioned and checksummed."""
        spec, out = self.spec, Writer()
        rate = spec.rate or Fraction(0)
        out.numbers(self._last, rate.numerator, rate.denominator, spec.burst)
        out.numbers(self._full - self._last * spec.scale, len(spec.windows))
        for window in self._windows():
            out.numbers(window._window.limit, window._window.size)
            window._write(out, self._last)
        return seal(out)

    @classmethod
    def load(cls, spec: Spec, data: bytes) -> Self:
        """Return the limiter that `dump` wrote, carried over to `spec` if that differs. Raises StateError."""
        source = unseal(data)
        with source.checked():
            last, numerator, denominator, burst = source.numbers(4)
            full, count = source.numbers(2)
            start = source.position
            windows = []
            for _ in range(count):
                windows.append(Window(*source.numbers(2)))
                SlidingWindow(windows[-1])._read(source, last)
            stored = Spec(Fraction(numerator, denominator) if numerator else None, burst, tuple(windows))
            limiter = cls(stored, last)
            limiter._full = full + last * stored.scale
            source.position = start
            for window in limiter._windows():
                source.numbers(2)
                window._read(source, last)
            source.end()
        limiter.spec = stored
        if stored != spec:
            limiter.reconfigure(spec, last)
        limiter.spec = spec  # the equal one of the caller, so that keys share it
        return limiter

    def _windows(self) -> tuple[SlidingWindow, ...]:
        return (self, *self._more) if self.spec.windows else ()

    def _advance(self, now: int) -> int:
        if now < self._last:
            return self._last
        self._last = now
        return now

    def _bucket_at(self, now: int, cost: int) -> int:
        spec = self.spec
        if not spec.step:
            return now
        if cost > spec.burst:
            return NEVER
        ticks = max(self._full, now * spec.scale) + cost * spec.step - spec.depth
        return max(now, -(-ticks // spec.scale))

    def _copy_into(self, twin: Self) -> Self:
        super()._copy_into(twin)
        for name in Limiter.__slots__:
            setattr(twin, name, getattr(self, name))
        twin._more = tuple(window._copy_into(object.__new__(SlidingWindow)) for window in self._more)
        return twin


def _bad_cost(cost: object) -> Exception:
    if type(cost) is not int:
        return TypeError(f"cost must be a whole number of units, not {cost!r} ({type(cost).__name__})")
    return ValueError(f"cost must be at least 1, not {cost}")
