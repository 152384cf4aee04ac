"""aiokafka's sender of batches, its transactions and its batches, with their private parts under names of their own."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import GroupAuthorizationFailedError, IncompatibleBrokerVersion, KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.producer.sender import (
    AddOffsetsToTxnHandler,
    AddPartitionsToTxnHandler,
    EndTxnHandler,
    InitPIDHandler,
    Sender,
    SendProduceReqHandler,
    TxnOffsetCommitHandler,
)
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.protocol.produce import ProduceRequest, ProduceRequest_v7, ProduceRequest_v8
from aiokafka.structs import TopicPartition

__all__ = [
    "COORDINATION",
    "AddOffsets",
    "AddPartitions",
    "CommitOffsets",
    "EndTransaction",
    "InitProducer",
    "OpenSender",
    "ProduceBatches",
    "ProduceRequest",
    "ProduceRequest_v7",
    "ProduceRequest_v8",
    "built",
    "end",
    "fill",
    "sender_of",
]


COORDINATION: Final = ConnectionGroup.COORDINATION


class _ToCoordinator:
    """A request to a coordinator."""

    _sender: Any
    group: ConnectionGroup
    create_request: Callable[[], Any]
    handle_response: Callable[[Any], float | None]  # tells after how many seconds it is to be asked again; None: not
    handle_error: Callable[[], float]  # there is no answer; tells the same

    @property
    def sender(self) -> Any:
        """Who asks."""
        return self._sender

    async def do(self, node_id: int) -> bool:
        """Ask once; whoever ends the connection, or can't be reached, is not taken for the coordinator any more.

        aiokafka believes in one that has ended the connection until it can't be reached, either.
        """
        try:
            answer = await self.sender.client.send(node_id, self.create_request(), group=self.group)
        except IncompatibleBrokerVersion:
            raise
        except KafkaError:
            pause: float | None = self.handle_error()
        else:
            pause = self.handle_response(answer)
        if pause is not None:
            await asyncio.sleep(pause)
        return pause is None


class InitProducer(_ToCoordinator, InitPIDHandler):  # type: ignore[misc]
    """Asks for a producer's id and epoch."""


class AddPartitions(_ToCoordinator, AddPartitionsToTxnHandler):  # type: ignore[misc]
    """Adds partitions to a transaction."""


class AddOffsets(_ToCoordinator, AddOffsetsToTxnHandler):  # type: ignore[misc]
    """Adds a group's offsets to a transaction."""


class CommitOffsets(_ToCoordinator, TxnOffsetCommitHandler):  # type: ignore[misc]
    """Commits offsets with a transaction."""


class EndTransaction(_ToCoordinator, EndTxnHandler):  # type: ignore[misc]
    """Ends a transaction."""


class ProduceBatches(SendProduceReqHandler):  # type: ignore[misc]
    """Has a broker take batches."""

    def __init__(self, sender: Any, batches: Any, pause: Callable[[int], float]) -> None:
        """`pause` tells after how many seconds it is tried again, by how often it was."""
        super().__init__(sender, batches)
        tries = max(batch.retry_count for batch in batches.values())
        self._default_backoff: float = min(pause(tries), sender._retry_backoff)

    @property
    def sender(self) -> Any:
        """Who asks."""
        return self._sender


