"""The writer of batches: outputs, state, reports and offsets, all of it or nothing where that can be had."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Final

import msgspec

from gate.admission.model import Pull
from gate.shard.changelog_records import LEAVING_KEY, META_KEY, Meta, encode_meta, read_leaving
from gate.shard.clock import BrokerClock
from gate.shard.environment import Environment
from gate.shard.failpoints import reach
from gate.shard.ports import Session
from gate.shard.records import CommittedOffset, Outgoing, Partition, Raw, Record
from gate.shard.routing import Batch
from gate.shard.state import ServiceBatch, ShardState
from gate.units import MS

CLOCK_ERROR: Final = 4 * MS  # good enough to decide by
CLOCK_POOR: Final = 20 * MS  # to be narrowed if that can be had
CLOCK_TRIES: Final = 5

Outputs = Mapping[Partition, Sequence[Outgoing | Raw]]
Reports = Sequence[tuple[Partition, Outgoing]]


class BatchWriter:
    """Writes the batches of one owner, for as long as its session is good. Tells the clock what the broker stamps."""

    def __init__(self, shard: int, session: Session, clock: BrokerClock, environment: Environment) -> None:
        self._shard = shard
        self._session = session
        self._clock = clock
        self._env = environment
        self._changelog = Partition(environment.names.state, shard)
        self.prepared = 0  # local time at which the last batch was ready to be committed, or written if not atomic

    @property
    def settling(self) -> float:
        """See `ports.Session`."""
        return self._session.settling

    @property
    def spent(self) -> str | None:
        """See `ports.Session`."""
        return self._session.spent

    async def is_settled(self) -> bool:
        """See `ports.Session`."""
        return await self._session.is_settled()

    async def claim(self, meta: Meta, outdated: Iterable[str] = ()) -> Meta:
        """Write how the changelog is to be read, in a transaction of its own, and delete the keys that are `outdated`.

        Its timestamp tells the broker's time before any decision; where the answer was slow, a second write is asked.
        Returns what it says now.
        """
        self._session.begin()
        changes: dict[str, bytes | None] = dict.fromkeys(outdated)
        error = inf
        for _ in range(CLOCK_TRIES):
            await self._write_state({}, {**changes, META_KEY: encode_meta(meta)}, [], {})
            before, error = error, self._clock.error
            if not meta.since:  # positions are kept from now on, at the earliest that can be
                since = self._env.local() + self._clock.offset - self._clock.error
                meta = msgspec.structs.replace(meta, since=since // MS * MS)
            elif error <= CLOCK_ERROR or (error <= CLOCK_POOR and error > before / 2):
                break  # good enough, or hardly to be had better now
        await self._session.commit()
        return meta

    async def correct(self, state: ShardState, partitions: Iterable[Partition]) -> None:
        """Commit the offsets that a broker has lost, or committed by themselves.

        A session that is spent leaves it to the next one.
        """
        marks = state.positions.wrong(partitions, state.decided_until)
        if marks and self._session.atomic and self._session.spent is None:
            self._session.begin()
            await self._write_state({}, {META_KEY: state.meta(state.decided_until)}, [], marks)
            await self._session.commit()

    async def write(self, state: ShardState, batch: Batch, turns: Sequence[ServiceBatch]) -> bool:
        """Commit a batch, no sooner than the time it was decided by.

        Returns False where nothing came of it, and nothing was written.
        """
        session = self._session
        if not session.atomic:
            self.prepared = self._env.local()
            await self._reach(batch.now)
        outputs: dict[Partition, Sequence[Outgoing | Raw]] = dict(batch.outputs)
        session.compress(state.codecs(turns))
        session.scatter(state.scheduled(turns))
        parks = any(turn.parked for turn in turns)
        if parks:  # the state says where they are, so they must be there first
            session.begin()
            first = outputs if session.atomic else state.delayed(turns, outputs)
            written = await session.produce(first)
            state.parked(turns, {partition: answer.offsets for partition, answer in written.items()})
            outputs = {partition: records for partition, records in outputs.items() if partition not in first}
            reach("after-produce")
        changes = state.changes(turns) | state.mesh.changes(batch.now)
        if session.atomic:
            changes |= state.noted(turns)
        ends_alerts = state.ends_alerts
        reports = self._reports(state, batch.now, turns)
        marks = state.marks(turns, batch.now if session.atomic else 0)
        if session.atomic:
            marks |= state.feedback.marks(batch.now // MS)
        told = state.told()
        if not (parks or outputs or changes or reports or marks or told or state.unwritten):
            await self._reach(batch.now)
            return False
        if not parks:
            session.begin()
        changes[META_KEY] = state.meta(batch.now)
        if session.atomic:
            await self._write_state(outputs, changes | told, reports, marks)
        else:
            await self._write_in_order(state.leaving(turns), outputs, changes, reports, told)
            await session.produce({}, marks)
        reach("before-commit")
        if ends_alerts:
            reach("alerts-ended")
        if session.atomic:
            self.prepared = self._env.local()
        await self._reach(batch.now)
        reach("in-commit")
        if ends_alerts:
            reach("in-alerts-commit")
        await session.commit()
        return True

    async def _reach(self, moment: int) -> None:
        """Wait until the clock shows `moment`, which is a few ms ahead at most."""
        while (ahead := moment - self._clock.now(self._env.local())) > 0:  # noqa: ASYNC110 - a timer may fire early
            await asyncio.sleep(ahead / 1e9)

    async def finish_leaving(self, state: ShardState, noted: bytes | None, now: int) -> None:
        """Decide anew about what an earlier owner had taken off the delayed topic; some of it may be out already."""
        if noted is None:
            return
        batch = Batch(now)
        taken: dict[str, list[tuple[Pull, Sequence[Record]]]] = {}
        for service, pull in read_leaving(noted):
            partition = Partition(self._env.names.delayed(service), pull.partition)
            records = await self._env.source.read(partition, range(pull.offset, pull.offset + pull.count))
            taken.setdefault(service, []).append((pull, records))
        turns = [state.reconsider(service, pulls, batch.now) for service, pulls in taken.items()]
        for turn in turns:
            state.route(turn, batch)
        await self.write(state, batch, turns)

    async def _write_in_order(
        self,
        leaving: bytes | None,
        outputs: Outputs,
        changes: Mapping[str, bytes | None],
        reports: Reports,
        told: Mapping[str, bytes | None],
    ) -> None:
        """Write without a transaction: state before what it admits, so that nothing is admitted that is not counted.

        What leaves the delayed topic is noted until it is out, for the next owner to finish. What workers told counts
        as heard when all is out that follows from it.
        """
        note = {LEAVING_KEY: leaving} if leaving else {}
        await self._write_state({}, {**changes, **note}, [], {})
        reach("after-state")
        together = _together(outputs, reports)
        if together:
            await self._session.produce(together)
        after = {**told, **({LEAVING_KEY: None} if leaving else {})}
        if after:
            records = [Outgoing(key.encode(), value, None, []) for key, value in after.items()]
            await self._session.produce({self._changelog: records})

    async def _write_state(
        self,
        outputs: Outputs,
        changes: Mapping[str, bytes | None],
        reports: Reports,
        marks: Mapping[Partition, CommittedOffset],
    ) -> None:
        """Write state, and whatever else is left of a batch. The broker's timestamp of the state tells its time."""
        records = [Outgoing(key.encode(), value, None, []) for key, value in changes.items()]
        together = _together({**outputs, self._changelog: records}, reports)
        sent = self._env.local()
        reach("in-produce")
        written = await self._session.produce(together, marks)
        received = self._env.local()
        self._clock.observe(sent, received, written[self._changelog].timestamp)
        skew = self._env.wall() - received - self._clock.offset
        self._env.observer.clock(skew / 1e9, self._clock.error / 1e9)

    def _reports(self, state: ShardState, now: int, turns: Sequence[ServiceBatch]) -> Reports:
        """Return alerts, and the usage that is to be published."""
        alerts, usage = Partition(self._env.names.alerts, 0), Partition(self._env.names.usage, 0)
        observer = self._env.observer
        reports = [(alerts, observer.encode_event(event)) for event in state.events(turns)]
        for service, (let_go, refused) in state.mesh.pop_alone(now).items():
            reports.append((alerts, observer.encode_away(service, let_go, refused, now)))
        reports += [(alerts, end) for end in state.pop_ends()]
        reports += state.commands.reports() + state.live.reports()
        reports += [(usage, observer.usage(current, self._shard)) for current in state.usages(turns, now)]
        # by the broker's time: it refuses records from a clock that is an hour ahead of its own
        return [(partition, record._replace(timestamp=now // MS)) for partition, record in reports]


def _together(outputs: Outputs, reports: Reports) -> Outputs:
    if not reports:
        return outputs
    told: dict[Partition, list[Outgoing | Raw]] = {}
    for partition, record in reports:
        told.setdefault(partition, []).append(record)
    return {**outputs, **told}  # no request goes where these do
