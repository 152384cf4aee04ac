"""The broker's side of the gate's topics: which are there, and making those that are missing."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple

import stamina
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.errors import CoordinatorLoadInProgressError, KafkaError
from aiokafka.structs import TopicPartition

from gate.errors import GateError, reason_of
from gate.kafka.aio.client import adopt
from gate.kafka.aio.compat.shared import ConfigResource, ConfigResourceType
from gate.kafka.aio.connection import tell
from gate.kafka.aio.described import describe
from gate.kafka.aio.pending_requests import within
from gate.kafka.coalesced_call import CoalescedCall
from gate.kafka.topic_creation import Creator, TopicSpec
from gate.log import get_logger
from gate.protocol.control import RETENTION_MS
from gate.protocol.topics import Names
from gate.shard.records import CommittedOffset, Partition

DEADLINE: Final = 15.0
OLD_RETRIES: Final = ".retries"  # with which the group ends in which workers of earlier versions read them
# what waits must not expire
FOREVER: Final = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
# what is said anew each second
SOON_GONE: Final = {"cleanup.policy": "delete", "retention.ms": "600000"}
SMALL: Final = {"segment.ms": "600000"}
# little to read for who takes over, or asks for the first time: of the newest segment nothing is compacted
OFTEN_COMPACTED: Final = {"segment.ms": "600000", "min.cleanable.dirty.ratio": "0.1"}
GRANTS: Final = 8  # partitions: each holder reads one, with all that is said there to others
HISTORY: Final = 32  # partitions: who asks about one service reads one
A_DAY: Final = {"cleanup.policy": "delete", "retention.ms": "90000000"}
STAMP_ROOM: Final = 64 << 10  # what stamps may add to a record of the largest size

log = get_logger("gate.cluster")


class Copied(NamedTuple):
    """A partition: how many copies it has, and how many are in sync."""

    number: int
    copies: int
    in_sync: int


class Cluster:
    """An admin client with deadlines."""

    def __init__(self, names: Names, *, create: bool, replication_factor: int, **client_options: Any) -> None:
        self._names = names
        self._create = create
        self._partitions = CoalescedCall(self._ask_partitions)
        self._admin = AIOKafkaAdminClient(request_timeout_ms=int(DEADLINE * 1000), **client_options)
        self._client = adopt(self._admin)
        self._creator = Creator(self._client, replication_factor, self.broker_configs)

    def _within(self, what: str) -> AbstractAsyncContextManager[None]:
        return within(DEADLINE, what, [self._client])

    async def start(self) -> None:
        """Connect. Raises KafkaError if no broker answers."""
        await self._admin.start()

    async def close(self) -> None:
        """Disconnect."""
        await self._admin.close()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError  # aiokafka's close swallows it, and Ctrl-C would go unheard

    async def partitions(self) -> Mapping[str, int]:
        """Return all topics and their numbers of partitions."""
        return await self._partitions()

    async def _ask_partitions(self) -> Mapping[str, int]:
        topics = await self._settled("asking for all topics", self._admin.describe_topics)
        return {t["topic"]: len(t["partitions"]) for t in topics if not t["error_code"]}

    async def offsets(self, group: str, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Return the committed offsets of a group; a partition without one is left out."""
        return {partition: mark.offset for partition, mark in (await self.marks(group, partitions)).items()}

    async def marks(self, group: str, partitions: Sequence[Partition]) -> dict[Partition, CommittedOffset]:
        """Return the same with what the gate has noted at the commit."""
        if not partitions:
            return {}
        wanted = [TopicPartition(*partition) for partition in partitions]

        async def ask() -> Any:
            found = await self._admin.list_consumer_group_offsets(group, partitions=wanted)
            if len(found) < len(wanted):
                # aiokafka passes over the error of a whole answer, such as a coordinator that loads. To take that for
                # "nothing is committed" would be to decide about every request again.
                raise CoordinatorLoadInProgressError(group)
            return found

        found = await self._settled(f"asking how far group {group} is", ask)
        return {
            Partition(tp.topic, tp.partition): CommittedOffset(
                at.offset, int(at.metadata) if at.metadata.isdecimal() else 0
            )
            for tp, at in found.items()
            if at.offset >= 0
        }

    def enter(self, names: Names) -> None:
        """Take another generation of the state for the one that counts."""
        self._names = names

    async def members(self, group: str) -> int:
        """Return how many members a group has."""
        answers = await self._settled("asking who is in a group", lambda: self._admin.describe_consumer_groups([group]))
        return sum(len(described[5]) for answer in answers for described in answer.groups)

    async def describe(self, group: str) -> list[tuple[str, str, bytes]]:
        """Return each member of a group: its id, its host, and what it told when it joined."""
        answers = await self._settled("asking who is in a group", lambda: self._admin.describe_consumer_groups([group]))
        found = [member for answer in answers for described in answer.groups for member in described[5]]
        return [(member, host, metadata) for member, _client, host, metadata, *_ in found]

    async def layout(self, topics: Collection[str] = ()) -> dict[str, list[Copied]]:
        """Return where each partition is, by topic: of `topics`, if any are given, as far as they are there."""
        async with self._within("asking where copies are"):
            found = await self._admin.describe_topics()
        return {
            t["topic"]: [Copied(p["partition"], len(p["replicas"]), len(p["isr"])) for p in t["partitions"]]
            for t in found
            if not t["error_code"] and (t["topic"] in topics or not topics)
        }

    async def brokers(self) -> int:
        """Return how many brokers there are now."""
        async with self._within("counting brokers"):
            return len((await describe(self._client)).brokers)

    async def configs(self, *topics: str, names: Collection[str] = ()) -> dict[str, dict[str, str]]:
        """Return the configuration of topics, of `names` alone if any are given. Empty where it may not be read."""
        wanted = dict.fromkeys(names, "") or None
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic, wanted) for topic in topics]
        answers = await self._settled("asking for settings of topics", lambda: self._admin.describe_configs(resources))
        return {
            resource[3]: {entry[0]: entry[1] for entry in resource[4]}
            for answer in answers
            for resource in answer.resources
        }

    async def prepare(self, services: Collection[str]) -> None:
        """Create or widen the output topics of services. Raises GateError as `ensure` does."""
        there = await self.partitions()
        lacking = {}
        for service in services:
            partitions = there.get(self._names.requests(service))
            specs = self._service_specs(service, partitions or 0, None)
            if partitions and any(there.get(spec.name, 0) < partitions for spec in specs):
                lacking[service] = partitions
        if not lacking:
            return
        sizes = await self.configs(*map(self._names.requests, lacking))
        wanted = []
        for service, partitions in lacking.items():
            size = sizes.get(self._names.requests(service), {}).get("max.message.bytes")
            wanted += self._service_specs(service, partitions, int(size) if size else None)
        await self.ensure(*wanted)

    async def widen(self, service: str, partitions: int) -> int:
        """Create a service's retries topic, or widen it; return how many partitions it has.

        Raises GateError as `ensure` does; where only partitions are lacking and may not be added, there are fewer.
        """
        names, there = self._names, await self.partitions()
        has = there.get(names.retries(service), 0)
        if has >= partitions or (has and not self._create):
            return has
        sizes = await self.configs(names.requests(service), names=("max.message.bytes",))
        size = sizes.get(names.requests(service), {}).get("max.message.bytes")
        most = {"max.message.bytes": str(int(size) + STAMP_ROOM)} if size else {}
        await self.ensure(TopicSpec(names.retries(service), partitions, most | FOREVER))
        return partitions

    async def handed_over(self, partitions: Sequence[Partition]) -> dict[Partition, CommittedOffset]:
        """Return how far workers of earlier versions, which submitted retries themselves, had come in partitions.

        Each of their groups read all of them, so the one that had come furthest tells.
        """
        async with self._within("asking for groups"):
            groups = [group for group, *_ in await self._admin.list_consumer_groups() if group.endswith(OLD_RETRIES)]
        found: dict[Partition, CommittedOffset] = {}
        for group in groups:
            for partition, offset in (await self.offsets(group, partitions)).items():
                if partition not in found or found[partition].offset < offset:
                    found[partition] = CommittedOffset(offset)
        return found

    async def broker_configs(self) -> dict[str, str]:
        """Return the settings of a broker. Empty where they may not be read."""
        node = ConfigResource(ConfigResourceType.BROKER, str((await describe(self._client)).brokers[0]))
        try:
            answers = await self._admin.describe_configs([node])
        except KafkaError as error:  # some providers do not know the request
            log.debug("a broker does not tell its settings", why=repr(error))
            return {}
        return {entry[0]: entry[1] for answer in answers for resource in answer.resources for entry in resource[4]}

    async def ensure(self, *specs: TopicSpec) -> None:
        """Create what is missing, and add partitions where there are too few.

        Raises GateError that lists the commands if topics are missing and the gate may not create them.
        """
        there = await self.partitions()
        missing = [spec for spec in specs if spec.name not in there]
        small = [spec for spec in specs if there.get(spec.name, spec.partitions) < spec.partitions]
        if (missing or small) and not self._create:
            commands = [spec.command() for spec in missing] + [
                f"kafka-topics.sh --alter --topic {spec.name} --partitions {spec.partitions}" for spec in small
            ]
            names = ", ".join(spec.name for spec in (*missing, *small))
            raise GateError(
                f"topics are missing or have too few partitions, and `create_topics` is false: {names}",
                hint="create them:\n" + "\n".join(commands),
            )
        async with self._within("making topics"):
            if missing:
                await self._creator.create(missing)
            for spec in small:
                await self._admin.create_partitions({spec.name: NewPartitions(spec.partitions)})

    def _service_specs(self, service: str, partitions: int, max_message: int | None) -> list[TopicSpec]:
        """Return the output topics of a service; a stamped record may be larger than the request was."""
        size = {} if max_message is None else {"max.message.bytes": str(max_message + STAMP_ROOM)}
        names = self._names
        return [
            TopicSpec(names.admitted(service), partitions, size),
            TopicSpec(names.delayed(service), partitions, size | FOREVER),
            TopicSpec(names.rejected(service), partitions, size),
            TopicSpec(names.feedback(service), partitions, {"message.timestamp.type": "LogAppendTime"}),
        ]

    def common_specs(self, shards: int) -> list[TopicSpec]:
        """Return the topics that all services share."""
        names = self._names
        compact = {"cleanup.policy": "compact"}
        kept = {"cleanup.policy": "delete", "retention.ms": str(RETENTION_MS)}
        own_time = {"message.timestamp.type": "LogAppendTime"}  # whatever the clock of the gate that writes
        return [
            TopicSpec(names.alerts, 1, own_time),
            TopicSpec(names.usage, 1, compact | own_time, OFTEN_COMPACTED | {"segment.bytes": str(16 << 20)}),
            TopicSpec(names.control, 1, kept | own_time),
            TopicSpec(names.answers, 1, kept | own_time),
            TopicSpec(names.audit, 1, FOREVER | own_time),
            TopicSpec(names.leases, shards, SOON_GONE, SMALL),
            TopicSpec(names.grants, GRANTS, SOON_GONE, SMALL),
            TopicSpec(names.policies, 1, compact | own_time),
            TopicSpec(names.history, HISTORY, A_DAY | own_time, {"segment.ms": "3600000"}),
            self.state_spec(names.state, shards),
        ]  # fmt: skip

    @staticmethod
    def state_spec(topic: str, shards: int) -> TopicSpec:
        """Return a topic for a generation of the state."""
        return TopicSpec(
            topic, shards,
            {
                "cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime",
                "max.message.bytes": str(4 << 20),
            },
            OFTEN_COMPACTED,
        )  # fmt: skip

    async def _settled(self, what: str, call: Callable[[], Awaitable[Any]]) -> Any:
        """Return what a call answers, trying again while brokers are away, or the group's coordinator moves."""

        def again(error: BaseException) -> bool:
            if not (isinstance(error, KafkaError) and error.retriable):
                return False
            tell(f"{what} is tried again", reason_of(error))
            return True

        async with self._within(what):
            async for attempt in stamina.retry_context(
                on=again, attempts=None, timeout=DEADLINE, wait_initial=0.1, wait_max=1.0
            ):
                with attempt:
                    return await call()
        raise AssertionError  # the loop returns or raises
