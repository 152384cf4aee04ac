"""The parts of an import of limits, as they are sent before its command."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from gate.client._errors import ArgumentError
from gate.protocol.policies import LiveLimit, Part, PartRow, bucket_of, buckets_for

PER_PART: Final = 16_000  # tenants: what an owner takes in with one batch, some 70 ms
PART_BYTES: Final = 600_000  # of their names and limits: a record of the usual topic has 1 MiB at most
ROW_BYTES: Final = 18  # of the usual limit


def as_limits(rows: Iterable[tuple[str, LiveLimit]]) -> dict[str, LiveLimit]:
    """Return rows by tenant. Raises ArgumentError where a tenant comes twice, or has an end."""
    found: dict[str, LiveLimit] = {}
    for tenant, limit in rows:
        if tenant in found:
            raise ArgumentError(f"tenant {tenant!r} has limits twice", hint="name each tenant once")
        if limit.until_ms is not None:
            raise ArgumentError(f"the limit of tenant {tenant!r} ends by itself", hint="set such ones with set_limit")
        found[tenant] = limit
    return found


def parts_of(command: str, limits: Mapping[str, LiveLimit]) -> Iterator[bytes]:
    """Yield the parts, in the order in which an owner keeps the rows: so that it writes each bucket once.

    Raises ArgumentError for what no gate could read.
    """
    buckets = buckets_for(len(limits))
    order = sorted(limits, key=lambda tenant: bucket_of(tenant, buckets))
    for tenants in _split(order, limits):
        rows = [_row(tenant, limits[tenant]) for tenant in tenants]
        part = msgspec.msgpack.encode(Part(command, rows))
        try:
            msgspec.msgpack.decode(part, type=Part)
        except msgspec.ValidationError as error:
            raise ArgumentError(f"among the limits of {rows[0].tenant!r} and those behind it: {error}") from None
        yield part


def _split(order: Sequence[str], limits: Mapping[str, LiveLimit]) -> Iterator[list[str]]:
    some: list[str] = []
    size = 0
    for tenant in order:
        some.append(tenant)
        listed = len(limits[tenant].quotas or "") + len(limits[tenant].windows or "")
        size += len(tenant.encode("utf-8", "surrogatepass")) + ROW_BYTES + listed
        if len(some) == PER_PART or size > PART_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def _row(tenant: str, limit: LiveLimit) -> PartRow:
    return PartRow(
        tenant, limit.requests_per_second, limit.burst_size, limit.window_size, limit.window_limit, limit.max_running,
        limit.quotas, limit.windows,
    )  # fmt: skip
