"""`gate transactions`."""

import asyncio
import json as jsonlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Final

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from gate.cli.client import Client, Flag, log_to_stderr
from gate.cli.output import tell
from gate.errors import GateError
from gate.kafka.cluster import Cluster
from gate.kafka.open_transactions import LONGEST_MS, OpenTransaction, Transactions, belongs_to_gate, owner
from gate.protocol.topics import Names
from gate.shard.records import Partition
from gate.shard.routing import Topics

_DEADLINE: Final = 60.0

transactions = App(
    name="transactions",
    help="""Show transactions that are open in the gate's topics, and end one that nobody ends.

    What is behind an open transaction can't be read.

    Example: `gate transactions list`
    """,
)


class _Gate:
    """What both commands need."""

    def __init__(self, group_id: str, names: Names, cluster: Cluster, there: dict[str, int]) -> None:
        self.group_id = group_id
        self.cluster = cluster
        services = [service for topic in there if (service := names.service_of(topic)) is not None]
        written = {topic for service in services for topic in Topics.of(names, service).outputs}
        states = {topic for topic in there if names.generation_of(topic) is not None}
        self.own = written | states | {names.alerts, names.usage}  # where only gates write
        read = {topic for service in services for topic in (names.requests(service), names.feedback(service))}
        topics = sorted((self.own | read | {names.control}) & there.keys())
        self.partitions = [Partition(topic, number) for topic in topics for number in range(there[topic])]


@transactions.command(name="list")
def list_(*, json: Flag = False, client: Client | None = None) -> None:
    """List the transactions that are open in the gate's topics: producer, since when, and whose it likely is.

    Example: `gate transactions list`

    Parameters
    ----------
    json
        Print JSON: a list of objects with topic, partition, start_offset, producer_id, producer_epoch,
        transactional_id, state, since_ms, age_seconds and whose.
    """
    log_to_stderr()

    async def look() -> None:
        async with _at(client or Client()) as (gate, open_ones):
            found = await open_ones.open_in(gate.partitions)
            now = time.time_ns() // 1_000_000
            rows = [_row(one, gate, now) for one in found]
            if json:
                print(jsonlib.dumps(rows))
            elif rows:
                _print(rows)
            else:
                print("no transaction is open")

    asyncio.run(look())


@transactions.command
def abort(
    *,
    topic: str,
    partition: int,
    start_offset: Annotated[int, Parameter(name="--start-offset")],
    json: Flag = False,
    client: Client | None = None,
) -> None:
    """End an open transaction: what it has written counts as never written.

    Where a coordinator knows it, its producer is fenced off by its transactional id; where none does, a marker is
    written. A gate's own are left alone while a gate runs: gates end them themselves.

    Example: `gate transactions abort --topic gate.requests.payments --partition 0 --start-offset 912`

    Parameters
    ----------
    topic
        The topic in which it is open.
    partition
        The partition.
    start_offset
        The offset at which it begins there.
    json
        Print one JSON object: topic, partition, start_offset, and in words what was done.
    """
    log_to_stderr()
    place = Partition(topic, partition)

    async def end() -> str:
        async with _at(client or Client()) as (gate, open_ones):
            if place not in gate.partitions:
                raise GateError(
                    f"{topic}-{partition} is no partition of the gate's topics", hint="see --config, --prefix"
                )
            found = await open_ones.open_in([place])
            one = next((one for one in found if one.offset == start_offset), None)
            if one is None:
                others = ", ".join(str(one.offset) for one in found) or "none"
                raise GateError(
                    f"no transaction is open in {topic}-{partition} from offset {start_offset} on",
                    hint=f"open there, by their first offset: {others}",
                )
            await _leave_gates_alone(one, gate)
            longest = (await gate.cluster.broker_configs()).get("transaction.max.timeout.ms")
            now = time.time_ns() // 1_000_000
            return await open_ones.abort(one, now, int(longest) if longest else LONGEST_MS)

    done = asyncio.run(end())
    tell(f"ended: {done}", json=json, topic=topic, partition=partition, start_offset=start_offset, done=done)


async def _leave_gates_alone(one: OpenTransaction, gate: _Gate) -> None:
    unnamed = one.transactional_id is None and one.partition.topic in gate.own
    if (unnamed or belongs_to_gate(one.transactional_id, gate.group_id)) and await gate.cluster.members(gate.group_id):
        raise GateError(
            f"the transaction is {owner(one, gate.group_id, gate.own)}, and a gate runs: it ends it itself",
            hint="if it does not within a minute, restart the gates; what is left when all are stopped can be aborted",
        )


@asynccontextmanager
async def _at(client: Client) -> AsyncIterator[tuple[_Gate, Transactions]]:
    needs = (
        "it takes Read on the topics and Describe on the transactional ids; to end one, Write on its id, "
        "and for an orphan Alter on the cluster: see docs/operations.md, or ask whoever runs the brokers"
    )
    async with client.connected(needs) as (cluster, connections), asyncio.timeout(_DEADLINE):
        there = dict(await cluster.partitions())
        yield _Gate(client.connection.group_id, client.names, cluster, there), Transactions(connections)


def _row(one: OpenTransaction, gate: _Gate, now_ms: int) -> dict[str, str | int | None]:
    return {
        "topic": one.partition.topic,
        "partition": one.partition.number,
        "start_offset": one.offset,
        "producer_id": one.producer_id,
        "producer_epoch": one.producer_epoch,
        "transactional_id": one.transactional_id,
        "state": None if one.told is None else one.told.state,
        "since_ms": one.since_ms,
        "age_seconds": max(0, now_ms - one.since_ms) // 1000,
        "whose": owner(one, gate.group_id, gate.own),
    }


def _print(rows: Sequence[dict[str, str | int | None]]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("partition", "from offset", "producer", "age", "whose"):
        table.add_column(title)
    for row in rows:
        table.add_row(
            f"{row['topic']}-{row['partition']}", str(row["start_offset"]), str(row["producer_id"]),
            f"{row['age_seconds']} s", str(row["whose"]),
        )  # fmt: skip
    Console(highlight=False, soft_wrap=True).print(table)
