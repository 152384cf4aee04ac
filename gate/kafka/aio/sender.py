"""aiokafka's sender, so that it can be stopped for sure and asks again soon where a broker is not ready yet."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError, for_code
from aiokafka.structs import TopicPartition

from gate.kafka.aio.compat.producers import (
    AddPartitions,
    CommitOffsets,
    OpenSender,
    ProduceBatches,
    built,
    end,
    fill,
    sender_of,
)
from gate.kafka.aio.fast_client import Client, adopt
from gate.kafka.aio.pending_requests import PendingRequests
from gate.kafka.aio.produce import Produce
from gate.kafka.aio.sending import Refusal
from gate.shard.records import Outgoing, Partition, Raw
from gate.shard.refusals import NO_TOPIC, OutputError

PROMPT_BACKOFF: Final = 0.002  # seconds, doubled each time
MOST_MARKING: Final = 0.008  # seconds
MOST_LACKING: Final = 1.5  # seconds; a topic that was just made is not known to all brokers for some 100 ms
_RECORD_ERRORS: Final = 3  # fields behind the timestamp, since version 8: log start, records, message


T = TypeVar("T")


class _Prompt:
    """Asks again soon, and ever later: after a commit the broker still writes its markers, for some ms mostly.

    aiokafka would wait for 20 ms where it is told so, and for 100 ms where it is not.
    """

    sender: Any

    def handle_response(self, response: Any) -> float | None:
        sender = self.sender
        backoff: float | None = super().handle_response(response)  # type: ignore[misc]
        if backoff is not None:
            backoff = min(PROMPT_BACKOFF * 2**sender.refusals, backoff)
        sender.refusals = 0 if backoff is None else sender.refusals + 1
        return backoff


class _PromptAdd(_Prompt, AddPartitions):
    """Is told that there are concurrent transactions: the last one's markers are not all written."""

    def handle_response(self, response: Any) -> float | None:
        sender = self.sender
        was_first = not sender.refusals
        backoff = super().handle_response(response)
        unknown = UnknownTopicOrPartitionError.errno
        if lacking := {
            TopicPartition(topic, number)
            for topic, answers in response.errors
            for number, code in answers
            if code == unknown
        }:
            sender.lack(lacking)
            return backoff
        sender.lacking.clear()
        if backoff is not None:  # twice as long after five refusals, half as long after 40 times without one
            sender.marking = min(1.15 * sender.marking, MOST_MARKING)
        elif was_first:
            sender.marking = max(0.983 * sender.marking, PROMPT_BACKOFF / 2)
        return backoff


class _PromptOffsets(_Prompt, CommitOffsets):
    """Is told that the group's coordinator is not available."""


class _PromptProduce(ProduceBatches):
    """Is told that there are not enough replicas."""

    def __init__(self, sender: "TrackedSender", batches: Any) -> None:
        super().__init__(sender, batches, lambda tries: PROMPT_BACKOFF * 2**tries)

    def create_request(self) -> Produce:
        request: Produce = super().create_request()
        request.__class__ = Produce
        return request

    def handle_response(self, response: Any) -> None:
        for topic, partitions in response.topics:
            for number, code, _, _, *rest in partitions:
                # before aiokafka fails the batch, and keeps nothing but the name of the error
                if code and for_code(code).retriable:
                    self.sender.asked.failed(f"{topic}-{number} takes nothing yet: {for_code(code).__name__}")
                elif code:
                    records, message = (rest[1] or (), rest[2]) if len(rest) == _RECORD_ERRORS else ((), None)
                    refusal = Refusal(code, tuple((index, why or "") for index, why in records), message or "")
                    # what follows the one that was refused is out of order: that says nothing of it
                    self.sender.refused.setdefault(TopicPartition(topic, number), refusal)
        super().handle_response(response)


