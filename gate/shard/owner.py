"""The task that owns one shard: it decides, forwards and commits, batch by batch, one transaction each.

In memory a batch counts only after its commit. After any error the session and the state are thrown away, and the shard
starts anew from what is committed.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import Final

import structlog

from gate.admission.model import Reason
from gate.errors import reason_of
from gate.policy import Policy
from gate.protocol.headers import not_before
from gate.protocol.traces import sampled_trace
from gate.shard.batch_writer import BatchWriter
from gate.shard.clock import BrokerClock
from gate.shard.environment import Environment
from gate.shard.failpoints import reach
from gate.shard.feedback_actions import FeedbackBatch, FeedbackResult
from gate.shard.owner_views import OwnedService, Parking, RetainedOffsets, Watched
from gate.shard.placement import shard_of
from gate.shard.ports import PulledTooMuchError, Session
from gate.shard.progress import Progress
from gate.shard.reader import ShardReader
from gate.shard.records import Blocked, Outgoing, Partition
from gate.shard.refusal_history import RefusalHistory
from gate.shard.refusals import BatchTooLargeError, OutputError
from gate.shard.routing import NO_JUDGES, Batch
from gate.shard.stall_search import find_stalled
from gate.shard.state import PULLS, ServiceBatch, ShardState
from gate.shard.take_over import Successor
from gate.shard.time_slices import in_slices
from gate.shard.traced_decisions import traced_decisions
from gate.units import MS

FIRST_BACKOFF: Final = 0.2
LAST_BACKOFF: Final = 5.0
AT_ONCE: Final = 0.0  # nothing is wrong, or what was learnt keeps the next session from the same end
ABORT_DEADLINE: Final = 2.0
PATIENCE: Final = 5.0
LEAST_LEAD: Final = 5 * MS
MOST_LEAD: Final = 50 * MS

log = structlog.get_logger("gate.shard")


class SpentError(Exception):
    """A session has done all that it may: the next batch is another one's."""


