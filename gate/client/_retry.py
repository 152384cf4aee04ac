"""The retries of jobs that failed: when, and when a service wants to be left alone."""

import math
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

from gate.client._errors import ArgumentError
from gate.errors import GateError
from gate.protocol.feedback import LONGEST_BACKOFF, LONGEST_WAIT
from gate.protocol.headers import MAX_COST

_ASKING_TO_WAIT: Final = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Retry:
    """A failed job is tried again after `first` seconds, then after twice as long each time, up to `longest` (a week).

    The pauses are not spread at random: what failed together comes back through the gate, which spreads it by its
    limits. Each attempt is charged like a new request, with the cost of the first one or with `cost`.

    A back-off is no failed attempt: it lasts `longest_backoff` seconds at the most (an hour), whatever is asked for,
    and a job is put off `backoffs` times; asked once more, it is given up.
    """

    attempts: int = 5
    first: float = 0.5
    longest: float = 30.0
    cost: int | None = None
    backoffs: int = 100
    longest_backoff: float = LONGEST_BACKOFF

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ArgumentError(f"attempts is {self.attempts}", hint="at least 1 is needed")
        if not 0 < self.first <= self.longest <= LONGEST_WAIT:
            allowed = f"0 < first <= longest <= {LONGEST_WAIT:.0f} is needed"
            raise ArgumentError(f"first is {self.first:g} and longest {self.longest:g}", hint=allowed)
        if self.backoffs < 0:
            raise ArgumentError(f"backoffs is {self.backoffs}", hint="0 or more is needed")
        if not 1 <= self.longest_backoff <= LONGEST_BACKOFF:
            raise ArgumentError(
                f"longest_backoff is {self.longest_backoff:g}",
                hint=f"it must be from 1 to {LONGEST_BACKOFF:.0f} seconds",
            )
        if self.cost is not None and not 1 <= self.cost <= MAX_COST:
            raise ArgumentError(f"cost is {self.cost}", hint=f"it must be from 1 to {MAX_COST}")

    def pause(self, attempt: int) -> float:
        """Return the seconds to wait after a failed attempt, counted from 1."""
        return min(self.longest, math.ldexp(self.first, min(attempt - 1, 1000)))


class Backoff(GateError):  # noqa: N818 - a handler raises it to ask for something; nothing is wrong with it
    """The service behind the handler wants to be left alone for so many seconds, as by 429 with Retry-After.

    Raised by a handler, it pauses the whole service at the gate, for as long as `Retry.longest_backoff` at the most.
    The job is tried again afterwards, and this attempt does not count. After `Retry.backoffs` of them it is given up.
    """

    def __init__(self, seconds: float, why: str = "") -> None:
        if not seconds >= 0:
            raise ArgumentError(f"a back-off of {seconds} s makes no sense", hint="give 0 seconds or more")
        super().__init__(f"asked to wait for {seconds:g} s{': ' if why else ''}{why}")
        self.seconds = min(max(1.0, float(seconds)), LONGEST_BACKOFF)


def asked_to_wait(error: BaseException, now: float) -> float | None:
    """Return for how many seconds an error asks to wait: a Backoff, or a 429 or 503 with Retry-After; else None.

    `now` is unix seconds. Never less than 1 s or more than an hour.
    """
    if isinstance(error, Backoff):
        return error.seconds
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in _ASKING_TO_WAIT:
        seconds = _seconds(error.response.headers.get("retry-after", ""), now)
        return None if seconds is None else min(max(1.0, seconds), LONGEST_BACKOFF)
    return None


def _seconds(retry_after: str, now: float) -> float | None:
    """Read a Retry-After: seconds or a date (RFC 9110, 10.2.3)."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
