"""Jobs that were given up: what becomes of them, so that nothing is lost silently."""

import asyncio
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError

from consumers.handlers import Job
from gate.kafka.topics import Names

ERROR: Final = "gate-error"
ERROR_ATTEMPTS: Final = "gate-error-attempts"

_SEND_SECONDS: Final = 30.0
_INT32_MAX: Final = 2**31 - 1


class DeadLetters:
    """Writes jobs to the rejected topic as they were, with their error in two more headers.

    They keep the stamp by which they were admitted: that tells them from requests that the gate rejected.
    """

    def __init__(self, bootstrap: str, names: Names) -> None:
        self._names = names
        # Not idempotent: a record too large would leave a gap in the sequence, and nothing could be sent after it.
        self.producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            acks="all",
            max_request_size=_INT32_MAX,  # the broker's limit is the one that counts
        )

    async def write(self, job: Job, error: str, attempts: int) -> None:
        """Write a job. Raises KafkaError or TimeoutError where the broker does not take it now."""
        headers = [(name, value) for name, value in job.headers if name not in {ERROR, ERROR_ATTEMPTS}]
        headers += [(ERROR, error.encode("utf-8", "backslashreplace")), (ERROR_ATTEMPTS, b"%d" % attempts)]
        value = b"" if job.key is None and job.value is None else job.value  # aiokafka sends no record without both
        try:
            await self._send(job, value, headers)
        except MessageSizeTooLargeError:
            # The admitted record just fitted, and its error made it too large: leave the value where it is.
            where = f"too large with its error: the value is at {job.topic}-{job.partition}@{job.offset}"
            await self._send(job, where.encode(), headers)

    async def _send(self, job: Job, value: bytes | None, headers: list[Any]) -> None:
        topic = self._names.rejected(job.service)
        async with asyncio.timeout(_SEND_SECONDS):
            partition = job.partition if job.partition in await self.producer.partitions_for(topic) else None
            await self.producer.send_and_wait(
                topic, value, job.key, partition=partition, timestamp_ms=job.timestamp_ms, headers=headers
            )
