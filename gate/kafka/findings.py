"""Findings of `gate doctor`, as values."""

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    """How a check ended. What could not be looked at is `skipped`, never `ok`."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, and what to do about it."""

    check: str
    health: Health
    text: str
    fix: str | None = None
