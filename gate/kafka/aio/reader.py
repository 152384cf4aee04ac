"""Reading committed records straight from a partition, by the requests themselves.

A group consumer reads ahead from one position per partition, drops what it read when it pauses, and builds an object
per record. The gate reads at any offset (parked requests are pulled out of order) and passes records on as they are.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from aiokafka import errors
from aiokafka.structs import TopicPartition

from gate.kafka.aio.batch_header import BatchHeader, header_at
from gate.kafka.aio.compat.shared import (
    READ_COMMITTED,
    READ_UNCOMMITTED,
    AIOKafkaClient,
    DeleteRecordsRequest,
)
from gate.kafka.aio.decoding import decode, views
from gate.kafka.aio.fetch import Fetch, answers_of
from gate.kafka.aio.leader_epochs import Epochs, Offsets, error_for
from gate.kafka.aio.open_batches import OpenBatches
from gate.kafka.aio.pending_requests import PendingRequests
from gate.shard.records import Fetched, Partition, Record

EARLIEST: Final = -2
NO_EPOCHS: Final[Epochs] = {}
BACKOFF: Final = 0.1
FETCH_BYTES: Final = 8 << 20
SCAN_BYTES: Final = 1 << 20
SCAN_RECORDS: Final = 4_000  # some ms
LOOK_BACK: Final = 10_000
ENDS_AT_ONCE: Final = 500  # partitions: what is made of an answer holds the event loop for a ms or two
ENDS_DEADLINE: Final = 2.0
LATEST: Final = -1  # with READ_COMMITTED: the last stable offset


def _place(partition: Partition) -> str:
    return f"{partition.topic}-{partition.number}"


def _fetch_request(
    wanted: Mapping[Partition, int],
    wait_ms: int,
    partition_bytes: int,
    total_bytes: int,
    *,
    committed: bool,
    epochs: Epochs = NO_EPOCHS,
) -> Fetch:
    topics: dict[str, list[tuple[int, int, int]]] = {}
    for partition, offset in wanted.items():
        topics.setdefault(partition.topic, []).append((partition.number, offset, partition_bytes))
    isolation = READ_COMMITTED if committed else READ_UNCOMMITTED
    return Fetch(wait_ms, 1, total_bytes, isolation, list(topics.items()), epochs)


class Reader:
    """Fetches by partition and offset over a client of its own."""

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client
        self._epochs: Epochs = getattr(client, "epochs", NO_EPOCHS)
        self._topics: set[str] = set()  # asked for so far

    @property
    def asked(self) -> PendingRequests:
        """What it has asked, and what of it is not answered."""
        pending: PendingRequests = self._client.asked
        return pending

    def leader(self, partition: Partition) -> int | None:
        """Return the node that leads `partition`; None while unknown (and asks for metadata)."""
        if partition.topic not in self._topics:
            self._topics.add(partition.topic)
            self._client.add_topic(partition.topic)
        node = self._client.cluster.leader_for_partition(TopicPartition(*partition))
        if node is None or node == -1:
            self._client.add_topic(partition.topic)  # another reader of this client may have had it forgotten
            self._client.force_metadata_update()
            return None
        return int(node)

    async def learn(self, topics: Iterable[str]) -> None:
        """Ask for the metadata of many topics at once; one by one each would cost an answer about all before it."""
        known = self._topics | set(topics)
        if known != self._topics:
            self._topics = known
            await self._client.set_topics(known)

    async def locate(self, partition: Partition) -> int:
        """Return the node that leads `partition`, waiting for metadata; the caller sets the deadline."""
        while (node := self.leader(partition)) is None:
            await self._client.force_metadata_update()
            if self.leader(partition) is None:
                await asyncio.sleep(BACKOFF)
        return node

    def nodes(self) -> list[int]:
        """Return the brokers of the cluster."""
        return [int(broker.nodeId) for broker in self._client.cluster.brokers()]

    def refresh(self) -> None:
        """Ask for new metadata."""
        self._client.force_metadata_update()

    async def renew(self) -> None:
        """Ask for new metadata, and wait for it; the caller sets the deadline."""
        await self._client.force_metadata_update()

    async def fetch(
        self,
        node: int,
        wanted: Mapping[Partition, int],
        *,
        wait_ms: int,
        partition_bytes: int,
        total_bytes: int = FETCH_BYTES,
        committed: bool = True,
        epochs: Epochs = NO_EPOCHS,
    ) -> dict[Partition, Fetched | errors.KafkaError]:
        """Send one fetch request to `node`. A partition's error is returned, the request's own is raised.

        With `epochs` nobody answers who does not know that others lead; who follows a log does no harm by asking such a
        one, and is not to wait where a leader has only changed its epoch.

        `committed=False` is for who knows from elsewhere which offsets are committed: the last stable offset may lag
        behind an answered commit by the time that the broker takes to write its markers, and an operator may have
        written a marker of his own amid it.
        """
        request = _fetch_request(wanted, wait_ms, partition_bytes, total_bytes, committed=committed, epochs=epochs)
        result: dict[Partition, Fetched | errors.KafkaError] = {}
        for partition, code, aborted, raw in answers_of(await self._client.send(node, request)):
            if code:
                result[partition] = error_for(code)(f"{_place(partition)} at offset {wanted[partition]}")
            elif raw:
                try:
                    result[partition] = decode(raw, aborted, wanted[partition], whole=not committed)
                except errors.KafkaError as error:
                    result[partition] = error
        return result

    async def fetch_one(
        self, partition: Partition, offset: int, *, wait_ms: int, partition_bytes: int, committed: bool = True
    ) -> Fetched | None:
        """Fetch from one partition, wherever it is led; None: nothing is there yet. Raises the partition's error."""
        answers = await self.fetch(
            await self.locate(partition),
            {partition: offset},
            wait_ms=wait_ms,
            partition_bytes=partition_bytes,
            committed=committed,
            epochs=self._epochs,
        )
        answer = answers.get(partition)
        if answer is None or isinstance(answer, Fetched):
            return answer
        raise answer

    async def ask_leader(self, partition: Partition, request: Any) -> Any:
        """Return what the leader of a partition answers to a request, as far as it is known who leads."""
        return await self._client.send(await self.locate(partition), request)

    async def offsets(
        self, partitions: Sequence[Partition], which: int, *, committed: bool = True
    ) -> dict[Partition, int]:
        """Return the first (EARLIEST) or the last stable offset (LATEST; not `committed`: the end) of each partition.

        Asks again where leadership is moving or a topic is very new; the caller sets the deadline.
        """
        while True:
            try:
                return await self._offsets(partitions, which, READ_COMMITTED if committed else READ_UNCOMMITTED)
            except errors.KafkaError as error:
                if not error.retriable:
                    raise
                await self._client.force_metadata_update()
                await asyncio.sleep(BACKOFF)

    async def _offsets(self, partitions: Sequence[Partition], which: int, isolation: int) -> dict[Partition, int]:
        by_node: dict[int, dict[str, list[tuple[int, int]]]] = {}
        for partition in partitions:
            node = await self.locate(partition)
            by_node.setdefault(node, {}).setdefault(partition.topic, []).append((partition.number, which))
        found: dict[Partition, int] = {}
        for node, topics in by_node.items():
            response: Any = await self._client.send(node, Offsets(isolation, list(topics.items()), self._epochs))
            for topic, answers in response.topics:
                for number, code, *rest in answers:
                    if code:
                        raise error_for(code)(f"{topic}-{number}")
                    found[Partition(topic, number)] = rest[1]
        return found

    async def ends(self, partitions: Collection[Partition], which: int, *, committed: bool) -> dict[Partition, int]:
        """Return what `offsets` does, of those partitions that a broker tells of now, a few hundred at a time."""
        by_node: dict[int, list[Partition]] = {}
        for partition in partitions:
            if (node := self.leader(partition)) is not None:
                by_node.setdefault(node, []).append(partition)
        isolation = READ_COMMITTED if committed else READ_UNCOMMITTED
        found: dict[Partition, int] = {}
        for node, led in by_node.items():
            for some in (led[at : at + ENDS_AT_ONCE] for at in range(0, len(led), ENDS_AT_ONCE)):
                topics: dict[str, list[tuple[int, int]]] = {}
                for partition in some:
                    topics.setdefault(partition.topic, []).append((partition.number, which))
                try:
                    async with asyncio.timeout(ENDS_DEADLINE):
                        request = Offsets(isolation, list(topics.items()), self._epochs)
                        response: Any = await self._client.send(node, request)
                except (errors.KafkaError, OSError, TimeoutError):  # of one broker, which must not silence the others
                    self.refresh()
                    break
                for topic, answers in response.topics:
                    for number, code, *rest in answers:
                        if code:
                            self.refresh()
                        elif rest[1] >= 0:
                            found[Partition(topic, number)] = rest[1]
        return found

    async def delete(self, bounds: Mapping[Partition, int]) -> dict[Partition, type[errors.KafkaError]]:
        """Delete what lies before an offset of each partition; return those of which a broker deletes nothing."""
        by_node: dict[int, dict[str, list[tuple[int, int]]]] = {}
        for partition, bound in bounds.items():
            node = await self.locate(partition)
            by_node.setdefault(node, {}).setdefault(partition.topic, []).append((partition.number, bound))
        refused = {}
        for node, topics in by_node.items():
            request = DeleteRecordsRequest(topics.items(), int(ENDS_DEADLINE * 1000))
            response: Any = await self._client.send(node, request)
            for topic, answers, *_tags in response.topics:
                for number, _low, code, *_ in answers:
                    if code:
                        refused[Partition(topic, number)] = error_for(code)
        return refused

    async def head(self, partition: Partition, offset: int) -> BatchHeader | None:
        """Return the head of the batch at `offset`, committed or not; None: none is there, or it can't be read now."""
        node = self.leader(partition)
        if node is None:
            return None
        # one batch is sent whole in any case
        request = _fetch_request({partition: offset}, 0, 1, 1, committed=False, epochs=self._epochs)
        with suppress(errors.KafkaError, OSError, TimeoutError):
            async with asyncio.timeout(ENDS_DEADLINE):
                for _, code, _, raw in answers_of(await self._client.send(node, request)):
                    return None if code or not raw else header_at(raw, offset)
        return None

    async def unstable(self, partitions: Sequence[Partition]) -> dict[Partition, tuple[int, int]]:
        """Return the partitions in which a transaction is open, each with its last stable offset and its end."""
        stable = await self.offsets(partitions, LATEST)
        ends = await self.offsets(partitions, LATEST, committed=False)
        return {
            partition: (offset, ends[partition]) for partition, offset in stable.items() if offset < ends[partition]
        }

    async def left_open(self, partition: Partition, start: int, end: int, producer_id: int) -> OpenBatches:
        """Return what has been written from `start` on up to `end` and neither committed nor aborted."""
        found = OpenBatches(producer_id)
        while start < end:
            request = _fetch_request(
                {partition: start}, 200, SCAN_BYTES, SCAN_BYTES, committed=False, epochs=self._epochs
            )
            for _, code, _, raw in answers_of(await self._client.send(await self.locate(partition), request)):
                if code:
                    raise error_for(code)(f"{partition.topic}-{partition.number} at offset {start}")
                for view in views(raw or b""):
                    start = found.add(view, start)
        return found

    async def last_committed(self, partition: Partition, end: int) -> Record | None:
        """Return the last committed record before `end`, if there is one in the last LOOK_BACK offsets."""
        back = 1
        while back < 2 * min(end, LOOK_BACK):
            start = max(0, end - back)
            with suppress(errors.OffsetOutOfRangeError):  # the beginning has been deleted
                last: Record | None = None
                while start < end:
                    answer = await self.fetch_one(partition, start, wait_ms=200, partition_bytes=SCAN_BYTES)
                    if answer is not None:
                        for record in answer.records:
                            last = record if record.offset < end else last
                        start = answer.next_offset
                if last is not None:
                    return last
            back *= 8
        return None
