"""The one consumer behind all tickets of a client."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from itertools import chain
from typing import Final, Literal

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from gate.client._headers import ERROR, ERROR_ATTEMPTS, job_id, last, number
from gate.client._jobs.matching import Matching, News
from gate.client._jobs.ticket import Decision, JobFailedError, Verdict
from gate.errors import GateError
from gate.kafka.access import access
from gate.kafka.cluster import Cluster
from gate.log import get_logger
from gate.protocol.topics import Names

Kind = Literal["admitted", "delayed", "rejected", "results"]

_KINDS: Final[tuple[Kind, ...]] = ("admitted", "delayed", "rejected", "results")
_POLL_MS: Final = 100
_LONG_POLL_MS: Final = 40  # what arrives while its partition is not asked for waits so long: the tail of the latency
_LOOK_SECONDS, _RARELY_SECONDS = 0.25, 5.0  # how often new topics and partitions are looked for
_BACKOFF_SECONDS: Final = 1.0

log = get_logger("gate.client.jobs")


class Reader:
    """Reads what becomes of the requests of some services, from the moment each is first followed.

    Every record of these topics is read, whoever submitted the request.
    """

    def __init__(self, bootstrap: str, names: Names, cluster: Cluster, matching: Matching) -> None:
        self._names = names
        self._cluster = cluster
        self._matching = matching
        self._kinds: dict[str, Kind] = {}  # by topic
        self._positions: dict[TopicPartition, int] = {}
        self._missing: set[str] = set()
        self._hurry = asyncio.Event()  # something is missing
        self._following = asyncio.Lock()
        self.consumer = AIOKafkaConsumer(
            **access(bootstrap),
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # where what was to be read has expired
            fetch_max_wait_ms=_LONG_POLL_MS,
        )

    async def follow(self, service: str) -> bool:
        """Return when all news of requests sent from now on will be read; False: the service has no request topic."""
        if self._follows(service):
            return True
        async with self._following:
            if self._follows(service):  # a call before this one has seen to it
                return True
            there = await self._cluster.partitions()
            if self._names.requests(service) not in there:
                return False
            topics: dict[str, Kind] = {getattr(self._names, kind)(service): kind for kind in _KINDS}
            partitions = [TopicPartition(topic, n) for topic in topics for n in range(there.get(topic, 0))]
            ends = await self.consumer.end_offsets(partitions) if partitions else {}
            self._missing |= topics.keys() - there.keys()
            if self._missing:
                self._hurry.set()
            self._read({tp: offset for tp, offset in ends.items() if tp not in self._positions})
            self._kinds |= topics
        return True

    def _follows(self, service: str) -> bool:
        return self._names.admitted(service) in self._kinds

    async def run(self) -> None:
        """Read until cancelled."""
        looking = asyncio.create_task(self._look())
        try:
            while True:
                if not self._positions or self._matching.is_crowded:
                    await asyncio.sleep(_POLL_MS / 1000)
                    continue
                try:
                    batches = await self.consumer.getmany(timeout_ms=_POLL_MS)
                except KafkaError as error:
                    log.warning("news can't be read now", error=str(error))
                    await asyncio.sleep(_BACKOFF_SECONDS)
                    continue
                for partition, records in batches.items():
                    self._positions[partition] = records[-1].offset + 1
                for record in chain.from_iterable(batches.values()):
                    self._deliver(record)
        finally:
            looking.cancel()

    async def _look(self) -> None:
        """Find topics and partitions that came after they were first looked for: all in them is news."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_RARELY_SECONDS):
                    await self._hurry.wait()
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                async with self._following:
                    there = await self._cluster.partitions()
                    self._missing -= there.keys()
                    if not self._missing:
                        self._hurry.clear()
                    partitions = {TopicPartition(t, n) for t in self._kinds for n in range(there.get(t, 0))}
                    self._read(dict.fromkeys(partitions - self._positions.keys(), 0))
            except (KafkaError, OSError, TimeoutError, GateError) as error:
                log.debug("topics can't be looked for now", error=str(error))

    def _read(self, new: Mapping[TopicPartition, int]) -> None:
        if not new:
            return
        self._positions |= new
        self.consumer.assign(list(self._positions))
        for partition, offset in self._positions.items():
            self.consumer.seek(partition, offset)  # what was read and not handled yet comes again: tickets know

    def _deliver(self, record: ConsumerRecord) -> None:
        kind = self._kinds[record.topic]
        ticket_id = (record.key or b"").decode(errors="replace") if kind == "results" else job_id(record.headers)
        if ticket_id is None or not self._matching.concerns(ticket_id):
            return
        try:
            self._matching.deliver(ticket_id, _news(kind, ticket_id, record))
        except ValueError as error:
            log.warning("a record that can't be read", topic=record.topic, offset=record.offset, error=str(error))


def _news(kind: Kind, ticket_id: str, record: ConsumerRecord) -> News:
    if kind == "results":
        return record.value or b""
    decision = Decision.of(record.headers)
    if kind == "rejected" and decision.verdict is Verdict.ADMITTED:  # it was, and then workers gave it up
        error = (last(record.headers, ERROR) or b"").decode(errors="replace")
        return JobFailedError(ticket_id, error, number(last(record.headers, ERROR_ATTEMPTS)) or 1)
    return decision
