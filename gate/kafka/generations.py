"""Generations of the state: each has a topic of its own; in a new one services lie on other shards.

Which one is in force is told by the descriptions (`meta`) of the shards alone. Those of a generation come into being in
one transaction, after all else of it: that is the flip. Before it, each shard of the earlier generation was closed by
whoever had fenced its owner off. So nobody decides by both, and nobody by one that is still being copied.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

import msgspec

from gate.errors import GateError
from gate.kafka.aio.compacted import newest, read_all
from gate.kafka.aio.reader import Reader
from gate.protocol.topics import Names
from gate.shard.changelog_records import META_KEY, ClosedGeneration, Meta
from gate.shard.records import Partition

FIRST: Final = 1
PLACEMENT_KEY: Final = "generation"  # in shard 0, written with the flip


class Placed(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which services were put into which group by command, whatever a policy file says; null: into none."""

    groups: dict[str, str | None] = {}


@dataclass(frozen=True, slots=True)
class Generation:
    """One that is in force, or was."""

    number: int
    shards: int
    groups: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Moving:
    """What is on its way: the generation that was closed, or is being closed, and what it is to become."""

    before: Generation
    closed: ClosedGeneration

    def told(self, copied: int, of: int) -> str:
        """Say that it goes on, and how far it has come."""
        since = datetime.fromtimestamp(self.closed.at / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        far = f"{copied:,} of {of:,} records are copied" if of else "its shards are being closed and read"
        return (
            f"resharding to generation {self.closed.generation} ({self.closed.shards} shards) since {since}: {far}; "
            "gates go on by themselves"
        )

    @property
    def shown(self) -> str:
        """Say it."""
        return (
            f"the state is being moved to generation {self.closed.generation} ({self.closed.shards} shards) "
            f"by `gate reshard`"
        )


class MovingError(GateError):
    """No generation is in force now."""

    def __init__(self, moving: Moving) -> None:
        super().__init__(
            moving.shown,
            hint=f"it takes some seconds; if nobody runs it, `gate reshard {moving.closed.shards}` finishes it, and "
            "`gate reshard --abort` takes it back",
        )


def known(names: Names, there: Mapping[str, int]) -> dict[int, int]:
    """Return how many shards each generation has that has a topic, by number; the newest first."""
    found = {}
    for topic, partitions in there.items():
        number = names.generation_of(topic)
        if number is not None:
            found[number] = partitions
    return dict(sorted(found.items(), reverse=True))


async def find(reader: Reader, names: Names, there: Mapping[str, int]) -> Generation | Moving | None:
    """Return the generation that is in force, or what is on its way; None: there is no state yet."""
    for number, shards in known(names, there).items():
        topic = replace(names, generation=number).state
        raw = await newest(reader, Partition(topic, 0), META_KEY)
        if raw is None:
            continue  # its state is being copied, or its copying was given up
        meta = msgspec.json.decode(raw, type=Meta)
        groups: Mapping[str, str | None] = {}
        if number > FIRST:
            kept = (await read_all(reader, Partition(topic, 0))).get(PLACEMENT_KEY)
            groups = msgspec.json.decode(kept, type=Placed).groups if kept is not None else {}
        generation = Generation(number, shards, groups)
        return generation if meta.closed is None else Moving(generation, meta.closed)
    return None


async def in_force(reader: Reader, names: Names, there: Mapping[str, int], shards: int) -> Generation:
    """Return the generation to run with; where there is none yet, the first, of `shards`. Raises MovingError."""
    found = await find(reader, names, there)
    if isinstance(found, Moving):
        raise MovingError(found)
    return found or Generation(FIRST, shards)


def transactional_id(group: str, shard: int, generation: int) -> str:
    """Return by which id the owner of a shard writes: one of its own per generation, so that they do not meet."""
    return f"{group}-{shard}" if generation == FIRST else f"{group}-{shard}.{generation}"
