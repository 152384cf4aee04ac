"""One transactional producer with a deadline on every call: `ports.Session` over Kafka."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError, TransactionalIdAuthorizationFailed
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from gate.errors import GateError
from gate.kafka.aio.client import ProducerSending
from gate.kafka.aio.compat import need_fast
from gate.kafka.aio.compat.shared import BatchBuilder
from gate.kafka.aio.fencing import TRANSACTION_TIMEOUT_MS, explained
from gate.kafka.aio.pending_requests import within
from gate.kafka.aio.sending import Sending
from gate.kafka.aio.unknown_outcomes import (
    IsOpen,
    LookBehind,
    ProducerIdentity,
    Torn,
    UnknownOutcomeError,
    end_half_done,
    is_all_ended,
)
from gate.log import get_logger
from gate.policy import Compression
from gate.shard.records import CommittedOffset, Outgoing, Partition, Raw, RecoveredState, Written
from gate.shard.refusals import OutputError, refused
from gate.shard.topic_limits import TopicLimits, nothing_known

BATCH_BYTES: Final = 1_000_000
SCATTERED_BYTES: Final = 64 << 10  # a broker sends no less than a batch to who wants one record
DISCARD_DEADLINE: Final = 2.0
LONG: Final = 3.0  # seconds of a call that are worth telling
IF_AWAY: Final = 2  # times the deadline, where a broker is away: Kafka gives it up after 9 s, and then elects others
OF_BATCHES: Final = {"AddPartitionsToTxn", "AddOffsetsToTxn", "Produce", "TxnOffsetCommit", "EndTxn"}
_CODECS: Final = {Compression.GZIP: 1, Compression.SNAPPY: 2, Compression.LZ4: 3, Compression.ZSTD: 4}

log = get_logger("gate.writer")


def check_compression(compression: Compression) -> None:
    """Raise GateError if what is written can't be compressed on the path over aiokafka that runs."""
    if compression is not Compression.NONE:
        need_fast(f"`compression: {compression}`: the gate must know what a record takes as it is written")


Outputs = Mapping[Partition, Sequence[Outgoing | Raw]]


def _with_records(error: OutputError, outputs: Outputs) -> OutputError:
    error.records = outputs.get(error.partition, ())
    return error


