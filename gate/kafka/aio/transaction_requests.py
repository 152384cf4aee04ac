"""Requests about transactions of others (KIP-664), and those that end them; aiokafka has none of them.

All are of flexible versions: compact arrays and strings, and tagged fields, of which none is used.
Layout: https://kafka.apache.org/protocol
"""

from typing import Any

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

_TEXT = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)
_NO_TAGS: dict[int, bytes] = {}


class DescribeProducersResponse(Response):  # type: ignore[misc]
    """Who writes to partitions."""

    API_KEY, API_VERSION = 61, 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("error_message", _TEXT),
                        (
                            "producers",
                            CompactArray(
                                ("producer_id", Int64),
                                ("producer_epoch", Int32),
                                ("last_sequence", Int32),
                                ("last_timestamp", Int64),
                                ("coordinator_epoch", Int32),
                                ("start_offset", Int64),
                                _TAGS,
                            ),
                        ),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class DescribeProducersRequestV0(RequestStruct):  # type: ignore[misc]
    """Asks a leader who writes to its partitions."""

    API_KEY, API_VERSION, FLEXIBLE_VERSION = 61, 0, True
    RESPONSE_TYPE = DescribeProducersResponse
    SCHEMA = Schema(("topics", CompactArray(("name", _TEXT), ("partitions", CompactArray(Int32)), _TAGS)), _TAGS)


class ListTransactionsResponse(Response):  # type: ignore[misc]
    """The transactions that a coordinator knows."""

    API_KEY, API_VERSION = 66, 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("unknown_states", CompactArray(_TEXT)),
        ("transactions", CompactArray(("transactional_id", _TEXT), ("producer_id", Int64), ("state", _TEXT), _TAGS)),
        _TAGS,
    )


class ListTransactionsRequestV0(RequestStruct):  # type: ignore[misc]
    """Asks a broker which transactions it coordinates."""

    API_KEY, API_VERSION, FLEXIBLE_VERSION = 66, 0, True
    RESPONSE_TYPE = ListTransactionsResponse
    SCHEMA = Schema(("states", CompactArray(_TEXT)), ("producer_ids", CompactArray(Int64)), _TAGS)


class DescribeTransactionsResponse(Response):  # type: ignore[misc]
    """What a coordinator knows of transactions."""

    API_KEY, API_VERSION = 65, 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "transactions",
            CompactArray(
                ("error_code", Int16),
                ("transactional_id", _TEXT),
                ("state", _TEXT),
                ("timeout_ms", Int32),
                ("start_ms", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                ("topics", CompactArray(("topic", _TEXT), ("partitions", CompactArray(Int32)), _TAGS)),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class DescribeTransactionsRequestV0(RequestStruct):  # type: ignore[misc]
    """Asks a coordinator about transactions by their ids."""

    API_KEY, API_VERSION, FLEXIBLE_VERSION = 65, 0, True
    RESPONSE_TYPE = DescribeTransactionsResponse
    SCHEMA = Schema(("transactional_ids", CompactArray(_TEXT)), _TAGS)


class WriteTxnMarkersResponse(Response):  # type: ignore[misc]
    """Where markers could not be written."""

    API_KEY, API_VERSION = 27, 1
    SCHEMA = Schema(
        (
            "markers",
            CompactArray(
                ("producer_id", Int64),
                (
                    "topics",
                    CompactArray(
                        ("name", _TEXT),
                        ("partitions", CompactArray(("partition", Int32), ("error_code", Int16), _TAGS)),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class WriteTxnMarkersRequestV1(RequestStruct):  # type: ignore[misc]
    """Has a leader end transactions in its partitions, as their coordinator would."""

    API_KEY, API_VERSION, FLEXIBLE_VERSION = 27, 1, True
    RESPONSE_TYPE = WriteTxnMarkersResponse
    SCHEMA = Schema(
        (
            "markers",
            CompactArray(
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                ("committed", Boolean),
                ("topics", CompactArray(("name", _TEXT), ("partitions", CompactArray(Int32)), _TAGS)),
                ("coordinator_epoch", Int32),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class DescribeProducers(Request[DescribeProducersRequestV0]):  # type: ignore[misc]
    """Who writes to `partitions` of a topic; to be sent to their leader."""

    API_KEY = 61

    def __init__(self, topic: str, partitions: list[int]) -> None:
        self._topics = [(topic, partitions, _NO_TAGS)]

    def build(self, request_struct_class: Any) -> Any:
        """See aiokafka."""
        return request_struct_class(self._topics, _NO_TAGS)


class ListTransactions(Request[ListTransactionsRequestV0]):  # type: ignore[misc]
    """Which transactions of `producer_ids` a broker coordinates."""

    API_KEY = 66

    def __init__(self, producer_ids: list[int]) -> None:
        self._producer_ids = producer_ids

    def build(self, request_struct_class: Any) -> Any:
        """See aiokafka."""
        return request_struct_class([], self._producer_ids, _NO_TAGS)


class DescribeTransactions(Request[DescribeTransactionsRequestV0]):  # type: ignore[misc]
    """What the coordinator of transactional ids knows of them; to be sent to it."""

    API_KEY = 65

    def __init__(self, transactional_ids: list[str]) -> None:
        self._ids = transactional_ids

    def build(self, request_struct_class: Any) -> Any:
        """See aiokafka."""
        return request_struct_class(self._ids, _NO_TAGS)


class AbortMarker(Request[WriteTxnMarkersRequestV1]):  # type: ignore[misc]
    """Ends what a producer has open in one partition; to be sent to its leader."""

    API_KEY = 27

    def __init__(self, topic: str, partition: int, producer: tuple[int, int], coordinator_epoch: int) -> None:
        topics = [(topic, [partition], _NO_TAGS)]
        self._markers = [(*producer, False, topics, coordinator_epoch, _NO_TAGS)]

    def build(self, request_struct_class: Any) -> Any:
        """See aiokafka."""
        return request_struct_class(self._markers, _NO_TAGS)
