"""Limits that are set live for some of the tenants of services, out of a topic that may tell of a million."""

from collections.abc import Mapping
from typing import Final

from gate.kafka.aio.reader import EARLIEST, LATEST, Reader
from gate.kafka.request_history import fetch
from gate.policy.names import stands_for_many
from gate.protocol.policies import LiveLimit, Published, decode
from gate.shard.records import Partition

PATTERNS: Final = 10_000  # per service


async def tenant_limits(
    source: Reader, place: Partition, wanted: Mapping[str, frozenset[str]], others: int = 0
) -> dict[str, dict[str, Published]]:
    """Return what is set for these tenants, by service, and for all that stand for many; of others the first so many.

    `place` is the partition of the policies topic, read to its end and kept no further. Raises KafkaError.
    """
    newest: dict[str, dict[str, bytes]] = {service: {} for service in wanted}
    further: dict[str, dict[str, bytes]] = {service: {} for service in wanted}
    position, end = (await source.offsets([place], EARLIEST))[place], (await source.offsets([place], LATEST))[place]
    while position < end:
        fetched = await fetch(source, place, position)
        for record in fetched.records:
            service, slash, tenant = (record.key or b"").decode(errors="replace").partition("/")
            if not slash or service not in wanted:
                continue
            named = tenant in wanted[service]
            rows = newest[service] if named or stands_for_many(tenant) else further[service]
            if record.value is None:
                rows.pop(tenant, None)
            elif tenant in rows or named or len(rows) < (others if rows is further[service] else PATTERNS):
                rows[tenant] = record.value
        position = fetched.next_offset
    return {
        service: {tenant: decode(value) for tenant, value in (rows | further[service]).items()}
        for service, rows in newest.items()
    }


def limits_of(published: Mapping[str, Published]) -> dict[str, LiveLimit]:
    """Return the limits alone."""
    return {tenant: one.limit for tenant, one in published.items() if one.limit is not None}
