"""Jobs that wait for their next attempt.

A failed job is written to the retries topic of its service and counts as done where it was: it holds up no other, takes
no memory of a worker, and survives all workers. When its time has come it is submitted to the gate again, charged like
any request. Each partition of the topic holds jobs that wait equally long, so the first one is the first one due.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from consumers.handlers import Job
from consumers.headers import NOT_BEFORE, attempt, last, number
from consumers.offsets import Commits, Offsets, session
from consumers.outbox import Outbox
from consumers.retry import Retry
from consumers.sender import TooLargeError
from gate.kafka.access import access
from gate.kafka.connect import running
from gate.kafka.topics import Names

_POLL_MS: Final = 100
_AT_ONCE: Final = 100  # waiting jobs that are kept in memory per partition
_BACKOFF_SECONDS: Final = 1.0

log = structlog.get_logger("consumers.retries")


@dataclass(frozen=True, slots=True)
class _Waiting:
    record: ConsumerRecord
    offsets: Offsets
    due: float  # unix seconds

    @property
    def partition(self) -> TopicPartition:
        """Where it waits."""
        return TopicPartition(self.record.topic, self.record.partition)


class Retries:
    """Submits waiting jobs when their time has come. The workers of a group share the work."""

    def __init__(
        self,
        bootstrap: str,
        group_id: str,
        names: Names,
        services: Iterable[str],
        outbox: Outbox,
        retry: Retry,
        session_seconds: float,
    ) -> None:
        self._names = names
        self._outbox = outbox
        self._longest = retry.longest
        self._waiting: dict[TopicPartition, deque[_Waiting]] = {}
        topics = "|".join(re.escape(names.retries(service)) for service in services)
        self._pattern = rf"^(?:{topics})\Z"  # a pattern, as the topics come with the first failure
        self._consumer = AIOKafkaConsumer(
            **access(bootstrap),
            group_id=f"{group_id}.retries",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            metadata_max_age_ms=1_000,
            isolation_level="read_committed",
            **session(session_seconds),
        )

    async def run(self) -> None:
        """Work until cancelled."""
        async with running(self._consumer):
            commits = Commits(self._consumer)
            self._consumer.subscribe(pattern=self._pattern, listener=commits)
            while True:
                batches = await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=_AT_ONCE)
                for partition, records in batches.items():
                    self._take(partition, records, commits.of(partition))
                due = [waiting for partition in list(self._waiting) for waiting in self._due(partition, commits)]
                if due:
                    await asyncio.gather(*(self._submit(waiting, commits) for waiting in due))
                    await commits.commit()

    def _take(self, partition: TopicPartition, records: Iterable[ConsumerRecord], offsets: Offsets) -> None:
        now = time.time()
        for record in records:
            offsets.start(record.offset)
            not_before = (number(last(record.headers, NOT_BEFORE)) or 0) / 1000
            # whoever wrote it may have had another clock
            due = min(not_before, now + self._longest)
            self._waiting.setdefault(partition, deque()).append(_Waiting(record, offsets, due))
        self._consumer.pause(partition)  # until these are gone

    def _due(self, partition: TopicPartition, commits: Commits) -> list[_Waiting]:
        """Take out what is due, and read on where nothing waits any more."""
        queue, due, now = self._waiting[partition], [], time.time()
        while queue and (queue[0].due <= now or not commits.holds(partition, queue[0].offsets)):
            waiting = queue.popleft()
            if commits.holds(partition, waiting.offsets):  # else it went to another member with its partition
                due.append(waiting)
        if not queue:
            del self._waiting[partition]
            if partition in self._consumer.assignment():
                self._consumer.resume(partition)
        return due

    async def _submit(self, waiting: _Waiting, commits: Commits) -> None:
        """Submit a job; try until the broker takes it, or its partition goes to another member."""
        record = waiting.record
        with commits.settling():
            while commits.holds(waiting.partition, waiting.offsets):
                if await self._passed_on(record):
                    waiting.offsets.done(record.offset)
                    return
                await asyncio.sleep(_BACKOFF_SECONDS)

    async def _passed_on(self, record: ConsumerRecord) -> bool:
        """Submit a job, or give it up if it has become too large. Tells whether the broker has taken it."""
        service = self._names.service_of(record.topic, "retries")
        assert service is not None  # the subscription says so
        try:
            try:
                await self._outbox.submit_waiting(service, record)
            except TooLargeError as error:
                job = _job(service, record)
                await self._outbox.give_up(job, f"can't be tried again: {error}", attempt(record.headers) - 1)
        except (KafkaError, TimeoutError) as error:
            why = str(error) or "the broker does not answer"
            log.warning("job can't be submitted again yet", service=service, error=why)
            return False
        return True


def _job(service: str, record: ConsumerRecord) -> Job:
    place = record.topic, record.partition, record.offset
    return Job(service, *place, record.timestamp, record.key, record.value, tuple(record.headers))
