"""Requests about transactions of others (KIP-664), and those that end them; aiokafka has none of them."""

from typing import Any

from gate.kafka.aio.compat.shared import Boolean, CompactArray, Int16, Int32, Int64
from gate.kafka.aio.flexible import NO_TAGS, TEXT, flexible, many

_TIME = ("throttle_time_ms", Int32)
_CODE = ("error_code", Int16)
_NUMBER = ("partition", Int32)
_NUMBERS = ("partitions", CompactArray(Int32))
_PRODUCER = ("producer_id", Int64)
_NAME = ("name", TEXT)

_Producers: Any = flexible(
    61,
    0,
    asks=(("topics", many(_NAME, _NUMBERS)),),
    answers=(
        _TIME,
        (
            "topics",
            many(
                _NAME,
                (
                    "partitions",
                    many(
                        _NUMBER,
                        _CODE,
                        ("error_message", TEXT),
                        (
                            "producers",
                            many(
                                _PRODUCER,
                                ("producer_epoch", Int32),
                                ("last_sequence", Int32),
                                ("last_timestamp", Int64),
                                ("coordinator_epoch", Int32),
                                ("start_offset", Int64),
                            ),
                        ),
                    ),
                ),
            ),
        ),
    ),
)

_Listed: Any = flexible(
    66,
    0,
    asks=(("states", CompactArray(TEXT)), ("producer_ids", CompactArray(Int64))),
    answers=(
        _TIME,
        _CODE,
        ("unknown_states", CompactArray(TEXT)),
        ("transactions", many(("transactional_id", TEXT), _PRODUCER, ("state", TEXT))),
    ),
)

_Described: Any = flexible(
    65,
    0,
    asks=(("transactional_ids", CompactArray(TEXT)),),
    answers=(
        _TIME,
        (
            "transactions",
            many(
                _CODE,
                ("transactional_id", TEXT),
                ("state", TEXT),
                ("timeout_ms", Int32),
                ("start_ms", Int64),
                _PRODUCER,
                ("producer_epoch", Int16),
                ("topics", many(("topic", TEXT), _NUMBERS)),
            ),
        ),
    ),
)

_Markers: Any = flexible(
    27,
    1,
    asks=(
        (
            "markers",
            many(
                _PRODUCER,
                ("producer_epoch", Int16),
                ("committed", Boolean),
                ("topics", many(_NAME, _NUMBERS)),
                ("coordinator_epoch", Int32),
            ),
        ),
    ),
    answers=(("markers", many(_PRODUCER, ("topics", many(_NAME, ("partitions", many(_NUMBER, _CODE)))))),),
)


class DescribeProducers(_Producers):  # type: ignore[misc]
    """Who writes to `partitions` of a topic; to be sent to their leader."""

    def __init__(self, topic: str, partitions: list[int]) -> None:
        super().__init__([(topic, partitions, NO_TAGS)])


class ListTransactions(_Listed):  # type: ignore[misc]
    """Which transactions of `producer_ids` a broker coordinates."""

    def __init__(self, producer_ids: list[int]) -> None:
        super().__init__([], producer_ids)


class DescribeTransactions(_Described):  # type: ignore[misc]
    """What the coordinator of transactional ids knows of them; to be sent to it."""

    def __init__(self, transactional_ids: list[str]) -> None:
        super().__init__(transactional_ids)


class AbortMarker(_Markers):  # type: ignore[misc]
    """Ends what a producer has open in one partition; to be sent to its leader."""

    def __init__(self, topic: str, partition: int, producer: tuple[int, int], coordinator_epoch: int) -> None:
        topics = [(topic, [partition], NO_TAGS)]
        super().__init__([(*producer, False, topics, coordinator_epoch, NO_TAGS)])
