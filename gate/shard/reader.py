"""What a shard reads: requests as they come, into its inbox, and parked ones when they leave."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import structlog

from gate.shard.blame import Blame
from gate.shard.buffer import MOST_WEIGHT, Inbox, Wake, weight_of
from gate.shard.environment import Environment
from gate.shard.forwarding import STAMP_BYTES, Forwarding, Judge, Weigh
from gate.shard.listening import Listener
from gate.shard.ports import MOST_READ, PulledTooMuchError
from gate.shard.records import Partition, Record
from gate.shard.returns import due
from gate.shard.routing import Taken, Topics, source_number
from gate.shard.shares import Shares
from gate.shard.state import Desk, Turn
from gate.units import MS

Judges = dict[int, Judge]  # by `Piece.source`

BATCH_RECORDS: Final = 4_000
STAMP_ROOM: Final = 1 << 10  # what a stamp may add
INBOX_BYTES: Final = 4 << 20
LARGE_BYTES: Final = 64 << 10
RETRIES_AT_ONCE: Final = 256  # of a partition: they come in the order in which they are due
KEPT: Final = 2_000  # ms; what is due later is let go, and read again then

log = structlog.get_logger("gate.intake")


class Intake:
    """Reads for one owner of a shard, from its take-over until `close`.

    `services` are to be read (name -> partitions of the request topic); `follow` takes in what has changed of them.
    """

    def __init__(self, environment: Environment, wake: Wake, services: Mapping[str, int]) -> None:
        self.services = services
        self.claimed: set[Partition] = set()  # whose committed offsets came with the claim
        self._env = environment
        self._largest: dict[Partition, int] = {}  # bytes that no record of what was taken last is larger than
        self.weigh: Weigh | None = None  # how large a record becomes where it is compressed
        self.inbox = Inbox(INBOX_BYTES, environment.pool, wake)
        self.listener = Listener(environment, wake)
        self._resting: dict[
            Partition, tuple[int, int]
        ] = {}  # retries that wait: when the first is due (ms), its offset

    def close(self) -> None:
        """Read no more, and hold nothing."""
        self._env.source.unfollow(self.inbox)
        self.inbox.close()
        self.listener.close()

    @property
    def is_large(self) -> bool:
        """Tell whether what waits makes a batch that takes much memory."""
        return self.inbox.size > LARGE_BYTES and self.inbox.has_work()

    def partitions(self, service: str) -> list[Partition]:
        """Return the request partitions of a service."""
        topic = self._env.names.requests(service)
        return [Partition(topic, number) for number in range(self.services[service])]

    def waiting_rooms(self, service: str) -> list[Partition]:
        """Return the partitions of a service's retries topic."""
        topic = self._env.names.retries(service)
        return [Partition(topic, number) for number in range(self.listener.stages.get(service, 0))]

    def release(self, desk: Desk, service: str, now: int) -> None:
        """Read a service on that was held, and those of its retries that are due."""
        resting = desk.services[service].resting
        for number in [number for number, moment in resting.items() if moment <= now]:
            del resting[number]
        if service not in self.services:
            return
        retries = self.waiting_rooms(service)
        self.inbox.held.difference_update(self.partitions(service), retries)
        for partition in retries:
            if partition in self._resting and self._resting[partition][0] * MS <= now:
                _, offset = self._resting.pop(partition)
                self._env.source.follow(partition, offset, self.inbox)

    async def follow(self, desk: Desk, now: int) -> None:
        """Read the request partitions that are not read yet, and no longer those that are gone."""
        wanted = {partition for service in self.services for partition in self.partitions(service)}
        retries = {partition for service in self.services for partition in self.waiting_rooms(service)}
        for partition in self.inbox.followed - wanted - retries:
            self._env.source.drop(partition)
            self.inbox.drop(partition)
            self._resting.pop(partition, None)
            self.claimed.discard(partition)
            desk.positions.forget(partition)
        told = {Partition(self._env.names.feedback(s), p.number) for s in self.services for p in self.partitions(s)}
        self.listener.drop(self.listener.inbox.followed - told)
        new = {
            service: partitions
            for service in self.services
            # where no policy says what may pass and the gate fails closed, requests stay where they are
            if desk.governs(service)
            and (partitions := [p for p in self.partitions(service) if p not in self.inbox.followed])
        }
        if new:
            await self._env.prepare(new.keys())
            await self._env.limits.refresh(
                [topic for service in new for topic in Topics.of(self._env.names, service).outputs]
            )
            late = {p for partitions in new.values() for p in partitions} - self.claimed
            if late:  # the claim knows nothing of them
                desk.positions.learn(await self._env.committed(sorted(late)))
        for service, partitions in new.items():
            desk.serve(service, now)
            for partition in partitions:
                await self._check_position(desk, service, partition)
                self.inbox.followed.add(partition)
                self._env.source.follow(partition, desk.positions.start(service, partition), self.inbox)
        if new:
            self.listener.stages.update(await self._env.retries(new.keys()))
            await self._follow_feedback(desk, new)
        await self.follow_retries(desk, self.services)

    async def _follow_feedback(self, desk: Desk, new: Mapping[str, Sequence[Partition]]) -> None:
        names = self._env.names
        places = [Partition(names.feedback(service), p.number) for service, parts in new.items() for p in parts]
        if unknown := [place for place in places if desk.ledger.start(place) is None]:
            desk.ledger.begin(await self._env.committed(unknown))
        for place in places:
            self.listener.follow(place, desk.ledger.start(place))

    async def follow_retries(self, desk: Desk, services: Iterable[str]) -> None:
        """Read the partitions of retries topics that are not read yet: they come with the first job that fails."""
        new = [
            partition
            for service in services
            if service in desk.services
            for partition in self.waiting_rooms(service)
            if partition not in self.inbox.followed
        ]
        if not new:
            return
        if unknown := [partition for partition in new if desk.ledger.start(partition) is None]:
            desk.ledger.begin(await self._env.handed_over(unknown))
        for partition in new:
            self.inbox.followed.add(partition)
            self._env.source.follow(partition, desk.ledger.start(partition), self.inbox)

    async def _check_position(self, desk: Desk, service: str, partition: Partition) -> None:
        """Forget a position that belongs to a topic of the same name which is no more."""
        position = desk.positions.unmarked(service, partition)
        if position is None:
            return
        there = await self._env.source.read(partition, [position.last])
        if [record.timestamp for record in there] != [position.timestamp]:
            log.warning(
                "made anew, or emptied; reading from its beginning", partition=f"{partition.topic}-{partition.number}"
            )
            desk.positions.drop(service, partition)

    def take(self, desk: Desk, blame: Blame, now: int) -> tuple[dict[str, list[Taken]], dict[str, list[Taken]]]:
        """Take what waits in the inbox, up to the size of a batch: requests by service, and retries that are due."""
        taken: dict[str, list[Taken]] = {}
        retried: dict[str, list[Taken]] = {}
        self._largest.clear()
        shares = Shares(BATCH_RECORDS, MOST_WEIGHT, self._waiting())
        for service, partition, room, weight in shares:
            is_retry = self._env.names.service_of(partition.topic) is None
            where, most = (retried, RETRIES_AT_ONCE) if is_retry else (taken, room)
            served = desk.services[service]
            codec = self.inbox.codec(partition) or 0
            most = min(most, room, served.room or room, blame.rooms.get(partition, room))
            part = self.inbox.take(partition, most, weight)
            if part is None:
                continue
            shares.used(0, self.inbox.taken)
            self._largest[partition] = self.inbox.largest
            if where is retried:
                part = self._due(desk, partition, *part, now, codec)
                if part is None:
                    continue
            else:
                served.codec = codec
            records, end = part
            shares.used(len(records), 0)
            where.setdefault(service, []).append((partition.number, records, end))
        return taken, retried

    def _waiting(self) -> dict[str, list[tuple[int, Partition]]]:
        """Return how many bytes wait of each partition from which something may be taken, by service."""
        names, waiting = self._env.names, dict[str, list[tuple[int, Partition]]]()
        for partition in self.inbox.waiting:
            service = names.service_of(partition.topic) or names.service_of(partition.topic, "retries")
            if service is not None and self.inbox.may_go(partition):
                waiting.setdefault(service, []).append((self.inbox.bytes_of(partition), partition))
        return waiting

    def _due(
        self, desk: Desk, partition: Partition, records: list[Record], end: int, now: int, codec: int
    ) -> tuple[list[Record], int] | None:
        """Return those of some retries that are due, and let the others rest; None: none is."""
        service = self._env.names.service_of(partition.topic, "retries")
        assert service is not None  # or it would not be read here
        desk.services[service].resting.pop(partition.number, None)
        at = now // MS
        count = next((index for index, record in enumerate(records) if due(record) > at), len(records))
        if count == len(records):
            return records, end
        first = records[count]
        if due(first) - at <= KEPT:
            self.inbox.give_back(partition, records[count:], end, codec)
        else:
            self._env.source.drop(partition)
            self.inbox.clear(partition)
            self._resting[partition] = due(first), first.offset
        desk.rest(service, partition.number, due(first) * MS)
        return (records[:count], first.offset) if count else None

    async def judges(
        self, desk: Desk, taken: Mapping[str, Sequence[Taken]], retried: Mapping[str, Sequence[Taken]], blame: Blame
    ) -> dict[str, Judges]:
        """Return who judges, by service and source, whether requests can be forwarded, where that is to be asked."""
        limits = self._env.limits
        found: dict[str, Judges] = {}
        everything = [(service, parts, False) for service, parts in taken.items()]
        everything += [(service, parts, True) for service, parts in retried.items()]
        for service, parts, are_retries in everything:
            topics = desk.outputs(service)
            size = min((limit for topic in topics if (limit := limits.of(topic).size) is not None), default=None)
            compacted = any(limits.of(topic).compacted for topic in topics)
            for number, records, _ in parts:
                own = desk.services[service].topics
                partition = Partition(own.retries if are_retries else own.requests, number)
                sentences = blame.condemned.get(partition, {})
                heavy = size is not None and self._largest.get(partition, 0) + STAMP_ROOM > size
                if compacted:
                    heavy = heavy or any(record.key is None for record in records)
                if heavy:
                    await limits.refresh(topics)
                if heavy or sentences:
                    room = STAMP_BYTES + len(partition.topic) + len(service)
                    known, codec = {topic: limits.of(topic) for topic in topics}, desk.services[service].codec
                    judge = Forwarding(known, sentences, self.weigh, room, codec)
                    found.setdefault(service, {})[source_number(number, retried=are_retries)] = judge
        return found

    async def pull(self, turns: Sequence[Turn]) -> None:
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
