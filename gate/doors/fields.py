"""Header fields about limits: `RateLimit`, `RateLimit-Policy` and `Retry-After`, written and read.

By draft-ietf-httpapi-ratelimit-headers-11 and RFC 9110.
"""

import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from gate.limits.result import LimitState, RateLimitResult

_MOST: Final = 999_999_999_999_999  # an Integer of RFC 9651 has 15 digits


def rate_limit_fields(result: RateLimitResult, prefix: str = "") -> dict[str, str]:
    """Return what a response says about the limits that were asked; nothing where there are none.

    `prefix` stands before the names of all limits, and holds nothing that a String of RFC 9651 must escape.
    """
    if not result.states:
        return {}
    names = names_of(result.states)
    policies, limits = [], []
    for name, state in zip(names, result.states, strict=True):
        window = "" if state.window is None else f";w={_whole(state.window) or 1}"
        policies.append(f'"{prefix}{name}";q={min(state.limit, _MOST)}{window}')
        more = f";t={_whole(state.more)}" if state.remaining < state.limit else ""
        limits.append(f'"{prefix}{name}";r={min(state.remaining, _MOST)}{more}')
    return {"ratelimit-policy": ", ".join(policies), "ratelimit": ", ".join(limits)}


def retry_after_field(seconds: float | None) -> dict[str, str]:
    """Return when a refused request may come again, in whole seconds rounded up; nothing if it never may."""
    if seconds is None or math.isinf(seconds):
        return {}
    return {"retry-after": str(max(1, _whole(seconds)))}


def names_of(states: Sequence[LimitState]) -> list[str]:
    """Return a name for each limit that none of the others has: with its seconds where several are called the same."""
    count = Counter(state.name for state in states)
    names = [
        state.name if count[state.name] == 1 or state.window is None else f"{state.name}-{state.window:g}"
        for state in states
    ]
    seen: Counter[str] = Counter()
    for place, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[place] = f"{name}-{seen[name]}"
    return names


def violated(result: RateLimitResult, cost: int) -> list[str]:
    """Return the names of the limits that had no room for a cost."""
    names = names_of(result.states)
    return [name for name, state in zip(names, result.states, strict=True) if state.remaining < cost]


def read_retry_after(text: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a `Retry-After` asks for, as a number or as a date; None where it makes no sense."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:12])
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())


def _whole(seconds: float) -> int:
    return min(math.ceil(seconds), _MOST)
