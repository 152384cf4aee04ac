"""The outcomes of jobs that workers write: what became of them, and their results."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Final

import msgspec

from gate.client._handlers import Job
from gate.client._sender import Sender, TooLargeError
from gate.errors import GateError
from gate.protocol.feedback import Finished, Outcome, Place, encode
from gate.protocol.headers import ID
from gate.protocol.topics import Names

_IDS_AT_ONCE: Final = 100  # of a record: some 4 KB
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
        self._ended: dict[str, list[tuple[str, asyncio.Future[None]]]] = {}  # ids to be told, by feedback topic
        self._telling: dict[str, asyncio.Task[None]] = {}

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

    async def finish(self, job: Job) -> None:
        """Tell the gate that a job runs no more. What ends while a record is under way is told in the next one."""
        topic = self._names.feedback(job.service)
        written = asyncio.get_running_loop().create_future()
        self._ended.setdefault(topic, []).append((job.request_id, written))
        if topic not in self._telling:
            self._telling[topic] = asyncio.create_task(self._tell_all_ended(topic), name="ended")
        await written

    async def _tell_all_ended(self, topic: str) -> None:
        try:
            while waiting := self._ended.pop(topic, []):
                told, rest = waiting[:_IDS_AT_ONCE], waiting[_IDS_AT_ONCE:]
                if rest:
                    self._ended[topic] = rest
                failure: Exception | None = None
                try:
                    await self._tell_ended(topic, [request for request, _ in told])
                except Exception as error:  # noqa: BLE001 - told to each that waits for it
                    failure = error
                for _, written in told:
                    if not written.done() and failure is not None:
                        written.set_exception(failure)
                    elif not written.done():
                        written.set_result(None)
        finally:
            del self._telling[topic]

    async def _tell_ended(self, topic: str, ids: list[str]) -> None:
        if not self._partitions.get(topic):
            self._partitions[topic] = await self._sender.partitions(topic)
            if not self._partitions[topic]:
                raise _no_partition(topic, 0)
        try:
            await self._sender.send(topic, encode(Finished(ids)))
        except TooLargeError as error:  # the record has some KB: the topic takes nothing
            raise GateError(str(error), hint=error.hint) from error

    async def tell(self, job: Job, outcome: Outcome) -> None:
        """Tell the gate what became of a job. It does the rest: a retry, a dead letter, a pause."""
        topic = self._names.feedback(job.service)
        if job.partition >= self._partitions.get(topic, 0):
            self._partitions[topic] = there = await self._sender.partitions(topic)
            if job.partition >= there:
                raise _no_partition(topic, job.partition)
        place = str(Place(job.topic, job.partition, job.offset)).encode()
        try:
            await self._sender.send(topic, encode(outcome), place, partition=job.partition)
        except TooLargeError as error:  # the record has some hundred bytes: the topic takes nothing
            raise GateError(str(error), hint=error.hint) from error


def _no_partition(topic: str, number: int) -> GateError:
    return GateError(
        f"{topic} has no partition {number} yet, in which to tell what became of a job",
        hint="gates make it: start one that is not older than this worker",
    )


def encode_result(result: object) -> bytes:
    """Return a handler's result as bytes: bytes as they are, text in UTF-8, all else as JSON. Raises TypeError."""
    if isinstance(result, bytes | bytearray | memoryview):
        return bytes(result)
    return result.encode() if isinstance(result, str) else msgspec.json.encode(result)
