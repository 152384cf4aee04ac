"""Membership in the consumer group, which is used for nothing but who owns which shard.

The group's consumer reads nothing: shards read for themselves, from what is committed when they take over.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import CommitFailedError, InconsistentGroupProtocolError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from gate.errors import GateError
from gate.kafka.aio.client import adopt_member
from gate.kafka.aio.pending_requests import within
from gate.kafka.assignor import make_assignor
from gate.kafka.coalesced_call import CoalescedCall
from gate.protocol.topics import Names
from gate.shard.placement import shard_of
from gate.shard.records import Partition

CALL_DEADLINE: Final = 10.0
ATTEMPTS: Final = 2  # to join, before all is connected anew
HEARTBEAT_MS: Final = 100  # by its answer a member learns that another has left, and shards wait for it
REVOKE_DEADLINE: Final = 3.0  # no heartbeat is sent meanwhile
NEVER_EXPELLED_MS: Final = 2**31 - 1  # polls are not what shows that a shard lives: its supervisor is

log = structlog.get_logger("gate.membership")


def state_lost(topic: str) -> GateError:
    """Return the error that the state topic is gone."""
    return GateError(
        f"topic {topic} is gone, and with it how far limits are used and where parked requests wait",
        hint="restore it, or start once with `--state reset`: limits then start full, and what is parked stays in the"
        " delayed topics",
    )


Owned = Mapping[int, Mapping[str, int]]  # shard -> service -> partitions of its request topic


def owned_by(
    assigned: Iterable[tuple[str, int]], names: Names, shard_of_topic: Callable[[str], int | None]
) -> dict[int, dict[str, int]]:
    """Return what a member owns that is assigned these partitions (topic, number).

    A shard is owned with its partition of the state; services are known by their request topics, of which the assignor
    gives all partitions to the owner of their shard.
    """
    partitions = list(assigned)
    owned: dict[int, dict[str, int]] = {number: {} for topic, number in partitions if topic == names.state}
    for topic, number in partitions:
        service, shard = names.service_of(topic), shard_of_topic(topic)
        if service is not None and shard in owned:
            owned[shard][service] = max(owned[shard].get(service, 0), number + 1)
    return owned


class OtherGenerationError(GateError):
    """The group has members that run with another generation of the state, or are older than generations."""

    def __init__(self, group: str) -> None:
        super().__init__(
            f"group {group} has members that run with another generation of the state",
            hint="they start anew by themselves; stop those that do not, which are of an earlier version",
        )


class NotOwnedError(GateError):
    """A shard has another owner; this gate gives it up as soon as the group says so to it, too."""


class Membership(ConsumerRebalanceListener):  # type: ignore[misc]
    """A member of the gate's group. `owned` is what the last rebalance gave."""

    def __init__(
        self,
        names: Names,
        group: str,
        shards: int,
        shard_key: Callable[[str], str],
        *,
        session_timeout: float,
        discovery_interval: float,
        on_revoked: Callable[[], Awaitable[None]],
        on_assigned: Callable[[Owned], None],
        name: str = "",
        **client_options: Any,
    ) -> None:
        self._group = group
        self._names = names
        self._shards = shards
        self._shard_key = shard_key
        self._on_revoked = on_revoked
        self._on_assigned = on_assigned
        self._deadline = session_timeout + CALL_DEADLINE  # of a request: to join takes a whole rebalance
        self.owned: Owned = {}
        self.rebalances = 0
        self.state_lost = False
        self._prove = CoalescedCall(self._commit_owned)
        assignor = make_assignor(shards, names.state, self._shard_of_topic, lambda: self.owned, names.generation, name)
        self._consumer = AIOKafkaConsumer(
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="latest",  # never used: nothing is read
            partition_assignment_strategy=(assignor,),
            session_timeout_ms=int(session_timeout * 1000),
            heartbeat_interval_ms=min(HEARTBEAT_MS, int(session_timeout * 1000) // 5),
            rebalance_timeout_ms=int(session_timeout * 1000),
            max_poll_interval_ms=NEVER_EXPELLED_MS,
            request_timeout_ms=int(self._deadline * 1000),
            metadata_max_age_ms=int(discovery_interval * 1000),
            **client_options,
        )
        self._connections = adopt_member(self._consumer, session_timeout)

    def _shard_of_topic(self, topic: str) -> int | None:
        service = self._names.service_of(topic)
        return None if service is None else shard_of(self._shard_key(service), self._shards)

    async def start(self) -> None:
        """Join the group. Raises KafkaError if no broker answers, TimeoutError if the group lets nobody in."""
        requests = self._names.requests_pattern.removeprefix("^").removesuffix("$")
        state = self._names.state.replace(".", r"\.")
        self._consumer.subscribe(pattern=f"^({requests}|{state})$", listener=self)
        async with within(ATTEMPTS * self._deadline, "joining the group", [self._connections]):
            try:
                await self._consumer.start()
            except InconsistentGroupProtocolError:
                raise OtherGenerationError(self._group) from None

    async def stop(self) -> None:
        """Leave the group."""
        try:
            async with asyncio.timeout(CALL_DEADLINE):
                await self._consumer.stop()
        except TimeoutError:
            log.warning("the group did not take leave in time; it will notice after the session timeout")
        except asyncio.CancelledError:  # aiokafka's own, when the broker is gone
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        finally:
            await self._connections.end()  # aiokafka closes them last, so not at all where it is given up

    def services(self) -> set[str]:
        """Return all services that have a request topic, whoever owns them."""
        topics = self._consumer.subscription()
        return {service for topic in topics if (service := self._names.service_of(topic)) is not None}

    async def confirm(self, shard: int) -> None:
        """Return when the coordinator takes a commit for `shard` from this member. Raises NotOwnedError, or KafkaError.

        An offset commit carries member and generation: the one public call by which a member can prove itself.
        """
        if shard not in self.owned or shard not in await self._prove() & self.owned.keys():
            raise NotOwnedError(f"the group gave shard {shard} to another gate")

    async def _commit_owned(self) -> frozenset[int]:
        """Prove what is owned now, and return it."""
        nothing, owned = OffsetAndMetadata(0, ""), frozenset(self.owned)
        await self._commit(
            "proving to be a member of the group",
            {TopicPartition(self._names.state, shard): nothing for shard in owned},
        )
        return owned

    async def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Commit offsets as this member; raises if it is not one any more.

        Those of delayed topics, which only tell lag to others, are left out: a member commits what it is assigned.
        """
        mine = {
            TopicPartition(*partition): OffsetAndMetadata(offset, "")
            for partition, offset in offsets.items()
            if self._names.service_of(partition.topic) is not None
        }
        if mine:
            await self._commit("committing offsets", mine)

    async def _commit(self, what: str, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        try:
            async with within(CALL_DEADLINE, what, [self._connections]):
                await self._consumer.commit(offsets)
        except CommitFailedError:  # whose words are about polling
            raise NotOwnedError(
                f"group {self._group} has moved shards since this gate was last heard, and is joined again"
            ) from None

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:  # noqa: ARG002
        """Let batches under way end before others may take over; called by the group."""
        try:
            async with asyncio.timeout(REVOKE_DEADLINE):
                await self._on_revoked()
        except TimeoutError:
            log.warning("a batch did not end in time for the rebalance; the next owner will abort it")

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Note what is owned now; called by the group."""
        partitions = list(assigned)
        self._consumer.pause(*partitions)
        owned = self.owned = owned_by(partitions, self._names, self._shard_of_topic)
        self.state_lost = self._consumer.partitions_for_topic(self._names.state) is None
        if self.state_lost:
            error = state_lost(self._names.state)
            log.error(str(error), hint=error.hint)
        self.rebalances += 1
        log.info("assigned", shards=sorted(owned), services=sum(map(len, owned.values())))
        self._on_assigned(owned)
