"""Limiter of a part of a limit, as a process leases it: it starts empty, may be 0, and is resized in place."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from gate.limits.checks import NEVER, check_amount
from gate.limits.limiter import Limiter
from gate.limits.sliding_window import SlidingWindow
from gate.limits.spec import SECOND, Spec, Window

UNIT: Final = SECOND * SECOND  # ticks of a unit: a rate of n nano-units per second is n ticks in a ns, for all parts


@dataclass(frozen=True, slots=True)
class PartWindow(Window):
    """A window's part: `limit` may be 0."""

    def __post_init__(self) -> None:
        check_amount("a window's part", self.limit, "units")


@dataclass(frozen=True, slots=True)
class PartSpec(Spec):
    """Parts of the limits of one key. `nano` is the rate in 10^-9 units per second; None: no bucket."""

    nano: int | None = None

    def __post_init__(self) -> None:
        check_amount("burst", self.burst, "units")
        if self.nano is not None:
            check_amount("nano", self.nano, "units per 10^9 s")
            object.__setattr__(self, "scale", self.nano)
            object.__setattr__(self, "step", UNIT)
            object.__setattr__(self, "depth", self.burst * UNIT)

    @classmethod
    def of(cls, nano: int | None, burst: int, windows: tuple[Window, ...]) -> "PartSpec":
        """Return the parts."""
        return cls(None if nano is None else _ANY_RATE, burst, windows, nano=nano)


_ANY_RATE: Final = Fraction(1)  # that there is a bucket; how fast it fills stands in `nano`


class Part(Limiter):
    """Decides about one key by its part of the limits. A new one has no tokens.

    As all parts measure a unit in the same ticks, a new rate changes only how many of them a ns is.
    """

    __slots__ = ()

    def __init__(self, spec: PartSpec, now: int) -> None:
        super().__init__(spec, now)
        self._full = now * spec.scale + spec.depth

    def resize(self, now: int, nano: int | None, burst: int, limits: tuple[int, ...]) -> None:
        """Set rate, burst and the limit of each window. Tokens are capped and never added; what counts stays counted.

        Raises ValueError if there are not as many windows.
        """
        now = self._advance(now)
        old = self.spec
        if len(limits) != len(old.windows):
            raise ValueError(f"{len(limits)} parts for {len(old.windows)} windows")
        windows = tuple([PartWindow(limit, window.size) for limit, window in zip(limits, old.windows, strict=True)])
        spec = PartSpec.of(nano, burst, windows)
        tokens = old.depth - max(0, self._full - now * old.scale) if old.step and spec.step else 0
        self._full = now * spec.scale + spec.depth - min(tokens, spec.depth)
        self.spec = spec
        for counter, window in zip(self._windows(), windows, strict=True):
            counter._window = window  # noqa: SLF001 - a limiter is a window, and looks into its further ones

    def empty(self, now: int) -> None:
        """Drop all tokens: somebody else may have had them. What counts in windows stays counted."""
        now = self._advance(now)
        if self.spec.step:
            self._full = max(self._full, now * self.spec.scale + self.spec.depth)

    def counted(self, now: int) -> tuple[int, ...]:
        """Return the units that count in each window."""
        now = self._at(now)
        return tuple([SlidingWindow._counted(window, now) for window in self._windows()])  # noqa: SLF001

    def _when(self, now: int, full: int, cost: int) -> int:
        spec = self.spec
        if not spec.scale and full > spec.depth:  # it never refills, and has none left
            return NEVER
        return super()._when(now, full, cost)

    def _bucket_at(self, now: int, cost: int) -> int:
        spec = self.spec
        if spec.step and not spec.scale:
            return now if self._full + cost * UNIT <= spec.depth else NEVER
        return super()._bucket_at(now, cost)
