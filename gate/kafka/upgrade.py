"""From one format of the state to the next: what is written, which gates know what, and the switch.

A gate writes the format that the state is in, so that an earlier gate can take over from it. Once all gates know the
new one, owners are told to write it: by a command, upon which each owner changes its shard's description in a batch.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaProducer

from gate.errors import GateError
from gate.kafka.aio.compacted import newest
from gate.kafka.aio.compat.shared import ConsumerProtocolMemberMetadata
from gate.kafka.aio.reader import Reader
from gate.kafka.cluster import Cluster
from gate.kafka.connect import running
from gate.kafka.generations import Moving, MovingError, find
from gate.protocol import control
from gate.protocol.topics import Names
from gate.shard.changelog_records import FORMAT, META_KEY, Meta
from gate.shard.records import Partition

POLL: Final = 0.2
SETTLE_DEADLINE: Final = 30.0  # of a rebalance, in which members tell nothing
SEND_DEADLINE: Final = 10.0


class _Told(msgspec.Struct):
    format: int = 1
    generation: int = 0
    version: str = ""
    gate: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """A gate that runs, and what it says of itself."""

    id: str
    host: str
    format: int  # the newest that it knows
    version: str  # empty: it is too old to tell
    generation: int = 0  # of the state with which it runs; 0: it knows nothing of generations
    name: str = ""  # by which its alerts call it; empty: it is too old to tell

    @property
    def shown(self) -> str:
        """What to call it."""
        return f"{self.host} ({self.version or 'an earlier version'}, member {self.id})"


@dataclass(frozen=True, slots=True)
class UpgradeStatus:
    """How far an upgrade has come."""

    formats: Mapping[int, int | None]  # what each shard writes; None: nothing is written yet
    members: Sequence[Member]
    topic: str = ""  # of the state

    @property
    def written(self) -> int:
        """The oldest format that some shard still writes."""
        return min((number for number in self.formats.values() if number is not None), default=FORMAT)

    @property
    def behind(self) -> list[int]:
        """The shards that do not write the newest format yet."""
        return [shard for shard, number in sorted(self.formats.items()) if number is not None and number < FORMAT]

    @property
    def old(self) -> list[Member]:
        """The gates that do not know the newest format."""
        return [member for member in self.members if member.format < FORMAT]


async def members(cluster: Cluster, group: str) -> list[Member]:
    """Return the gates that run. Waits for the end of a rebalance, in which they tell nothing of themselves."""
    patience = SETTLE_DEADLINE / POLL
    while True:
        described = await cluster.describe(group)
        if all(metadata for *_, metadata in described):
            return [member_of(member, host, metadata) for member, host, metadata in described]
        if (patience := patience - 1) < 0:
            raise GateError(
                f"group {group} has not settled for {SETTLE_DEADLINE:g} s, so its gates tell nothing of themselves",
                hint="see the gates' logs, and try again",
            )
        await asyncio.sleep(POLL)


def member_of(member: str, host: str, metadata: bytes) -> Member:
    """Read what a member told when it joined; one that tells nothing knows the first format."""
    try:
        told = msgspec.json.decode(ConsumerProtocolMemberMetadata.decode(metadata).user_data or b"{}", type=_Told)
    except (ValueError, msgspec.DecodeError):
        told = _Told()
    return Member(member, host.removeprefix("/"), told.format, told.version, told.generation, told.gate)


async def written(reader: Reader, topic: str, shards: Sequence[int]) -> dict[int, int | None]:
    """Return in which format the state of shards is written."""
    found: dict[int, int | None] = {}
    for shard in shards:
        raw = await newest(reader, Partition(topic, shard), META_KEY)
        found[shard] = None if raw is None else msgspec.json.decode(raw, type=Meta).format
    return found


async def standing(cluster: Cluster, reader: Reader, names: Names, group: str) -> UpgradeStatus:
    """Look how far an upgrade has come."""
    found = await find(reader, names, await cluster.partitions())
    if found is None:
        raise GateError(f"no gate has run with this prefix: there is no {names.state}", hint="start one: gate run")
    if isinstance(found, Moving):
        raise MovingError(found)
    topic = replace(names, generation=found.number).state
    return UpgradeStatus(await written(reader, topic, range(found.shards)), await members(cluster, group), topic)


def check(now: UpgradeStatus) -> None:
    """Raise GateError where the newest format must not be written yet."""
    if now.old:
        raise GateError(
            f"{len(now.old)} of {len(now.members)} gates do not know format {FORMAT} of the state: "
            f"{'; '.join(member.shown for member in now.old)}",
            hint="stop them or start them with the new version, then try again; until then the old format is written",
        )
    if not now.members:
        raise GateError("no gate runs, so nobody would switch the format", hint="start the gates, then try again")


async def command(topic: str, options: Mapping[str, Any]) -> None:
    """Tell all owners to write the newest format."""
    producer = AIOKafkaProducer(**options, enable_idempotence=True)
    async with running(producer), asyncio.timeout(SEND_DEADLINE):
        await producer.send_and_wait(
            topic, control.encode(control.WriteFormat(FORMAT)), control.FORMAT_KEY.encode(), partition=0,
            headers=[(control.BY, control.OPERATOR)],
        )  # fmt: skip


async def switched(reader: Reader, now: UpgradeStatus, deadline: float) -> list[int]:
    """Wait until all shards write the newest format; return those that do not in time."""
    left = now.behind
    try:
        async with asyncio.timeout(deadline):
            while left:
                found = await written(reader, now.topic, left)
                left = [shard for shard, number in found.items() if number is not None and number < FORMAT]
                if left:
                    await asyncio.sleep(POLL)
    except TimeoutError:
        pass
    return left
