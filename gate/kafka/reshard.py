"""Moves the state to a new generation: with another number of shards, or with services in other groups.

In this order, so that it can be killed anywhere and begun again: whoever else does it is fenced off; each shard of the
generation in force is fenced off from its owner and closed, in a transaction of its own; what it holds is copied into
the topic of the new one, in transactions; then a last one describes all new shards, and with that they are in force.
What is closed does not change, so copying again comes to the same. Gates start anew by themselves.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from gate.kafka import upgrade
from gate.kafka.aio.compacted import Barrier, newest, read_all
from gate.kafka.aio.pending_requests import within
from gate.kafka.aio.reader import Reader
from gate.kafka.aio.session import KafkaSession
from gate.kafka.aio.unknown_outcomes import LookBehind, ProducerIdentity, Torn
from gate.kafka.cluster import Cluster
from gate.kafka.connect import running
from gate.kafka.generation_layout import Layout, Shards, lay_out
from gate.kafka.generations import Generation, Moving, find, known, transactional_id
from gate.kafka.reshard_plan import Plan, ReshardRefusedError, Wanted, go_on, parts_of
from gate.kafka.torn_transactions import look, places_of
from gate.policy import Delivery, Policy, Settings
from gate.protocol import control
from gate.protocol.topics import Names
from gate.shard.changelog_records import FORMAT, META_KEY, ClosedGeneration, encode_meta, read_meta
from gate.shard.failpoints import reach
from gate.shard.placement import shard_of
from gate.shard.records import Outgoing, Partition, RecoveredState

CALL_DEADLINE: Final = 10.0
READ_DEADLINE: Final = 120.0
FOLLOW_DEADLINE: Final = 60.0  # for gates to come along
CLOSE_DEADLINE: Final = 60.0  # for a shard whose owner fences back: it has not heard of the move yet
BACKOFF: Final = 0.2
TELL_EVERY: Final = 5.0  # a fraction of the silence after which gates take a move for given up
AT_ONCE: Final = 8  # shards


class Resharding:
    """One run of it."""

    def __init__(
        self,
        cluster: Cluster,
        reader: Reader,
        names: Names,
        settings: Settings,
        policy: Policy,
        options: Mapping[str, Any],
    ) -> None:
        self._cluster = cluster
        self._reader = reader
        self._names = names
        self._settings = settings
        self._group = settings.group_id
        self._policy = policy
        self._options = options
        self._copied = self._of = 0  # records of the new generation
        self.stands = "nothing was changed"  # as of now
        self.is_closing = False  # and gates wait, until it is finished or taken back

    # -- looking ---------------------------------------------------------------------------------------------------

    async def standing(self) -> Generation | Moving:
        """Return what is in force, or under way. Raises RefusedError."""
        there = await self._cluster.partitions()
        found = await find(self._reader, self._names, there)
        if found is None:
            raise ReshardRefusedError(
                f"there is no state in {self._names.state}: no gate has run with this prefix",
                hint="write the number of shards into the policy file",
            )
        return found

    async def plan(self, wanted: Wanted) -> Plan | None:
        """Return what is to be done; None: it is done already. Raises RefusedError."""
        found = await self.standing()
        if isinstance(found, Moving):
            return go_on(found, wanted)
        shards = wanted.shards or found.shards
        groups = {**found.groups, **wanted.groups}
        old = self._policy.placed(found.groups)
        there = await self._cluster.partitions()
        changed = {
            service: group
            for service, group in wanted.groups.items()
            if found.groups.get(service, ...) != group
            and (old.effective(service).group != group or await self._is_elsewhere(service, old, found))
        }
        if shards == found.shards and not changed:
            return None
        number = 1 + found.number
        generations = known(self._names, there)
        while generations.get(number, shards) != shards:  # left by one that was taken back
            number += 1
        return Plan(found, Generation(number, shards, groups), frozenset(changed))

    async def _is_elsewhere(self, service: str, policy: Policy, now: Generation) -> bool:
        """Tell whether the policy file says already what is wanted, and the state of a service is not there yet."""
        shard = shard_of(policy.shard_key(service), now.shards)
        return f"service/{service}" not in await self._records(now, shard)

    async def look(self, plan: Plan) -> Layout:
        """Return what would be moved, by what is there now. Changes nothing."""
        return await self._laid_out(plan, await self._shards(plan.before))

    async def check(self, plan: Plan) -> int:
        """Return how many gates run. Raises RefusedError where it must not be done now."""
        formats = await upgrade.written(self._reader, self._topic(plan.before), range(plan.before.shards))
        if any(number is not None and number < FORMAT for number in formats.values()):
            raise ReshardRefusedError(
                f"the state is written in a format before {FORMAT}, so gates may run that do not know of generations",
                hint="`gate upgrade finish` first",
            )
        members = await upgrade.members(self._cluster, self._group)
        if old := [member.shown for member in members if not member.generation]:
            raise ReshardRefusedError(
                f"gates run that do not know of generations: {'; '.join(old)}",
                hint="start them with the new version, or stop them",
            )
        if members and self._settings.delivery is Delivery.AT_LEAST_ONCE:
            raise ReshardRefusedError(
                f"{len(members)} gates run; with `delivery: at_least_once` nothing fences them off",
                hint="stop them, then try again",
            )
        for group in plan.after.groups.values():
            if group is not None and self._policy.group(group) is None:
                raise ReshardRefusedError(
                    f"the policy file has no group {group}", hint="write it into `groups`, in all gates' files"
                )
        return len(members)

    # -- doing -----------------------------------------------------------------------------------------------------

    async def run(self, plan: Plan, say: Callable[[str], None]) -> Layout:
        """Do it. Returns what was moved."""
        before, after = plan.before, plan.after
        spec = self._cluster.state_spec(self._topic(after), after.shards)
        await self._cluster.ensure(spec)
        writer = self._session(f"{self._group}-reshard", Partition(self._topic(after), 0))
        telling = asyncio.create_task(self._keep_telling(after), name="telling")
        try:
            await writer.fence()  # who else does it can't flip any more
            if await find(self._reader, self._names, await self._cluster.partitions()) == after:
                return await self.look(plan)  # the other one had done it
            moved = {service: after.groups[service] for service in plan.moves}
            await self._close_all(
                before, after, ClosedGeneration(after.number, after.shards, moved, time.time_ns() // 1_000_000)
            )
            reach("reshard-closed")
            say(f"the {before.shards} shards of generation {before.number} are closed; gates wait")
            layout = await self._laid_out(plan, await self._shards(before, closed=True))
            await self._copy(writer, layout)
            say(f"{sum(map(len, layout.records)):,} records of {len(layout.services):,} services are copied")
            self.stands = f"gates wait, or go on with generation {after.number} already"
            await self._flip(writer, layout)
            self.is_closing, self.stands = False, f"generation {after.number} is in force, and gates start anew"
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            await writer.discard()
        reach("reshard-flipped")
        self._copied = self._of = 0  # earlier gates know the plain form alone
        await self.tell(after)
        return layout

    async def abort(self, moving: Moving) -> None:
        """Take back what was begun: open the closed shards again."""
        writer = self._session(f"{self._group}-reshard", Partition(self._topic(moving.before), 0))
        try:
            await writer.fence()
            now = await self.standing()
            self.is_closing, self.stands = True, f"some shards of generation {moving.before.number} are still closed"
            if not isinstance(now, Moving):
                raise ReshardRefusedError(
                    f"generation {now.number} is in force meanwhile; there is nothing to take back"
                )
            for shard in reversed(range(moving.before.shards)):  # the first one last: it says that there is a move
                await self._describe(moving.before, shard, None)
        finally:
            await writer.discard()
        await self.tell(moving.before)

    async def follow(self, generation: int, gates: int) -> list[str]:
        """Wait until as many gates run with it as ran before; return those that still run with another one."""
        end = time.monotonic() + FOLLOW_DEADLINE
        while True:
            found = await upgrade.members(self._cluster, self._group)
            late = [member.shown for member in found if member.generation != generation]
            if (not late and len(found) >= gates) or time.monotonic() > end:
                return late
            await asyncio.sleep(BACKOFF)

    # -- steps -----------------------------------------------------------------------------------------------------

    async def _close_all(self, before: Generation, after: Generation, closed: ClosedGeneration) -> None:
        await self.tell(after)  # that owners are fenced off is meant so
        self.is_closing, self.stands = True, f"shards of generation {before.number} are closed, and gates wait"
        await self._describe(before, 0, closed)  # gates that start wait from here on
        place = Partition(self._topic(before), 0)
        async with self._reading(place):  # it may lag, and who is told looks at once
            while read_meta(await newest(self._reader, place, META_KEY), before.shards).closed is None:  # noqa: ASYNC110
                await asyncio.sleep(BACKOFF)
        await self.tell(after)  # those that run do not take back what is fenced off, as soon as they hear it
        reach("reshard-closing")
        limit = asyncio.Semaphore(AT_ONCE)

        async def close(shard: int) -> None:
            async with limit:
                await self._describe(before, shard, closed)

        await asyncio.gather(*(close(shard) for shard in range(1, before.shards)))

    async def _describe(self, generation: Generation, shard: int, closed: ClosedGeneration | None) -> None:
        """Fence the owner of a shard off, and say in its description that it is closed, or open again."""
        place = Partition(self._topic(generation), shard)
        end = time.monotonic() + CLOSE_DEADLINE
        while True:
            barrier = Barrier(self._reader, place)
            session = self._owning(generation, shard, barrier)
            try:
                await session.fence()
                async with self._reading(place):
                    kept = await newest(self._reader, place, META_KEY, await barrier.offset())
                    meta = read_meta(kept, generation.shards)
                if meta.closed is None or closed is None:
                    session.begin()
                    written = encode_meta(msgspec.structs.replace(meta, closed=closed))
                    await session.produce({place: [Outgoing(META_KEY.encode(), written, None, [])]})
                    await session.commit()
            except (KafkaError, OSError, TimeoutError):
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(BACKOFF)  # its owner was quicker
            else:
                return
            finally:
                await session.discard()

    async def _shards(self, generation: Generation, *, closed: bool = False) -> Shards:
        limit = asyncio.Semaphore(AT_ONCE)

        async def read(shard: int) -> Mapping[str, bytes]:
            async with limit:
                return await self._records(generation, shard, closed=closed)

        records = await asyncio.gather(*(read(shard) for shard in range(generation.shards)))
        metas = [read_meta(kept.get(META_KEY), generation.shards) for kept in records]
        return Shards(generation, records, metas)

    async def _records(self, generation: Generation, shard: int, *, closed: bool = False) -> Mapping[str, bytes]:
        """Read a shard; if it is `closed`, up to where it was: what is read as committed may lag behind an answer."""
        place = Partition(self._topic(generation), shard)
        async with self._reading(place):
            while True:
                records = await read_all(self._reader, place)
                if not closed or read_meta(records.get(META_KEY), generation.shards).closed is not None:
                    return records
                await asyncio.sleep(BACKOFF)

    async def _laid_out(self, plan: Plan, shards: Shards) -> Layout:
        there = await self._cluster.partitions()
        requests = [Partition(t, n) for t, count in there.items() if self._names.service_of(t) for n in range(count)]
        marks = await self._cluster.marks(self._group, requests)
        return lay_out(shards, plan.after, self._policy, self._names, marks, plan.moves)

    async def _copy(self, writer: KafkaSession, layout: Layout) -> None:
        """Write what is not there yet, and delete what an earlier attempt has left."""
        generation = layout.generation
        there = [await self._records(generation, shard) for shard in range(generation.shards)]
        self._of = sum(map(len, layout.records))
        for number, part in enumerate(parts_of(there, layout.records)):
            await self._write(writer, generation, part)
            self._copied = min(self._of, self._copied + sum(map(len, part.values())))
            if not number:
                reach("reshard-copying")
        for shard, wanted in enumerate(layout.records):
            async with self._reading(Partition(self._topic(generation), shard)):
                while await self._records(generation, shard) != wanted:  # noqa: ASYNC110 - what is read may lag
                    await asyncio.sleep(BACKOFF)

    async def _flip(self, writer: KafkaSession, layout: Layout) -> None:
        await self._write(writer, layout.generation, dict(enumerate(layout.flip)), "in-flip")

    async def _write(
        self,
        writer: KafkaSession,
        generation: Generation,
        part: Mapping[int, Mapping[str, bytes | None]],
        point: str = "",
    ) -> None:
        topic = self._topic(generation)
        writer.begin()
        await writer.produce({
            Partition(topic, shard): [Outgoing(key.encode(), value, None, []) for key, value in records.items()]
            for shard, records in part.items()
        })  # fmt: skip
        reach(point)
        await writer.commit()

    async def _keep_telling(self, generation: Generation) -> None:
        """Tell every few seconds how far it is: gates that hear nothing for some time take the move for given up."""
        while True:
            await asyncio.sleep(TELL_EVERY)
            try:
                await self.tell(generation)
            except (KafkaError, OSError, TimeoutError):  # the next time; who moves the state does not fail for that
                continue

    async def tell(self, generation: Generation) -> None:
        """Have gates look which generation is in force."""
        value = control.encode(control.NewGeneration(generation.number, self._copied, self._of))
        producer = AIOKafkaProducer(**self._options, enable_idempotence=True)
        async with running(producer), within(CALL_DEADLINE, f"writing to {self._names.control}"):
            await producer.send_and_wait(
                self._names.control, value, control.GENERATION_KEY.encode(), partition=0,
                headers=[(control.BY, control.OPERATOR)],
            )  # fmt: skip

    # -- connections -----------------------------------------------------------------------------------------------

    def _reading(self, place: Partition) -> AbstractAsyncContextManager[None]:
        return within(READ_DEADLINE, f"reading {place.topic}-{place.number}", [self._reader])

    def _topic(self, generation: Generation) -> str:
        return replace(self._names, generation=generation.number).state

    def _owning(self, generation: Generation, shard: int, barrier: Barrier) -> KafkaSession:
        """Return a session like that of a shard's owner, which fences that one off; a `barrier` of its changelog."""
        atomic = self._settings.delivery is Delivery.EXACTLY_ONCE
        policy = self._policy.placed(generation.groups)
        names = replace(self._names, generation=generation.number)
        place = Partition(names.state, shard)

        async def look_behind(producer: ProducerIdentity) -> Torn | None:
            async with self._reading(place):
                requests, places = places_of(
                    shard, names, generation.shards, policy.shard_key, await self._cluster.partitions()
                )
                return await look(
                    self._reader,
                    places,
                    producer,
                    lambda: self._cluster.marks(self._group, requests),
                    generation.shards,
                    await barrier.offset(),
                )

        identity = transactional_id(self._group, shard, generation.number) if atomic else None
        return self._session(identity, place, look_behind)

    def _session(self, identity: str | None, state: Partition, look_behind: LookBehind | None = None) -> KafkaSession:
        async def nothing(_: Sequence[Partition]) -> RecoveredState:
            return RecoveredState({}, {})

        async def no_offsets(_: Mapping[Partition, int]) -> None:
            return None

        return KafkaSession(
            identity, self._group, state, nothing, no_offsets,
            deadline=CALL_DEADLINE, look_behind=look_behind, **self._options,
        )  # fmt: skip
