"""A sender of records one by one, each acknowledged, so that one that is refused harms no other."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidProducerEpoch,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    UnknownProducerId,
)
from aiokafka.structs import RecordMetadata

from gate.errors import GateError
from gate.kafka.access import access
from gate.kafka.cluster import Cluster
from gate.kafka.connect import BrokerUnreachableError, running
from gate.kafka.topic_creation import TopicSpec
from gate.protocol.topics import Names

Header = tuple[str, bytes | None]

_SEND_SECONDS: Final = 30.0
_INT32_MAX: Final = 2**31 - 1
_BROKER_DEFAULT: Final = -1  # replication factor
_BROKEN_SEQUENCE: Final = (OutOfOrderSequenceNumber, UnknownProducerId, InvalidProducerEpoch)
_BATCH_BYTES, _RECORD_BYTES, _HEADER_BYTES = 61, 36, 10  # the most that the format adds to what is in a record


class TooLargeError(GateError):
    """A record that its topic does not take."""


class Sender:
    """Writes records that every replica has when the call returns; a repeated send of the client is one record.

    A record too large for its topic is refused before it is sent: refused by the broker, it would leave a gap in the
    producer's sequence, and nothing could be sent after it. Should it come to that, the producer is replaced, and what
    else it had under way is sent again.
    """

    def __init__(self, bootstrap: str, names: Names) -> None:
        self._bootstrap = bootstrap
        self._names = names
        self._limits: dict[str, int] = {}
        self._batch_bytes = 1 << 14
        self._producer: AIOKafkaProducer | None = None
        self._stop: Callable[[], Awaitable[None]] = AsyncExitStack().aclose
        self._stopping: set[asyncio.Future[None]] = set()
        self._replacing = asyncio.Lock()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Sender"]:
        """Connect, and disconnect at the end. Raises BrokerUnreachableError."""
        self.cluster = Cluster(self._names, create=True, replication_factor=_BROKER_DEFAULT, **access(self._bootstrap))
        try:
            try:
                await self.cluster.start()
            except (KafkaError, TimeoutError) as error:
                raise BrokerUnreachableError(f"the Kafka broker does not let a client start: {error}") from error
            await self._replace(None)
            yield self
        finally:
            await asyncio.gather(self._stop(), *self._stopping)
            await self.cluster.close()

    async def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Sequence[Header] = (),
        *,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        seconds: float = _SEND_SECONDS,
    ) -> RecordMetadata:
        """Write a record and return where it is. A partition that the topic does not have is chosen by the key.

        Raises TooLargeError, and KafkaError or TimeoutError where the broker does not take it now; then it may have
        arrived nevertheless.
        """
        if key is None and value is None:
            value = b""  # aiokafka sends no record without both
        async with asyncio.timeout(seconds):
            await self._check_size(topic, value, key, headers)
            while True:
                producer = self._producer
                assert producer is not None, "used outside of `running`"
                if partition is not None and partition not in await producer.partitions_for(topic):
                    partition = None
                try:
                    return await producer.send_and_wait(
                        topic, value, key, partition=partition, timestamp_ms=timestamp_ms, headers=list(headers)
                    )
                except MessageSizeTooLargeError:  # it, or another of its batch: the limit was lowered meanwhile
                    self._limits.pop(topic, None)
                    await self._replace(producer)
                    await self._check_size(topic, value, key, headers)
                except _BROKEN_SEQUENCE:  # the broker has not taken it: another record was refused before
                    await self._replace(producer)

    async def ensure(self, topic: str, partitions: int, like: str, **config: str) -> None:
        """Create a topic if it is missing, and add partitions if it has too few. It takes what `like` takes."""
        limit = await self._limit(like)
        size = {} if limit is None else {"max.message.bytes": str(limit)}
        await self.cluster.ensure(TopicSpec(topic, partitions, size | config))

    async def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has; 0: there is none of that name."""
        return (await self.cluster.partitions()).get(topic, 0)

    async def _check_size(self, topic: str, value: bytes | None, key: bytes | None, headers: Sequence[Header]) -> None:
        size = _size(value, key, headers)
        if (limit := await self._limit(topic)) is not None and size > limit:
            raise _too_large(topic, f"a record of {size} bytes is more than the {limit} that it takes")

    async def _limit(self, topic: str) -> int | None:
        """Return the most bytes that a topic takes; None where the broker does not say."""
        if topic not in self._limits:
            config = (await self.cluster.configs(topic)).get(topic, {})
            if "max.message.bytes" not in config:
                return None
            self._limits[topic] = limit = int(config["max.message.bytes"])
            if limit < self._batch_bytes:  # which holds for a batch
                self._batch_bytes = max(limit, 1)
                await self._replace(self._producer)
        return self._limits[topic]

    async def _replace(self, broken: AIOKafkaProducer | None) -> None:
        async with self._replacing:
            if self._producer is not broken:
                return
            producer = AIOKafkaProducer(
                **access(self._bootstrap),
                enable_idempotence=True,
                request_timeout_ms=int(_SEND_SECONDS * 500),  # it gives a record up before we do
                max_batch_size=self._batch_bytes,
                max_request_size=_INT32_MAX,  # the topic's limit is the one that counts
            )
            stack = AsyncExitStack()
            self._producer = await stack.enter_async_context(running(producer))
            self._stopping.add(asyncio.ensure_future(self._stop()))
            self._stop = stack.aclose


def _size(value: bytes | None, key: bytes | None, headers: Sequence[Header]) -> int:
    """Return at least what a batch of this record takes."""
    size = _BATCH_BYTES + _RECORD_BYTES + len(key or b"") + len(value or b"")
    return size + sum(_HEADER_BYTES + len(name.encode()) + len(text or b"") for name, text in headers)


def _too_large(topic: str, what: str) -> TooLargeError:
    return TooLargeError(f"{topic}: {what}", hint=f"make it smaller, or raise max.message.bytes of {topic}")