class Shard:
    """The owner of one shard."""

    def __init__(self, number: int, policy: Policy, environment: Environment) -> None:
        self.number = number
        self.ready = False
        self._env = environment
        self._policy = policy
        self._woken = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.stopping = False
        self._paused = self._doubted = False
        self._changed = False  # the services or the policy, since the last batch
        self._lead = LEAST_LEAD  # about what it takes from waking up to being ready to commit
        self._reader = ShardReader(environment, self._woken.set, {})
        self._clock = BrokerClock()
        self._state: ShardState | None = None
        self._task: asyncio.Task[None] | None = None
        self._begins: dict[Partition, int] = {}  # of delayed topics of which something is gone
        self._gives_way = False  # to who moves the state
        self._sessions = 0
        self._session: Session | None = None
        self._known: set[str] = set()  # services of which was told
        self._introduced: tuple[Policy, int] | None = None  # by which policy, with how many services of its own
        self._unfinished = False  # a session ended amid a batch, and none has fenced it off since
        self._refusals = RefusalHistory(environment.names)
        self._progress = Progress(number, environment.observer, environment.local)
        self._reported = False  # that partitions wait
        self._settled: asyncio.Future[RetainedOffsets] | None = None  # who waits for the next commit
        self._muted: frozenset[str] = frozenset()  # services that are not heard, as outputs are closed

    @property
    def failures(self) -> int:
        """How often it failed since its requests last advanced."""
        return self._progress.failures

    @property
    def serves(self) -> bool:
        """Whether it has services."""
        return bool(self._reader.services)

    def hindered(self) -> Blocked | None:
        """Return why it does not decide, or not about all of its services; None: it does."""
        awaits = self._session.awaits if self._session is not None else None
        if self.ready and (stands := awaits or self._progress.stands):
            return Blocked(stands, wholly=True)
        if self.ready:
            unread = self._env.source.blocked(self._reader.buffer)
            if unread is not None and self._progress.has_decided_lately:  # what is parked goes on all the same
                return unread._replace(wholly=False)
            return unread
        if (move := self._env.resharding()) is not None:
            return Blocked(move, wholly=True)
        why = f"failed {self.failures} times: {self._progress.why}" if self.failures else "is being taken over"
        return Blocked(f"{why}; {awaits}" if awaits and awaits not in why else why, wholly=True)

    # -- what the gate calls ---------------------------------------------------------------------------------------

    def start(self, requests: Mapping[str, int]) -> None:
        """Begin, or go on after `pause`, with these services (name -> partitions of the request topic)."""
        self._reader.services = dict(requests)
        self._changed = True
        self._paused = False
        self._woken.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"shard-{self.number}")

    def pause(self) -> None:
        """Begin no further batch. `idle` tells when the last one has ended."""
        self._paused = True
        self._woken.set()

    async def idle(self) -> None:
        """Wait for the end of the batch under way."""
        await self._idle.wait()

    async def stop(self, deadline: float) -> None:
        """End: let the batch under way finish within `deadline` seconds, then give the shard up."""
        self.stopping = True
        self._woken.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=deadline)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._unfinished and not self._paused:  # paused: the next owner is about to come
            await self._abort()

    def set_policy(self, policy: Policy) -> None:
        """Decide by `policy` from the next batch on."""
        self._policy = policy
        self._changed = True
        self._woken.set()

    def heed(self) -> None:
        """Look at the feedback before the next batch."""
        self._changed = True
        self._woken.set()

    def doubt(self) -> None:
        """Look before the next batch whether all is there: a broker was away, and may have left it half-done.

        Who is stopped as it should be, or had nothing to do with the shard, has not.
        """
        self._doubted = True
        self._woken.set()

    def owned(self) -> Iterator[OwnedService]:
        """Yield its services, and how far each is decided."""
        state = self._state
        for service in self._reader.services:
            partitions = self._reader.partitions(service)
            at = {p: None if state is None else state.decided(service, p) for p in partitions}
            yield OwnedService(self.number, service, at)

    def parking(self) -> Parking | None:
        """Return what it takes for parked; None: it does not know yet."""
        state = self._state
        if state is None or not self.ready:
            return None
        missed, state.missed = frozenset(state.missed), set()
        return Parking(self.number, self._sessions, state.lowest(), missed)

    def rooms(self) -> dict[str, list[Partition]]:
        """Return, by service, the partitions in which requests and retries wait."""
        names, reader = self._env.names, self._reader
        return {
            service: [*(Partition(names.delayed(service), n) for n in range(count)), *reader.waiting_rooms(service)]
            for service, count in reader.services.items()
        }

    async def settled(self) -> RetainedOffsets:
        """Return what waits as of a commit that was begun after the call; the caller sets the deadline."""
        if self._settled is None:
            self._settled = asyncio.get_running_loop().create_future()
        if self._state is not None:
            self._state.write_soon()
            self._woken.set()
        return await asyncio.shield(self._settled)

    def emptied(self, begins: Mapping[Partition, int]) -> None:
        """Forget, before the next batch, what was parked in front of where partitions of delayed topics begin."""
        self._begins.update(begins)
        self._changed = True
        self._woken.set()

    def publish(self, undecided: Mapping[str, int]) -> None:
        """Publish the usage of these services soon, of which so many requests stand undecided."""
        if self._state is not None:
            self._state.publish(undecided)
            self._woken.set()

    def tell_soon(self, services: Iterable[str]) -> None:
        """Publish the usage of these services soon."""
        if self._state is not None:
            self._state.tell_soon(services)
            self._woken.set()

    @property
    def is_sound(self) -> bool:
        """Whether it has been taken over, and has not failed since its requests advanced."""
        return self.ready and not self.failures and self._state is not None and not self.stopping

    @property
    def alerts_begin(self) -> int | None:
        """Before which offset of the alerts topic none is open that a gate may leave; None: not known."""
        return None if self._state is None else self._state.alerts_begin

    def end_alerts(self, ends: Mapping[int, Outgoing], still_open: Collection[int], begins: int) -> None:
        """Write these ends of alerts soon, by the offset of what they end, unless that is done."""
        if self._state is not None:
            self._state.end_alerts(ends, still_open, begins)
            if ends:
                self._woken.set()

    def lowest(self) -> Mapping[Partition, int]:
        """Return the oldest parked offset of each partition, of services that have nothing scheduled."""
        return {} if self._state is None or not self.ready else self._state.lowest(scheduled=False)

    def watched(self) -> list[Watched]:
        """Return the services whose workers are to be watched."""
        state = self._state
        if state is None:
            return []
        return [
            Watched(
                name, policy.worker_group,
                tuple(Partition(served.topics.admitted, p.number) for p in self._reader.partitions(name)),
                served.admitted,
                state.count,
            )
            for name, served in state.services.items()
            if name in self._reader.services
            and (policy := state.policy.effective(name)).max_in_flight is not None
            and policy.worker_group is not None
        ]  # fmt: skip

    # -- the task --------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        backoff = FIRST_BACKOFF
        while not self.stopping:
            session = self._session = self._env.new_session(self.number)
            self._sessions += 1
            try:
                writer = BatchWriter(self.number, session, self._clock, self._env)
                self._reader.weigh = session.weigh
                state = await self._take_over(session, writer)
                self.ready = True
                while not self.stopping:
                    if await self._turn(state, writer):
                        self._progress.decided()
                        backoff = FIRST_BACKOFF
            except (OutputError, PulledTooMuchError) as error:
                self._learn(error)
                backoff = AT_ONCE  # it stays ready
            except SpentError as error:
                log.info("a further session takes over", shard=self.number, why=str(error))
                backoff = AT_ONCE
            except Exception as error:  # noqa: BLE001 - whatever it is: throw away, restore, go on
                self._fail(error)
                self.ready = False
            finally:
                self._progress.works()
                self._idle.set()
                self._let_go()
                self._unfinished |= session.unfinished
                await session.discard()
            if not self.stopping:
                await self._sleep(backoff)
                backoff = max(FIRST_BACKOFF, min(2 * backoff, LAST_BACKOFF))
        self.ready = False

    def _fail(self, error: Exception) -> None:
        """Count a failure, unless all shards are meant to stand still; that is said once."""
        if (move := self._env.resharding()) is None:
            self._gives_way = False
            self._progress.failed(error)
        elif not self._gives_way:
            self._gives_way = True
            log.info("a shard gives way", shard=self.number, why=reason_of(error), until=move)

    def _learn(self, error: OutputError | PulledTooMuchError) -> None:
        """Keep what a refused output tells: the next session does not run into it again."""
        log.warning("a batch is decided anew, as not all of it was taken", shard=self.number, why=str(error))
        if isinstance(error, PulledTooMuchError):
            self._refusals.pulled_too_much(error.services, error.count)
            return
        if isinstance(error, BatchTooLargeError):
            self._env.limits.learn(error.partition.topic, error.size)
        else:
            self._env.limits.forget(error.partition.topic)
        self._refusals.learn(error, self._env.local() / 1e9)

    def _report_waiting(self, state: ShardState) -> None:
        """Tell which partitions wait, as what they go to takes nothing, or as they can't be read."""
        waiting = find_stalled(state, self._reader, self._refusals, self._env, self._decided)
        if waiting or self._reported:
            self._env.observer.waiting(self.number, waiting)
        self._reported = bool(waiting)

    def _let_go(self) -> None:
        for service in self._known | set(self._state.services if self._state is not None else ()):
            self._env.observer.forget(service)
        self._known, self._introduced = set(), None
        if self._state is not None:
            self._state.close()
        self._reader.close()
        self._reader = ShardReader(self._env, self._woken.set, self._reader.services)
        self._clock = BrokerClock()
        self._state = None

    async def _abort(self) -> None:
        """End what a session has left open: nobody else may come to do it before its transaction times out."""
        self._idle.clear()  # a rebalance waits, or its next owner would be fenced off
        session = self._env.new_session(self.number)
        try:
            async with asyncio.timeout(ABORT_DEADLINE):
                await self._env.confirm(self.number)
                await session.fence()
        except Exception as error:  # noqa: BLE001 - the next owner ends it then, or the broker in time
            log.info("left to the next owner", shard=self.number, why=repr(error))
        finally:
            self._idle.set()
            await session.discard()

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.stopping:
                    self._woken.clear()
                    await self._woken.wait()

    async def _take_over(self, session: Session, writer: BatchWriter) -> ShardState:
        await self._not_paused()
        self._progress.begins("is being taken over anew")
        self._doubted = False
        started = self._env.local()
        self._env.give_way()
        await self._env.confirm(self.number)
        if self.stopping:
            raise asyncio.CancelledError  # it has another owner, which must not be fenced
        successor = Successor(self.number, self._env, session, writer, self._clock)
        await successor.claim(self._reader)
        self._unfinished = False
        state = self._state = await successor.restore(self._policy, self._now)
        await writer.finish_leaving(state, successor.leaving, self._now())
        await self._refresh(state)
        await writer.correct(state, self._reader.buffer.followed)
        self._reader.follow_reports(state, self.number)
        reach("after-restore")
        seconds = (self._env.local() - started) / 1e9
        log.info("shard taken over", shard=self.number, keys=successor.keys, seconds=round(seconds, 3))
        return state

    async def _refresh(self, state: ShardState) -> None:
        """Take in what has changed around the shard: services, policy, commands, the lag of workers."""
        self._changed = False
        if state.file is not self._policy:
            await in_slices(state.follow_policy(self._policy, self._now()), self._env.local)
        await self._reader.follow(state, self._now())
        if unknown := [watched for watched in self.watched() if watched.service not in state.measured]:
            await self._env.feedback.measure(unknown)  # or the first requests would wait for nothing
        state.apply(self._env.feedback, self._now())
        await in_slices(state.follow_limits(self._now()), self._env.local)
        begins, self._begins = self._begins, {}
        state.forget_parked(begins, self._now())
        self._introduce(state)

    def _introduce(self, state: ShardState) -> None:
        """Tell of all services that are known here, so that their counters exist before anything comes."""
        policy = state.policy
        if (policy, len(state.services)) == self._introduced:
            return
        self._introduced = policy, len(state.services)
        shards = self._env.shards
        self._known = set(state.services)
        self._known |= {name for name in policy.services if shard_of(policy.shard_key(name), shards) == self.number}
        for name in sorted(self._known):
            self._env.observer.known(name, policy.effective(name))

    async def _not_paused(self) -> None:
        if self._paused:
            self._progress.begins("waits for the group to assign it")
        while self._paused and not self.stopping:
            self._idle.set()
            self._woken.clear()
            await self._woken.wait()

    def _now(self) -> int:
        """Return broker time in whole milliseconds, so that stamps say exactly what decisions were made by."""
        return self._clock.now(self._env.local()) // MS * MS

    async def _turn(self, state: ShardState, writer: BatchWriter) -> bool:
        """Wait for something to do and do it. Returns whether requests were decided."""
        await self._not_paused()
        if (why := writer.spent) is not None:
            raise SpentError(why)
        if self._doubted:
            self._progress.begins("whether its last batch stands as a whole is asked")
            self._doubted = False
            if not await writer.is_settled():
                raise ConnectionError("a broker has left half-done what it had answered; it is ended as it was decided")
        self._progress.begins("a batch is under way")
        if self._changed or state.has_new_limits(self._now):
            await self._refresh(state)
        self._woken.clear()
        for partition, offsets in state.upcoming(self._now()).items():
            self._env.source.prefetch(partition, offsets)
        wake = state.next_wake()
        delay = None if wake is None else (wake - self._lead - self._now()) / 1e9
        self._stop_what_waits(state)
        if self._is_halted():
            return False
        if (retry := self._refusals.wakes_at(self._env.local() / 1e9)) is not None:
            retry -= self._env.local() / 1e9
            delay = retry if delay is None else min(delay, retry)
        if (meeting := self._meets_at(state)) is not None:
            until = (meeting - self._now()) / 1e9
            delay = until if delay is None else min(delay, until)
        has_work = self._reader.buffer.has_work() or self._reader.listener.has_work(self._muted)
        if has_work or (delay is not None and delay <= 0):
            if not self._reader.is_large:
                # instead of asking in vain: what comes meanwhile joins the batch. What is due waits for nothing: it is
                # decided as of its time only if that is still ahead, and with a bucket of one it delays all behind it
                await asyncio.sleep(min(writer.settling, inf if delay is None else max(0.0, delay)))
            async with self._turn_among_large():
                if self._changed:
                    await self._refresh(state)
                if self._is_halted():
                    return False
                return await self._batch(state, writer)
        if (moment := state.read_ahead.next()) is not None:
            until = (moment - self._now()) / 1e9
            delay = until if delay is None else min(delay, until)
        if (end := state.live.next_end()) is not None:
            ahead = max(0, end - self._now()) / 1e9
            delay = ahead if delay is None else min(delay, ahead)
        delay = self._progress.rests(delay)
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._woken.wait()
        return False

    def _meets_at(self, state: ShardState) -> int | None:
        """Return when something is to be done about processes that share limits; None: not by itself."""
        moment = state.mesh.wakes_at(waiting=self._reader.reports.has_work())
        if moment is None:
            return None
        closed = self._refusals.waiting(self._env.local() / 1e9)
        return None if any(output.topic == self._env.names.grants for output, _ in closed) else moment

    def _meet(self, state: ShardState, batch: Batch) -> None:
        """Take what processes report that share limits, and tell them what they have of these."""
        if (moment := self._meets_at(state)) is not None and moment <= batch.now:
            names, reports = self._env.names, self._reader.take_reports(self.number)
            for place, grants in state.mesh.turn(batch.now, *reports, self._env.grants).items():
                batch.to(names.grants, place).extend(grants)
        state.share_limits(batch.now)

    def _stop_what_waits(self, state: ShardState) -> None:
        """Leave out what is not to be tried yet, and tell of it."""
        stopped: set[Partition] = set()
        muted: set[str] = set()
        for output, closed in self._refusals.waiting(self._env.local() / 1e9):
            service = self._refusals.service_of(output)
            if service is not None and service in self._reader.services:
                muted.add(service)  # what failed goes anywhere, and so do retries
                stopped.update(self._reader.waiting_rooms(service))
                if self._decided(service, output):
                    requests = self._reader.partitions(service)
                    stopped |= {p for p in requests if closed.halts or p.number == output.number}
        self._muted = frozenset(muted)
        if stopped != self._reader.buffer.stopped:
            self._reader.buffer.stopped = stopped
            self._env.source.poke()
        self._report_waiting(state)

    def _decided(self, service: str, output: Partition) -> bool:
        """Tell whether requests go to an output as they are decided; else it is one for jobs that failed."""
        return output.topic != self._env.names.retries(service)

    def _is_halted(self) -> bool:
        """Tell whether this session must not begin a further batch."""
        return self._paused or self.stopping or self._doubted

    @asynccontextmanager
    async def _turn_among_large(self) -> AsyncIterator[None]:
        """Wait until few other large batches are in memory, if this will be one; where they hang, not for ever."""
        large, mine = self._env.large, False
        if self._reader.is_large or self._reader.buffer.is_packed() or (self._state is not None and self._state.large):
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    mine = await large.acquire()
        try:
            yield
        finally:
            if mine:
                large.release()

    # -- one batch -------------------------------------------------------------------------------------------------

    async def _batch(self, state: ShardState, writer: BatchWriter) -> bool:
        """Decide about what waits and commit it. Returns whether requests were decided."""
        started = self._env.local()
        batch = Batch(self._moment(state), limit=self._env.limits.of)
        self._idle.clear()
        if self._reader.buffer.has_work():  # a batch of commands, or of what processes share, says nothing of requests
            self._progress.works()
        settled = self._settled
        try:
            heard = await self._hear(state, batch)
            self._meet(state, batch)
            turns = await self._decide(state, batch)
            state.mesh.note_short(batch.now)
            reach("after-decide")
            if not await writer.write(state, batch, turns):
                return False
            reach("after-commit")
            if settled is not None:
                self._settled = None
                settled.set_result(state.waits(self.rooms()))
            self._refusals.committed(batch.outputs)
            # what took longer may take longer again; what did not is believed bit by bit
            needed = max(writer.prepared - started, self._lead - self._lead // 16)
            self._lead = max(LEAST_LEAD, min(needed, MOST_LEAD))
            self._tell(turns, batch.now, started)
            self._env.observer.decided(traced_decisions(batch.outputs, turns, batch.now))
            self._tell_of_mesh(state)
            for part, followed in heard:
                self._env.observer.heard(part.service, part.partition, followed)
            return bool(heard) or any(turn.pieces or turn.pulled for turn in turns)
        finally:
            self._idle.set()

    def _moment(self, state: ShardState) -> int:
        """Return the time to decide by. What is due in a moment is decided as of then, and committed no sooner.

        With a bucket of one, each ms that a release is late delays all behind it.
        """
        # each batch later than the last one: see gate.kafka.torn_transactions
        now, wake = max(self._now(), state.decided_until + MS), state.next_wake()
        return now if wake is None or wake > now + self._lead else max(now, -(-wake // MS) * MS)

    async def _hear(self, state: ShardState, batch: Batch) -> list[tuple[FeedbackBatch, FeedbackResult]]:
        """Act upon what workers told."""
        listener, refusals = self._reader.listener, self._refusals
        parts = listener.take(self._muted, refusals.hearings)
        heard = [(part, state.hear(part, batch, refusals.condemned)) for part in parts]
        await self._reader.follow_retries(state, {part.service for part in parts})
        return heard

    async def _decide(self, state: ShardState, batch: Batch) -> list[ServiceBatch]:
        refusals = self._refusals
        due = state.due(batch.now) - self._put_off(state, batch.now)
        for service in due:
            self._reader.release(state, service, batch.now)
        taken, retried = self._reader.take(state, refusals, batch.now)
        judges = await self._reader.judges(state, taken, retried, refusals)
        await self._reader.look(state, refusals.pulls, self._muted, batch.now)
        await self._reader.read_parts(state)
        turns = [
            state.decide(
                state.services[service],
                batch.now,
                taken.get(service, ()),
                self._reader.buffer,
                judges.get(service, NO_JUDGES),
                refusals.pulls.get(service, PULLS),
                retried.get(service, ()),
                self._reader.services.get(service, 1),
            )
            for service in sorted(due | taken.keys() | retried.keys())
        ]
        await self._reader.pull(turns)
        for turn in turns:
            state.route(turn, batch, refusals.condemned)
        if taken or retried:
            self._env.source.poke()
        return turns

    def _put_off(self, state: ShardState, now: int) -> set[str]:
        """Return the services that wait as a whole; they are looked at again when they may be tried."""
        local = self._env.local() / 1e9
        halted: set[str] = set()
        for output, closed in self._refusals.waiting(local):
            service = self._refusals.service_of(output) if closed.halts else None
            if service is not None and service in state.services and self._decided(service, output):
                halted.add(service)
                state.postpone(service, now + int((closed.until_seconds - local) * 1e9))
        return halted

    def _tell_of_mesh(self, state: ShardState) -> None:
        for told in state.mesh.drain_alone():
            self._env.observer.went_alone(*told)
        if ignored := state.mesh.reports.drain():
            self._env.observer.unheard(self.number, ignored)

    def _tell(self, turns: Sequence[ServiceBatch], now: int, started: int) -> None:
        observer = self._env.observer
        at = now // MS
        for turn in turns:
            name = turn.served.name
            # a sample per partition and pull: lags of neighbours differ little
            decision = [
                ((at - created) / 1e3, sampled_trace(piece.records[0].headers))
                for piece in turn.pieces
                if piece.records
                and not (piece.returned or piece.retried)
                and (created := piece.records[0].timestamp) >= 0
            ]
            release = [
                ((at - due) / 1e3, sampled_trace(records[0].headers))
                for pull, records in turn.pulled
                if records and pull.reason is not Reason.CANCELLED and (due := not_before(records[0].headers))
            ]
            observer.lagged(name, decision, release)
            if turn.refused:
                observer.refused(name, [wish.refusal.malformed for wish in turn.refused])
        observer.committed((self._env.local() - started) / 1e9)
