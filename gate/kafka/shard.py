"""The task that owns one shard: it decides, forwards and commits, batch by batch, one transaction each.

In memory a batch counts only after its commit. After any error the session and the desk are thrown away, and the shard
starts anew from what is committed.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import Final

import msgspec
import structlog

from gate.kafka.changelog import LEAVING_KEY, META_KEY, read_meta
from gate.kafka.clock import MS, BrokerClock
from gate.kafka.commit import BatchWriter
from gate.kafka.desk import Desk, Turn
from gate.kafka.environment import Environment
from gate.kafka.failpoints import reach
from gate.kafka.feedback import Watched
from gate.kafka.headers import not_before
from gate.kafka.intake import Intake
from gate.kafka.ports import Partition, Session
from gate.kafka.positions import OFFSETS_KIND
from gate.kafka.routing import Batch
from gate.kafka.slices import in_slices
from gate.kafka.undecided import Owned
from gate.policy import Policy

FIRST_BACKOFF: Final = 0.2
LAST_BACKOFF: Final = 30.0
ABORT_DEADLINE: Final = 2.0
PATIENCE: Final = 5.0
LEAST_LEAD: Final = 5 * MS
MOST_LEAD: Final = 50 * MS

log = structlog.get_logger("gate.shard")


class Shard:
    """The owner of one shard."""

    def __init__(self, number: int, policy: Policy, environment: Environment) -> None:
        self.number = number
        self.ready = False
        self.failures = 0
        self._env = environment
        self._policy = policy
        self._woken = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.stopping = False
        self._paused = self._doubted = False
        self._changed = False  # the services or the policy, since the last batch
        self._lead = LEAST_LEAD  # about what it takes from waking up to being ready to commit
        self._intake = Intake(environment, self._woken.set, {})
        self._clock = BrokerClock()
        self._desk: Desk | None = None
        self._task: asyncio.Task[None] | None = None
        self._unfinished = False  # a session ended amid a batch, and none has fenced it off since

    # -- what the gate calls ---------------------------------------------------------------------------------------

    def start(self, requests: Mapping[str, int]) -> None:
        """Begin, or go on after `pause`, with these services (name -> partitions of the request topic)."""
        self._intake.services = dict(requests)
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
        """Take the shard over anew: a broker was away, and may have left half-done what was answered already."""
        self._doubted = True
        self._woken.set()

    def owned(self) -> Iterator[Owned]:
        """Yield its services, and how far each is decided."""
        desk = self._desk
        for service in self._intake.services:
            partitions = self._intake.partitions(service)
            at = {p: None if desk is None else desk.decided(service, p) for p in partitions}
            yield Owned(self.number, service, at)

    def publish(self, undecided: Mapping[str, int]) -> None:
        """Publish the usage of these services soon, of which so many requests stand undecided."""
        if self._desk is not None:
            self._desk.publish(undecided)
            self._woken.set()

    def watched(self) -> list[Watched]:
        """Return the services whose workers are to be watched."""
        desk = self._desk
        if desk is None:
            return []
        return [
            Watched(
                name, policy.worker_group,
                tuple(Partition(served.topics.admitted, p.number) for p in self._intake.partitions(name)),
                served.admitted,
            )
            for name, served in desk.services.items()
            if name in self._intake.services
            and (policy := desk.policy.effective(name)).max_in_flight is not None
            and policy.worker_group is not None
        ]  # fmt: skip

    # -- the task --------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        backoff = FIRST_BACKOFF
        while not self.stopping:
            session = self._env.new_session(self.number)
            try:
                writer = BatchWriter(self.number, session, self._clock, self._env)
                desk = await self._take_over(session, writer)
                self.ready = True
                while not self.stopping:
                    if await self._turn(desk, writer):
                        self.failures, backoff = 0, FIRST_BACKOFF
            except Exception as error:  # noqa: BLE001 - whatever it is: throw away, restore, go on
                self.failures += 1
                self._env.observer.failed(self.number, error, self.failures)
            finally:
                self.ready = False
                self._idle.set()
                self._let_go()
                self._unfinished |= session.unfinished
                await session.discard()
            if not self.stopping:
                await self._sleep(backoff)
                backoff = min(2 * backoff, LAST_BACKOFF)

    def _let_go(self) -> None:
        for service in self._desk.services if self._desk is not None else ():
            self._env.observer.forget(service)
        self._intake.close()
        self._intake = Intake(self._env, self._woken.set, self._intake.services)
        self._clock = BrokerClock()
        self._desk = None

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

    async def _take_over(self, session: Session, writer: BatchWriter) -> Desk:
        await self._not_paused()
        self._doubted = False
        started = self._env.local()
        await self._env.confirm(self.number)
        if self.stopping:
            raise asyncio.CancelledError  # it has another owner, which must not be fenced
        intake = self._intake
        partitions = [p for service in intake.services for p in intake.partitions(service)]
        claim = await session.claim(partitions)
        self._unfinished = False
        reach("after-claim")
        intake.claimed = set(partitions)
        meta = read_meta(claim.state.get(META_KEY), self._env.shards)
        outdated: list[str] = []
        if not session.atomic:  # state comes before outputs: only the group knows what was decided in the end
            outdated = [key for key in claim.state if key.startswith(f"{OFFSETS_KIND}/")]
            meta = msgspec.structs.replace(meta, since=0)
        meta = await writer.claim(meta, outdated)
        self._clock.advance_to(meta.at, self._env.local())
        state = {key: value for key, value in claim.state.items() if key not in outdated}
        desk = Desk(self._env.names, self._policy, meta, claim.marks, now := self._now())
        await in_slices(desk.restore(state, now), self._env.local)
        self._desk = desk
        await writer.finish_leaving(desk, claim.state.get(LEAVING_KEY), self._now())
        await self._refresh(desk)
        await writer.correct(desk, intake.inbox.followed)
        reach("after-restore")
        seconds = (self._env.local() - started) / 1e9
        log.info("shard taken over", shard=self.number, keys=len(claim.state), seconds=round(seconds, 3))
        return desk

    async def _refresh(self, desk: Desk) -> None:
        """Take in what has changed around the shard: services, policy, commands, the lag of workers."""
        self._changed = False
        if desk.policy is not self._policy:
            await in_slices(desk.follow_policy(self._policy, self._now()), self._env.local)
        await self._intake.follow(desk, self._now())
        if unknown := [watched for watched in self.watched() if watched.service not in desk.measured]:
            await self._env.feedback.measure(unknown)  # or the first requests would wait for nothing
        desk.apply(self._env.feedback, self._now())

    async def _not_paused(self) -> None:
        while self._paused and not self.stopping:
            self._idle.set()
            self._woken.clear()
            await self._woken.wait()

    def _now(self) -> int:
        """Return broker time in whole milliseconds, so that stamps say exactly what decisions were made by."""
        return self._clock.now(self._env.local()) // MS * MS

    async def _turn(self, desk: Desk, writer: BatchWriter) -> bool:
        """Wait for something to do and do it. Returns whether a batch was committed."""
        await self._not_paused()
        if self._doubted:
            raise ConnectionError("a broker was away; what it has left half-done is looked for")
        if self._changed:
            await self._refresh(desk)
        self._woken.clear()
        wake = desk.next_wake()
        delay = None if wake is None else (wake - self._lead - self._now()) / 1e9
        if self._is_halted():
            return False
        if self._intake.inbox.has_work() or (delay is not None and delay <= 0):
            if not self._intake.is_large:
                # instead of asking in vain: what comes meanwhile joins the batch. What is due waits for nothing: it is
                # decided as of its time only if that is still ahead, and with a bucket of one it delays all behind it
                await asyncio.sleep(min(writer.settling, inf if delay is None else max(0.0, delay)))
            async with self._turn_among_large():
                if self._changed:
                    await self._refresh(desk)
                if self._is_halted():
                    return False
                return await self._batch(desk, writer)
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._woken.wait()
        return False

    def _is_halted(self) -> bool:
        """Tell whether this session must not begin a further batch."""
        return self._paused or self.stopping or self._doubted

    @asynccontextmanager
    async def _turn_among_large(self) -> AsyncIterator[None]:
        """Wait until few other large batches are in memory, if this will be one; where they hang, not for ever."""
        large, mine = self._env.large, False
        if self._intake.is_large:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    mine = await large.acquire()
        try:
            yield
        finally:
            if mine:
                large.release()

    # -- one batch -------------------------------------------------------------------------------------------------

    async def _batch(self, desk: Desk, writer: BatchWriter) -> bool:
        """Decide about what waits and commit it. Returns whether there was anything to commit."""
        started = self._env.local()
        batch = Batch(self._moment(desk))
        self._idle.clear()
        try:
            turns = await self._decide(desk, batch)
            reach("after-decide")
            if not await writer.write(desk, batch, turns):
                return False
            reach("after-commit")
            # what took longer may take longer again; what did not is believed bit by bit
            needed = max(writer.prepared - started, self._lead - self._lead // 16)
            self._lead = max(LEAST_LEAD, min(needed, MOST_LEAD))
            self._tell(turns, batch.now, started)
            return True
        finally:
            self._idle.set()

    def _moment(self, desk: Desk) -> int:
        """Return the time to decide by. What is due in a moment is decided as of then, and committed no sooner.

        With a bucket of one, each ms that a release is late delays all behind it.
        """
        # each batch later than the last one: see gate.kafka.leftovers
        now, wake = max(self._now(), desk.decided_until + MS), desk.next_wake()
        return now if wake is None or wake > now + self._lead else max(now, -(-wake // MS) * MS)

    async def _decide(self, desk: Desk, batch: Batch) -> list[Turn]:
        due = desk.due(batch.now)
        for service in due:
            self._intake.release(service)
        taken = self._intake.take(desk)
        turns: list[Turn] = []
        for service in sorted(due | taken.keys()):
            served = desk.services[service]
            turns.append(desk.decide(served, batch.now, taken.get(service, ()), self._intake.inbox))
        await self._intake.pull(turns)
        for turn in turns:
            desk.route(turn, batch)
        if taken:
            self._env.source.poke()
        return turns

    def _tell(self, turns: Sequence[Turn], now: int, started: int) -> None:
        observer = self._env.observer
        at = now // MS
        for turn in turns:
            name = turn.served.name
            # a sample per partition and pull: lags of neighbours differ little
            decision = [
                (at - created) / 1e3
                for piece in turn.pieces
                if piece.records and not piece.returned and (created := piece.records[0].timestamp) >= 0
            ]
            release = [
                (at - due) / 1e3 for _, records in turn.pulled if records and (due := not_before(records[0].headers))
            ]
            observer.lagged(name, decision, release)
            if turn.malformed:
                observer.malformed(name, [str(wish.malformed) for wish in turn.malformed])
        observer.committed((self._env.local() - started) / 1e9)
