"""Transactions that are open: whose they are, since when, and how they are ended.

What a coordinator knows is ended by it, by fencing its transactional id. What none knows is an orphan, which only a
marker ends; before one is written it must be older than any transaction can be, as a coordinator does not name to
everybody what it knows.
"""

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from aiokafka import errors

from gate.errors import GateError
from gate.kafka.aio.client import Client
from gate.kafka.aio.compat.shared import FindCoordinatorRequest, InitProducerIdRequest
from gate.kafka.aio.reader import Reader
from gate.kafka.aio.transaction_requests import AbortMarker, DescribeProducers, DescribeTransactions, ListTransactions
from gate.shard.records import Partition

TRANSACTION: Final = 1  # a kind of coordinator
BACKOFF: Final = 0.1
DEADLINE: Final = 30.0
NAME_DEADLINE: Final = 5.0
MOST_SHOWN: Final = 100  # characters
LONGEST_MS: Final = 900_000  # transaction.max.timeout.ms, where no broker tells it
ENDING: Final = frozenset({"PrepareCommit", "PrepareAbort"})
OPEN_STATES: Final = ENDING | {"Ongoing", "PrepareEpochFence"}
BUSY: Final = (errors.ConcurrentTransactions, errors.CoordinatorLoadInProgressError)


class DescribedTransaction(NamedTuple):
    """What a coordinator tells of a producer's transaction."""

    transactional_id: str
    state: str
    started_ms: int | None = None
    timeout_ms: int = LONGEST_MS
    places: frozenset[tuple[str, int]] | None = None  # in which it is open; None: it does not tell

    def holds(self, partition: Partition) -> bool:
        """Tell whether the coordinator will end it in a partition; where it does not say, it may."""
        return self.state in OPEN_STATES if self.places is None else partition in self.places


class OpenTransaction(NamedTuple):
    """A transaction that is open in a partition from `offset` on."""

    partition: Partition
    offset: int
    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    written_ms: int  # the timestamp of what it has written last here
    told: DescribedTransaction | None = None  # None: no coordinator tells of it

    @property
    def transactional_id(self) -> str | None:
        """Its id, if a coordinator tells it."""
        return None if self.told is None else self.told.transactional_id

    @property
    def since_ms(self) -> int:
        """Since when it is open, at the latest."""
        started = None if self.told is None else self.told.started_ms
        return self.written_ms if started is None else started


