"""What a key may use: a token bucket, sliding windows, or both."""

from dataclasses import dataclass, field
from fractions import Fraction
from math import gcd
from typing import Final

from gate.limits.checks import MOST, NEVER, check_amount, check_count, shown
from gate.limits.codec import varints

__all__ = ["MOST", "NEVER", "SECOND", "Spec", "Window"]

SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Window:
    """At most `limit` units of cost in every interval of `size` ns, half-open, wherever it begins."""

    limit: int
    size: int
    encoded: bytes = field(init=False, repr=False, compare=False, default=b"")  # as they are kept

    def __post_init__(self) -> None:
        check_count("a window's limit", self.limit, "units")
        check_count("a window's size", self.size, "ns")
        object.__setattr__(self, "encoded", varints(self.limit, self.size))


@dataclass(frozen=True, slots=True)
class Spec:
    """The limits of one key, compiled: `rate` units per second up to `burst`, and every one of `windows`.

    `rate` None means that there is no bucket; `burst` then means nothing. Raises TypeError or ValueError that names
    the field and the value.
    """

    rate: Fraction | None
    burst: int
    windows: tuple[Window, ...]
    # The bucket in whole numbers: a ns is `scale` ticks, a unit of cost `step` ticks, the whole burst `depth` ticks.
    # A rate of p/q per second makes a unit take q * 10^9 / p ns, so p / gcd ticks in a ns leave no fraction anywhere.
    scale: int = field(init=False, repr=False, compare=False, default=0)
    step: int = field(init=False, repr=False, compare=False, default=0)
    depth: int = field(init=False, repr=False, compare=False, default=0)
    encoded: bytes = field(init=False, repr=False, compare=False, default=b"")  # rate and burst, as they are kept

    def __post_init__(self) -> None:
        if not isinstance(self.windows, tuple) or not all(isinstance(window, Window) for window in self.windows):
            raise TypeError(f"windows must be a tuple of Window, not {shown(self.windows)}")
        if self.rate is None:
            check_amount("burst", self.burst, "units")
            object.__setattr__(self, "encoded", varints(0, 1, self.burst))
            return
        if not isinstance(self.rate, Fraction):
            raise TypeError(
                f"rate must be a Fraction of units per second or None, not {shown(self.rate)}: use parse_rate"
            )
        if self.rate <= 0:
            raise ValueError(f"rate must be above 0 units per second, not {shown(self.rate)}")
        check_count("burst", self.burst, "units")
        ticks = self.rate.denominator * SECOND
        common = gcd(ticks, self.rate.numerator)
        object.__setattr__(self, "scale", self.rate.numerator // common)
        object.__setattr__(self, "step", ticks // common)
        object.__setattr__(self, "depth", self.burst * self.step)
        object.__setattr__(self, "encoded", varints(self.rate.numerator, self.rate.denominator, self.burst))

    @property
    def ceiling(self) -> int | None:
        """The largest cost that can ever be admitted at once; None: no bound."""
        bounds = [window.limit for window in self.windows]
        if self.rate is not None:
            bounds.append(self.burst)
        return min(bounds, default=None)
