"""Bugs planted by patching, to show that the simulation finds them: each entry makes a context that has one."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any
from unittest import mock

import msgspec

from gate.admission.engine import Engine
from gate.admission.fair_scheduler import FairScheduler
from gate.admission.forecast.single_queue import SingleQueue
from gate.admission.limits.running_requests import RunningCounter
from gate.admission.model import EXPEDITED, Verdict
from gate.admission.queues.parked_places import ParkedPlaces
from gate.admission.queues.scheduled_places import Scheduled
from gate.admission.queues.selectable import SelectablePlaces
from gate.admission.queues.spans import BEGINNING
from gate.admission.recent_ids import RecentIds
from gate.kafka.delayed_reader import ParkedReader
from gate.limits import Limiter
from gate.limits.window_log import Ring
from gate.shard import duplicates, routing, take_over
from gate.shard.batch_writer import BatchWriter
from gate.shard.buffer import FetchBuffer
from gate.shard.operator_commands import OperatorCommand, OperatorCommands
from gate.shard.owner import Shard
from gate.shard.positions import Positions
from gate.shard.records import CommittedOffset, Outgoing, Partition, RecoveredState, Written
from gate.shard.routing import Batch
from gate.shard.state import ServiceBatch, ShardState
from gate.units import MS
from tests.sim import client
from tests.sim.client import SimSession
from tests.sim.log import PartitionLog
from tests.sim.scenario import START_MS

MUTANTS: dict[str, Callable[[], Any]] = {}
OF_COMMANDS: dict[str, Callable[[], Any]] = {}  # that only runs with many commands are certain to find


def _plant(
    owner: Any, name: str, found: dict[str, Callable[[], Any]] = MUTANTS
) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Register a bug: the decorated function takes the method and returns what stands in its place."""

    def register(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @contextmanager
        def planted() -> Iterator[None]:
            with mock.patch.object(owner, name, make(getattr(owner, name))):  # made anew: some remember
                yield

        found[make.__name__] = planted
        return make

    return register


@_plant(SimSession, "_produce")
def commit_before_flush(produce: Any) -> Any:
    """Nobody waits for the records to be written before the commit, or looks whether they were."""

    async def send(self: SimSession, outputs: Mapping[Partition, Sequence[Outgoing]]) -> Mapping[Partition, Written]:
        async def work() -> None:
            with suppress(Exception):
                await produce(self, outputs)

        self.unwatched = asyncio.create_task(work())
        ends = {partition: self._broker.log(partition).end for partition in outputs}
        return {
            partition: Written(range(ends[partition], ends[partition] + len(records)), self._broker.stamp(partition))
            for partition, records in outputs.items()
        }

    return send


@_plant(ShardState, "changes")
def limiters_not_written(changes: Any) -> Any:
    """The limiters' state stays in memory."""
    return lambda self, turns: {
        k: v for k, v in changes(self, turns).items() if not k.startswith(("service/", "group/"))
    }


@_plant(ShardState, "changes")
def parked_not_written(changes: Any) -> Any:
    """What is parked is known in memory only."""
    return lambda self, turns: {k: v for k, v in changes(self, turns).items() if not k.startswith("parked/")}


@_plant(ParkedPlaces, "drain_changes")
def deletions_forgotten(changes: Any) -> Any:
    """What has left the delayed topic comes back after a restore, and is released a second time."""
    return lambda self, *given: {key: value for key, value in changes(self, *given).items() if value is not None}


@_plant(ShardState, "changes")
def scheduled_not_written(changes: Any) -> Any:
    """What is scheduled is known in memory only."""
    return lambda self, turns: {k: v for k, v in changes(self, turns).items() if not k.startswith("scheduled/")}


@_plant(Scheduled, "take")
def scheduled_too_early(take: Any) -> Any:
    """What is scheduled goes when the first of all goes, with whatever comes in the next second."""
    return lambda self, now, most: take(self, now + 1_000, most)


@_plant(Scheduled, "low_watermark")
def scheduled_given_up(low_watermark: Any) -> Any:
    """What is scheduled may be deleted from the delayed topic."""
    return lambda self, partition: None


@_plant(Scheduled, "drain_changes")
def scheduled_comes_back(changes: Any) -> Any:
    """What came at its time comes once more after a restore."""
    return lambda self, *given: {key: value for key, value in changes(self, *given).items() if value is not None}


@_plant(ParkedPlaces, "_key")
def late_ones_in_one_record(key: Any) -> Any:
    """Segments of those who came to wait at their time overwrite each other."""
    return lambda self, segment: (
        key(self, segment).partition("late-")[0] + "late-1" if segment.late else key(self, segment)
    )


@_plant(ShardState, "changes")
def ids_not_written(changes: Any) -> Any:
    """Which ids have come is known in memory only."""
    return lambda self, turns: {k: v for k, v in changes(self, turns).items() if not k.startswith("seen/")}


@_plant(duplicates, "_STAYING")
def refused_ones_count(kept: Any) -> Any:
    """Who is rejected on arrival keeps others out."""
    return frozenset({*kept, Verdict.REJECTED})


@_plant(RecentIds, "find")
def ids_of_a_batch_only(find: Any) -> Any:
    """Only what is in one batch is told apart."""
    return lambda self, now, digests: {}


@_plant(Shard, "_batch")
def kept_after_failed_commit(batch: Any) -> Any:
    """After an error the shard goes on with session and state as they are in memory."""

    async def go_on(self: Shard, state: ShardState, writer: Any) -> bool:
        try:
            return bool(await batch(self, state, writer))
        except Exception:  # noqa: BLE001 - the bug
            return True

    return go_on


@_plant(SimSession, "_fence")
def no_fencing(fence: Any) -> Any:
    """Each session has a transactional id of its own, so nobody is fenced."""

    async def own(self: SimSession) -> None:
        self._name = f"{self._name}-{id(self)}"
        await fence(self)

    return own


@_plant(SimSession, "claim")
def read_before_fencing(claim: Any) -> Any:
    """State and offsets are read while the last owner can still commit."""

    async def early(self: SimSession, partitions: Sequence[Partition]) -> RecoveredState:
        found = await self._read(partitions)
        await self._fence()
        return found

    return early


@_plant(ShardState, "marks")
def offset_too_high(marks: Any) -> Any:
    """The committed offset skips a request."""
    return lambda self, turns, now: {
        p: CommittedOffset(o + ("requests" in p.topic), at) for p, (o, at) in marks(self, turns, now).items()
    }


@_plant(ShardState, "marks")
def offset_too_low(marks: Any) -> Any:
    """The committed offset is that of the last request instead of the next one."""
    return lambda self, turns, now: {
        p: CommittedOffset(o - ("requests" in p.topic), at) for p, (o, at) in marks(self, turns, now).items()
    }


@_plant(ShardState, "marks")
def watermark_too_high(marks: Any) -> Any:
    """The oldest parked request is already given up."""
    return lambda self, turns, now: {
        p: CommittedOffset(o + ("delayed" in p.topic), at) for p, (o, at) in marks(self, turns, now).items()
    }


@_plant(Positions, "start")
def seek_forgotten(_start: Any) -> Any:
    """A new owner reads each partition from its beginning."""
    return lambda _self, _service, _partition: None


@_plant(SingleQueue, "book")
def plan_not_charged(book: Any) -> Any:
    """Everybody who waits is promised the time of the first."""

    def promise(self: SingleQueue, count: int, *args: Any) -> Any:
        before = [limiter.copy() for limiter in self.limiters], self.at
        booked = book(self, count, *args)
        self.limiters, self.at = before
        return booked

    return promise


@_plant(Limiter, "charge")
def cost_ignored(charge: Any) -> Any:
    """A dear request takes as much as a cheap one."""
    return lambda self, now, units: charge(self, now, min(units, 1))


@_plant(Ring, "point")
def compressed_downwards(point: Any) -> Any:
    """A window that is compressed takes requests for older than they are, by up to a cell."""
    return lambda self, now: self._edge(self._index(now) - 1)


@_plant(Shard, "_now")
def clock_of_the_member(now: Any) -> Any:
    """Decisions are made by the host's clock."""
    return lambda self: self._env.wall() // MS * MS


@_plant(take_over, "read_meta")
def earlier_than_the_last_owner(read_meta: Any) -> Any:
    """A new owner decides by a time before that of the last decision."""
    return lambda *args: msgspec.structs.replace(read_meta(*args), at=0)


@_plant(FetchBuffer, "give_back")
def held_skipped(give_back: Any) -> Any:
    """What is held is dropped."""
    return lambda self, partition, records, next_offset: None


@_plant(BatchWriter, "_reports")
def alerts_outside(reports: Any) -> Any:
    """Alerts are sent at once, whatever becomes of the batch."""

    def send(self: BatchWriter, *args: Any) -> Any:
        made = reports(self, *args)
        for partition, record in made:
            self._env.world.broker.send(partition, [record])  # type: ignore[attr-defined]
        return []

    return send


@_plant(PartitionLog, "newest")
def aborted_state_read(newest: Any) -> Any:
    """A restore takes what was never committed."""

    def all_of(self: PartitionLog) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for record in self.stored:
            if record.key is not None and record.value is not None:
                found[record.key.decode()] = record.value
            elif record.key is not None:
                found.pop(record.key.decode(), None)
        return found

    return all_of


@_plant(Limiter, "load")
def restored_full(load: Any) -> Any:
    """A restored limiter starts full."""
    return lambda spec, data: Limiter(spec, START_MS * MS)


@_plant(routing, "restamp")
def header_lost(restamp: Any) -> Any:
    """A header that the gate does not know is not passed on."""
    return lambda headers, *args: [h for h in restamp(headers, *args) if h[0] != "traceparent"]


@_plant(routing, "origin")
def created_lost(origin: Any) -> Any:
    """What was parked loses its producer's timestamp on release."""
    return lambda headers: (found := origin(headers)) and found._replace(created=-1)


@_plant(SimSession, "commit")
def commit_not_sent(commit: Any) -> Any:
    """Batches run into one another; whatever comes next ends them."""

    async def sometimes(self: SimSession) -> None:
        self.commits = getattr(self, "commits", 0) + 1
        if self.commits % 3:
            await commit(self)

    return sometimes


@_plant(Shard, "_sleep")
def never_again(sleep: Any) -> Any:
    """A shard that has failed does not come back."""

    async def for_ever(self: Shard, seconds: float) -> None:
        await sleep(self, 1e6)

    return for_ever


@_plant(Positions, "learn")
def new_topic_from_its_beginning(learn: Any) -> Any:
    """A topic that the shard did not have when it was taken over is read from its beginning."""

    def anew(self: Positions, marks: Mapping[Partition, CommittedOffset]) -> None:
        for place in marks:
            self._known.get(self._names.service_of(place.topic) or "", {}).pop(place.number, None)

    return anew


@_plant(ShardState, "route")
def parked_behind_fresh(route: Any) -> Any:
    """What was parked is written behind what arrived with its release."""

    def behind(self: ShardState, turn: ServiceBatch, batch: Batch) -> None:
        pulled, turn.pulled = turn.pulled, []
        route(self, turn, batch)
        for pull, records in pulled:
            batch.release(turn.served.topics, self._policy.version, pull, records)
            ends = turn.served.delayed_end
            ends[pull.partition] = max(ends.get(pull.partition, 0), pull.offset + pull.count)
        turn.pulled = pulled

    return behind


@_plant(client, "was_committed")
def half_done_always_aborted(was_committed: Any) -> Any:
    """What a broker has left half-done is aborted, also where a part of it was seen to be committed."""
    return lambda left, seen: False


@_plant(SimSession, "_mend")
def half_done_not_looked_for(mend: Any) -> Any:
    """A transaction that a broker has left half-done is ended by whatever comes next."""

    async def blind(self: SimSession) -> None:
        pass

    return blind


@_plant(ShardState, "noted")
def offsets_of_the_group_believed(noted: Any) -> Any:
    """Only the group's offsets tell how far requests are decided."""
    return lambda self, turns: {}


@_plant(Shard, "doubt")
def broker_never_doubted(doubt: Any) -> Any:
    """Who had a commit answered before a broker died goes on as if all of it could be seen."""
    return lambda self: None


@_plant(ParkedReader, "_find")
def empty_answer_believed(find: Any) -> Any:
    """What a leader has shown nothing of for a while is taken for gone, although it may be one that is new."""

    async def soon(self: Any, partition: Partition, offset: int) -> Any:
        for _ in range(3):
            if await self._load(partition, offset):
                return self._cached(partition, offset), None
            await asyncio.sleep(0.2)
        return None, None

    return soon


@_plant(RunningCounter, "done")
def done_counted_twice(done: Any) -> Any:
    """Whatever is told to be done makes room, also if it runs no more, or never did."""

    def count(self: RunningCounter, request: str) -> Any:
        ran, tenant = done(self, request)
        if not ran:
            self.used -= 1
        return True, tenant

    return count


@_plant(ShardState, "changes")
def running_not_written(changes: Any) -> Any:
    """What runs is known in memory only."""
    return lambda self, turns: {k: v for k, v in changes(self, turns).items() if not k.startswith("running/")}


@_plant(RunningCounter, "expires_at")
def given_up_too_early(expires_at: Any) -> Any:
    """A request is taken to be done before its time is over."""
    return lambda self: None if (at := expires_at(self)) is None else at - 30 * 1000 * MS


@contextmanager
def new_leaders_believed() -> Iterator[None]:
    """Whoever takes over reads the state as far as a leader that is new shows it."""

    def newest(self: PartitionLog) -> dict[str, bytes]:
        found = {(record.key or b"").decode(): record.value for record in self.committed(0, self.high)}
        return {key: value for key, value in found.items() if value is not None}

    with (
        mock.patch.object(PartitionLog, "known_end", lambda self: self.high),
        mock.patch.object(PartitionLog, "newest", newest),
    ):
        yield


MUTANTS["new_leaders_believed"] = new_leaders_believed


@_plant(OperatorCommands, "changes", OF_COMMANDS)
def commands_not_written(_changes: Any) -> Any:
    """A command is known in memory only: the next owner does not go on with it."""
    return lambda self, *given: {}


@_plant(OperatorCommands, "_finish", OF_COMMANDS)
def command_forgotten_when_done(finish: Any) -> Any:
    """A command that is sent again is carried out again."""

    def forget(self: OperatorCommands, command: Any, *given: Any) -> None:
        finish(self, command, *given)
        self._known.pop((command.service, command.id))

    return forget


@_plant(SelectablePlaces, "select", OF_COMMANDS)
def set_not_frozen(select: Any) -> Any:
    """What comes while a command is under way is meant, too."""
    return lambda self, cursor, end, *given: select(self, cursor, 1 << 60, *given)


@_plant(SelectablePlaces, "_cuts", OF_COMMANDS)
def cut_one_too_many(cuts: Any) -> Any:
    """Behind what is meant goes one more."""
    return lambda self, spans: cuts(self, [replace(span, count=span.count + 1) for span in spans])


@_plant(Engine, "shift", OF_COMMANDS)
def moved_pay_twice(shift: Any) -> Any:
    """Who is put into another lane pays for it, and once more when its turn comes."""

    def pay(self: Engine, now: int, *given: Any) -> int:
        shifted: int = shift(self, now, *given)
        self.state.limits.charge(now, shifted, 1)
        return shifted

    return pay


@_plant(Engine, "shift", OF_COMMANDS)
def moved_are_lost(shift: Any) -> Any:
    """Who is put into another lane is left out of both."""

    def lose(self: Engine, now: int, spans: Any, lane: str) -> int:
        self.lose(now, spans)
        return len(spans)

    return lose


@_plant(FairScheduler, "serve", OF_COMMANDS)
def expedited_go_over(serve: Any) -> Any:
    """Who is let go first does not ask the limits."""

    def go(self: FairScheduler, now: int, limits: Any, room: int, pulls: Any) -> Any:
        while room and (queue := self.head()) is not None and queue.lane.name == EXPEDITED and queue.requests:
            count, cost = self._parked.head(queue)
            count = min(count, room)
            room -= count
            self.tally.requests += count
            self.tally.units += count * cost
            self._served.add(queue)
            self._pull(queue, count, cost, pulls, None)
        return serve(self, now, limits, room, pulls)

    return go


@_plant(OperatorCommand, "set", OF_COMMANDS)
def redrive_from_its_beginning(set_: Any) -> Any:
    """How far a redrive has come is known in memory only: whoever takes it over puts all of it back once more."""

    def keep(self: OperatorCommand, **changes: Any) -> None:
        set_(self, **({**changes, "place": BEGINNING} if "redrive" in changes else changes))

    return keep


@_plant(OperatorCommands, "put_back", OF_COMMANDS)
def put_back_by_halves(put_back: Any) -> Any:
    """Of what a batch puts back the last one is left out, and yet counted."""
    return lambda self, *given: put_back(self, *given)[:-1]
