"""Authorized operations (KIP-430): what whoever asks may do on topics and groups. aiokafka asks for none of it."""

import asyncio
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Final

from aiokafka import errors

from gate.kafka.aio.client import Client
from gate.kafka.aio.compat.shared import Boolean, CompactArray, CompactBytes, CoordinationType, Int16, Int32
from gate.kafka.aio.flexible import TEXT, flexible, many
from gate.kafka.aio.leader_epochs import authorized_operations, error_for
from gate.kafka.aio.reader import BACKOFF

_NOT_TOLD: Final = -(2**31)
_REFUSED: Final = frozenset({errors.TopicAuthorizationFailedError.errno, errors.GroupAuthorizationFailedError.errno})

_Groups: Any = flexible(
    15,
    5,
    asks=(("groups", CompactArray(TEXT)), ("include_authorized_operations", Boolean)),
    answers=(
        ("throttle_time_ms", Int32),
        (
            "groups",
            many(
                ("error_code", Int16),
                ("group_id", TEXT),
                ("state", TEXT),
                ("protocol_type", TEXT),
                ("protocol_data", TEXT),
                (
                    "members",
                    many(
                        ("member_id", TEXT),
                        ("group_instance_id", TEXT),
                        ("client_id", TEXT),
                        ("client_host", TEXT),
                        ("metadata", CompactBytes),
                        ("assignment", CompactBytes),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
    ),
)


class Operation(IntEnum):
    """An operation, by its number in the protocol."""

    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    DESCRIBE_CONFIGS = 10

    @property
    def shown(self) -> str:
        """What ACLs call it."""
        return self.name.title().replace("_", "")


Allowed = frozenset[Operation]


async def allowed_on_topics(client: Client, topics: Sequence[str]) -> Mapping[str, Allowed]:
    """Return what may be done on topics; what is not there, or not told, is left out.

    Raises NotImplementedError or IncompatibleBrokerVersion where the brokers do not know the request.
    """
    answer: Any = await client.send(client.get_random_node(), authorized_operations(topics))
    found = {name: _allowed(code, bits) for code, name, *_, bits, _tags in answer.topics}
    return {name: allowed for name, allowed in found.items() if allowed is not None}


async def allowed_on_group(client: Client, group: str) -> Allowed | None:
    """Return what may be done on a group; None: it is not told. Raises as `allowed_on_topics`.

    Where its coordinator is being found it is asked again; the caller sets the deadline.
    """
    while True:
        try:
            node = await client.coordinator_lookup(CoordinationType.GROUP, group)
            answer: Any = await client.send(node, _Groups([group], True))
        except errors.GroupAuthorizationFailedError:
            return frozenset()
        except errors.KafkaError as error:
            if not error.retriable:
                raise
        else:
            [[code, *_, bits, _tags]] = answer.groups
            if not (code and error_for(code).retriable):
                return _allowed(code, bits)
        await asyncio.sleep(BACKOFF)


def _allowed(code: int, bits: int) -> Allowed | None:
    if code in _REFUSED:
        return frozenset()
    if code or bits == _NOT_TOLD:
        return None
    return frozenset(operation for operation in Operation if bits >> operation & 1)
