"""The headers by which workers tell what became of a job. To the gate they are like any others: it passes them on."""

from typing import Final

from gate.kafka.headers import Headers, original_id

JOB_ID: Final = "gate-job-id"  # on a retry, which is a new request to the gate: the id of the first one
ATTEMPT: Final = "gate-job-attempt"  # on a retry: counts the attempts from 1
NOT_BEFORE: Final = "gate-job-not-before"  # on a job that waits for its next attempt, unix ms
ERROR: Final = "gate-error"
ERROR_ATTEMPTS: Final = "gate-error-attempts"

_MAX_DIGITS: Final = 18


def last(headers: Headers, name: str) -> bytes | None:
    """Return the last header of that name."""
    found = None
    for key, value in headers:
        if key == name:
            found = value
    return found


def job_id(headers: Headers) -> str | None:
    """Return the id of the first request about a job: the same for all its attempts. None for a record without one."""
    first = last(headers, JOB_ID)
    return first.decode("ascii", "backslashreplace") if first else original_id(headers)


def attempt(headers: Headers) -> int:
    """Return which attempt this is, from 1."""
    return max(1, number(last(headers, ATTEMPT)) or 1)


def number(value: bytes | None) -> int | None:
    """Read a non-negative integer; None for anything else."""
    return int(value) if value is not None and len(value) <= _MAX_DIGITS and value.isdigit() else None