class OpenSender(Sender):  # type: ignore[misc]
    """A sender whose requests are begun elsewhere, and that shows what waits."""

    def begun(self, task: asyncio.Task[None] | None) -> None:
        """Note that a request is begun."""
        raise NotImplementedError

    def produce(self, batches: Any) -> ProduceBatches:
        """Return what has a broker take batches."""
        raise NotImplementedError

    def init_producer(self) -> InitProducer:
        """Return what asks for an id and an epoch."""
        raise NotImplementedError

    def add_partitions(self, partitions: Any) -> AddPartitions:
        """Return what adds partitions to the transaction."""
        raise NotImplementedError

    def add_offsets(self, group_id: str) -> AddOffsets:
        """Return what adds a group's offsets to the transaction."""
        raise NotImplementedError

    def commit_offsets(self, offsets: Any, group_id: str) -> CommitOffsets:
        """Return what commits offsets with the transaction."""
        raise NotImplementedError

    def end_transaction(self, result: Any) -> EndTransaction:
        """Return what ends the transaction."""
        raise NotImplementedError

    async def find_coordinator(self, kind: CoordinationType, key: str) -> int:
        """Return the node that coordinates a group or a transactional id, once one does and can be connected to."""
        raise NotImplementedError

    async def _send_produce_req(self, node_id: int, batches: Any) -> None:
        self.begun(asyncio.current_task())
        await self.produce(batches).do(node_id)
        self._in_flight.remove(node_id)
        self._muted_partitions.difference_update(batches)

    async def _find_coordinator(self, coordinator_type: CoordinationType, coordinator_key: str) -> int:
        if (known := self._coordinators.get(coordinator_type)) is None:
            known = self._coordinators[coordinator_type] = await self.find_coordinator(
                coordinator_type, coordinator_key
            )
        node: int = known
        return node

    async def coordinator(self) -> int:
        """Return the node that coordinates its transactions."""
        return await self._find_coordinator(CoordinationType.TRANSACTION, self._txn_manager.transactional_id)

    async def _do_init_pid(self, node_id: int) -> bool:
        return await self.init_producer().do(node_id)

    async def _do_add_partitions_to_txn(self, tps: Any) -> bool:
        return await self.add_partitions(tps).do(await self.coordinator())

    async def _do_add_offsets_to_txn(self, group_id: str) -> bool:
        return await self.add_offsets(group_id).do(await self.coordinator())

    async def _do_txn_commit(self, commit_result: Any) -> None:
        await self._message_accumulator.flush_for_commit()
        if self._txn_manager.is_empty_transaction():
            self._txn_manager.complete_transaction()
        else:
            await self.end_transaction(commit_result).do(await self.coordinator())

    async def _do_txn_offset_commit(self, offsets: Any, group_id: str) -> None:
        try:
            node = await self._find_coordinator(CoordinationType.GROUP, group_id)
        except GroupAuthorizationFailedError as error:
            self._txn_manager.error_transaction(error)
        else:
            await self.commit_offsets(offsets, group_id).do(node)

    def _maybe_do_transactional_request(self) -> Any:
        task = super()._maybe_do_transactional_request()
        self.begun(task)
        return task

    def fail_batches(self, error: BaseException) -> None:
        """Fail what waits to be sent with the transaction."""
        for batches in self._message_accumulator._batches.values():  # none is sent: all are muted
            for batch in batches:
                batch.failure(error)
        for _, _, done in self._txn_manager._pending_txn_offsets:
            if not done.done():
                done.set_exception(error)

    @property
    def producer_id(self) -> int:
        """The id that the coordinator gave."""
        number: int = self._txn_manager.producer_id
        return number

    @property
    def epoch(self) -> int:
        """The epoch that the coordinator gave with it."""
        number: int = self._txn_manager.producer_epoch
        return number

    def begin(self) -> None:
        """Begin a transaction; the producer's own call is a coroutine for no reason."""
        self._txn_manager.begin_transaction()

    def expect(self, partitions: Sequence[TopicPartition]) -> None:
        """Add partitions to the transaction, before anything is written there."""
        for partition in partitions:
            self._txn_manager.maybe_add_partition_to_txn(partition)

    def left_behind(self) -> Iterator[asyncio.Future[Any]]:
        """Yield the futures of aiokafka that nobody awaits any more."""
        waiter = self._txn_manager.wait_for_transaction_end()
        if waiter is not None:
            yield waiter
        for batches in self._message_accumulator._batches.values():
            for batch in batches:
                yield batch._drain_waiter
                yield batch.future

    def mend(self) -> None:
        """Have its transactions and its batches not complain of what nobody waits for any more."""
        if isinstance(getattr(self, "_txn_manager", None), TransactionManager):
            self._txn_manager.__class__ = _Transactions
            self._message_accumulator._pending_batches = _Batches()


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


def sender_of(producer: Any) -> Sender:
    """Return a producer's sender."""
    return producer._sender


def end(producer: Any) -> None:
    """Take a producer for stopped: `stop` would wait for what was cancelled."""
    producer._closed = True


def fill(builder: Any, records: Sequence[Any], start: int) -> int:
    """Put records from `start` on into a batch until it is full; return how many. A first record always fits.

    Goes past BatchBuilder.append, which costs as much again as the append in C below it.
    """
    append = builder._builder.append
    count = 0
    for key, value, timestamp, headers in islice(records, start, None):
        if append(count, timestamp, key, value, headers) is None:
            break
        count += 1
    builder._relative_offset = count
    return count


def built(builder: BatchBuilder) -> bytes:
    """Return a batch as it will be written."""
    data: bytes = builder._build()
    return data
