"""Requests by which operators of a cluster move leaders and copies, and one that tells who its controller is.

aiokafka has none of them. All are of flexible versions, with tagged fields, of which none is used.
Layout: https://kafka.apache.org/protocol
"""

from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactString, Int8, Int16, Int32, Int64, Schema, TaggedFields

from gate.shard.records import Partition

PREFERRED = 0  # kind of election
METADATA = "__cluster_metadata"
_TEXT = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)
_NO_TAGS: dict[int, bytes] = {}
_ERRORS = CompactArray(("partition", Int32), ("error_code", Int16), ("error_message", _TEXT), _TAGS)


class _ElectResponse(Response):  # type: ignore[misc]
    API_KEY, API_VERSION = 43, 2
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("topics", CompactArray(("name", _TEXT), ("partitions", _ERRORS), _TAGS)),
        _TAGS,
    )


class _ElectV2(RequestStruct):  # type: ignore[misc]
    API_KEY, API_VERSION, FLEXIBLE_VERSION = 43, 2, True
    RESPONSE_TYPE = _ElectResponse
    SCHEMA = Schema(
        ("kind", Int8),
        ("topics", CompactArray(("name", _TEXT), ("partitions", CompactArray(Int32)), _TAGS)),
        ("timeout_ms", Int32),
        _TAGS,
    )


class Elect(Request[_ElectV2]):  # type: ignore[misc]
    """Has the preferred copies of partitions lead them."""

    API_KEY = 43

    def __init__(self, partitions: Sequence[Partition], timeout_ms: int) -> None:
        self._topics = [(topic, numbers, _NO_TAGS) for topic, numbers in _by_topic(partitions).items()]
        self._timeout = timeout_ms

    def build(self, request_struct_class: Any) -> Any:
        """See aiokafka."""
        return request_struct_class(PREFERRED, self._topics, self._timeout, _NO_TAGS)


class _ReassignResponse(Response):  # type: ignore[misc]
    API_KEY, API_VERSION = 45, 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("error_message", _TEXT),
        ("topics", CompactArray(("name", _TEXT), ("partitions", _ERRORS), _TAGS)),
        _TAGS,
    )


class _ReassignV0(RequestStruct):  # type: ignore[misc]
    API_KEY, API_VERSION, FLEXIBLE_VERSION = 45, 0, True
    RESPONSE_TYPE = _ReassignResponse
    SCHEMA = Schema(
        ("timeout_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", _TEXT),
                ("partitions", CompactArray(("partition", Int32), ("replicas", CompactArray(Int32)), _TAGS)),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class Reassign(Request[_ReassignV0]):  # type: ignore[misc]
    """Moves the copies of partitions to brokers, of which the first is the preferred leader."""

    API_KEY = 45

    def __init__(self, copies: Mapping[Partition, Sequence[int]], timeout_ms: int) -> None:
        self._topics = [
            (topic, [(n, list(copies[Partition(topic, n)]), _NO_TAGS) for n in numbers], _NO_TAGS)
            for topic, numbers in _by_topic(copies).items()
        ]
        self._timeout = timeout_ms

    def build(self, request_struct_class: Any) -> Any:
        """See aiokafka."""
        return request_struct_class(self._timeout, self._topics, _NO_TAGS)


_VOTERS = CompactArray(("replica", Int32), ("end", Int64), _TAGS)


class _QuorumResponse(Response):  # type: ignore[misc]
    API_KEY, API_VERSION = 55, 0
    SCHEMA = Schema(
        ("error_code", Int16),
        (
            "topics",
            CompactArray(
                ("name", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("leader", Int32),
                        ("epoch", Int32),
                        ("high_watermark", Int64),
                        ("voters", _VOTERS),
                        ("observers", _VOTERS),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _QuorumV0(RequestStruct):  # type: ignore[misc]
    API_KEY, API_VERSION, FLEXIBLE_VERSION = 55, 0, True
    RESPONSE_TYPE = _QuorumResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("name", _TEXT), ("partitions", CompactArray(("partition", Int32), _TAGS)), _TAGS)),
        _TAGS,
    )


class Quorum(Request[_QuorumV0]):  # type: ignore[misc]
    """Who leads the quorum of controllers."""

    API_KEY = 55

    def build(self, request_struct_class: Any) -> Any:
        """See aiokafka."""
        return request_struct_class([(METADATA, [(0, _NO_TAGS)], _NO_TAGS)], _NO_TAGS)


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
