"""A worker: does what was admitted, at least once, and gives up on nothing silently."""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Final, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError

from consumers.dead_letters import DeadLetters
from consumers.handlers import Handler, Job, Retry, call
from consumers.offsets import Commits, Offsets
from consumers.program import Program
from gate.kafka.connect import running
from gate.kafka.topics import Names

_MAX_PENDING: Final = 10_000  # records behind one that is not done: what a crash may have done again
_MAX_ERROR_CHARACTERS: Final = 300
_POLL_MS: Final = 200
_INT32_MAX: Final = 2**31 - 1

H = TypeVar("H", bound=Handler)

log = structlog.get_logger("consumers.worker")


class Worker(Program):
    """Runs handlers over the admitted requests of services.

    >>> worker = Worker("localhost:9092", group_id="payments-workers")
    >>> @worker.handler("payments")
    ... async def pay(job: Job) -> None: ...
    >>> worker.main()  # doctest: +SKIP

    At most `concurrency` jobs run at a time, in no order; one that waits for its next attempt keeps its place. An
    offset is committed when all jobs before it are done, so a worker that is killed loses nothing, and what it had done
    since its last commit is done again. A job that failed `retry.attempts` times goes to the rejected topic, with the
    stamp that it was admitted and the error in its headers. A worker that dies is missed after `session_seconds`.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        group_id: str,
        names: Names | None = None,
        concurrency: int = 10,
        retry: Retry | None = None,
        grace_seconds: float = 25.0,
        session_seconds: float = 10.0,
        connect_seconds: float = 30.0,
    ) -> None:
        super().__init__(bootstrap, connect_seconds)
        self._group_id = group_id
        self._names = names or Names()
        self._concurrency = concurrency
        self._retry = retry or Retry()
        self._grace_seconds = grace_seconds
        self._session_seconds = session_seconds
        self._handlers: dict[str, tuple[str, Handler]] = {}  # by topic: service, handler

    def handler(self, service: str) -> Callable[[H], H]:
        """Register a callable for the admitted requests of a service; a synchronous one runs in a thread."""
        self._names.check_service_name(service)

        def register(handler: H) -> H:
            self._handlers[self._names.admitted(service)] = (service, handler)
            return handler

        return register

    async def run(self) -> None:
        """Work until stopped. Raises BrokerUnreachableError if no broker answers at the start."""
        if not self._handlers:
            raise ValueError("the worker has nothing to do: register a callable with @worker.handler(SERVICE)")
        if not await self._connected():
            return
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=self._group_id,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            metadata_max_age_ms=3_000,  # topics that are made later are found within this time
            session_timeout_ms=int(self._session_seconds * 1000),
            heartbeat_interval_ms=int(self._session_seconds * 300),
            max_poll_interval_ms=_INT32_MAX,  # a long job is no reason to lose partitions; heartbeats show life
        )
        dead_letters = DeadLetters(self._bootstrap, self._names)
        threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="job")
        try:
            async with running(dead_letters.producer), running(consumer):
                await self._work(consumer, dead_letters, threads)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    async def _work(self, consumer: AIOKafkaConsumer, dead_letters: DeadLetters, threads: Executor) -> None:
        commits = Commits(consumer, drain=partial(self._drain, self._session_seconds / 3))
        # A pattern, because a subscription by name fails where a topic is not there yet.
        topics = "|".join(map(re.escape, self._handlers))
        consumer.subscribe(pattern=rf"^(?:{topics})\Z", listener=commits)
        log.info("worker runs", group=self._group_id, services=[service for service, _ in self._handlers.values()])
        async with asyncio.TaskGroup() as tasks:
            committing = tasks.create_task(commits.regularly())
            stopped = tasks.create_task(self._stopping.wait())
            try:
                while not self._stopping.is_set():
                    free = self._concurrency - len(self._jobs)
                    if free <= 0 or commits.longest >= _MAX_PENDING:
                        await asyncio.wait({*self._jobs, stopped}, return_when=asyncio.FIRST_COMPLETED)
                        continue
                    for partition, records in (await consumer.getmany(timeout_ms=_POLL_MS, max_records=free)).items():
                        offsets = commits.of(partition)  # after a rebalance this is another one: late jobs do not count
                        for record in records:
                            offsets.start(record.offset)
                            job = tasks.create_task(self._do(self._job(record), offsets, dead_letters, threads))
                            self._jobs.add(job)
                            job.add_done_callback(self._jobs.discard)
                log.info("worker stops: running jobs may finish", jobs=len(self._jobs), seconds=self._grace_seconds)
                await self._drain(self._grace_seconds)
            finally:
                committing.cancel()
                stopped.cancel()
                self._abandon()
        await commits.commit()
        log.info("worker stopped")

    def _job(self, record: ConsumerRecord) -> Job:
        service, _ = self._handlers[record.topic]
        place = record.topic, record.partition, record.offset
        return Job(service, *place, record.timestamp, record.key, record.value, tuple(record.headers))

    async def _do(self, job: Job, offsets: Offsets, dead_letters: DeadLetters, threads: Executor) -> None:
        _, handler = self._handlers[job.topic]
        for attempt in count(1):
            try:
                await call(handler, replace(job, attempt=attempt), threads)
                break
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a handler raises is its failure
                why = f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARACTERS]
            log.warning("job failed", service=job.service, id=job.id, attempt=attempt, error=why)
            if attempt >= self._retry.attempts:
                if await self._given_up(job, why, attempt, dead_letters):
                    break
                return
            if await self._stops_within(self._retry.pause(attempt)):
                return
        offsets.done(job.offset)

    async def _given_up(self, job: Job, why: str, attempts: int, dead_letters: DeadLetters) -> bool:
        """Write a job to the rejected topic, however long that takes. False if stopped before."""
        for attempt in count(1):
            try:
                await dead_letters.write(job, why, attempts)
            except (KafkaError, TimeoutError) as error:
                log.warning("job can't be given up yet", id=job.id, error=str(error) or "the broker does not answer")
                if await self._stops_within(self._retry.pause(attempt)):
                    return False
            else:
                break
        log.error("job given up", service=job.service, id=job.id, attempts=attempts, error=why)
        return True