class Transactions:
    """What is open on a cluster, seen by one client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._reader = Reader(client)

    async def open_in(self, partitions: Sequence[Partition]) -> list[OpenTransaction]:
        """Return what is open in some of these partitions, the oldest first. Raises KafkaError, GateError."""
        unstable = await self._reader.unstable(partitions)
        found = [one for partition in unstable for one in await self._producers(partition)]
        known = await self._known({one.producer_id for one in found})
        told = [one._replace(told=known.get(one.producer_id)) for one in found]
        return sorted(told, key=lambda one: (one.since_ms, one.partition, one.offset))

    async def name(self, partition: Partition, offset: int) -> str | None:
        """Return the transactional id of what is open from an offset on; None: it is not told, or there is none."""
        try:
            async with asyncio.timeout(NAME_DEADLINE):
                found = await self.open_in([partition])
        except (errors.KafkaError, GateError, OSError, TimeoutError):
            return None
        return next((one.transactional_id for one in found if one.offset == offset), None)

    async def _producers(self, partition: Partition) -> list[OpenTransaction]:
        request = DescribeProducers(partition.topic, [partition.number])
        response = await self._ask(await self._reader.locate(partition), request)
        [[_, [[_, code, message, producers, _]], _]] = response.topics
        if code:
            raise errors.for_code(code)(message or f"{partition.topic}-{partition.number}")
        return [
            OpenTransaction(partition, start, producer_id, epoch, max(coordinator, 0), written)
            for producer_id, epoch, _, written, coordinator, start, _ in producers
            if start >= 0
        ]

    async def _known(self, producer_ids: set[int]) -> dict[int, DescribedTransaction]:
        """Return what coordinators tell of the transactions of producers."""
        found: dict[int, DescribedTransaction] = {}
        for node in self._reader.nodes() if producer_ids else ():
            response = await self._ask(node, ListTransactions(sorted(producer_ids)))
            if response.error_code:
                raise errors.for_code(response.error_code)(f"of node {node}")
            for name, producer_id, state, _ in response.transactions:
                found[producer_id] = await self._described(node, DescribedTransaction(name, state))
        return found

    async def _described(self, node: int, told: DescribedTransaction) -> DescribedTransaction:
        response = await self._ask(node, DescribeTransactions([told.transactional_id]))
        [[code, _, state, timeout, start, _, _, topics, _]] = response.transactions
        if code:
            return told
        places = frozenset((topic, number) for topic, numbers, _ in topics for number in numbers)
        return DescribedTransaction(told.transactional_id, state, start if start > 0 else None, timeout, places)

    async def _ask(self, node: int, request: Any) -> Any:
        try:
            return await self._client.send(node, request)
        except (NotImplementedError, errors.IncompatibleBrokerVersion) as error:
            raise GateError(
                "the brokers do not tell who has a transaction open: they are older than Kafka 3.0",
                hint="end its producer, or wait until its transaction.timeout.ms is over",
            ) from error

    async def abort(self, one: OpenTransaction, now_ms: int, longest_ms: int) -> str:
        """End a transaction that `open_in` has found; return what was done. Raises KafkaError, GateError."""
        async with asyncio.timeout(DEADLINE):
            # once more, after its coordinator was asked: what is open here and not there is so for good
            if not await self._is_open(one):
                return "it has ended meanwhile"
            told = one.told
            if told is None:
                self._must_be_old(one, now_ms, longest_ms)
            if told is None or not told.holds(one.partition):
                await self._mark(one)
                done = "a marker is written, as no coordinator will end it"
            elif told.state in ENDING:
                done = "its coordinator was ending it"
            else:
                await self._fence(told.transactional_id, told.timeout_ms)
                done = f"its producer is fenced off by the transactional id {shown(told.transactional_id)}"
            while await self._is_open(one):  # noqa: ASYNC110 - the broker tells nobody
                await asyncio.sleep(BACKOFF)
        return done

    async def _is_open(self, one: OpenTransaction) -> bool:
        producers = await self._producers(one.partition)
        return (one.producer_id, one.offset) in {(left.producer_id, left.offset) for left in producers}

    @staticmethod
    def _must_be_old(one: OpenTransaction, now_ms: int, longest_ms: int) -> None:
        if (age := now_ms - one.written_ms) < longest_ms:
            raise GateError(
                f"no coordinator tells of a transaction of producer {one.producer_id}, but it is {age / 1000:.0f} s"
                f" old, and one that is merely hidden from you may last for {longest_ms / 1000:.0f} s",
                hint="allow Describe on all transactional ids, or try again when it is older",
            )

    async def _fence(self, transactional_id: str, timeout_ms: int) -> None:
        """Take the id over: the coordinator aborts what is open, and refuses whatever its producer still sends."""
        while True:
            answer = await self._client.send(
                self._client.get_random_node(), FindCoordinatorRequest(transactional_id, TRANSACTION)
            )
            code = answer.error_code
            if not code:
                request = InitProducerIdRequest(transactional_id, timeout_ms)
                while not await self._client.ready(answer.coordinator_id):  # noqa: ASYNC110 - it connects
                    await asyncio.sleep(BACKOFF)
                code = (await self._client.send(answer.coordinator_id, request)).error_code
            if not code:
                return
            kind = errors.for_code(code)
            if not kind.retriable and not issubclass(kind, BUSY):
                raise kind(f"transactional id {transactional_id}")
            await asyncio.sleep(BACKOFF)

    async def _mark(self, one: OpenTransaction) -> None:
        producer = one.producer_id, one.producer_epoch
        request = AbortMarker(*one.partition, producer, one.coordinator_epoch)
        response = await self._ask(await self._reader.locate(one.partition), request)
        for _, topics, _ in response.markers:
            for topic, partitions, _ in topics:
                for number, code, _ in partitions:
                    if code:
                        raise errors.for_code(code)(f"{topic}-{number}")


def shown(transactional_id: str) -> str:
    """Return an id, which anybody may have chosen, as it can be shown in a terminal and a log."""
    return transactional_id[:MOST_SHOWN] if transactional_id.isprintable() else ascii(transactional_id[:MOST_SHOWN])


def belongs_to_gate(transactional_id: str | None, group_id: str) -> bool:
    """Tell whether an id is that of a gate of the group, or of its doctor."""
    return transactional_id is not None and bool(
        re.fullmatch(rf"{re.escape(group_id)}-([0-9]+([.][0-9]+)?|reshard|doctor)", transactional_id)
    )


def owner(one: OpenTransaction, group_id: str, own_topics: Iterable[str]) -> str:
    """Say whose a transaction likely is."""
    if belongs_to_gate(one.transactional_id, group_id):
        return f"a gate's of group {group_id}"
    if one.transactional_id is not None:
        return f"of whoever uses the transactional id {shown(one.transactional_id)}"
    if one.partition.topic in own_topics:
        return "likely a gate's: only gates write there"
    return "an orphan's: no coordinator tells of it"
