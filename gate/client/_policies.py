"""Limits that are set live, as gates publish them on the policies topic."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from gate.config import Connection
from gate.kafka.connect import running
from gate.protocol.policies import LiveLimit, Published, decode

_POLL_MS: Final = 200


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What is set live for a service and its tenants, or a group; `version` counts the changes, 0: there was none."""

    service: str  # or group:NAME
    version: int = 0
    own: Published | None = None  # of the service itself, as it was changed last
    tenants: Mapping[str, Published] = field(default_factory=dict)

    @property
    def importing(self) -> bool:
        """Whether an import is being published, so that `tenants` is not whole yet."""
        return self.own is not None and self.own.importing

    @property
    def limit(self) -> LiveLimit | None:
        """What is set for the service or group itself; None: it is as the file says."""
        return None if self.own is None else self.own.limit


async def read_limits(connection: Connection, service: str | None = None) -> dict[str, ServiceLimits]:
    """Return what is set, by service, of one or of all. Raises KafkaError."""
    own: dict[str, Published] = {}
    newest: dict[str, dict[str, bytes]] = {}  # by tenant: of a million there are several records each
    async for key, value in _records(connection):
        name, _, tenant = key.partition("/")
        if service not in {None, name}:
            continue
        if not tenant:
            own[name] = decode(value or b"")
        elif value is None:
            newest.get(name, {}).pop(tenant, None)
        else:
            newest.setdefault(name, {})[tenant] = value
    tenants = {name: {tenant: decode(value) for tenant, value in rows.items()} for name, rows in newest.items()}
    return {
        name: ServiceLimits(name, record.version, record, tenants.get(name, {})) for name, record in sorted(own.items())
    }


async def _records(connection: Connection) -> AsyncIterator[tuple[str, bytes | None]]:
    partition = TopicPartition(connection.names.policies, 0)
    options = connection.access()
    async with running(
        AIOKafkaConsumer(**options, isolation_level="read_committed", auto_offset_reset="earliest")
    ) as consumer:
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        while await consumer.position(partition) < end:
            for records in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                for record in records:
                    yield record.key.decode(), record.value
