"""Units of time in nanoseconds, and the one grammar of lengths of time that people write."""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Final, TypeAlias

# The type of a field says the unit of the time in it; a moment counts from the unix epoch
Ns: TypeAlias = int
Ms: TypeAlias = int

MS: Final = 1_000_000
SECOND: Final = 1_000_000_000
MAX_DURATION: Final = 100 * 365 * 86_400 * SECOND  # 100 years, in ns: fits into 63 bits

DURATION_HINT: Final = "write seconds as a number, or text such as 500ms, 90s, 1m, 1h30m, 7d"

_UNITS: Final[Mapping[str, int]] = {
    "": SECOND,
    "ms": MS,
    "s": SECOND,
    "m": 60 * SECOND,
    "min": 60 * SECOND,
    "h": 3600 * SECOND,
    "d": 86_400 * SECOND,
}
_NUMBER: Final = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
_PART: Final = re.compile(rf"({_NUMBER}) *(ms|s|min|m|h|d|)")
_DURATION: Final = re.compile(rf" *(?:{_NUMBER} *|(?:{_NUMBER} *(?:ms|s|min|m|h|d) *)+)")


def parse_duration(text: str) -> int:
    """Read a length of time, which may be 0; returns ns, rounded to the nearest, but not to 0 what is above it.

    It is a number of seconds, or numbers with units, added up: `90`, `90s`, `2 h`, `1h30m`, `1h 30m`, `250ms`. Raises
    ValueError for what is none. How long it may be is for the caller to say (MAX_DURATION).
    """
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is no length of time: {DURATION_HINT}")
    length = sum((Fraction(number) * _UNITS[unit] for number, unit in _PART.findall(text)), Fraction())
    return max(int(length > 0), round(length))
