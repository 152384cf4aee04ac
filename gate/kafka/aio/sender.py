"""aiokafka's sender, so that it can be stopped for sure and asks again soon where a broker is not ready yet."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from aiokafka.client import CoordinationType
from aiokafka.errors import GroupAuthorizationFailedError, UnknownTopicOrPartitionError, for_code
from aiokafka.producer.sender import AddPartitionsToTxnHandler, Sender, SendProduceReqHandler, TxnOffsetCommitHandler
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.structs import TopicPartition

from gate.kafka.aio.asked import Asked
from gate.kafka.aio.connection import Client
from gate.kafka.aio.produce import Produce
from gate.shard.records import Partition
from gate.shard.refusals import NO_TOPIC, OutputError

PROMPT_BACKOFF: Final = 0.002  # seconds, doubled each time
MOST_MARKING: Final = 0.008  # seconds
MOST_LACKING: Final = 1.5  # seconds; a topic that was just made is not known to all brokers for some 100 ms
_RECORD_ERRORS: Final = 3  # fields behind the timestamp, since version 8: log start, records, message


class Refusal(NamedTuple):
    """Why a broker did not take a batch: the error, which of its records (index in the batch, why), and in words."""

    code: int
    records: tuple[tuple[int, str], ...]
    message: str


class _Prompt:
    """Asks again soon, and ever later: after a commit the broker still writes its markers, for some ms mostly.

    aiokafka would wait for 20 ms where it is told so, and for 100 ms where it is not.
    """

    _sender: Any

    def handle_response(self, response: Any) -> float | None:
        sender = self._sender
        backoff: float | None = super().handle_response(response)  # type: ignore[misc]
        if backoff is not None:
            backoff = min(PROMPT_BACKOFF * 2**sender.refusals, backoff)
        sender.refusals = 0 if backoff is None else sender.refusals + 1
        return backoff


class _PromptAdd(_Prompt, AddPartitionsToTxnHandler):  # type: ignore[misc]
    """Is told that there are concurrent transactions: the last one's markers are not all written."""

    def handle_response(self, response: Any) -> float | None:
        sender = self._sender
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


class _PromptOffsets(_Prompt, TxnOffsetCommitHandler):  # type: ignore[misc]
    """Is told that the group's coordinator is not available."""


class _PromptProduce(SendProduceReqHandler):  # type: ignore[misc]
    """Is told that there are not enough replicas."""

    def __init__(self, sender: Sender, batches: Any) -> None:
        super().__init__(sender, batches)
        tries = max(batch.retry_count for batch in batches.values())
        self._default_backoff: float = min(PROMPT_BACKOFF * 2**tries, sender._retry_backoff)  # noqa: SLF001

    def create_request(self) -> Produce:
        request: Produce = super().create_request()
        request.__class__ = Produce
        return request

    def handle_response(self, response: Any) -> None:
        for topic, partitions in response.topics:
            for number, code, _, _, *rest in partitions:
                # before aiokafka fails the batch, and keeps nothing but the name of the error
                if code and for_code(code).retriable:
                    self._sender.asked.failed(f"{topic}-{number} takes nothing yet: {for_code(code).__name__}")
                elif code:
                    records, message = (rest[1] or (), rest[2]) if len(rest) == _RECORD_ERRORS else ((), None)
                    refusal = Refusal(code, tuple((index, why or "") for index, why in records), message or "")
                    # what follows the one that was refused is out of order: that says nothing of it
                    self._sender.refused.setdefault(TopicPartition(topic, number), refusal)
        super().handle_response(response)


class TrackedSender(Sender):  # type: ignore[misc]
    """A sender that can be stopped for sure: aiokafka's own waits for its requests, which it repeats for ever."""

    requests: set[asyncio.Task[None]]
    refusals: int  # in a row
    refused: dict[TopicPartition, Refusal]  # the first by partition: nothing is written after it
    marking: float  # seconds; about what a broker takes to write the markers of a transaction, after its answer
    asked: Asked
    lacking: dict[TopicPartition, float]  # partitions that are not there: since when, by the clock
    clock: Callable[[], float]

    def _track(self, task: asyncio.Task[None] | None) -> None:
        if task is not None:
            self.requests.add(task)
            task.add_done_callback(self.requests.discard)

    def lack(self, partitions: set[TopicPartition]) -> None:
        """Take in that partitions are not there. If that stays so, fail what waits: the whole transaction does."""
        now = self.clock()
        self.lacking = {partition: self.lacking.get(partition, now) for partition in sorted(partitions)}
        for partition, since in self.lacking.items():
            if now - since >= MOST_LACKING:
                self._fail_batches(OutputError(Partition(*partition), NO_TOPIC))
                return

    def _fail_batches(self, error: OutputError) -> None:
        for batches in self._message_accumulator._batches.values():  # noqa: SLF001 - none is sent: all are muted
            for batch in batches:
                batch.failure(error)
        for _, _, done in self._txn_manager._pending_txn_offsets:  # noqa: SLF001
            if not done.done():
                done.set_exception(error)

    async def _send_produce_req(self, node_id: int, batches: Any) -> None:
        self._track(asyncio.current_task())
        await _PromptProduce(self, batches).do(node_id)
        self._in_flight.remove(node_id)
        self._muted_partitions.difference_update(batches)

    async def _do_add_partitions_to_txn(self, tps: Any) -> Any:
        node = await self._find_coordinator(CoordinationType.TRANSACTION, self._txn_manager.transactional_id)
        return await _PromptAdd(self, tps).do(node)

    async def _do_txn_offset_commit(self, offsets: Any, group_id: str) -> None:
        try:
            node = await self._find_coordinator(CoordinationType.GROUP, group_id)
        except GroupAuthorizationFailedError as error:
            self._txn_manager.error_transaction(error)
        else:
            await _PromptOffsets(self, offsets, group_id).do(node)

    def _maybe_do_transactional_request(self) -> Any:
        task = super()._maybe_do_transactional_request()
        self._track(task)
        return task


class _Transactions(TransactionManager):  # type: ignore[misc]
    """Its errors are raised to who waits, if anybody does; asyncio must not complain where nobody does any more."""

    def error_transaction(self, exc: BaseException) -> None:
        with self._looked_at():
            super().error_transaction(exc)

    def fatal_error(self, exc: BaseException) -> None:
        with self._looked_at():
            super().fatal_error(exc)

    @contextmanager
    def _looked_at(self) -> Iterator[None]:
        futures = [self._transaction_waiter, *(future for _, _, future in self._pending_txn_offsets)]
        yield
        for future in (*futures, self._transaction_waiter):
            if future is not None and future.done() and not future.cancelled():
                future.exception()


class _Batches(set[Any]):
    """Batches that are under way. One that is to be sent again is none for a while, and may fail meanwhile."""

    def remove(self, batch: Any) -> None:
        self.discard(batch)


def track(sender: Any) -> TrackedSender:
    """Make a producer's own sender such a one."""
    sender.__class__ = TrackedSender
    client = getattr(sender, "client", None)
    sender.asked = client.asked if isinstance(client, Client) else Asked()
    if isinstance(getattr(sender, "_txn_manager", None), TransactionManager):
        sender._txn_manager.__class__ = _Transactions  # noqa: SLF001
        sender._message_accumulator._pending_batches = _Batches()  # noqa: SLF001
    sender.requests, sender.refusals, sender.refused, sender.marking = set(), 0, {}, PROMPT_BACKOFF
    sender.lacking, sender.clock = {}, time.monotonic
    tracked: TrackedSender = sender
    return tracked
