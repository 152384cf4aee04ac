"""Submit jobs through the gate, and follow each one: when it is admitted, why it waits, what came of it.

>>> from gate.client.jobs import JobClient
>>> async def pay() -> bytes:
...     async with JobClient("localhost:9092") as jobs:
...         ticket = await jobs.submit("payments", b'{"amount": 12}', tenant="acme", deadline=60)
...         async for decision in ticket:
...             print(decision)  # delayed until 2026-01-31T18:30:00.250Z by payments.rate, then: admitted
...         return await ticket.result(timeout=30)
"""

from gate.client.jobs.client import JobClient, SubmitError, UnknownServiceError
from gate.client.jobs.ticket import Decision, JobFailedError, JobRejectedError, NoAnswerError, Ticket, Verdict
from gate.client.sender import TooLargeError

__all__ = [
    "Decision",
    "JobClient",
    "JobFailedError",
    "JobRejectedError",
    "NoAnswerError",
    "SubmitError",
    "Ticket",
    "TooLargeError",
    "UnknownServiceError",
    "Verdict",
]
