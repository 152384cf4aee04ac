"""Rates as people write them, read as exact fractions."""

import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Final

from gate.limits.checks import shown

_UNITS: Final = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86400),
}
# Bounded, because a hostile exponent (1e999999999) would be written out in full.
_NUMBER: Final = r"[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,2})?"
_MOST: Final = Fraction(10**30)
_RATE: Final = re.compile(
    rf"\s*(?P<amount>{_NUMBER})\s*(?:(?:/|\bper\b)\s*(?P<count>{_NUMBER})?\s*(?P<unit>[a-zA-Z]+)\s*)?", re.ASCII
)
_HINT: Final = 'write a number of units per second (2.5) or an amount per time ("10/min", "1/3s")'


def parse_rate(value: str | float | Fraction | Decimal) -> Fraction:
    """Return `value` as exact units per second.

    A text is a number per second or an amount per time: `10/min`, `1/3s`, `5/10s`, `0.5/h`. A float means its decimal
    text, so 0.1 is one tenth and not the binary fraction nearest to it. Raises TypeError for what is no number or text
    (a bool too), ValueError for what is malformed, not above zero or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Fraction, Decimal)):
        raise TypeError(f"a rate cannot be {shown(value)} ({type(value).__name__}): {_HINT}")
    if isinstance(value, str):
        rate = _parse_text(value)
    elif isinstance(value, (float, Decimal)):
        if not (value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)):
            raise ValueError(f"a rate must be finite, not {shown(value)}: {_HINT}")
        exact = Decimal(repr(float(value))) if isinstance(value, float) else value
        if exact and not -30 <= exact.adjusted() <= 30:
            raise ValueError(f"a rate of {shown(value)} is beyond 1e-30 to 1e30 units per second: {_HINT}")
        rate = Fraction(exact)
    else:
        rate = Fraction(value)
        if rate > _MOST or 0 < rate < 1 / _MOST:
            raise ValueError(f"a rate of {shown(value)} is beyond 1e-30 to 1e30 units per second: {_HINT}")
    if rate <= 0:
        raise ValueError(f"a rate must be above 0, not {shown(value)}: {_HINT}")
    return rate


def _parse_text(text: str) -> Fraction:
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:80]!r} is not a rate: {_HINT}")
    amount = Fraction(match["amount"])
    if match["unit"] is None:
        return amount
    seconds = _UNITS.get(match["unit"].lower())
    if seconds is None:
        raise ValueError(f"{text[:80]!r} is not a rate: {match['unit'][:20]!r} is no unit of time; use s, min, h or d")
    span = Fraction(match["count"] or 1) * seconds
    if not span:
        raise ValueError(f"{text[:80]!r} is not a rate: its time must be above 0: {_HINT}")
    return amount / span
