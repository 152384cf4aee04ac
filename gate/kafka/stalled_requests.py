"""Request partitions that do not go on, as who has just come finds them: by two looks at the broker."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple

from gate.kafka.aio.reader import EARLIEST, LATEST
from gate.kafka.undecided_requests import OPEN_AFTER, Ends, Undecided, nobody_tells, open_transaction
from gate.shard.records import CommittedOffset, Partition
from gate.shard.stalled_partitions import SECOND, StalledPartition
from gate.units import MS

LONG: Final = 60 * SECOND  # undecided for so long
BETWEEN: Final = 2.0  # seconds from look to look: what has moved meanwhile does not stand
MOST_ASKED: Final = 1_000  # partitions whose first undecided batch is read

Committed = Callable[[Sequence[Partition]], Awaitable[Mapping[Partition, CommittedOffset]]]


class StalledRequests(NamedTuple):
    """A partition in which so many requests stand; `blocked`: behind an open transaction."""

    waiting: StalledPartition
    requests: int
    blocked: bool


class _Look(NamedTuple):
    marks: Mapping[Partition, CommittedOffset]
    ends: Mapping[Partition, int]
    positions: Mapping[Partition, int]  # of those in which something is undecided
    stable: Mapping[Partition, int]


async def stalled_requests(
    ends: Ends,
    committed: Committed,
    partitions: Mapping[Partition, str],
    where: str,
    wall: Callable[[], int],
    name: Callable[[Partition, int], Awaitable[str | None]] = nobody_tells,
) -> list[StalledRequests]:
    """Return those partitions (each with its service) that stand, sorted."""
    await ends.learn({partition.topic for partition in partitions})
    first = await _look(ends, committed, list(partitions))
    old = [p for p in sorted(first.positions)[:MOST_ASKED] if await _is_old(ends, p, first, wall())]
    if not old:
        return []
    await asyncio.sleep(BETWEEN)
    second = await _look(ends, committed, old)
    found = []
    for partition in old:
        at = second.positions.get(partition)
        if at is None or at != first.positions[partition] or partition not in second.stable:
            continue
        blocked = second.stable[partition] < second.ends[partition]
        if blocked and second.stable[partition] != first.stable.get(partition):
            continue
        service = partitions[partition]
        offset = second.stable[partition] if blocked else at
        head = await ends.head(partition, offset)
        since = head.timestamp * MS if head is not None and head.timestamp > 0 else wall()
        waiting = (
            open_transaction(service, partition, offset, since, head, where, await name(partition, offset))
            if blocked
            else StalledPartition(
                *partition, offset, since, "it is not decided", "look at the gates' log and /readyz", service
            )
        )
        found.append(StalledRequests(waiting, second.ends[partition] - at, blocked))
    return found


async def undecided_now(
    ends: Ends, committed: Committed, services: Mapping[str, Sequence[Partition]]
) -> dict[str, Undecided]:
    """Return what of each service is undecided by the group's offsets; one of which the group has none is left out."""
    partitions = [partition for some in services.values() for partition in some]
    await ends.learn({partition.topic for partition in partitions})
    look = await _look(ends, committed, partitions)
    found = {}
    for service, some in services.items():
        if not any(partition in look.marks for partition in some) or not all(
            partition in look.ends for partition in some
        ):
            continue
        late = [partition for partition in some if partition in look.positions]
        heads = [await ends.head(partition, look.positions[partition]) for partition in late]
        since = min((head.timestamp * MS for head in heads if head is not None), default=None)
        found[service] = Undecided(sum(look.ends[p] - look.positions[p] for p in late), since)
    return found


async def _look(ends: Ends, committed: Committed, partitions: Sequence[Partition]) -> _Look:
    marks = await committed(partitions)
    begin = await ends.ends([p for p in partitions if p not in marks], EARLIEST, committed=False)
    at = begin | {partition: mark.offset for partition, mark in marks.items()}
    newest = await ends.ends(partitions, LATEST, committed=False)
    behind = {p: at[p] for p in newest if p in at and at[p] < newest[p]}
    return _Look(marks, newest, behind, await ends.ends(behind, LATEST, committed=True))


async def _is_old(ends: Ends, partition: Partition, look: _Look, now: int) -> bool:
    blocked = look.stable.get(partition, look.ends[partition]) < look.ends[partition]
    head = await ends.head(partition, look.stable[partition] if blocked else look.positions[partition])
    return head is not None and now - head.timestamp * MS >= (OPEN_AFTER if blocked else LONG)
