"""Requests by which operators of a cluster move leaders and copies, and one that tells who its controller is."""

from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.types import CompactArray, Int8, Int16, Int32, Int64

from gate.kafka.aio.flexible import NO_TAGS, TEXT, flexible, many
from gate.shard.records import Partition

PREFERRED = 0  # kind of election
METADATA = "__cluster_metadata"
_CODE, _NUMBER, _TIMEOUT = ("error_code", Int16), ("partition", Int32), ("timeout_ms", Int32)
_REFUSED = ("topics", many(("name", TEXT), ("partitions", many(_NUMBER, _CODE, ("error_message", TEXT)))))


class Elect(
    flexible(
        43,
        2,
        asks=(("kind", Int8), ("topics", many(("name", TEXT), ("partitions", CompactArray(Int32)))), _TIMEOUT),
        answers=(("throttle_time_ms", Int32), _CODE, _REFUSED),
    )
):
    """Has the preferred copies of partitions lead them."""

    def __init__(self, partitions: Sequence[Partition], timeout_ms: int) -> None:
        topics = [(topic, numbers, NO_TAGS) for topic, numbers in _by_topic(partitions).items()]
        super().__init__(PREFERRED, topics, timeout_ms)


class Reassign(
    flexible(
        45,
        0,
        asks=(
            _TIMEOUT,
            ("topics", many(("name", TEXT), ("partitions", many(_NUMBER, ("replicas", CompactArray(Int32)))))),
        ),
        answers=(("throttle_time_ms", Int32), _CODE, ("error_message", TEXT), _REFUSED),
    )
):
    """Moves the copies of partitions to brokers, of which the first is the preferred leader."""

    def __init__(self, copies: Mapping[Partition, Sequence[int]], timeout_ms: int) -> None:
        topics = [
            (topic, [(n, list(copies[Partition(topic, n)]), NO_TAGS) for n in numbers], NO_TAGS)
            for topic, numbers in _by_topic(copies).items()
        ]
        super().__init__(timeout_ms, topics)


_VOTERS = many(("replica", Int32), ("end", Int64))
_QUORUM = many(
    _NUMBER, _CODE, ("leader", Int32), ("epoch", Int32), ("high_watermark", Int64),
    ("voters", _VOTERS), ("observers", _VOTERS),
)  # fmt: skip


class Quorum(
    flexible(
        55,
        0,
        asks=(("topics", many(("name", TEXT), ("partitions", many(_NUMBER)))),),
        answers=(_CODE, ("topics", many(("name", TEXT), ("partitions", _QUORUM)))),
    )
):
    """Who leads the quorum of controllers."""

    def __init__(self) -> None:
        super().__init__([(METADATA, [(0, NO_TAGS)], NO_TAGS)])


def _by_topic(partitions: Any) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for topic, number in partitions:
        found.setdefault(topic, []).append(number)
    return found


@asynccontextmanager
async def connected(bootstrap: str) -> Any:
    """Yield a client of a cluster."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap, request_timeout_ms=10_000, client_id="chaos-operator")
    await client.bootstrap()
    try:
        yield client
    finally:
        await client.close()


async def controller(bootstrap: str) -> int:
    """Return which node is the active controller."""
    async with connected(bootstrap) as client:
        answer = await client.send(client.get_random_node(), Quorum())
    ((_, ((_, code, leader, *_),), _),) = answer.topics
    assert not answer.error_code
    assert not code
    return int(leader)
