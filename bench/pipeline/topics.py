"""What the benchmark asks of the broker: topics, how far they reach, and what is in them."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import GroupCoordinatorNotAvailableError

Partition = TopicPartition


def partitions_of(topics: Collection[str], number: int) -> list[Partition]:
    return [Partition(topic, index) for topic in topics for index in range(number)]


class Topics:
    """Use as a context manager."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._admin: Any = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=120_000)
        self._consumer: Any = AIOKafkaConsumer(
            bootstrap_servers=bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
        )

    async def __aenter__(self) -> Self:
        await self._admin.start()
        await self._consumer.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._consumer.stop()
        await self._admin.close()

    async def create(self, topics: Mapping[str, int]) -> None:
        """Create topics with so many partitions each, and wait until they have leaders."""
        wanted = [NewTopic(topic, partitions, 1) for topic, partitions in topics.items()]
        answer = await self._admin.create_topics(wanted, timeout_ms=120_000)
        if failed := [(topic, why) for topic, code, why in answer.topic_errors if code]:
            raise RuntimeError(f"topics could not be created: {failed[:3]}")
        # not by their ends: the consumer would ask for the metadata of one topic after the other
        while not await self._led(list(topics)):  # noqa: ASYNC110 - the broker tells nobody
            await asyncio.sleep(0.05)

    async def _led(self, topics: list[str]) -> bool:
        described = await self._admin.describe_topics(topics)
        return all(t["partitions"] and all(p["leader"] >= 0 for p in t["partitions"]) for t in described)

    async def drop(self, prefix: str) -> None:
        """Delete the topics that begin with `prefix`, so that no run pays for the data of another."""
        there = [topic for topic in await self._admin.list_topics() if topic.startswith(prefix)]
        if there:
            await self._admin.delete_topics(there, timeout_ms=120_000)

    async def ends(self, partitions: Sequence[Partition]) -> int:
        """Return how far the partitions reach, added up: records, and the markers of transactions if there are any."""
        return sum((await self._consumer.end_offsets(partitions)).values())

    async def committed(self, group: str, partitions: Collection[Partition]) -> int:
        """Return the group's committed offsets, added up."""
        try:
            offsets = await self._admin.list_consumer_group_offsets(group)
        except GroupCoordinatorNotAvailableError:  # the broker's first group: it makes the topic of the offsets first
            return 0
        return sum(max(0, offsets[p].offset) for p in partitions if p in offsets)

    async def count(self, partitions: Sequence[Partition]) -> int:
        """Read the partitions to their ends and return how many committed records are in them."""
        self._consumer.assign(partitions)
        ends = await self._consumer.end_offsets(partitions)
        count = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(120):
                while [p for p in partitions if await self._consumer.position(p) < ends[p]]:
                    for records in (await self._consumer.getmany(timeout_ms=100)).values():
                        count += len(records)
        return count
