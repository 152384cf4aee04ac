"""Spec of what a key may use: a token bucket, further limits, or both."""

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from math import gcd
from typing import Any, ClassVar, Final

from gate.limits.checks import MOST, NEVER, check_amount, check_count, shown
from gate.limits.codec import varints
from gate.limits.concurrency import Running
from gate.limits.limit import Counted, Limit
from gate.limits.quota import Quota

__all__ = ["MOST", "NEVER", "SECOND", "Quota", "Spec", "Window"]

SECOND: Final = 1_000_000_000
_TOLERANCE: Final = 1_000  # times that are off by a smaller part are kept


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket, as it describes itself: `rate` units per second, up to `capacity` at once."""

    rate: Fraction
    capacity: int
    reason: ClassVar[str] = "rate"
    name: ClassVar[str] = "rate"

    @property
    def per_second(self) -> float:
        """Units per second in the long run."""
        return float(self.rate)

    def words(self, spell_rate: Callable[[Any], str], spell_duration: Callable[[int], str]) -> str:  # noqa: ARG002
        """Say in a few words what it allows."""
        return f"{spell_rate(self.rate)}, burst {self.capacity}"


@dataclass(frozen=True, slots=True)
class Window:
    """At most `limit` units of cost in every interval of `size` ns, half-open, wherever it begins."""

    reason: ClassVar[str] = "window"
    name: ClassVar[str] = "window"

    limit: int
    size: int
    encoded: bytes = field(init=False, repr=False, compare=False, default=b"")  # as they are kept

    def __post_init__(self) -> None:
        check_count("a window's limit", self.limit, "units")
        check_count("a window's size", self.size, "ns")
        object.__setattr__(self, "encoded", varints(self.limit, self.size))

    @property
    def capacity(self) -> int:
        """The most units that it gives at once."""
        return self.limit

    @property
    def per_second(self) -> float:
        """Units per second in the long run."""
        return self.limit * SECOND / self.size

    def words(self, spell_rate: Callable[[Any], str], spell_duration: Callable[[int], str]) -> str:  # noqa: ARG002
        """Say in a few words what it allows."""
        return f"{self.limit} per {spell_duration(self.size)}"

    def again(self, time: int, rounds: int) -> int:
        """Return when it lets in `rounds` times its limit more than at `time`: what it let in one size before."""
        return time + rounds * self.size

    def is_off(self, due: int, now: int) -> bool:
        """Tell whether who comes now instead of at `due` delays others by more than a thousandth of the size."""
        return (now - due) * _TOLERANCE > self.size


@dataclass(frozen=True, slots=True)
class Spec:
    """The limits of one key, compiled: `rate` units per second up to `burst`, all of `windows` and all of `quotas`.

    `rate` None means that there is no bucket; `burst` then means nothing. Raises TypeError or ValueError that names
    the field and the value.
    """

    rate: Fraction | None
    burst: int
    windows: tuple[Window, ...]
    quotas: tuple[Quota, ...] = field(default=(), metadata={"later": True})
    running: Running | None = field(default=None, metadata={"later": True})  # no matter of units: no limiter counts it
    # The bucket in whole numbers: a ns is `scale` ticks, a unit of cost `step` ticks, the whole burst `depth` ticks.
    # A rate of p/q per second makes a unit take q * 10^9 / p ns, so p / gcd ticks in a ns leave no fraction anywhere.
    scale: int = field(init=False, repr=False, compare=False, default=0)
    step: int = field(init=False, repr=False, compare=False, default=0)
    depth: int = field(init=False, repr=False, compare=False, default=0)
    encoded: bytes = field(init=False, repr=False, compare=False, default=b"")  # rate and burst, as they are kept
    limits: tuple[Limit, ...] = field(init=False, repr=False, compare=False, default=())  # the bucket, then the others

    def __post_init__(self) -> None:
        if not isinstance(self.windows, tuple) or not all(isinstance(window, Window) for window in self.windows):
            raise TypeError(f"windows must be a tuple of Window, not {shown(self.windows)}")
        if not isinstance(self.quotas, tuple) or not all(isinstance(quota, Quota) for quota in self.quotas):
            raise TypeError(f"quotas must be a tuple of Quota, not {shown(self.quotas)}")
        if self.rate is None:
            check_amount("burst", self.burst, "units")
            object.__setattr__(self, "encoded", varints(0, 1, self.burst))
            object.__setattr__(self, "limits", self.counted)
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
        object.__setattr__(self, "limits", (Bucket(self.rate, self.burst), *self.counted))

    @property
    def counted(self) -> tuple[Counted, ...]:
        """All limits but the bucket."""
        return (*self.windows, *self.quotas)

    def only(self, limit: Counted) -> "Spec":
        """Return what is left where nothing but one of these limits."""
        windows = tuple([window for window in self.windows if window is limit])
        return Spec(None, 1, windows, tuple([quota for quota in self.quotas if quota is limit]))

    @property
    def ceiling(self) -> int | None:
        """The largest cost that can ever be admitted at once; None: no bound."""
        return min((limit.capacity for limit in self.limits), default=None)
