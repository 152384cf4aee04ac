"""What operators have commanded lately, for commands that show what came of it."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from gate.admission.model import Usage
from gate.cli.client import Client
from gate.console.commanded import ANSWERED, AUDITS, Commanded
from gate.console.words import until
from gate.errors import GateError
from gate.kafka.connect import running
from gate.protocol.answers import decode_answer, decode_audit
from gate.protocol.policies import LimitSet

_POLL_MS: Final = 200


async def commanded(client: Client) -> Commanded:
    """Return what audit and answers tell; less where somebody may not read them, or no gate has made them."""
    found = Commanded()
    with suppress(KafkaError, GateError, OSError, TimeoutError):
        await _read(client, found)
    return found


async def _read(client: Client, found: Commanded) -> None:
    audit, answers = (TopicPartition(topic, 0) for topic in (client.names.audit, client.names.answers))
    takes = {
        audit: lambda value: found.take_audit(decode_audit(value)),
        answers: lambda value: found.take_answer(decode_answer(value)),
    }
    options = client.connection.access()
    async with running(
        AIOKafkaConsumer(**options, isolation_level="read_committed", auto_offset_reset="earliest")
    ) as consumer:
        there = await consumer.topics()
        partitions = [partition for partition in takes if partition.topic in there]
        if not partitions:
            return
        consumer.assign(partitions)
        ends, begins = await consumer.end_offsets(partitions), await consumer.beginning_offsets(partitions)
        for partition, most in ((audit, AUDITS), (answers, 2 * ANSWERED)):
            if partition in ends:
                consumer.seek(partition, max(begins[partition], ends[partition] - most))
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            for partition, records in (await consumer.getmany(timeout_ms=_POLL_MS)).items():
                for record in records:
                    with suppress(ValueError):  # somebody else writes there
                        takes[partition](record.value)


def in_words(known: Commanded, usage: Usage, now_ms: int, *, paused: bool) -> Iterator[str]:
    """Yield who has done what to a service, and why, as long as it holds or goes on."""
    pause = known.pause_of(usage.service)
    if paused and pause is not None and pause.what == "pause":
        yield f"paused by {pause.who or 'somebody'}{f': {pause.reason}' if pause.reason else ''}"
    for limit in filter(None, (_holding(one, now_ms) for one in (usage.limit_set, usage.group_limit_set))):
        of = f" of group {limit.group}" if limit.group else ""
        end = "until cleared" if limit.until_ms is None else until(limit.until_ms, now_ms)
        why = f": {limit.why}" if limit.why else ""
        yield f"limit{of} set by {limit.who or 'somebody'} {end} ({limit.text}){why}"
    if usage.tenants_limited:
        yield f"limits of {usage.tenants_limited:,} tenants are set over the policy file"
    for one in known.under_way(usage.service, names=True):
        far = "being counted" if one.of is None else f"{one.done:,} of {one.of:,}"
        yield f"{one.what} by {one.who or 'somebody'}: {far}{f' ({one.why})' if one.why else ''}; id {one.command}"


def as_json(known: Commanded, usage: Usage, now_ms: int, *, paused: bool) -> dict[str, Any]:
    """Return the same for programs."""
    pause = known.pause_of(usage.service)
    by = pause if paused and pause is not None and pause.what == "pause" else None
    return {
        "paused_by": None if by is None else by.who,
        "paused_why": None if by is None else by.reason,
        "limit_set": msgspec.to_builtins(_holding(usage.limit_set, now_ms)),
        "group_limit_set": msgspec.to_builtins(_holding(usage.group_limit_set, now_ms)),
        "commands": msgspec.to_builtins(known.under_way(usage.service, names=True)),
    }


def _holding(limit: LimitSet | None, now_ms: int) -> LimitSet | None:
    return limit if limit is not None and limit.holds(now_ms) else None
