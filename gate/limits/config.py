"""Configuration of a service, as a user of the library writes it."""

from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

from gate.limits.checks import check_count, shown
from gate.limits.rates import parse_rate
from gate.limits.spec import MOST, SECOND, Spec, Window


@dataclass(frozen=True, slots=True)
class RateLimitConfig:
    """The limits of a service; an admitted request keeps to all of them.

    `requests_per_second` refills a bucket of `burst_size` units: a number, or a text such as `10/min`. In every
    interval of `window_size` seconds at most `window_limit` units are admitted; unless given, what the rate yields in
    that time. `windows` are further pairs of a limit and its seconds.

    Raises TypeError or ValueError that names the field, what it was, and what to write.
    """

    requests_per_second: float | str | Fraction | Decimal
    burst_size: int
    window_size: float | Fraction | Decimal = 60
    window_limit: int | None = None
    windows: tuple[tuple[int, float], ...] = ()
    spec: Spec = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            rate = parse_rate(self.requests_per_second)
        except (TypeError, ValueError) as error:
            raise type(error)(f"requests_per_second: {error}") from None
        check_count("burst_size", self.burst_size, "requests")
        size = _nanoseconds("window_size", self.window_size)
        limit = self.window_limit
        if limit is None:
            limit = min(max(1, rate * size // SECOND), MOST)
        check_count("window_limit", limit, "requests")
        windows = [Window(limit, size)]
        try:
            pairs = [(further, seconds) for further, seconds in self.windows]
        except (TypeError, ValueError):
            raise TypeError(f"windows must be pairs of a limit and its seconds, not {shown(self.windows)}") from None
        for place, (further, seconds) in enumerate(pairs):
            check_count(f"windows[{place}]: the limit", further, "requests")
            windows.append(Window(further, _nanoseconds(f"windows[{place}]: the size", seconds)))
        object.__setattr__(self, "windows", tuple(pairs))
        object.__setattr__(self, "spec", Spec(rate, self.burst_size, tuple(windows)))


def _nanoseconds(name: str, seconds: float | Fraction | Decimal) -> int:
    """Return `seconds` as ns; a float means its decimal text."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float, Fraction, Decimal)):
        raise TypeError(
            f"{name} must be a number of seconds, not {shown(seconds)} ({type(seconds).__name__}): write 60"
        )
    beyond = isinstance(seconds, Decimal) and seconds.is_finite() and not -30 <= seconds.adjusted() <= 30
    try:
        number = repr(float(seconds)) if isinstance(seconds, float) else seconds
        exact = Fraction(0) if beyond else Fraction(number)  # written out, its digits would fill the memory
    except (OverflowError, ValueError):
        raise ValueError(f"{name} must be a finite number of seconds, not {shown(seconds)}: write 60") from None
    size = round(exact * SECOND)
    if not 1 <= size <= MOST:
        raise ValueError(f"{name} must be from 1e-9 to {MOST // SECOND} seconds, not {shown(seconds)}: write 60")
    return size
