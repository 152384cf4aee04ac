"""A worker: does what was admitted, at least once, and gives up on nothing silently."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from itertools import count
from typing import Final, Literal, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from gate import tracing
from gate.client._connection import CONNECT_TIMEOUT, PREFIX, connection, positive
from gate.client._errors import ArgumentError
from gate.client._handlers import Handler, HandlerTimeoutError, Job, Threads, call
from gate.client._headers import is_for
from gate.client._job_queue import JobQueue, TakenJob
from gate.client._offsets import Commits, session
from gate.client._outcome_writer import JobOutcomes, encode_result
from gate.client._program import Program
from gate.client._retry import Retry, asked_to_wait
from gate.client._sender import TooLargeError
from gate.config import Connection
from gate.errors import GateError
from gate.kafka.access import access
from gate.kafka.connect import running
from gate.log import get_logger
from gate.protocol.feedback import BackOff, Failed, Outcome, bounded

_MAX_PENDING: Final = 10_000  # records behind one that is not done
_AHEAD_BY_KEY: Final = 1_000  # jobs that are taken although they can't start yet: others may have keys that can
_MAX_ERROR_CHARACTERS: Final = 300
_POLL_MS: Final = 200
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds, while the broker does not take what is to be written
_REMEMBERED: Final = 1_000  # jobs that ended when their partitions had gone: some come back at once
_INT32_MAX: Final = 2**31 - 1

H = TypeVar("H", bound=Handler)

log = get_logger("gate.client.worker")


class Worker(Program):
    """Runs handlers over the admitted requests of services.

    >>> worker = Worker("localhost:9092", group_id="payments-workers")
    >>> @worker.handler("payments")
    ... async def pay(job: Job) -> None: ...
    >>> worker.main()  # doctest: +SKIP

    At most `concurrency` jobs run at a time, in no order; with `ordered="key"`, jobs of the same key run one after
    another, in the order in which they were admitted (a retry is a new request, and comes behind). A handler that takes
    longer than `timeout` seconds has failed.

    Where the policy says `max_running`, the worker tells the gate of each job that has ended, before it commits it.

    A job is done when its handler has returned, its result is written (if `results` and it is not None), or it was put
    off or given up. What is done is committed several times a second, also behind jobs that are not; so a worker that
    is killed loses nothing, and only what ran or had just ended is done again. A worker that dies is missed after
    `session_timeout`. When workers come or go, partitions move: running jobs then have a third of that time to end, and
    what takes longer is done again by whoever gets its partition.

    Of a failed job the worker tells the gate, which parks it in the delayed topic for as long as `retry` says and then
    decides about it again, for the workers of this group alone. It waits for its time, and not behind others. After
    `retry.attempts` failures it goes to the rejected topic, with the stamp by which it was admitted and the error in
    its headers. A `Backoff`, or an `httpx.HTTPStatusError` for a 429 or 503 with Retry-After, pauses the service at the
    gate, and the attempt does not count; after `retry.backoffs` of these the job is given up, too.
    """

    def __init__(
        self,
        bootstrap: str | Connection,
        *,
        group_id: str,
        prefix: str = PREFIX,
        concurrency: int = 10,
        ordered: Literal["key"] | None = None,
        retry: Retry | None = None,
        timeout: float | None = None,
        results: bool = False,
        shutdown_timeout: float = 25.0,
        session_timeout: float = 10.0,
        connect_timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        super().__init__(connection(bootstrap, prefix, connect_timeout))
        positive(timeout=timeout, shutdown_timeout=shutdown_timeout, session_timeout=session_timeout)
        if not group_id:
            raise ArgumentError("group_id is empty", hint="workers with the same group_id share the work; name theirs")
        if not isinstance(concurrency, int) or concurrency < 1:
            raise ArgumentError(f"concurrency is {concurrency!r}", hint="give a whole number of jobs, 1 or more")
        if ordered not in {None, "key"}:
            raise ArgumentError(f"ordered is {ordered!r}", hint="it is 'key' for jobs of a key in order, or None")
        self._group_id = group_id
        self._concurrency = concurrency
        self._ahead = max(concurrency, _AHEAD_BY_KEY) if ordered else concurrency
        self._queue = JobQueue(by_key=ordered == "key")
        self._retry = retry or Retry()
        self._timeout = timeout
        self._results = results
        self._shutdown_timeout = shutdown_timeout
        self._session_timeout = session_timeout
        self._handlers: dict[str, tuple[str, Handler]] = {}  # by topic: service, handler
        self._threads = Threads()
        self._outcomes = JobOutcomes(self._bootstrap, self._names)
        self._under_way: dict[tuple[TopicPartition, int], TakenJob] = {}
        self._ended_late: dict[tuple[TopicPartition, int], None] = {}  # done here when their partitions had gone
        self._moved = asyncio.Event()  # a job has ended, or the worker is to stop

    def handler(self, service: str) -> Callable[[H], H]:
        """Register a callable for the admitted requests of a service; a synchronous one runs in a thread."""
        self._names.check_service_name(service)
        if self._names.admitted(service) in self._handlers:
            raise ArgumentError(f"there is a handler for {service} already", hint="a service has one; let it call both")

        def register(handler: H) -> H:
            self._handlers[self._names.admitted(service)] = (service, handler)
            return handler

        return register

    def main(self) -> None:
        """Run until SIGTERM or SIGINT, with spans of the jobs where OTEL_* variables say where these are to go.

        A second signal does not wait for what still runs.
        """
        tracing.start(self._group_id)
        super().main()

    def stop(self) -> None:
        """Finish what runs, commit, and return from `run`. Called again: cancel what still runs."""
        super().stop()
        self._moved.set()

    async def run(self) -> None:
        """Work until stopped.

        Raises BrokerUnreachableError if no broker answers at the start, and GateError when so many handlers hang in
        their threads that no other could be trusted to end.
        """
        if not self._handlers:
            raise ArgumentError(
                "the worker has nothing to do", hint="register a callable with @worker.handler(SERVICE)"
            )
        if not await self._connected():
            return
        consumer = AIOKafkaConsumer(
            **access(self._bootstrap),
            group_id=self._group_id,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            metadata_max_age_ms=3_000,  # topics that are made later are found within this time
            **session(self._session_timeout),
            max_poll_interval_ms=_INT32_MAX,  # a long job is no reason to lose partitions; heartbeats show life
        )
        async with self._outcomes.running(), running(consumer):
            await self._work(consumer)

    async def _work(self, consumer: AIOKafkaConsumer) -> None:
        commits = Commits(consumer, drain=self._yield_all, completed=True)
        # A pattern, because a subscription by name fails where a topic is not there yet.
        topics = "|".join(map(re.escape, self._handlers))
        consumer.subscribe(pattern=rf"^(?:{topics})\Z", listener=commits)
        log.info("worker runs", group=self._group_id, services=[service for service, _ in self._handlers.values()])
        async with asyncio.TaskGroup() as tasks:
            start = partial(self._start, tasks, commits)
            committing = tasks.create_task(commits.regularly())
            try:
                while not self._stopping.is_set():
                    room = self._ahead - len(self._queue)
                    if room <= 0:
                        await self._movement()
                    else:
                        self._hold_back(consumer, commits)
                        batches = await consumer.getmany(timeout_ms=_POLL_MS, max_records=room)
                        if await commits.learn(batches):
                            self._take(batches, commits)
                    start()
                log.info("worker stops: running jobs may finish", jobs=len(self._jobs), seconds=self._shutdown_timeout)
                await self._drain(self._shutdown_timeout)
            finally:
                committing.cancel()
                self._abandon()
        await commits.commit()
        if self._ended_late:  # between two owners, of which this one may have been the next
            late: dict[TopicPartition, list[int]] = {}
            for partition, offset in self._ended_late:
                late.setdefault(partition, []).append(offset)
            await commits.note(late, self._session_timeout)
        log.info("worker stopped")

    async def _movement(self) -> None:
        """Wait until a job ends, or a little."""
        self._moved.clear()
        try:
            async with asyncio.timeout(_POLL_MS / 1000):
                await self._moved.wait()
        except TimeoutError:
            return

    async def _yield_all(self) -> None:
        """Give away what does not run, and time to what does, before the partitions are given away."""
        for taken in self._queue.clear():
            del self._under_way[taken.partition, taken.job.offset]
        await self._drain(self._session_timeout / 3)

    def _hold_back(self, consumer: AIOKafkaConsumer, commits: Commits) -> None:
        """Take nothing more from partitions whose jobs could not start, or whose oldest job holds up too many."""
        now = asyncio.get_running_loop().time()
        waiting = {
            partition
            for partition in consumer.assignment()
            if self._queue.is_paused(self._handlers[partition.topic][0], now)
            or commits.pending(partition) >= _MAX_PENDING
        }
        held = consumer.paused()
        consumer.pause(*(waiting - held))
        consumer.resume(*(held - waiting))

    def _take(self, batches: Mapping[TopicPartition, Iterable[ConsumerRecord]], commits: Commits) -> None:
        for partition, records in batches.items():
            offsets = commits.of(partition)
            for record in records:
                is_new = offsets.start(record.offset)
                if (running_on := self._under_way.get((partition, record.offset))) is not None:
                    running_on.offsets = offsets  # the partition went away and came back
                elif is_new and ((partition, record.offset) in self._ended_late or not self._is_mine(record)):
                    offsets.done(record.offset)
                elif is_new:
                    taken = TakenJob(self._job(record), partition, offsets)
                    self._under_way[partition, record.offset] = taken
                    self._queue.add(taken)

    def _is_mine(self, record: ConsumerRecord) -> bool:
        """Tell whether a job is for this group: what another one wants to try again, this one may have done."""
        return is_for(record.headers, self._group_id)

    def _job(self, record: ConsumerRecord) -> Job:
        service, _ = self._handlers[record.topic]
        place = record.topic, record.partition, record.offset
        return Job(service, *place, record.timestamp, record.key, record.value, tuple(record.headers))

    def _start(self, tasks: asyncio.TaskGroup, commits: Commits) -> None:
        """Start what may start now."""
        now = asyncio.get_running_loop().time()
        while (
            len(self._jobs) < self._concurrency
            and not self._stopping.is_set()
            and (taken := self._queue.next(now)) is not None
        ):
            job = tasks.create_task(self._do(taken, commits))
            self._jobs.add(job)
            job.add_done_callback(partial(self._ended, taken, tasks, commits))

    def _ended(self, taken: TakenJob, tasks: asyncio.TaskGroup, commits: Commits, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        del self._under_way[taken.partition, taken.job.offset]
        self._queue.ended(taken)
        self._moved.set()
        if not job.cancelled() and job.exception() is None:
            self._start(tasks, commits)

    async def _do(self, taken: TakenJob, commits: Commits) -> None:
        job = taken.job
        _, handler = self._handlers[job.topic]
        # before the work, so that little can go wrong between its end and its result
        if self._results and not await self._written(taken, commits, lambda: self._outcomes.make_results(job)):
            return
        try:
            with tracing.working(job.topic, job.headers, job=job.id, attempt=job.attempt):
                answer = await call(handler, job, self._threads, self._timeout)
            result = encode_result(answer) if self._results and answer is not None else None
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a handler raises is its failure
            if commits.holds(taken.partition, taken.offsets):  # else another worker does it again anyway
                await self._failed(taken, commits, error)
            if isinstance(error, HandlerTimeoutError) and self._threads.hung >= self._concurrency:
                raise _too_many_hang(self._threads.hung) from None
            return
        if result is None and not job.is_running:
            self._done(taken, commits)
            return
        try:
            await self._settle(taken, commits, lambda: self._write_end(job, result))
        except TooLargeError as error:
            await self._dead_letter(taken, commits, str(error))

    async def _write_end(self, job: Job, result: bytes | None) -> None:
        if result is not None:
            await self._outcomes.answer(job, result)
        if job.is_running:
            await self._outcomes.finish(job)

    async def _failed(self, taken: TakenJob, commits: Commits, error: BaseException) -> None:
        job = taken.job
        why = bounded(f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARACTERS])
        log.warning("job failed", service=job.service, id=job.id, attempt=job.attempt, error=why)
        retry, settled = self._retry, taken.offsets.settled
        if (asked := asked_to_wait(error, time.time())) is not None:
            seconds = min(asked, retry.longest_backoff)
            self._queue.pause(job.service, asyncio.get_running_loop().time() + seconds)
            if job.backoffs >= retry.backoffs:
                times = f"put off {job.backoffs} times, as often as Retry(backoffs=...) allows; {why}"
                await self._dead_letter(taken, commits, times)
                return
            log.warning("the gate is asked to pause the service", service=job.service, seconds=round(seconds, 3))
            outcome: Outcome = BackOff(
                group=self._group_id, attempt=job.attempt, settled=settled, seconds=seconds, cost=retry.cost
            )
            await self._tell(taken, commits, outcome)
        elif job.attempt < retry.attempts:
            pause = retry.pause(job.attempt)
            outcome = Failed(
                group=self._group_id,
                attempt=job.attempt,
                settled=settled,
                error=why,
                retry_after=pause,
                cost=retry.cost,
            )
            await self._tell(taken, commits, outcome)
        else:
            await self._dead_letter(taken, commits, why)

    async def _dead_letter(self, taken: TakenJob, commits: Commits, why: str) -> None:
        job = taken.job
        told = bounded(why[:_MAX_ERROR_CHARACTERS])
        outcome = Failed(group=self._group_id, attempt=job.attempt, settled=taken.offsets.settled, error=told)
        if await self._tell(taken, commits, outcome):
            log.error("job given up", service=job.service, id=job.id, attempts=job.attempt, error=told)

    async def _tell(self, taken: TakenJob, commits: Commits, outcome: Outcome) -> bool:
        return await self._settle(taken, commits, lambda: self._outcomes.tell(taken.job, outcome))

    async def _settle(self, taken: TakenJob, commits: Commits, write: Callable[[], Awaitable[None]]) -> bool:
        """Write what became of a job; then it is done. Stopped before, it is done again. Raises TooLargeError."""
        with commits.settling():
            if written := await self._written(taken, commits, write):
                self._done(taken, commits)
        return written

    async def _written(self, taken: TakenJob, commits: Commits, write: Callable[[], Awaitable[None]]) -> bool:
        """Try until the broker takes it. False: stopped before, or the job is another worker's by now.

        Raises TooLargeError: that will not be taken.
        """
        for attempt in count():
            try:
                await write()
            except TooLargeError:
                raise
            except (KafkaError, TimeoutError, GateError) as error:
                log.warning("what became of a job can't be written yet", id=taken.job.id, error=_words(error))
                if await self._stops_within(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 10))):
                    break
                if not commits.holds(taken.partition, taken.offsets):
                    break
            else:
                return True
        return False

    def _done(self, taken: TakenJob, commits: Commits) -> None:
        place = taken.partition, taken.job.offset
        taken.offsets.done(taken.job.offset)
        if not commits.holds(taken.partition, taken.offsets):
            self._ended_late[place] = None
            if len(self._ended_late) > _REMEMBERED:
                del self._ended_late[next(iter(self._ended_late))]


def _words(error: Exception) -> str:
    return str(error) or "the broker does not answer"


def _too_many_hang(hung: int) -> GateError:
    return GateError(
        f"{hung} handlers took too long and still run in their threads; no thread can be stopped from outside",
        hint="start the worker again; what was not done is done then. Give the handlers timeouts of their own",
    )
