"""aiokafka's sender, so that it can be stopped for sure and asks again soon where a broker is not ready yet."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    ConcurrentTransactions,
    CoordinatorNotAvailableError,
    GroupAuthorizationFailedError,
    KafkaError,
    NodeNotReadyError,
    OperationNotAttempted,
    RequestTimedOutError,
    TransactionalIdAuthorizationFailed,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.structs import TopicPartition

from gate.kafka.aio.compat.producers import (
    COORDINATION,
    AddOffsets,
    AddPartitions,
    CommitOffsets,
    EndTransaction,
    InitProducer,
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
MOST_PAUSE: Final = 0.1  # seconds
MOST_DOUBLED: Final = 6  # times, which is beyond that
MOST_MARKING: Final = 0.008  # seconds
MOST_LACKING: Final = 1.5  # seconds; a topic that was just made is not known to all brokers for some 100 ms
_RECORD_ERRORS: Final = 3  # fields behind the timestamp, since version 8: log start, records, message


T = TypeVar("T")


class _Prompt:
    """Asks again soon, and ever later: for some ms mostly, after a commit or as a coordinator moves.

    aiokafka would wait for 20 ms where it is told that the last transaction's markers are not all written, and for
    100 ms otherwise.
    """

    sender: Any
    what: str  # is asked, as Kafka calls it

    def handle_response(self, response: Any) -> float | None:
        backoff: float | None = super().handle_response(response)  # type: ignore[misc]
        if backoff is None:
            self.sender.refusals = 0
            return None
        codes = _codes(response)
        why = next((for_code(code).__name__ for code in codes), "no reason is given")
        more = ", it is still ending the transaction before" if ConcurrentTransactions.errno in codes else ""
        asked, lasts = self.sender.asked, self.sender.refusals >= MOST_DOUBLED
        # one that refuses for long waits for another broker
        (asked.away if lasts else asked.failed)(f"a coordinator does not take {self.what} yet: {why}{more}")
        return self._soon(backoff)

    def handle_error(self) -> float:
        backoff: float = super().handle_error()  # type: ignore[misc]
        return self._soon(backoff)

    def _soon(self, backoff: float) -> float:
        self.sender.refusals += 1
        return min(_pause(self.sender.refusals - 1), backoff)


def _pause(tries: int) -> float:
    """Return for how many seconds to wait after so many tries before."""
    return PROMPT_BACKOFF * 2.0 ** min(tries, MOST_DOUBLED)


def _codes(response: Any) -> list[int]:
    """Return the errors in an answer of a coordinator."""
    if (code := getattr(response, "error_code", None)) is not None:
        return [code] if code else []
    passed = {0, OperationNotAttempted.errno}  # what was not tried says nothing of itself
    return [code for _, answers in response.errors for _, code in answers if code not in passed]


class _PromptInit(_Prompt, InitProducer):
    """Is told that a predecessor's transaction is being ended, or that its coordinator moves."""

    what = "InitProducerId"


class _PromptAdd(_Prompt, AddPartitions):
    """Is told that there are concurrent transactions: the last one's markers are not all written."""

    what = "AddPartitionsToTxn"

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
        if backoff is None:
            if was_first:
                sender.marking = max(0.983 * sender.marking, PROMPT_BACKOFF / 2)
        elif ConcurrentTransactions.errno in _codes(response):
            # twice as long after five refusals, half as long after 40 times without one
            sender.marking = min(1.15 * sender.marking, MOST_MARKING)
        return backoff


class _PromptAddOffsets(_Prompt, AddOffsets):
    """Is told that the transaction's coordinator moves."""

    what = "AddOffsetsToTxn"


class _PromptOffsets(_Prompt, CommitOffsets):
    """Is told that the group's coordinator is not available."""

    what = "TxnOffsetCommit"


class _PromptEnd(_Prompt, EndTransaction):
    """Is told that the transaction's coordinator moves."""

    what = "EndTxn"


class _PromptProduce(ProduceBatches):
    """Is told that there are not enough replicas."""

    def __init__(self, sender: "TrackedSender", batches: Any) -> None:
        super().__init__(sender, batches, _pause)

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

    def init_producer(self) -> InitProducer:
        """See `OpenSender`."""
        return _PromptInit(self)

    def add_partitions(self, partitions: Any) -> AddPartitions:
        """See `OpenSender`."""
        return _PromptAdd(self, partitions)

    def add_offsets(self, group_id: str) -> AddOffsets:
        """See `OpenSender`."""
        return _PromptAddOffsets(self, group_id)

    def commit_offsets(self, offsets: Any, group_id: str) -> CommitOffsets:
        """See `OpenSender`."""
        return _PromptOffsets(self, offsets, group_id)

    def end_transaction(self, result: Any) -> EndTransaction:
        """See `OpenSender`."""
        return _PromptEnd(self, result)

    async def find_coordinator(self, kind: Any, key: str) -> int:
        """See `OpenSender`. Raises KafkaError where this client may not know it.

        It is asked again soon, and at once of another broker: after a planned stop the others know the new coordinator
        within some ms, while aiokafka would wait for new metadata, and for 100 ms more.
        """
        for tries in count():
            try:
                node: int = await self.client.coordinator_lookup(kind, key)
            except (TransactionalIdAuthorizationFailed, GroupAuthorizationFailedError) as error:
                raise type(error)(key) from error
            except (CoordinatorNotAvailableError, NodeNotReadyError, RequestTimedOutError) as error:
                self.asked.failed(f"no broker coordinates {key} yet: {str(error) or type(error).__name__}")
                self.client.force_metadata_update()
            else:
                if await self.client.ready(node, group=COORDINATION):
                    return node
            await asyncio.sleep(min(_pause(tries), MOST_PAUSE))
        raise AssertionError

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
    def epoch(self) -> int:
        """See `Sending`."""
        return self._sender.epoch

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
