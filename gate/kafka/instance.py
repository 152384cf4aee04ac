"""One running gate: a member of the group, the shards that it owns, and what they share."""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Final

import structlog
from aiokafka.errors import KafkaError

from gate.errors import GateError
from gate.kafka.access import access
from gate.kafka.aio.client import Client
from gate.kafka.aio.pending_requests import within
from gate.kafka.aio.reader import Reader
from gate.kafka.aio.session import check_compression
from gate.kafka.alert_producer import Notices
from gate.kafka.alert_watch import AlertWatch
from gate.kafka.cluster import GRANTS, HISTORY, Cluster
from gate.kafka.command_door import CommandDoor
from gate.kafka.feedback import Feedback
from gate.kafka.foreign_topics import ForeignTopics
from gate.kafka.generation_watch import GenerationWatch
from gate.kafka.generations import FIRST, Generation, MovingError, in_force
from gate.kafka.health import Health, health_of
from gate.kafka.history import HistoryWriter
from gate.kafka.lost_requests import Losses
from gate.kafka.membership import Membership, Owned, state_lost
from gate.kafka.memory import keep_small
from gate.kafka.open_transactions import Transactions
from gate.kafka.parked_since import Lowest, ParkedSince
from gate.kafka.reporting import Reporter
from gate.kafka.request_search import RequestSearch
from gate.kafka.reset import reset
from gate.kafka.retention_sweeper import Sweeper
from gate.kafka.session_factory import RESTORE_DEADLINE, Sessions
from gate.kafka.source import KafkaSource
from gate.kafka.start_checks import check_shards, check_topics, last_shards
from gate.kafka.undecided_requests import Watch, options
from gate.kafka.upgrade import members
from gate.mesh.terms import DEFAULT
from gate.policy import Policy, Settings
from gate.protocol.topics import Names, Templates
from gate.shard.buffer import MemoryPool
from gate.shard.owner import Shard
from gate.shard.placement import shard_of
from gate.shard.ports import Session, UnavailableError
from gate.shard.records import CommittedOffset, Fetched, Partition
from gate.shard.topic_limits import CONFIGS, TopicLimits
from gate.units import MS, SECOND

CALL_DEADLINE: Final = 10.0
DRAIN_DEADLINE: Final = 5.0
POLLERS: Final = 2
POOL_BYTES: Final = 16 << 20
MOVE_SILENT: Final = 30.0  # seconds after which whoever moves the state is taken to be gone
LEAST_BYTES: Final = 256 << 10
LARGE_BATCHES: Final = 3  # at once; more only wait for the same processor
SEARCHES: Final = 2
SEARCHED_MS: Final = 86_400_000  # back, for a producer's id
RESET_POLL: Final = 0.2
LEASE_BEYOND: Final = 3.0  # seconds by which a lease outlasts a session: an owner's death does not stop processes

log = structlog.get_logger("gate")


