"""Reading partitions as they are, batch by batch, as far as they are decided."""

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.errors import OffsetOutOfRangeError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.structs import TopicPartition

from tests.hostile.decoding import Header, committed

PARTITION_BYTES: Final = 16 << 20
ALL_BYTES: Final = 64 << 20
_EARLIEST: Final = -2

Show: TypeAlias = Callable[[str, int, Header, int], None]  # topic, partition, batch, the first offset in it that counts


class Scanner:
    """Reads topics from their beginning; each batch is shown once. Topics that come later are found."""

    def __init__(self, client: AIOKafkaClient, topics: Iterable[str], show: Show) -> None:
        self._client = client
        self._topics = list(topics)
        self._show = show
        self.positions: dict[TopicPartition, int] = {}

    async def advance(self) -> None:
        """Read all that is there."""
        if len({tp.topic for tp in self.positions}) < len(self._topics):
            await self._client.set_topics(self._topics)
            await self._client.force_metadata_update()  # those that were missing are not asked for again by themselves
            for topic in self._topics:
                for number in self._client.cluster.partitions_for_topic(topic) or ():
                    self.positions.setdefault(TopicPartition(topic, number), 0)
        left = set(self.positions)
        while left:
            moved = await self._read(left)
            left &= moved

    async def _read(self, partitions: set[TopicPartition]) -> set[TopicPartition]:
        """Fetch once from each; return those that had something."""
        by_node: dict[int, dict[str, list[tuple[int, int, int]]]] = {}
        for tp in sorted(partitions):
            node = self._client.cluster.leader_for_partition(tp)
            if node is None or node == -1:
                await self._client.force_metadata_update()
                continue
            wanted = by_node.setdefault(node, {}).setdefault(tp.topic, [])
            wanted.append((tp.partition, self.positions[tp], PARTITION_BYTES))
        moved: set[TopicPartition] = set()
        for node, wanted_of in by_node.items():
            request = FetchRequest(0, 0, ALL_BYTES, READ_COMMITTED, list(wanted_of.items()))
            answer: Any = await self._client.send(node, request)
            for topic, found in answer.topics:
                for number, code, _, _, start, aborted, *_, raw in found:
                    tp = TopicPartition(topic, number)
                    if for_code(code) is OffsetOutOfRangeError:
                        self.positions[tp] = await self._start(node, tp) if start < 0 else start
                        moved.add(tp)
                    elif not code and raw:
                        self._take(tp, raw, aborted or [])
                        moved.add(tp)
        return moved

    async def _start(self, node: int, tp: TopicPartition) -> int:
        request = OffsetRequest(-1, READ_COMMITTED, [(tp.topic, [(tp.partition, _EARLIEST)])])
        answer: Any = await self._client.send(node, request)
        ((_, ((_, _, _, offset),)),) = answer.topics
        return int(offset)

    def _take(self, tp: TopicPartition, raw: bytes, aborted: list[tuple[int, int]]) -> None:
        for batch in committed(raw, aborted):
            if batch.next_offset <= self.positions[tp]:
                continue
            start, self.positions[tp] = self.positions[tp], batch.next_offset
            if not batch.is_control:
                self._show(tp.topic, tp.partition, batch, start)
