"""`gate audit`: who did what, when and why."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from cyclopts import CycloptsError, Parameter

from gate.cli.client import Client, Duration, Flag, Group, OptionalService, log_to_stderr, read_seconds, say
from gate.errors import GateError
from gate.kafka.connect import running
from gate.protocol.answers import AnswerState, Audit, decode_audit
from gate.protocol.policies import GROUP, called, group_of
from gate.text import printable, timestamp

_POLL_MS: Final = 200
_KNOWN: Final = 20  # services that are named
_SHOWN: Final = 500  # characters of what somebody has written


def audit(
    service: OptionalService = None,
    /,
    *,
    group: Group = None,
    since: Annotated[Duration | None, Parameter(converter=read_seconds)] = None,
    json: Flag = False,
    client: Client | None = None,
) -> None:
    """Show what operators commanded: who, when, what and why, and what became of it.

    `who` is what the sender said of himself; who may send at all is said by the broker's ACLs.

    Example: `gate audit payments --since 1d`

    Parameters
    ----------
    service
        Only this service.
    group
        Only this group, of which limits were set.
    since
        Only the last so long: 90s, 15m, 7d.
    json
        Print one JSON object a line.
    """
    if service is not None and group is not None:
        raise CycloptsError(msg="SERVICE and --group are given: leave one of them out")
    subject = service if group is None else f"{GROUP}{group}"
    log_to_stderr()
    asyncio.run(_show(client or Client(), subject, since, as_json=json))


async def _show(client: Client, service: str | None, since: float | None, *, as_json: bool) -> None:
    await client.reach()
    topic = client.names.audit
    async with client.cluster() as cluster:
        there = await cluster.partitions()
        if topic not in there:
            raise GateError(f"there is no topic {topic}: no gate has run with this prefix", hint="start one: gate run")
    start = 0 if since is None else int((time.time() - since) * 1000)
    shown = False
    async for record in _read(client, topic):
        if record.at >= start and service in {None, record.service}:
            shown = True
            print(msgspec.json.encode(record).decode() if as_json else _line(record), flush=True)
    if not shown and service is not None:
        known = sorted(name for one in there if (name := client.names.service_of(one)) is not None)
        if group_of(service) is None and service not in known:
            raise GateError(f"there is no service {service!r}", hint=f"known are {', '.join(known[:_KNOWN])}")
        say(f"nothing was commanded about {called(service)}{'' if since is None else ' in that time'}")


async def _read(client: Client, topic: str) -> AsyncIterator[Audit]:
    partition = TopicPartition(topic, 0)
    consumer = AIOKafkaConsumer(
        **client.connection.access(), isolation_level="read_committed", auto_offset_reset="earliest"
    )
    async with running(consumer):
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        while await consumer.position(partition) < end:
            for records in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                for record in records:
                    try:
                        yield decode_audit(record.value)
                    except ValueError as error:
                        say(f"record {record.offset} of {topic} is no audit: {error}")


def _line(record: Audit) -> str:
    parts = [timestamp(datetime.fromtimestamp(record.at / 1000, UTC)), record.who or "somebody", record.what]
    parts.append(record.service)
    selection = record.said.get("selection", {})
    said = {**selection, **record.said} if isinstance(selection, dict) else record.said
    parts += [f"{name}={value}" for name, value in said.items() if name != "selection" or said is record.said]
    if {"done", "of"} <= record.after.keys():
        parts.append(f"{record.after['done']} of {record.after['of'] or 0}")
    if record.result != AnswerState.DONE:
        parts.append(f"{record.result}: {record.why}")
    if record.reason:
        parts.append(f'"{record.reason}"')
    return "  ".join(printable(part, _SHOWN) for part in parts)
