"""The headers that tell of a job, as the gate writes them. What a producer claims of them never gets past the gate."""

from gate.protocol.headers import ERROR, ERROR_ATTEMPTS, JOB_GROUP, Headers, attempt, backoffs, job_id, last, number

__all__ = ["ERROR", "ERROR_ATTEMPTS", "attempt", "backoffs", "is_for", "job_id", "last", "number"]


def is_for(headers: Headers, group: str) -> bool:
    """Tell whether a job is for the workers of a group: a retry is for the one that asked for it alone."""
    wanted = last(headers, JOB_GROUP)
    return wanted is None or wanted == group.encode()
