"""Detection of stalled partitions of a shard: what they go to takes nothing, or they can't be read."""

from collections.abc import Callable
from typing import Final

from gate.shard.environment import Environment
from gate.shard.ports import SETTLED
from gate.shard.reader import ShardReader
from gate.shard.records import Partition
from gate.shard.refusal_history import RefusalHistory
from gate.shard.refusals import remedy_of
from gate.shard.stalled_partitions import StalledPartition
from gate.shard.state import ShardState

_KINDS: Final = ("requests", "retries", "feedback")
_LOOK_AT_BROKERS: Final = "see whether its brokers are there and its log is whole: kafka-topics.sh --describe"


def find_stalled(
    state: ShardState,
    reader: ShardReader,
    refusals: RefusalHistory,
    environment: Environment,
    decided: Callable[[str, Partition], bool],
) -> list[StalledPartition]:
    """Return what waits, by place. `decided` tells whether an output is that of requests, and not of feedback alone."""
    source, names = environment.source, environment.names
    unreadable = {**source.unreadable(reader.buffer), **environment.hearing.unreadable(reader.listener.buffer)}
    troubles = reader.listener.troubles
    if not (refusals.closed or unreadable or troubles):
        return []
    found: dict[Partition, StalledPartition] = {}
    unix = environment.wall() - environment.local()  # what makes a local time one of this host's clock
    for output, closed in refusals.closed.items():
        service = refusals.service_of(output)
        if service is None or service not in reader.services:
            continue
        why = f"{output.topic}-{output.number} takes nothing: {closed.why}"
        remedy = f"{remedy_of(output.topic, closed.why)}; it is tried again every minute"
        waiting = reader.listener.waiting(names.feedback(service))
        if decided(service, output):
            waiting += [p for p in reader.partitions(service) if p.number == output.number or closed.halts]
        for partition in waiting:
            at = unix + int(closed.since_seconds * 1e9)
            found[partition] = StalledPartition(*partition, state.read_up_to(partition), at, why, remedy, service)
    for partition, (began, why, remedy) in troubles.items():
        service = names.service_of(partition.topic, "feedback") or ""
        found[partition] = StalledPartition(
            *partition, state.read_up_to(partition), unix + began, f"what workers told can't be acted upon: {why}",
            remedy, service,
        )  # fmt: skip
    since = unix + environment.local() - int(SETTLED * 1e9)
    for partition, why in unreadable.items():
        service = next((s for kind in _KINDS if (s := names.service_of(partition.topic, kind)) is not None), "")
        found[partition] = StalledPartition(
            *partition, state.read_up_to(partition), since, f"it can't be read: {why}", _LOOK_AT_BROKERS, service
        )
    return [found[partition] for partition in sorted(found)]