class Gate:
    """Runs one instance from `start` to `stop`; several share the work through the group."""

    def __init__(
        self,
        policy: Policy,
        settings: Settings,
        observer: Reporter,
        *,
        reset_state: bool = False,
        **client_options: Any,
    ) -> None:
        self.names = Names(settings.prefix, Templates(**settings.topics.model_dump()))
        self.settings = settings
        self.shards = settings.shards
        self.grants = GRANTS
        self.lease_ns = max(DEFAULT.lease_ns, int((settings.session_timeout + LEASE_BEYOND) * SECOND))
        self.observer = observer
        self.pool = MemoryPool(POOL_BYTES, LEAST_BYTES)
        self.large = asyncio.Semaphore(LARGE_BATCHES)
        self.limits = TopicLimits(self.topic_configs)
        self._reset_state = reset_state
        self._policy = policy
        self._groups: Mapping[str, str | None] = {}  # into which services were put by command
        self.superseded = asyncio.Event()  # another generation of the state is in force: start anew
        self._placed = ""  # the version of the policy of which was told that commands have placed services elsewhere
        self._options: dict[str, Any] = {**access(settings.bootstrap), **client_options}
        self._owned: dict[int, Shard] = {}
        self._taken: set[int] = set()  # shards that were taken over, or could not be
        self._assigned: asyncio.Queue[Owned] = asyncio.Queue()
        self._searches = asyncio.Semaphore(SEARCHES)
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self.source: KafkaSource
        self.hearing: KafkaSource
        self.feedback: Feedback
        self._reading: Client
        self._single: Reader
        self._cluster: Cluster
        self._generations: GenerationWatch
        self._foreign: ForeignTopics
        self._membership: Membership
        self._notices: Notices
        self._sessions: Sessions

    # -- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, check what is there, and join the group. Raises KafkaError or GateError."""
        settings, stack = self.settings, self._stack
        check_compression(settings.compression)
        readers = [Reader(await self._client(f"{settings.group_id}-poll-{i}")) for i in range(POLLERS)]
        self._reading = await self._client(f"{settings.group_id}-read")
        self._single = Reader(self._reading)
        self._cluster = Cluster(
            self.names, create=settings.create_topics, replication_factor=settings.replication_factor, **self._options
        )
        stack.push_async_callback(self._cluster.close)
        await self._cluster.start()
        self._enter(await in_force(self._single, self.names, await self._cluster.partitions(), self.shards))
        self._generations = GenerationWatch(self._reading, self.names, self._cluster.partitions, self.superseded)
        await check_topics(self._cluster, self.names, self.shards, settings.group_id, reset=self._reset_state)
        self.grants = (await self._cluster.partitions()).get(self.names.grants, GRANTS)
        async with within(RESTORE_DEADLINE, f"reading {self.names.usage}", [self._reading]):
            last = await last_shards(self._single, self.names)
        check_shards(last, self._policy, self.shards)
        self._notices = Notices(self.names.alerts, **self._options)
        stack.push_async_callback(self._notices.close)
        self.observer.notify = self._notices.send
        history = HistoryWriter(
            self.names.history, (await self._cluster.partitions()).get(self.names.history, HISTORY), self.observer.name,
            **self._options,
        )  # fmt: skip
        stack.push_async_callback(history.close)
        self.observer.history = history
        history.start()
        self.source = KafkaSource(readers, self._single, self.doubt, self._deleted)
        stack.push_async_callback(self.source.close)
        told = Reader(await self._client(f"{settings.group_id}-feedback"))
        self.hearing = KafkaSource([told], self._single, lambda: None)
        stack.push_async_callback(self.hearing.close)
        self.feedback = Feedback(
            Reader(await self._client(f"{settings.group_id}-control")),
            self._cluster,
            self.names.control,
            lambda: [watched for shard in self._owned.values() for watched in shard.watched()],
            self._heed,
        )
        stack.push_async_callback(self.feedback.stop)
        await self.feedback.start()
        self._foreign = ForeignTopics(self._single, self._cluster)
        self._membership = Membership(
            self.names, settings.group_id, self.shards, self.policy_shard_key,
            session_timeout=settings.session_timeout, discovery_interval=settings.discovery_interval,
            on_revoked=self._pause_all, on_assigned=self._assigned.put_nowait, name=self.observer.name, **self._options,
        )  # fmt: skip
        stack.push_async_callback(self._membership.stop)
        self._sessions = Sessions(
            self.names, settings, self.shards, self.policy_shard_key, self._reading, self._single, self._cluster,
            self.committed, self._membership.commit, self.limits,
        )  # fmt: skip
        if self._reset_state:
            # a gate that was killed is a member until its session ends
            patience = time.monotonic() + settings.session_timeout + CALL_DEADLINE
            while (  # noqa: ASYNC110 - the broker tells nobody
                others := await self._cluster.members(settings.group_id)
            ) and time.monotonic() < patience:
                await asyncio.sleep(RESET_POLL)
            if others:
                raise GateError(f"the state can't be reset while {others} gates run", hint="stop them first")
            await reset(self.names.state, self.shards, self.new_session)
        await self._membership.start()
        watching = await self._client(f"{settings.group_id}-watch")
        looker = Reader(watching)
        watch = Watch(
            looker, self.committed,
            lambda: [owned for shard in self._owned.values() for owned in shard.owned()],
            self.observer, options(settings.bootstrap, settings.prefix), Transactions(watching).name,
        )  # fmt: skip
        losses = Losses(
            looker,
            lambda: [parking for shard in self._owned.values() if (parking := shard.parking()) is not None],
            self._emptied,
        )
        parked = ParkedSince(
            looker, self.names,
            lambda: [Lowest(shard.number, shard.lowest()) for shard in self._owned.values()],
            self.observer,
        )  # fmt: skip
        sweeper = Sweeper(
            looker,
            lambda: [shard for shard in self._owned.values() if shard.ready],
            lambda service: self._policy.effective(service).keep_released,
            self.confirm,
        )
        alerts = AlertWatch(
            looker, self.names.alerts, self._owned.values, self.shards, self.observer, self._members, self.wall,
            settings.prefix,
        )  # fmt: skip
        self._tasks = [
            asyncio.create_task(self._follow_assignments(), name="assignments"),
            asyncio.create_task(self._generations.run(), name="generations"),
            asyncio.create_task(keep_small(), name="memory"),
            asyncio.create_task(watch.run(self.wall, self._publish), name="undecided"),
            asyncio.create_task(losses.run(), name="losses"),
            asyncio.create_task(parked.run(self._tell_soon), name="parked"),
            asyncio.create_task(sweeper.run(self.local), name="sweeper"),
            asyncio.create_task(alerts.run(), name="alerts"),
        ]

    async def stop(self) -> None:
        """Let batches under way commit, leave the group, disconnect."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(shard.stop(DRAIN_DEADLINE) for shard in self._owned.values()))
        self._owned.clear()
        await self._stack.aclose()

    def _enter(self, generation: Generation) -> None:
        """Run with the generation of the state that is in force, whatever the policy file says of shards and groups."""
        self._groups = generation.groups
        policy = self.placed(self._policy)
        if generation.number > FIRST:
            if generation.shards != self.settings.shards:
                log.warning(
                    "another number of shards is in force than the policy file or --shards says; change it there",
                    in_force=generation.shards, said=self.settings.shards, generation=generation.number,
                )  # fmt: skip
            self.shards = generation.shards
            self.names = replace(self.names, generation=generation.number)
            self.observer.generation = generation.number
            self._cluster.enter(self.names)
        self._policy = policy

    def placed(self, policy: Policy) -> Policy:
        """Return a policy with services in the groups into which `gate reshard --move` has put them."""
        result = policy.placed(self._groups)
        first, self._placed = self._placed != policy.version, policy.version
        for service, group in self._groups.items() if first and result is not policy else ():
            if (said := policy.effective(service).group) != group:
                log.warning(
                    "the policy file puts a service into another group than `gate reshard --move`, which counts; change"
                    " it there",
                    service=service, in_force=group, said=said, file=policy.name,
                )  # fmt: skip
        return result

    def closed(self) -> None:
        """Look whether another generation of the state is in force; a shard of this one is closed."""
        self._generations.look()

    def resharding(self) -> str | None:
        """Return how far `gate reshard` has come that moves the state; None: nobody does, or nobody does any more."""
        moving, told = self._generations.moving, self.feedback.move
        if told is None or told.generation <= self.names.generation:
            return None
        if time.monotonic() - self.feedback.move_heard > MOVE_SILENT:
            return None
        if moving is None:
            return f"resharding to generation {told.generation} begins; gates go on by themselves"
        return moving.told(told.copied, told.of)

    def give_way(self) -> None:
        """Raise MovingError while the state is being moved: a take-over would fence off who moves it."""
        if self._generations.moving is not None:
            raise MovingError(self._generations.moving)

    async def _client(self, client_id: str) -> Client:
        timeout = int(CALL_DEADLINE * 1000)  # or an answer that never comes is waited for for 40 s
        client = Client(client_id=client_id, request_timeout_ms=timeout, **self._options)
        self._stack.push_async_callback(client.close)
        await client.bootstrap()
        return client

    def check_policy(self, policy: Policy) -> None:
        """Raise GateError if the gate can't go over to `policy` while it runs."""
        policy = policy.placed(self._groups)
        before = {service: self._policy.shard_key(service) for service in self._membership.services()}
        check_shards({s: shard_of(key, self.shards) for s, key in before.items()}, policy, self.shards)

    # -- ownership -------------------------------------------------------------------------------------------------

    async def _pause_all(self) -> None:
        for shard in self._owned.values():
            shard.pause()
        await asyncio.gather(*(shard.idle() for shard in self._owned.values()))

    async def _follow_assignments(self) -> None:
        while True:
            owned = await self._assigned.get()
            self.observer.metrics.rebalanced()
            while not self._assigned.empty():
                owned = self._assigned.get_nowait()
            lost = [number for number in self._owned if number not in owned]
            await asyncio.gather(*(self._owned[number].stop(DRAIN_DEADLINE) for number in lost))
            for number in lost:  # not sooner: `stop` may come amid this, and must know of them
                del self._owned[number]
                self.observer.given_up(number)
            for number, services in sorted(owned.items(), key=lambda item: -len(item[1])):  # who waits goes first
                if number not in self._owned:
                    self._owned[number] = Shard(number, self._policy, self)
                    self.observer.taken(number)
                self._owned[number].start(services)

    def _heed(self) -> None:
        if self.feedback.generation > self.names.generation:
            self._generations.look()
        for shard in self._owned.values():
            shard.heed()

    def _emptied(self, shard: int, begins: Mapping[Partition, int]) -> None:
        if shard in self._owned:
            self._owned[shard].emptied(begins)

    def _publish(self, services: Mapping[int, Mapping[str, int]]) -> None:
        for number, some in services.items():
            if number in self._owned:
                self._owned[number].publish(some)

    async def _members(self) -> set[str] | None:
        """Return how the gates that run call themselves; None: one does not tell, as it is too old."""
        names = {member.name for member in await members(self._cluster, self.settings.group_id)}
        return None if "" in names else names

    def _tell_soon(self, services: Mapping[int, Sequence[str]]) -> None:
        for number, some in services.items():
            if number in self._owned:
                self._owned[number].tell_soon(some)

    def _deleted(self, partition: Partition, offsets: int) -> None:
        service = self.names.service_of(partition.topic)
        if service is not None:
            self.observer.metrics.deleted(service, offsets)

    def doubt(self) -> None:
        """Look behind what was committed, as a broker was away."""
        for shard in self._owned.values():
            shard.doubt()

    def set_policy(self, policy: Policy) -> None:
        """Decide by `policy` from now on."""
        self._policy = policy = self.placed(policy)
        for shard in self._owned.values():
            shard.set_policy(policy)

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy

    def refuse_policy(self, path: str, error: str) -> None:
        """Say that a changed policy file is broken, and that the old policy stays."""
        self.observer.policy_refused(path, self._policy.version, error)

    def policy_shard_key(self, service: str) -> str:
        """Return what decides on which shard a service is."""
        return self._policy.shard_key(service)

    def health(self) -> Health:
        """Return what keeps the gate from deciding anything at all, or some of it, by subject."""
        if self._membership.rebalances == 0:
            return Health({"group": "has not been joined yet"})
        if self._membership.state_lost:
            return Health({"state": str(state_lost(self.names.state))})
        found = health_of({number: shard for number, shard in self._owned.items() if not shard.stopping}, self._taken)
        if found.faults and (moves := self.resharding()) is not None:
            return Health({}, {"all shards": moves})  # it was asked for, and no other gate would decide either
        return found

    async def find(self, request: str, service: str | None, *, result: bool = False) -> Mapping[str, Any]:
        """Return where a request stands, by its id or its producer's, over a connection of its own; its `result`, too.

        Few are looked for at a time, as each costs some reads. Raises UnknownRequestError, or another GateError.
        """
        since_ms = max(0, self.wall() // MS - SEARCHED_MS)
        async with (
            self._searches,
            RequestSearch.connected(self.names, self.settings.group_id, **self._options) as search,
        ):
            if result:
                return await search.answer(request, service, since_ms)
            return (await search.find(request, service, since_ms)).to_json()

    @property
    def door(self) -> CommandDoor:
        """Where commands that come by HTTP go in."""
        return CommandDoor(self.names, self._cluster, self._single, self._options)

    # -- `shard.Environment` ---------------------------------------------------------------------------------------

    def new_session(self, shard: int) -> Session:
        """Return a fresh session for a shard."""
        return self._sessions.make(shard, CALL_DEADLINE, **self._options)

    def local(self) -> int:
        """Return a monotonic time, ns."""
        return time.monotonic_ns()

    def wall(self) -> int:
        """Return this host's unix time, ns."""
        return time.time_ns()

    async def confirm(self, shard: int) -> None:
        """Prove ownership to the coordinator."""
        await self._membership.confirm(shard)

    async def committed(self, partitions: Sequence[Partition]) -> Mapping[Partition, CommittedOffset]:
        """Return the group's committed offsets."""
        return await self._cluster.marks(self.settings.group_id, partitions)

    async def topic_configs(self, topics: Collection[str]) -> Mapping[str, Mapping[str, str]]:
        """Return what the broker tells of what topics take."""
        return await self._cluster.configs(*topics, names=CONFIGS)

    async def prepare(self, services: Collection[str]) -> None:
        """Make sure that the services' output topics are there."""
        await self._cluster.prepare(services)

    async def retries(self, services: Collection[str]) -> Mapping[str, int]:
        """Return how many partitions the services' retries topics have."""
        there = await self._cluster.partitions()
        return {s: count for s in services if (count := there.get(self.names.retries(s), 0))}

    async def widen(self, service: str, partitions: int) -> int:
        """See to it that a retries topic has so many partitions."""
        try:
            count = await self._cluster.widen(service, partitions)
            await self.limits.refresh([self.names.retries(service)])
        except KafkaError as error:
            raise UnavailableError(str(error) or type(error).__name__) from error
        return count

    async def extents(self, topic: str, since_ms: int) -> dict[int, tuple[int, int]]:
        """See `shard.Environment`."""
        return await self._foreign.extents(topic, since_ms)

    async def scan(self, partition: Partition, offset: int) -> Fetched:
        """See `shard.Environment`."""
        return await self._foreign.scan(partition, offset)

    async def handed_over(self, partitions: Sequence[Partition]) -> Mapping[Partition, CommittedOffset]:
        """Return where to begin in retries topics: where this group was, else where earlier workers had come."""
        known = await self.committed(partitions)
        if unknown := [partition for partition in partitions if partition not in known]:
            known = {**known, **await self._cluster.handed_over(unknown)}
        return known
