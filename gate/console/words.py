"""Numbers and times as people read them, in the page and in the terminal."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from markupsafe import Markup, escape

from gate.observe.usage import FOREVER_MS

_PART: Final = re.compile(r"[._/:@-](?=\w)")
_RUN: Final = re.compile(r"[^\W_]{15,}")
_STRETCH: Final = re.compile(r".{12}(?!$)")
_MOST: Final = 2**63
_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60))


def duration(seconds: float | None) -> str:
    """Say how long something takes: `12 s`, `3.4 min`; None: `unknown`."""
    if seconds is None:
        return "unknown"
    for unit, size in _UNITS:
        if seconds >= 2 * size:
            return f"{_short(seconds / size)} {unit}"
    if seconds >= 10:
        return f"{seconds:.0f} s"
    return f"{seconds:.1f} s" if seconds >= 0.05 else "now"


def rate(per_second: float) -> str:
    """Say how many a second: `12.3/s`."""
    return f"{number(per_second)}/s"


def limit(per_second: float) -> str:
    """Say how many a limit gives: `12.3/s`, and `1/h` where that is little."""
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3_600)):
        if per_second * seconds >= 0.1 and (unit == "s" or per_second * seconds >= 1):
            return f"{number(round(per_second * seconds, 6))}/{unit}"
    return f"{number(round(per_second * 86_400, 6))}/day" if per_second else "0/s"


def number(value: float) -> str:
    """Write a number of requests, or of a rate, in at most seven characters or so."""
    if value > _MOST:
        return "countless"  # somebody has made it up
    if value >= 1_000_000:
        return f"{_short(value / 1_000_000)} M"
    if value < 0.005:  # the rate of what has stopped sinks, but never to 0
        return "0"
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def clock(at_ms: int, now_ms: int) -> str:
    """Say when in UTC: the time of day, with the date where it is another day."""
    if at_ms >= FOREVER_MS:
        return "never"
    try:
        at, now = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (at_ms, now_ms))
    except (ValueError, OverflowError, OSError):
        return f"{at_ms} ms"  # beyond the year 9999
    return at.strftime("%H:%M:%S") if at.date() == now.date() else at.strftime("%Y-%m-%d %H:%M")


def until(end_ms: int | None, now_ms: int, ended: str = "resumed") -> str:
    """Say how long a pause lasts; None: until it is `ended` by somebody."""
    if end_ms is None or end_ms >= FOREVER_MS:
        return f"until {ended}"
    return f"until {clock(end_ms, now_ms)}"


def text(value: object) -> str:
    """Write a value of a policy as a policy file has it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {text(one)}" for key, one in value.items())
    return ", ".join(map(text, value)) if isinstance(value, list | tuple) else str(value)


def soft(name: str) -> Markup:
    """Let a long name be broken where its parts end, and amid a part only where no word is so long."""
    parts = _PART.sub(r"\g<0><wbr>", str(escape(name)))  # `;` ends no part: it would be that of an entity
    return Markup(_RUN.sub(lambda run: _STRETCH.sub(r"\g<0><wbr>", run[0]), parts))  # noqa: S704 - it is escaped


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
