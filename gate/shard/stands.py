"""Which partitions of a shard stand: what they go to takes nothing, or they can't be read."""

from collections.abc import Callable
from typing import Final

from gate.shard.blame import Blame
from gate.shard.environment import Environment
from gate.shard.ports import SETTLED
from gate.shard.reader import Intake
from gate.shard.records import Partition
from gate.shard.refusals import remedy_of
from gate.shard.state import Desk
from gate.shard.waiting import Waiting

_KINDS: Final = ("requests", "retries", "feedback")
_LOOK_AT_BROKERS: Final = "see whether its brokers are there and its log is whole: kafka-topics.sh --describe"


def stands(
    desk: Desk, intake: Intake, blame: Blame, environment: Environment, decided: Callable[[str, Partition], bool]
) -> list[Waiting]:
    """Return what waits, by place. `decided` tells whether an output is that of requests, and not of feedback alone."""
    source, names = environment.source, environment.names
    unreadable = {**source.unreadable(intake.inbox), **environment.hearing.unreadable(intake.listener.inbox)}
    troubles = intake.listener.troubles
    if not (blame.closed or unreadable or troubles):
        return []
    found: dict[Partition, Waiting] = {}
    unix = environment.wall() - environment.local()  # what makes a local time one of this host's clock
    for output, closed in blame.closed.items():
        service = blame.service_of(output)
        if service is None or service not in intake.services:
            continue
        why = f"{output.topic}-{output.number} takes nothing: {closed.why}"
        remedy = f"{remedy_of(output.topic, closed.why)}; it is tried again every minute"
        waiting = intake.listener.waiting(names.feedback(service))
        if decided(service, output):
            waiting += [p for p in intake.partitions(service) if p.number == output.number or closed.halts]
        for partition in waiting:
            at = unix + int(closed.since * 1e9)
            found[partition] = Waiting(*partition, desk.read_up_to(partition), at, why, remedy, service)
    for partition, (began, why, remedy) in troubles.items():
        service = names.service_of(partition.topic, "feedback") or ""
        found[partition] = Waiting(
            *partition, desk.read_up_to(partition), unix + began, f"what workers told can't be acted upon: {why}",
            remedy, service,
        )  # fmt: skip
    since = unix + environment.local() - int(SETTLED * 1e9)
    for partition, why in unreadable.items():
        service = next((s for kind in _KINDS if (s := names.service_of(partition.topic, kind)) is not None), "")
        found[partition] = Waiting(
            *partition, desk.read_up_to(partition), since, f"it can't be read: {why}", _LOOK_AT_BROKERS, service
        )
    return [found[partition] for partition in sorted(found)]
