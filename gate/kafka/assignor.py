"""An assignor of shards that keeps all of a service, and its changelog, on one member."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

from gate.kafka.aio.compat.shared import (
    AbstractPartitionAssignor,
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)
from gate.shard.changelog_records import FORMAT

VERSION: Final = 0
_VERSION: Final = version("kafka-admission-gate")


def balance(shards: int, members: Mapping[str, Collection[int]]) -> dict[str, list[int]]:
    """Give each of `shards` to one member: numbers differ by at most one, and as little moves as that allows.

    `members` maps each member to the shards that it owned before. The same input gives the same answer everywhere.
    """
    order = sorted(members)
    claims: dict[int, str] = {}
    for member in order:
        for shard in members[member]:
            if 0 <= shard < shards:
                claims.setdefault(shard, member)
    kept: dict[str, list[int]] = {member: [] for member in order}
    for shard, member in sorted(claims.items()):
        kept[member].append(shard)
    low, extra = divmod(shards, len(order))
    # those who own most keep the larger share, so that nothing moves for its own sake
    quota = {m: low + (i < extra) for i, m in enumerate(sorted(order, key=lambda m: (-len(kept[m]), m)))}
    result = {member: kept[member][: quota[member]] for member in order}
    owned = {shard for shards_ in result.values() for shard in shards_}
    free = [shard for shard in range(shards) if shard not in owned]
    for member in order:
        room = quota[member] - len(result[member])
        result[member] = sorted(result[member] + free[:room])
        free = free[room:]
    return result


def make_assignor(
    shards: int,
    state_topic: str,
    shard_of_topic: Callable[[str], int | None],
    owned: Callable[[], Iterable[int]],
    generation: int = 1,
    gate: str = "",
) -> type[AbstractPartitionAssignor]:
    """Return an assignor for aiokafka, which wants a class.

    `gate` is what this member calls itself.
    `shard_of_topic` tells the shard of a request topic (None: not a request topic), `owned` what this member owns now.
    """

    class ShardAssignor(AbstractPartitionAssignor):  # type: ignore[misc]
        # members that have different ones are not let into one group: they would not agree on who owns what
        name = "gate-shard" if generation == 1 else f"gate-shard-{generation}"

        @classmethod
        def assign(
            cls, cluster: Any, members: Mapping[str, ConsumerProtocolMemberMetadata]
        ) -> dict[str, ConsumerProtocolMemberAssignment]:
            there = shards if cluster.partitions_for_topic(state_topic) else 0  # deleted: nobody owns anything
            plan = balance(there, {member: _owned(meta.user_data) for member, meta in members.items()})
            topics: dict[int, list[tuple[str, list[int]]]] = {}
            for topic in sorted({topic for meta in members.values() for topic in meta.subscription}):
                shard = shard_of_topic(topic)
                partitions = sorted(cluster.partitions_for_topic(topic) or ())
                if shard is not None and partitions:
                    topics.setdefault(shard, []).append((topic, partitions))
            return {
                member: ConsumerProtocolMemberAssignment(VERSION, _assignment(mine, topics, state_topic), b"")
                for member, mine in plan.items()
            }

        @classmethod
        def metadata(cls, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
            told: dict[str, Any] = {"shards": shards, "owned": sorted(owned()), "generation": generation}
            told |= {"format": FORMAT, "version": _VERSION, "gate": gate}
            return ConsumerProtocolMemberMetadata(VERSION, list(topics), json.dumps(told).encode())

        @classmethod
        def on_assignment(cls, assignment: ConsumerProtocolMemberAssignment) -> None:
            """Nothing to keep: what is owned is asked for at the next join."""

    return ShardAssignor


def _assignment(
    mine: Sequence[int], topics: Mapping[int, list[tuple[str, list[int]]]], state_topic: str
) -> list[tuple[str, list[int]]]:
    if not mine:
        return []
    return [(state_topic, list(mine)), *(entry for shard in mine for entry in topics.get(shard, ()))]


def _owned(user_data: bytes | None) -> list[int]:
    try:
        return [int(shard) for shard in json.loads(user_data or b"{}").get("owned", ())]
    except (ValueError, AttributeError, TypeError):
        return []  # another version's way of saying it: it is treated as a newcomer
