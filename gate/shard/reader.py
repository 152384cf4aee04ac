"""The reader of a shard: requests as they come, into its buffer, and parked ones when they leave."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import structlog

from gate.shard.batch_shares import BatchShares
from gate.shard.buffer import MOST_WEIGHT, FetchBuffer, Wake, weight_of
from gate.shard.environment import Environment
from gate.shard.failed_jobs import waits_until
from gate.shard.feedback_listener import FeedbackListener
from gate.shard.forwarding import STAMP_BYTES, Forwarding, Judge, Weigh
from gate.shard.ports import MOST_READ, PulledTooMuchError
from gate.shard.records import Partition, Record
from gate.shard.redrives import SourceRequest
from gate.shard.refusal_history import RefusalHistory
from gate.shard.routing import TakenRecords, Topics, source_number
from gate.shard.source_reader import SourceReader
from gate.shard.state import ServiceBatch, ShardState
from gate.units import MS

Judges = dict[int, Judge]  # by `Piece.source`

BATCH_RECORDS: Final = 4_000
STAMP_ROOM: Final = 1 << 10  # what a stamp may add
BUFFER_BYTES: Final = 4 << 20
REPORT_BYTES: Final = 1 << 20
REPORTS: Final = 1_000  # that are taken at a time
REPORTED_AT_ONCE: Final = 64 << 10  # bytes of these: whoever floods the topic must not hold up the shard's requests
LARGE_BYTES: Final = 64 << 10
RETRIES_AT_ONCE: Final = 256  # of a partition where they wait: they come in the order in which they are due
PATIENCE: Final = 1_000 * MS  # before it is seen whether a service takes again what is put back
KEPT: Final = 2_000  # ms; what is due later is let go, and read again then

log = structlog.get_logger("gate.reader")


class ShardReader:
    """Reads for one owner of a shard, from its take-over until `close`.

    `services` are to be read (name -> partitions of the request topic); `follow` takes in what has changed of them.
    """

    def __init__(self, environment: Environment, wake: Wake, services: Mapping[str, int]) -> None:
        self.services = services
        self.claimed: set[Partition] = set()  # whose committed offsets came with the claim
        self._env = environment
        self._largest: dict[Partition, int] = {}  # bytes that no record of what was taken last is larger than
        self.weigh: Weigh | None = None  # how large a record becomes where it is compressed
        self.buffer = FetchBuffer(BUFFER_BYTES, environment.pool, wake)
        self.listener = FeedbackListener(environment, wake)
        self.sources = SourceReader(environment)
        self._wake = wake
        self.reports = FetchBuffer(REPORT_BYTES, environment.pool, wake)  # of processes that share limits
        self._resting: dict[
            Partition, tuple[int, int]
        ] = {}  # retries that wait: when the first is due (ms), its offset

    def close(self) -> None:
        """Read no more, and hold nothing."""
        self._env.source.unfollow(self.buffer)
        self.buffer.close()
        self.listener.close()
        self.sources.close()
        self._env.hearing.unfollow(self.reports)
        self.reports.close()

    @property
    def is_large(self) -> bool:
        """Tell whether what waits makes a batch that takes much memory."""
        return self.buffer.size > LARGE_BYTES and self.buffer.has_work()

    def partitions(self, service: str) -> list[Partition]:
        """Return the request partitions of a service."""
        topic = self._env.names.requests(service)
        return [Partition(topic, number) for number in range(self.services[service])]

    def waiting_rooms(self, service: str) -> list[Partition]:
        """Return the partitions of a service's retries topic."""
        topic = self._env.names.retries(service)
        return [Partition(topic, number) for number in range(self.listener.stages.get(service, 0))]

    def release(self, state: ShardState, service: str, now: int) -> None:
        """Read a service on that was held, and those of its retries that are due."""
        resting = state.services[service].resting
        for number in [number for number, moment in resting.items() if moment <= now]:
            del resting[number]
        if service not in self.services:
            return
        retries = self.waiting_rooms(service)
        self.buffer.held.difference_update(self.partitions(service), retries)
        for partition in retries:
            if partition in self._resting and self._resting[partition][0] * MS <= now:
                _, offset = self._resting.pop(partition)
                self._env.source.follow(partition, offset, self.buffer)

    async def follow(self, state: ShardState, now: int) -> None:
        """Read the request partitions that are not read yet, and no longer those that are gone."""
        self.listener.scheduled = state.schedules
        wanted = {partition for service in self.services for partition in self.partitions(service)}
        retries = {partition for service in self.services for partition in self.waiting_rooms(service)}
        for partition in self.buffer.followed - wanted - retries:
            self._env.source.drop(partition)
            self.buffer.drop(partition)
            self._resting.pop(partition, None)
            self.claimed.discard(partition)
            state.positions.forget(partition)
        told = {Partition(self._env.names.feedback(s), p.number) for s in self.services for p in self.partitions(s)}
        self.listener.drop(self.listener.buffer.followed - told)
        new = {
            service: partitions
            for service in self.services
            # where no policy says what may pass and the gate fails closed, requests stay where they are
            if state.governs(service)
            and (partitions := [p for p in self.partitions(service) if p not in self.buffer.followed])
        }
        if new:
            await self._env.prepare(new.keys())
            await self._env.limits.refresh(
                [topic for service in new for topic in Topics.of(self._env.names, service).outputs]
            )
            late = {p for partitions in new.values() for p in partitions} - self.claimed
            if late:  # the claim knows nothing of them
                state.positions.learn(await self._env.committed(sorted(late)))
        for service, partitions in new.items():
            state.serve(service, now)
            for partition in partitions:
                await self._check_position(state, service, partition)
                self.buffer.followed.add(partition)
                self._env.source.follow(partition, state.positions.start(service, partition), self.buffer)
        if new:
            self.listener.stages.update(await self._env.retries(new.keys()))
            await self._follow_feedback(state, new)
        await self.follow_retries(state, self.services)

    async def _follow_feedback(self, state: ShardState, new: Mapping[str, Sequence[Partition]]) -> None:
        names = self._env.names
        places = [Partition(names.feedback(service), p.number) for service, parts in new.items() for p in parts]
        if unknown := [place for place in places if state.feedback.start(place) is None]:
            state.feedback.begin(await self._env.committed(unknown))
        for place in places:
            self.listener.follow(place, state.feedback.start(place))

    async def follow_retries(self, state: ShardState, services: Iterable[str]) -> None:
        """Read the partitions of retries topics that are not read yet: they come with the first job that fails."""
        new = [
            partition
            for service in services
            if service in state.services
            for partition in self.waiting_rooms(service)
            if partition not in self.buffer.followed
        ]
        if not new:
            return
        if unknown := [partition for partition in new if state.feedback.start(partition) is None]:
            state.feedback.begin(await self._env.handed_over(unknown))
        for partition in new:
            self.buffer.followed.add(partition)
            self._env.source.follow(partition, state.feedback.start(partition), self.buffer)

    async def _check_position(self, state: ShardState, service: str, partition: Partition) -> None:
        """Forget a position that belongs to a topic of the same name which is no more."""
        position = state.positions.unmarked(service, partition)
        if position is None:
            return
        there = await self._env.source.read(partition, [position.last])
        if [record.timestamp for record in there] != [position.timestamp]:
            log.warning(
                "made anew, or emptied; reading from its beginning", partition=f"{partition.topic}-{partition.number}"
            )
            state.positions.drop(service, partition)

    def follow_reports(self, state: ShardState, number: int) -> None:
        """Read what processes report to shard `number`, behind what was taken."""
        self._env.hearing.follow(Partition(self._env.names.leases, number), state.mesh.position, self.reports)

    def take_reports(self, number: int) -> tuple[list[Record], int | None]:
        """Take what processes reported, and the offset behind it; None: nothing."""
        partition = Partition(self._env.names.leases, number)
        taken = self.reports.take(partition, REPORTS)
        if taken is None:
            return [], None
        records, end = taken
        size = 0
        for count, record in enumerate(records, 1):
            size += len(record.value or b"")
            if size >= REPORTED_AT_ONCE and count < len(records):
                self.reports.give_back(partition, records[count:], end)
                self.reports.held.discard(partition)
                records, end = records[:count], records[count].offset
                break
        self._env.hearing.poke()
        return records, end

    def take(
        self, state: ShardState, refusals: RefusalHistory, now: int
    ) -> tuple[dict[str, list[TakenRecords]], dict[str, list[TakenRecords]]]:
        """Take what waits in the buffer, up to the size of a batch: requests by service, and retries that are due."""
        taken: dict[str, list[TakenRecords]] = {}
        retried: dict[str, list[TakenRecords]] = {}
        self._largest.clear()
        shares = BatchShares(BATCH_RECORDS, MOST_WEIGHT, self._waiting())
        for service, partition, room, weight in shares:
            is_retry = self._env.names.service_of(partition.topic) is None
            where, most = (retried, room) if is_retry else (taken, room)
            if is_retry and not state.schedules:
                most = min(most, RETRIES_AT_ONCE)
            served = state.services[service]
            codec = self.buffer.codec(partition) or 0
            most = min(most, room, served.room or room, refusals.rooms.get(partition, room))
            part = self.buffer.take(partition, most, weight)
            if part is None:
                continue
            shares.used(0, self.buffer.taken)
            self._largest[partition] = self.buffer.largest
            if is_retry and not state.schedules:
                part = self._due(state, partition, *part, now, codec)
                if part is None:
                    continue
            elif not is_retry:
                served.codec = codec
            records, end = part
            shares.used(len(records), 0)
            where.setdefault(service, []).append((partition.number, records, end))
        return taken, retried

    def _waiting(self) -> dict[str, list[tuple[int, Partition]]]:
        """Return how many bytes wait of each partition from which something may be taken, by service."""
        names, waiting = self._env.names, dict[str, list[tuple[int, Partition]]]()
        for partition in self.buffer.waiting:
            service = names.service_of(partition.topic) or names.service_of(partition.topic, "retries")
            if service is not None and self.buffer.may_go(partition):
                waiting.setdefault(service, []).append((self.buffer.bytes_of(partition), partition))
        return waiting

    def _due(
        self, state: ShardState, partition: Partition, records: list[Record], end: int, now: int, codec: int
    ) -> tuple[list[Record], int] | None:
        """Return those of some retries that are due, and let the others rest; None: none is."""
        service = self._env.names.service_of(partition.topic, "retries")
        assert service is not None  # or it would not be read here
        state.services[service].resting.pop(partition.number, None)
        at = now // MS
        count = next((index for index, record in enumerate(records) if waits_until(record) > at), len(records))
        if count == len(records):
            return records, end
        first, moment = records[count], waits_until(records[count])
        if moment - at <= KEPT:
            self.buffer.give_back(partition, records[count:], end, codec)
        else:
            self._env.source.drop(partition)
            self.buffer.clear(partition)
            self._resting[partition] = moment, first.offset
        state.rest(service, partition.number, moment * MS)
        return (records[:count], first.offset) if count else None

    async def judges(
        self,
        state: ShardState,
        taken: Mapping[str, Sequence[TakenRecords]],
        retried: Mapping[str, Sequence[TakenRecords]],
        refusals: RefusalHistory,
    ) -> dict[str, Judges]:
        """Return who judges, by service and source, whether requests can be forwarded, where that is to be asked."""
        limits = self._env.limits
        found: dict[str, Judges] = {}
        everything = [(service, parts, False) for service, parts in taken.items()]
        everything += [(service, parts, True) for service, parts in retried.items()]
        for service, parts, are_retries in everything:
            topics = state.outputs(service)
            size = min((limit for topic in topics if (limit := limits.of(topic).size) is not None), default=None)
            compacted = any(limits.of(topic).compacted for topic in topics)
            for number, records, _ in parts:
                own = state.services[service].topics
                partition = Partition(own.retries if are_retries else own.requests, number)
                rejections = refusals.condemned.get(partition, {})
                heavy = size is not None and self._largest.get(partition, 0) + STAMP_ROOM > size
                if compacted:
                    heavy = heavy or any(record.key is None for record in records)
                if heavy:
                    await limits.refresh(topics)
                if heavy or rejections:
                    room = STAMP_BYTES + len(partition.topic) + len(service)
                    known, codec = {topic: limits.of(topic) for topic in topics}, state.services[service].codec
                    judge = Forwarding(known, rejections, self.weigh, room, codec)
                    found.setdefault(service, {})[source_number(number, retried=are_retries)] = judge
        return found

    async def look(self, state: ShardState, pulls: Mapping[str, int], muted: Collection[str], now: int) -> None:
        """Read what commands must know of parked requests, in slices, of some services at most so many requests.

        What is to be put back into a service is read meanwhile, and not into those that are `muted`.
        """
        for service in [service for service in state.commands.services if service in state.services]:
            served = state.services[service]
            state.commands.awaited.discard(service)
            if (wanted_source := state.commands.to_scan(service)) is not None:
                if service in muted:
                    state.commands.awaited.add(service)
                    state.postpone(service, now + PATIENCE)
                else:
                    await self._scan(state, service, wanted_source, now)
                continue
            spans = state.commands.to_read(served.engine, min(served.pulls, pulls.get(service, served.pulls)))
            if not spans:
                continue
            wanted: dict[Partition, list[int]] = {}
            for span in spans:
                partition = Partition(served.topics.delayed, span.partition)
                wanted.setdefault(partition, []).extend(range(span.offset, span.end))
            there = {}
            for partition, offsets in wanted.items():
                try:
                    records = await self._env.source.read(partition, offsets)
                except PulledTooMuchError as error:
                    raise PulledTooMuchError([service], error.count) from None
                there[partition] = {record.offset: record for record in records}
            state.commands.was_read(served.engine, spans, there)

    async def _scan(self, state: ShardState, service: str, wanted: SourceRequest, now: int) -> None:
        """Hand over what was read of the source of a redrive, or begin to read it."""

        def ready() -> None:
            state.touch(service)
            self._wake()

        read = self.sources.take(service, wanted, ready)
        if read is None:
            state.commands.awaited.add(service)
            return
        if wanted.acts and service not in self.listener.stages:
            self.listener.stages.update(await self._env.retries([service]))
            await self.follow_retries(state, [service])
        state.commands.was_scanned(state.services[service].engine, read, now)

    async def read_parts(self, state: ShardState) -> None:
        """Read the next part of each import of limits that is under way."""
        control = Partition(self._env.names.control, 0)
        for service, offset in state.live.wanted():
            record = await self._env.source.look(control, offset)
            state.live.was_read(service, None if record is None else record.value)

    async def pull(self, turns: Sequence[ServiceBatch]) -> None:
        """Read what leaves the delayed topics, each partition in the order of its log: the plan's jumps to and fro."""
        wanted: dict[Partition, list[int]] = {}
        for turn in turns:
            for pull in turn.step.pulls:
                partition = Partition(turn.served.topics.delayed, pull.partition)
                wanted.setdefault(partition, []).extend(range(pull.offset, pull.offset + pull.count))
        services = [turn.served.name for turn in turns if turn.step.pulls]
        there: dict[Partition, dict[int, Record]] = {}
        size = 0
        for partition, offsets in wanted.items():
            try:
                records = await self._env.source.read(partition, sorted(offsets))
            except PulledTooMuchError as error:
                raise PulledTooMuchError(services, error.count) from None
            there[partition] = {record.offset: record for record in records}
            size += weight_of(records)
            if size > MOST_READ and sum(map(len, there.values())) > 1:
                raise PulledTooMuchError(services, len(records))
        for turn in turns:
            for pull in turn.step.pulls:
                found = there[partition := Partition(turn.served.topics.delayed, pull.partition)]
                span = range(pull.offset, pull.offset + pull.count)
                records = [found[offset] for offset in span if offset in found]
                if len(records) < pull.count:
                    log.error(
                        "parked requests are gone from the delayed topic (deleted, or expired); they can't be admitted",
                        topic=partition.topic, partition=partition.number, offset=pull.offset,
                        gone=pull.count - len(records),
                    )  # fmt: skip
                turn.pulled.append((pull, records))
