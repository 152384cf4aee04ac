"""The outcomes of jobs that workers write: what became of them, and their results."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Final

import msgspec

from gate.client._handlers import Job
from gate.client._sender import Sender, TooLargeError
from gate.errors import GateError
from gate.protocol.feedback import Outcome, Place, encode
from gate.protocol.headers import ID
from gate.protocol.topics import Names

_PASSED_ON: Final = frozenset({ID, "traceparent", "tracestate"})  # with a result


class JobOutcomes:
    """Writes to the topics of a service. Every method returns when the broker has it.

    They raise KafkaError or TimeoutError where it does not take it now, and GateError where a topic is missing.
    """

    def __init__(self, bootstrap: str, names: Names) -> None:
        self._names = names
        self._sender = Sender(bootstrap, names)
        self._results: set[str] = set()  # topics known to be there
        self._making = asyncio.Lock()
        self._partitions: dict[str, int] = {}  # of feedback topics, as seen last

    def running(self) -> AbstractAsyncContextManager[Sender]:
        """Connect, and disconnect at the end. Raises BrokerUnreachableError."""
        return self._sender.running()

    async def make_results(self, job: Job) -> None:
        """Make sure that there is a topic for the result of a job."""
        async with self._making:
            topic = self._names.results(job.service)
            if topic not in self._results:
                await self._sender.ensure(topic, await self._sender.partitions(job.topic), like=job.topic)
                self._results.add(topic)

    async def answer(self, job: Job, result: bytes) -> None:
        """Write a job's result, keyed by its id. Raises TooLargeError."""
        topic = self._names.results(job.service)
        headers = [header for header in job.headers if header[0] in _PASSED_ON]
        await self._sender.send(topic, result, job.id.encode(), headers, partition=job.partition)

    async def tell(self, job: Job, outcome: Outcome) -> None:
        """Tell the gate what became of a job. It does the rest: a retry, a dead letter, a pause."""
        topic = self._names.feedback(job.service)
        if job.partition >= self._partitions.get(topic, 0):
            self._partitions[topic] = there = await self._sender.partitions(topic)
            if job.partition >= there:
                raise GateError(
                    f"{topic} has no partition {job.partition} yet, in which to tell what became of a job",
                    hint="gates make it: start one that is not older than this worker",
                )
        place = str(Place(job.topic, job.partition, job.offset)).encode()
        try:
            await self._sender.send(topic, encode(outcome), place, partition=job.partition)
        except TooLargeError as error:  # the record has some hundred bytes: the topic takes nothing
            raise GateError(str(error), hint=error.hint) from error


def encode_result(result: object) -> bytes:
    """Return a handler's result as bytes: bytes as they are, text in UTF-8, all else as JSON. Raises TypeError."""
    if isinstance(result, bytes | bytearray | memoryview):
        return bytes(result)
    return result.encode() if isinstance(result, str) else msgspec.json.encode(result)
