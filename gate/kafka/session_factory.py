"""Sessions of shards: what a new one restores, and where it looks for what its predecessor has left half-done."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from gate.kafka.aio.client import Client
from gate.kafka.aio.compacted import Barrier, read_all
from gate.kafka.aio.pending_requests import within
from gate.kafka.aio.reader import Reader
from gate.kafka.aio.session import KafkaSession
from gate.kafka.aio.unknown_outcomes import ProducerIdentity, Torn
from gate.kafka.cluster import Cluster
from gate.kafka.generations import transactional_id
from gate.kafka.torn_transactions import Places, is_open, look, places_of
from gate.policy import Delivery, Settings
from gate.protocol.topics import Names
from gate.shard.records import CommittedOffset, Partition, RecoveredState
from gate.shard.topic_limits import TopicLimits

RESTORE_DEADLINE: Final = 120.0  # seconds


class Sessions:
    """Makes sessions for the shards of one generation of the state, which `shard_key` places services on."""

    def __init__(
        self,
        names: Names,
        settings: Settings,
        shards: int,
        shard_key: Callable[[str], str],
        client: Client,
        reader: Reader,
        cluster: Cluster,
        committed: Callable[[Sequence[Partition]], Awaitable[Mapping[Partition, CommittedOffset]]],
        commit: Callable[[Mapping[Partition, int]], Awaitable[None]],
        limits: TopicLimits,
    ) -> None:
        self._names = names
        self._settings = settings
        self._shards = shards
        self._shard_key = shard_key
        self._client = client
        self._reader = reader  # over that client
        self._cluster = cluster
        self._committed = committed
        self._commit = commit
        self._limits = limits

    def make(self, shard: int, deadline: float, **client_options: Any) -> KafkaSession:
        """Return a fresh session, each call of which may take `deadline` seconds."""
        state = Partition(self._names.state, shard)
        barrier = Barrier(self._reader, state)

        async def restore(partitions: Sequence[Partition]) -> RecoveredState:
            async with within(RESTORE_DEADLINE, f"reading {state.topic}-{state.number}", [self._client]):
                stored = await read_all(self._reader, state, await barrier.offset())
            return RecoveredState(stored, await self._committed(partitions))

        async def look_behind(producer: ProducerIdentity) -> Torn | None:
            async with within(RESTORE_DEADLINE, "looking for what was left half-done", [self._client]):
                requests, places = await self._places(shard)
                return await look(
                    self._reader,
                    places,
                    producer,
                    lambda: self._committed(requests),
                    self._shards,
                    await barrier.offset(),
                )

        async def still_open(producer_id: int) -> bool:
            _, places = await self._places(shard)
            return await is_open(self._reader, places, producer_id)

        group, exactly_once = self._settings.group_id, self._settings.delivery is Delivery.EXACTLY_ONCE
        return KafkaSession(
            transactional_id(group, shard, self._names.generation) if exactly_once else None,
            group, state, restore, self._commit,
            deadline=deadline, limits=self._limits, look_behind=look_behind, is_open=still_open,
            compression=self._settings.compression, **client_options,
        )  # fmt: skip

    async def _places(self, shard: int) -> tuple[Sequence[Partition], Places]:
        """Return the request partitions of a shard and where its owner writes, as far as they are there."""
        return places_of(shard, self._names, self._shards, self._shard_key, await self._cluster.partitions())