class TrackedSender(OpenSender):
    """A sender that can be stopped for sure: aiokafka's own waits for its requests, which it repeats for ever."""

    requests: set[asyncio.Task[None]]
    refusals: int  # in a row
    refused: dict[TopicPartition, Refusal]  # the first by partition: nothing is written after it
    marking: float  # seconds; about what a broker takes to write the markers of a transaction, after its answer
    asked: PendingRequests
    lacking: dict[TopicPartition, float]  # partitions that are not there: since when, by the clock
    clock: Callable[[], float]

    def begun(self, task: asyncio.Task[None] | None) -> None:
        """Keep a request until it is done."""
        if task is not None:
            self.requests.add(task)
            task.add_done_callback(self.requests.discard)

    def produce(self, batches: Any) -> ProduceBatches:
        """See `OpenSender`."""
        return _PromptProduce(self, batches)

    def add_partitions(self, partitions: Any) -> AddPartitions:
        """See `OpenSender`."""
        return _PromptAdd(self, partitions)

    def commit_offsets(self, offsets: Any, group_id: str) -> CommitOffsets:
        """See `OpenSender`."""
        return _PromptOffsets(self, offsets, group_id)

    def lack(self, partitions: set[TopicPartition]) -> None:
        """Take in that partitions are not there. If that stays so, fail what waits: the whole transaction does."""
        now = self.clock()
        self.lacking = {partition: self.lacking.get(partition, now) for partition in sorted(partitions)}
        for partition, since in self.lacking.items():
            if now - since >= MOST_LACKING:
                self.fail_batches(OutputError(Partition(*partition), NO_TOPIC))
                return


def track(sender: Any) -> TrackedSender:
    """Make a producer's own sender such a one."""
    sender.__class__ = TrackedSender
    client = getattr(sender, "client", None)
    sender.asked = client.asked if isinstance(client, Client) else PendingRequests()
    sender.mend()
    sender.requests, sender.refusals, sender.refused, sender.marking = set(), 0, {}, PROMPT_BACKOFF
    sender.lacking, sender.clock = {}, time.monotonic
    tracked: TrackedSender = sender
    return tracked


class FastSending:
    """`sending.Sending` over the private parts of a producer."""

    def __init__(self, producer: AIOKafkaProducer, transactional_id: str | None) -> None:  # noqa: ARG002
        self.client = adopt(producer)
        self._producer = producer
        self._sender = track(sender_of(producer))

    @property
    def producer_id(self) -> int:
        """See `Sending`."""
        return self._sender.producer_id

    @property
    def marking(self) -> float:
        """See `Sending`."""
        return self._sender.marking

    @property
    def refused(self) -> Mapping[TopicPartition, Refusal]:
        """See `Sending`."""
        return self._sender.refused

    def begin(self) -> None:
        """See `Sending`."""
        self._sender.begin()

    async def expect(self, partitions: Sequence[Partition]) -> None:
        """See `Sending`: they take one request."""
        self._sender.expect([TopicPartition(*partition) for partition in partitions])

    async def add(self, partitions: Sequence[Partition]) -> None:
        """See `Sending`: they are added with what comes next."""
        await self.expect(partitions)

    async def unless_refused(self, work: Awaitable[T]) -> T:
        """See `Sending`: the sender fails what waits."""
        return await work

    def fill(self, builder: Any, records: Sequence[Outgoing | Raw], start: int) -> int:
        """See `Sending`."""
        return fill(builder, records, start)

    def weigh(self, builder: Any) -> int:
        """See `Sending`."""
        return len(built(builder))

    def sent(self, batch: asyncio.Future[Any]) -> None:
        """See `Sending`: the sender knows."""

    async def stop(self, seconds: float) -> None:
        """See `Sending`."""
        tasks = [task for task in (self._sender.sender_task, *self._sender.requests) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for future in self._sender.left_behind():
            if future.done() and not future.cancelled():
                future.exception()  # it has been raised elsewhere; asyncio must not complain that nobody looked
        end(self._producer)
        with suppress(KafkaError, OSError, TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(seconds):
                await self.client.close()
