"""Plan of a move of the state: what it comes to, in which parts it is written, and how long it takes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gate.errors import GateError
from gate.kafka.generation_layout import Layout
from gate.kafka.generations import Generation, Moving

BATCH_BYTES: Final = 8 << 20  # of a transaction
BATCH_RECORDS: Final = 10_000
PER_SECOND: Final = 4 << 20  # bytes that are surely copied, for an estimate


class ReshardRefusedError(GateError):
    """It can't be done now, and nothing was changed."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody wants: another number of shards, or services in other groups."""

    shards: int | None = None
    groups: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is moved into what, and whether that was begun already."""

    before: Generation
    after: Generation
    moves: frozenset[str]
    begun: bool = False


def go_on(found: Moving, wanted: Wanted) -> Plan:
    """Return the plan of what was begun. Raises ReshardRefusedError where something else is wanted."""
    closed = found.closed
    shards = wanted.shards or closed.shards
    if shards != closed.shards or any(closed.groups.get(s, ...) != g for s, g in wanted.groups.items()):
        groups = "".join(f" --move {service} --group {group or ''}" for service, group in closed.groups.items())
        raise ReshardRefusedError(
            f"another one was begun: to generation {closed.generation}, {closed.shards} shards{groups}",
            hint=f"`gate reshard {closed.shards}` finishes it, `gate reshard --abort` takes it back",
        )
    after = Generation(closed.generation, closed.shards, {**found.before.groups, **closed.groups})
    return Plan(found.before, after, frozenset(closed.groups), begun=True)


def parts_of(
    there: Sequence[Mapping[str, bytes]], wanted: Sequence[Mapping[str, bytes]]
) -> Iterator[dict[int, dict[str, bytes | None]]]:
    """Yield what is to be written, by shard, in parts that fit into a transaction; None: to be deleted."""
    part: dict[int, dict[str, bytes | None]] = {}
    count = size = 0
    for shard, (kept, records) in enumerate(zip(there, wanted, strict=True)):
        changes: dict[str, bytes | None] = dict.fromkeys(kept.keys() - records.keys())
        changes |= {key: value for key, value in records.items() if kept.get(key) != value}
        for key, value in changes.items():
            part.setdefault(shard, {})[key] = value
            count, size = count + 1, size + len(key) + len(value or b"")
            if count >= BATCH_RECORDS or size >= BATCH_BYTES:
                yield part
                part, count, size = {}, 0, 0
    if part:
        yield part


def estimate(layout: Layout, seconds_to_read: float) -> float:
    """Return about how many seconds gates will wait: it is read twice and written once, and then taken over."""
    generation = layout.generation
    return 2 * seconds_to_read + layout.size / PER_SECOND + 0.1 * generation.shards + 2.0