class KafkaSession:
    """`ports.Session`: good until its first error, then to be discarded.

    With a transactional id a late request of a discarded session is refused by the broker, as the next session's epoch
    fences it. Without one (`delivery: at_least_once`) nothing fences; offsets are then committed as a member of the
    group, which the coordinator refuses to who is not one any more.
    """

    def __init__(
        self,
        transactional_id: str | None,
        group: str,
        state: Partition,
        restore: Callable[[Sequence[Partition]], Awaitable[RecoveredState]],
        commit_offsets: Callable[[Mapping[Partition, int]], Awaitable[None]],
        *,
        deadline: float,
        limits: TopicLimits | None = None,
        look_behind: LookBehind | None = None,
        is_open: IsOpen | None = None,
        compression: Compression = Compression.NONE,
        **client_options: Any,
    ) -> None:
        """Prepare; nothing is sent before `claim`.

        `look_behind` tells, by the producer, what the broker has left half-done of a predecessor's
        transaction although it was fenced; `is_open` whether it has left anything open just now.
        """
        check_compression(compression)
        self._limits = limits or TopicLimits(nothing_known)
        self._look_behind = look_behind
        self._is_open = is_open
        self._id = transactional_id
        self._group = group
        self._state = state
        self._restore = restore
        self._commit_offsets = commit_offsets
        self.atomic = transactional_id is not None
        self.unfinished = False
        self._call: tuple[str, float] | None = None  # under way: what it does, and since when (monotonic)
        self._begun = self._ended = 0.0  # when the last batch was begun and committed, monotonic seconds
        self._deadline = deadline
        self._keeps = compression is Compression.KEEP
        self._codecs: Mapping[str, int] = {}
        self._codec = _CODECS.get(compression, 0)
        self._scattered: Collection[str] = ()
        self._topics: frozenset[str] = frozenset()
        self._producer = AIOKafkaProducer(
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            enable_idempotence=True,
            acks="all",
            linger_ms=0,
            max_batch_size=BATCH_BYTES,
            max_request_size=16 << 20,
            compression_type=None if compression in {Compression.NONE, Compression.KEEP} else compression.value,
            request_timeout_ms=int(deadline * 1000),
            **client_options,
        )
        self._sending: Sending = ProducerSending(self._producer, transactional_id)
        self._client = self._sending.client

    @property
    def settling(self) -> float:
        """See `ports.Session`."""
        return max(0.0, self._ended + self._sending.marking - time.monotonic()) if self.atomic else 0.0

    @property
    def awaits(self) -> str | None:
        """See `ports.Session`. A call that has only begun is not long, whatever it meets on its way."""
        if self._call is None or time.monotonic() - self._call[1] < LONG:
            return None
        what, since = self._call
        why = self._client.asked.why(since)
        return f"{what} has taken {time.monotonic() - since:.1f} s{f'; {why}' if why else ''}"

    @property
    def spent(self) -> str | None:
        """See `ports.Session`. What a broker has answered is over; what it has not may come at any time."""
        twice = OF_BATCHES & self._client.asked.unanswered if self.atomic else ()
        return f"{min(twice)} was not answered and sent again; the first one may arrive late" if twice else None

    @asynccontextmanager
    async def _within(self, what: str) -> AsyncIterator[None]:
        self._call = what, time.monotonic()
        try:
            async with within(self._deadline, what, [self._client], if_away=IF_AWAY * self._deadline):
                yield
        except KafkaError as error:
            raise self._explained(error) from error.__cause__
        finally:
            self._call = None

    def _explained(self, error: BaseException) -> BaseException:
        return explained(error, self._id, time.monotonic() - self._begun if self.unfinished else 0.0)

    async def claim(self, partitions: Sequence[Partition]) -> RecoveredState:
        """See `ports.Session`. Only after the fence may anything be read."""
        await self.fence()
        return await self._restore(partitions)

    async def fence(self) -> None:
        """See `ports.Session`. Starting the producer fences."""
        try:
            async with self._within("fencing off who wrote before"):
                await self._producer.start()
        except TransactionalIdAuthorizationFailed as error:
            raise GateError(
                f"the broker does not let this gate use the transactional id {self._id}",
                hint=f"allow Write and Describe on TransactionalId {self._group}-* ; the shard then goes on by itself",
            ) from error
        if self.atomic and self._look_behind is not None:
            producer = ProducerIdentity(self._sending.producer_id, self._sending.epoch)
            await end_half_done(producer, self._look_behind, self._end, self._within, self._state)

    async def _end(self, torn: Torn) -> None:
        """End what is left open by a transaction that writes nothing: its markers end it, in all partitions alike."""
        self.begin()
        nothing = {TopicPartition(*self._state): OffsetAndMetadata(0, "")}
        async with self._within("ending what was left half-done"):
            await self._sending.add(torn.partitions)
            await self._producer.send_offsets_to_transaction(nothing, self._group)  # partitions are added before it
            await (self.commit() if torn.committed else self.abort())

    def compress(self, codecs: Mapping[str, int]) -> None:
        """See `ports.Session`."""
        if self._keeps:
            self._codecs = codecs

    def scatter(self, topics: Collection[str]) -> None:
        """See `ports.Session`."""
        self._scattered = topics

    def begin(self) -> None:
        """See `ports.Session`."""
        if self.atomic:
            self.unfinished, self._begun = True, time.monotonic()
            self._sending.begin()

    async def produce(
        self,
        outputs: Mapping[Partition, Sequence[Outgoing | Raw]],
        marks: Mapping[Partition, CommittedOffset] | None = None,
    ) -> Mapping[Partition, Written]:
        """See `ports.Session`. All futures are awaited: a commit succeeds although a batch has failed."""
        topics = self._topics.union((self._state.topic,), (partition.topic for partition in outputs))
        if topics != self._topics:
            # all that is written to, at once: a metadata answer replaces what the client knew of other topics
            self._topics = topics
            async with self._within("learning who leads what is written to"):
                await self._client.set_topics(topics)
        await self._sending.expect((*outputs, self._state))  # each batch writes state
        parts: list[Awaitable[Any]] = [self._send(partition, records) for partition, records in outputs.items()]
        if marks and self.atomic:
            offsets = {TopicPartition(*p): OffsetAndMetadata(mark.offset, str(mark.at_ms)) for p, mark in marks.items()}
            parts.append(self._producer.send_offsets_to_transaction(offsets, self._group))
        try:
            async with self._within("writing a batch"):
                answers = await self._sending.unless_refused(asyncio.gather(*parts, return_exceptions=True))
        except TimeoutError as error:
            raise self._without_leader(outputs) or error from None
        except OutputError as error:
            raise _with_records(error, outputs) from None
        failures = [
            self._about(self._explained(answer), outputs) for answer in answers if isinstance(answer, BaseException)
        ]
        # what says whose fault it is comes first: what was not added to the transaction beside it fails, too
        for failure in sorted(failures, key=lambda failure: not isinstance(failure, OutputError)):
            raise failure
        if marks and not self.atomic:
            await self._commit_offsets({partition: mark.offset for partition, mark in marks.items()})
        written: list[Any] = list(answers)
        return dict(zip(outputs, written, strict=False))

    def _without_leader(self, outputs: Outputs) -> OutputError | None:
        """Return an error that names a partition which nobody leads, if there is one."""
        cluster = self._producer.client.cluster
        for partition in outputs:
            if cluster.leader_for_partition(TopicPartition(*partition)) in {None, -1}:
                return _with_records(OutputError(partition, "no broker leads it"), outputs)
        return None

    @staticmethod
    def _about(error: BaseException, outputs: Outputs) -> BaseException:
        """Say of an error which output it concerns, if it does."""
        if isinstance(error, TopicAuthorizationFailedError):  # of a request, with all topics, or of one of its batches
            topics = {topic for given in error.args for topic in ([given] if isinstance(given, str) else given)}
            refused = next((partition for partition in outputs if partition.topic in topics), None)
            if refused is not None:
                error = OutputError(refused, "this gate may not write there")
        return _with_records(error, outputs) if isinstance(error, OutputError) else error

    async def _send(self, partition: Partition, records: Sequence[Outgoing | Raw]) -> Written:
        pending: list[tuple[int, int, Awaitable[Any]]] = []
        start = 0
        while start < len(records):
            builder = self._builder(partition.topic, self._codecs.get(partition.topic, 0))
            count = self._sending.fill(builder, records, start)
            builder.close()
            size = builder.size()
            future = await self._producer.send_batch(builder, partition.topic, partition=partition.number)
            self._sending.sent(future)
            pending.append((count, size, future))
            start += count
        offsets: list[int] = []
        timestamp = -1
        answers = await asyncio.gather(*(future for _, _, future in pending), return_exceptions=True)
        for (count, size, _), metadata in zip(pending, answers, strict=True):
            if isinstance(metadata, BaseException):
                refusal = self._sending.refused.get(TopicPartition(*partition))
                about = refusal and refused(partition, *refusal, len(offsets), count, size)
                raise about or metadata
            if metadata.offset < 0:
                raise UnknownOutcomeError(f"no offset for a batch to {partition.topic}-{partition.number}")
            offsets.extend(range(metadata.offset, metadata.offset + count))
            if metadata.timestamp_type == 1:
                timestamp = metadata.timestamp
        return Written(offsets, timestamp)

    def _builder(self, topic: str, kept: int) -> BatchBuilder:
        size = self._limits.size(topic, BATCH_BYTES)
        if topic in self._scattered:
            size = min(size, SCATTERED_BYTES)
        if not self._keeps and size == BATCH_BYTES:
            return self._producer.create_batch()
        codec = kept if self._keeps else self._codec
        return BatchBuilder(size, codec, is_transactional=self.atomic)

    def weigh(self, topic: str, record: Outgoing | Raw, codec: int) -> int:
        """See `ports.Session`."""
        builder = self._builder(topic, codec)
        self._sending.fill(builder, [record], 0)
        return self._sending.weigh(builder)

    async def commit(self) -> None:
        """See `ports.Session`."""
        if self.atomic:
            async with self._within("committing a batch"):
                await self._producer.commit_transaction()
            self.unfinished = False
            self._ended = time.monotonic()

    async def is_settled(self) -> bool:
        """See `ports.Session`."""
        if not self.atomic or self._is_open is None:
            return True
        return await is_all_ended(self._sending.producer_id, self._is_open, self._within)

    async def abort(self) -> None:
        """Take the batch back. A gate does not: it discards, and the next session's epoch aborts what is left."""
        async with self._within("aborting a batch"):
            await self._producer.abort_transaction()
        self.unfinished = False

    async def discard(self) -> None:
        """See `ports.Session`: cancel every request, then close the connections."""
        await self._sending.stop(DISCARD_DEADLINE)
