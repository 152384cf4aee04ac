"""Rights: what a gate must be allowed on each topic and group, as the page about access lists it, and what it lacks."""

from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from aiokafka import errors

from gate.kafka.aio.authorized_operations import Allowed, Operation, allowed_on_group, allowed_on_topics
from gate.kafka.aio.client import Client
from gate.kafka.findings import Finding, Health
from gate.protocol.topics import Names

READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE, CONFIGS = Operation
NAMED: Final = 3
CHECK: Final = "access"
_WITHOUT: Final = {
    DELETE: "what has been released stays there",
    CREATE: "the topics of a new service can't be created",
    ALTER: "topics can't get more partitions",
    CONFIGS: "what the largest record is that fits is not known",
}


class Right(NamedTuple):
    """An operation on topics of one kind. Not `needed`: the gate does without, and less."""

    operation: Operation
    topic: str
    prefix: str  # what an ACL with a prefixed pattern says
    needed: bool = True


def rights_of(names: Names, services: Iterable[str], *, create: bool, delete: Collection[str]) -> list[Right]:
    """Return the rights on topics that a gate needs; `delete`: services of which what was released is to go."""
    of_service = names.requests, names.delayed, names.admitted, names.feedback, names.retries, names.rejected
    read = [names.control, names.usage, names.state, names.leases, names.alerts]
    write = [
        names.alerts, names.usage, names.state, names.answers, names.audit, names.grants, names.policies,
        names.history,
    ]  # fmt: skip
    shown = [names.answers, names.audit, names.history]
    common = dict.fromkeys([*read, *write])
    found = [Right(READ, topic, topic) for topic in read]
    found += [Right(WRITE, topic, topic) for topic in write]
    found += [Right(READ, topic, topic, needed=False) for topic in shown]
    found += [Right(CONFIGS, topic, topic, needed=False) for topic in common]
    for service in services:
        reads = names.requests, names.delayed, names.admitted, names.feedback, names.retries
        writes = names.admitted, names.delayed, names.rejected, names.retries
        found += [Right(READ, kind(service), kind("")) for kind in reads]
        found += [Right(WRITE, kind(service), kind("")) for kind in writes]
        found += [Right(CONFIGS, kind(service), kind(""), needed=False) for kind in of_service]
        if service in delete:
            found += [Right(DELETE, kind(service), kind(""), needed=False) for kind in (names.delayed, names.retries)]
        if create:
            made = names.admitted, names.delayed, names.rejected, names.feedback, names.retries
            found += [Right(o, kind(service), kind(""), needed=False) for o in (CREATE, ALTER) for kind in made]
    return found


def judge(rights: Iterable[Right], allowed: Mapping[str, Allowed]) -> list[Finding]:
    """Judge the rights on topics by what is `allowed`; of a topic that is not there nothing is known."""
    lacks: dict[tuple[Operation, bool], list[Right]] = {}
    for right in rights:
        if right.topic in allowed and right.operation not in allowed[right.topic]:
            lacks.setdefault((right.operation, right.needed), []).append(right)
    return [_lacks(operation, some, needed=needed) for (operation, needed), some in sorted(lacks.items())]


def _lacks(operation: Operation, rights: list[Right], *, needed: bool) -> Finding:
    topics = sorted({right.topic for right in rights})
    prefixes = " ".join(f"--topic {prefix}" for prefix in sorted({right.prefix for right in rights}))
    shown = ", ".join(topics[:NAMED]) + (f" and {len(topics) - NAMED} more" if len(topics) > NAMED else "")
    without = "" if needed else f"; without it {_WITHOUT.get(operation, 'the console shows less')}"
    return Finding(
        CHECK,
        Health.FAIL if needed else Health.WARN,
        f"{operation.shown} on {shown} is not allowed to whoever runs the doctor{without}",
        f"allow it to the gates: kafka-acls.sh --add --operation {operation.shown} --resource-pattern-type prefixed"
        f" {prefixes}",
    )


async def look(client: Client, rights: Iterable[Right], group: str, worker_groups: Collection[str]) -> list[Finding]:
    """Ask what is allowed, and judge it."""
    rights = list(rights)
    topics = sorted({right.topic for right in rights})
    wanted = {group: READ, **dict.fromkeys(worker_groups, DESCRIBE)}
    try:
        allowed = await allowed_on_topics(client, topics)
        groups = {name: await allowed_on_group(client, name) for name in sorted(wanted)}
    except (NotImplementedError, errors.IncompatibleBrokerVersion):
        return [Finding(CHECK, Health.SKIPPED, "brokers before Kafka 2.8 do not tell what is allowed")]
    found = judge(rights, allowed)
    for name, some in groups.items():
        operation = wanted[name]
        if some is not None and operation not in some:
            text = f"{operation.shown} on group {name} is not allowed to whoever runs the doctor"
            fix = f"allow it to the gates: kafka-acls.sh --add --operation {operation.shown} --group {name}"
            found.append(Finding(CHECK, Health.FAIL, text, fix))
    return found or [Finding(CHECK, Health.OK, f"all is allowed on {len(allowed)} topics and {len(wanted)} groups")]
