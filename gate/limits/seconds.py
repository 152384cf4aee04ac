"""Float seconds and whole nanoseconds, converted exactly."""

import math
from typing import Final

from gate.limits.checks import MOST, shown
from gate.limits.spec import SECOND

_MOST_SECONDS: Final = MOST // SECOND


def to_ns(seconds: float) -> int:
    """Return `seconds` in ns, rounded to the nearest. It never steps back where `seconds` does not.

    Raises TypeError for what is no number (a bool too), ValueError for NaN, infinity and times beyond 2^62 ns.
    """
    if type(seconds) not in (float, int):
        if isinstance(seconds, bool) or not isinstance(seconds, (float, int)):
            raise TypeError(
                f"a time must be in seconds, as a float or int, not {shown(seconds)} ({type(seconds).__name__})"
            )
        seconds = float(seconds) if isinstance(seconds, float) else int(seconds)  # a subclass, as those of numpy
    if not -_MOST_SECONDS <= seconds <= _MOST_SECONDS:  # NaN is in no range
        raise ValueError(f"a time must be within {_MOST_SECONDS} seconds of 0, not {shown(seconds)}")
    whole = math.floor(seconds)
    return whole * SECOND + math.floor((seconds - whole) * SECOND + 0.5)  # both parts are exact to far below 1 ns


def delay(now: float, ready: int) -> float:
    """Return the seconds after `now` at which the clock shows `ready` ns.

    `to_ns(now + delay)` is not before `ready`; two ns less, or two floats if those are more, and it is. A time like
    1764025123.4 has no digits for ns, so the mere difference of the two may fall short.
    """
    target = ready / SECOND
    if target >= _MOST_SECONDS:  # no clock will show it
        return target - now
    while to_ns(target) < ready:
        target = math.nextafter(target, math.inf)
    wait = target - now
    while now + wait < target:
        wait = math.nextafter(wait, math.inf)
    return wait
