"""Producer of the public path: what brokers answer is heard at its client, and it is ended by ending that."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    ConcurrentTransactions,
    CoordinatorLoadInProgressError,
    KafkaError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.structs import TopicPartition

from gate.kafka.aio.compat.shared import (
    AddPartitionsToTxnRequest,
    CoordinationType,
    InitProducerIdRequest,
    ProduceRequest,
)
from gate.kafka.aio.public_client import adopt
from gate.kafka.aio.sending import Refusal
from gate.shard.records import Outgoing, Partition, Raw
from gate.shard.refusals import NO_TOPIC, OutputError

BACKOFF: Final = 0.02
MOST_LACKING: Final = 1.5  # seconds; a topic that was just made is not known to all brokers for some 100 ms
_RECORD_ERRORS: Final = 3  # fields behind the timestamp, since version 8: log start, records, message
_AGAIN: Final = (ConcurrentTransactions, CoordinatorLoadInProgressError)

T = TypeVar("T")


def fill(builder: Any, records: Sequence[Outgoing | Raw], start: int) -> int:
    """Put records from `start` on into a batch until it is full; return how many. A first record always fits."""
    count = 0
    for key, value, timestamp, headers in islice(records, start, None):
        if builder.append(key=key, value=value, timestamp=timestamp, headers=headers) is None:
            break
        count += 1
    return count


class PublicSending:
    """`sending.Sending` by public calls of a producer and of its client."""

    def __init__(
        self, producer: AIOKafkaProducer, transactional_id: str | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.client = adopt(producer)
        self.client.hears.append(self._hear)
        self._producer = producer
        self._clock = clock
        self.producer_id = self.epoch = -1
        self._id = transactional_id
        self.marking = 0.0  # aiokafka waits where a broker says so
        self.refused: Mapping[Any, Refusal] = {}
        self._refused: dict[TopicPartition, Refusal] = {}
        self._lacking: dict[TopicPartition, float] = {}  # since when, by the clock
        self._lost: asyncio.Future[Any] | None = None
        self._begins = False
        self._batches: set[asyncio.Future[Any]] = set()

    def _hear(self, request: Any, answer: Any) -> None:
        if isinstance(request, ProduceRequest):
            self._hear_produced(answer)
        elif isinstance(request, AddPartitionsToTxnRequest):
            self._hear_added(answer)
        elif isinstance(request, InitProducerIdRequest) and not answer.error_code:
            self.producer_id, self.epoch = answer.producer_id, answer.producer_epoch

    def _hear_produced(self, answer: Any) -> None:
        for topic, partitions in answer.topics:
            for number, code, _, _, *rest in partitions:
                if code and for_code(code).retriable:
                    self.client.asked.failed(f"{topic}-{number} takes nothing yet: {for_code(code).__name__}")
                elif code:
                    records, message = (rest[1] or (), rest[2]) if len(rest) == _RECORD_ERRORS else ((), None)
                    refusal = Refusal(code, tuple((index, why or "") for index, why in records), message or "")
                    self._refused.setdefault(TopicPartition(topic, number), refusal)
        self.refused = self._refused

    def _hear_added(self, answer: Any) -> None:
        unknown, now = UnknownTopicOrPartitionError.errno, self._clock()
        lacking = sorted((t, n) for t, answers in answer.errors for n, code in answers if code == unknown)
        places = [TopicPartition(*place) for place in lacking]
        self._lacking = {place: self._lacking.get(place, now) for place in places}
        for place, since in self._lacking.items():
            if now - since >= MOST_LACKING and self._lost is not None and not self._lost.done():
                self._lost.set_exception(OutputError(Partition(*place), NO_TOPIC))

    def begin(self) -> None:
        """See `Sending`."""
        self._begins = True

    async def _begun(self) -> None:
        if self._begins:
            self._begins = False
            await self._producer.begin_transaction()

    async def expect(self, partitions: Sequence[Partition]) -> None:  # noqa: ARG002 - aiokafka adds what is written to
        """See `Sending`."""
        await self._begun()

    async def add(self, partitions: Sequence[Partition]) -> None:
        """See `Sending`. The caller sets the deadline, and commits offsets too, or nothing would be ended."""
        await self._begun()
        topics: dict[str, list[int]] = {}
        for topic, number in partitions:
            topics.setdefault(topic, []).append(number)
        while True:
            node = await self.client.coordinator_lookup(CoordinationType.TRANSACTION, self._id)
            request = AddPartitionsToTxnRequest(self._id, self.producer_id, self.epoch, list(topics.items()))
            answer = await self.client.send(node, request)
            kinds = {for_code(code) for _, answers in answer.errors for _, code in answers if code}
            if not kinds:
                return
            for kind in kinds:
                if not kind.retriable and kind not in _AGAIN:
                    raise kind(f"transactional id {self._id}")
            await asyncio.sleep(BACKOFF)

    async def unless_refused(self, work: Awaitable[T]) -> T:
        """See `Sending`."""
        working = asyncio.ensure_future(work)
        self._lost = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait([working, self._lost], return_when=asyncio.FIRST_COMPLETED)
            if self._lost.done():
                self._lost.result()
            return await working
        finally:
            working.cancel()
            self._lost.cancel()

    def fill(self, builder: Any, records: Sequence[Outgoing | Raw], start: int) -> int:
        """See `Sending`."""
        return fill(builder, records, start)

    def weigh(self, builder: Any) -> int:
        """See `Sending`. It is what is written where nothing is compressed, and on this path nothing is."""
        size: int = builder.size()
        return size

    def sent(self, batch: asyncio.Future[Any]) -> None:
        """See `Sending`."""
        self._batches.add(batch)
        batch.add_done_callback(self._batches.discard)

    async def stop(self, seconds: float) -> None:
        """See `Sending`. `stop` waits for batches, and its client would connect for ever."""
        for batch in list(self._batches):
            batch.cancel()
        await self.client.end()
        stopping = asyncio.ensure_future(self._producer.stop())
        with suppress(KafkaError, OSError, asyncio.CancelledError):
            await asyncio.wait([stopping], timeout=seconds)
            if stopping.done():
                stopping.result()
        stopping.cancel()
