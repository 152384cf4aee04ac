"""What workers write about jobs: results, jobs to be tried again, jobs given up, and pauses for the gate."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import msgspec
from aiokafka import ConsumerRecord

from consumers.handlers import Job
from consumers.headers import ATTEMPT, ERROR, ERROR_ATTEMPTS, JOB_ID, NOT_BEFORE, job_id
from consumers.retry import Retry
from consumers.sender import Header, Sender, TooLargeError
from gate.kafka import control
from gate.kafka.headers import COST, ID, unstamped
from gate.kafka.topics import Names

_PASSED_ON: Final = frozenset({ID, "traceparent", "tracestate"})  # with a result


class Outbox:
    """Writes to the gate's topics. Every method returns when the broker has it.

    They raise KafkaError or TimeoutError where it does not take it now, and GateError where a topic can't be made.
    """

    def __init__(self, bootstrap: str, names: Names, retry: Retry) -> None:
        self._names = names
        self._retry = retry
        self._sender = Sender(bootstrap, names)
        self._made: set[str] = set()  # topics known to be there
        self._making = asyncio.Lock()
        self._paused: dict[str, int] = {}  # the latest pause asked for, by service

    def running(self) -> AbstractAsyncContextManager[Sender]:
        """Connect, and disconnect at the end. Raises BrokerUnreachableError."""
        return self._sender.running()

    async def make_results(self, job: Job) -> None:
        """Make sure that there is a topic for the result of a job."""
        async with self._making:
            topic = self._names.results(job.service)
            if topic not in self._made:
                await self._sender.ensure(topic, await self._sender.partitions(job.topic), like=job.topic)
                self._made.add(topic)

    async def answer(self, job: Job, result: bytes) -> None:
        """Write a job's result, keyed by its id. Raises TooLargeError."""
        topic = self._names.results(job.service)
        headers = [header for header in job.headers if header[0] in _PASSED_ON]
        await self._sender.send(topic, result, job.id.encode(), headers, partition=job.partition)

    async def put_off(self, job: Job) -> None:
        """Write a failed job where it waits for its next attempt. Raises TooLargeError."""
        topic = self._names.retries(job.service)
        async with self._making:
            if topic not in self._made:
                await self._sender.ensure(topic, self._retry.stages, like=job.topic, **{"retention.ms": "-1"})
                self._made.add(topic)
        due = int((time.time() + self._retry.pause(job.attempt)) * 1000)
        headers = [*self._headers(job, job.attempt + 1), (NOT_BEFORE, b"%d" % due)]
        await self._sender.send(topic, job.value, job.key, headers, partition=self._retry.stage(job.attempt))

    async def submit_again(self, job: Job) -> None:
        """Submit a job to the gate once more without counting the attempt. Raises TooLargeError."""
        await self._submit(job.service, job.key, job.value, self._headers(job, job.attempt))

    async def submit_waiting(self, service: str, record: ConsumerRecord) -> None:
        """Submit a job that has waited. Raises TooLargeError."""
        headers = [header for header in record.headers if header[0] != NOT_BEFORE]
        await self._submit(service, record.key, record.value, headers)

    async def _submit(self, service: str, key: bytes | None, value: bytes | None, headers: Sequence[Header]) -> None:
        partition = _partition_of(job_id(headers) or "")
        await self._sender.send(self._names.requests(service), value, key, headers, partition=partition)

    def _headers(self, job: Job, attempt: int) -> list[Header]:
        own = {JOB_ID, ATTEMPT} | ({COST} if self._retry.cost is not None else set())
        headers = [header for header in unstamped(job.headers) if header[0] not in own]
        headers += [(JOB_ID, job.id.encode()), (ATTEMPT, b"%d" % attempt)]
        if self._retry.cost is not None:
            headers.append((COST, b"%d" % self._retry.cost))
        return headers

    async def give_up(self, job: Job, error: str, attempts: int) -> None:
        """Write a job to the rejected topic as it was, with its error in two more headers.

        It keeps the stamp by which it was admitted: that tells it from requests that the gate rejected.
        """
        headers = [header for header in job.headers if header[0] not in {ERROR, ERROR_ATTEMPTS}]
        headers += [(ERROR, error.encode("utf-8", "backslashreplace")), (ERROR_ATTEMPTS, b"%d" % attempts)]
        topic = self._names.rejected(job.service)
        where = {"partition": job.partition}  # dated now: Kafka counts the retention from there
        try:
            await self._sender.send(topic, job.value, job.key, headers, **where)
        except TooLargeError:
            # The admitted record just fitted, and its error made it too large: leave the value where it is.
            place = f"too large with its error: the value is at {job.topic}-{job.partition}@{job.offset}"
            await self._sender.send(topic, place.encode(), job.key, headers, **where)

    async def pause(self, service: str, seconds: float) -> None:
        """Ask the gate to admit nothing of a service for so long. Jobs that fail together ask once."""
        until = int((time.time() + seconds) * 1000)
        asked = self._paused.get(service, 0)
        if until <= asked + _SAME_PAUSE_MS:
            return
        self._paused[service] = until
        await self._sender.send(
            self._names.control, control.encode(control.PauseUntil(until)), service.encode(), partition=0
        )


_SAME_PAUSE_MS: Final = 500


def encode(result: object) -> bytes:
    """Return a handler's result as bytes: bytes as they are, text in UTF-8, all else as JSON. Raises TypeError."""
    if isinstance(result, bytes | bytearray | memoryview):
        return bytes(result)
    return result.encode() if isinstance(result, str) else msgspec.json.encode(result)


def _partition_of(request_id: str) -> int | None:
    """Return the partition that the id of a request names, so that its retries stay there; None: any."""
    number = request_id.rpartition("@")[0].rpartition("-")[2]
    return int(number) if number.isdecimal() and number.isascii() and len(number) < 10 else None
