"""Placement of services in a new generation of the state: from its shards to those of the next.

No I/O. What nobody has to decide anew stays as it is, byte for byte.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from gate.admission.model import Pull
from gate.admission.state import GroupRecord, ScheduledRecord, SegmentRecord, decode, encode
from gate.errors import GateError
from gate.kafka.generations import PLACEMENT_KEY, Generation, Placed
from gate.policy import Policy
from gate.protocol.policies import group_of
from gate.protocol.topics import Names
from gate.shard import mesh
from gate.shard.changelog_records import (
    FLOORS_KEY,
    FORMAT,
    LEAVING_KEY,
    META_KEY,
    FloorsRecord,
    Meta,
    encode_leaving,
    encode_meta,
    read_leaving,
)
from gate.shard.placement import shard_of
from gate.shard.positions import OFFSETS_KIND, Positions
from gate.shard.records import CommittedOffset, Partition

OWN_KEYS: Final = frozenset({META_KEY, LEAVING_KEY, PLACEMENT_KEY, FLOORS_KEY})
SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Shards:
    """All that a generation holds: by shard, its records and what describes them."""

    generation: Generation
    records: Sequence[Mapping[str, bytes]]
    metas: Sequence[Meta]


@dataclass(slots=True)
class Layout:
    """What the next generation is to hold, and what there is to say of it."""

    generation: Generation
    records: list[dict[str, bytes]]
    meta: Meta
    services: set[str] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)  # to a shard of another number
    parked: int = 0  # requests

    @property
    def size(self) -> int:
        """How many bytes its records take."""
        return sum(len(key) + len(value) for records in self.records for key, value in records.items())

    @property
    def flip(self) -> list[dict[str, bytes]]:
        """What brings it into force, by shard."""
        meta = encode_meta(self.meta)
        placed = msgspec.json.encode(Placed(dict(self.generation.groups)))
        return [{PLACEMENT_KEY: placed, META_KEY: meta}, *({META_KEY: meta} for _ in self.records[1:])]


def lay_out(
    before: Shards,
    after: Generation,
    policy: Policy,
    names: Names,
    marks: Mapping[Partition, CommittedOffset],
    moves: frozenset[str],
) -> Layout:
    """Lay the state out anew. `moves` are services whose group changes; `marks` the group's offsets of all requests.

    Raises GateError where it does not lie where the policy says: then that is not the one by which the gates run.
    """
    old, new = policy.placed(before.generation.groups), policy.placed(after.groups)
    shards = before.generation.shards
    layout = Layout(after, [{} for _ in range(after.shards)], _meta(before.metas, after.shards))
    homes = _homes(before, old)
    leaving: list[list[tuple[str, Pull]]] = [[] for _ in range(after.shards)]
    floors: dict[str, int] = {}
    held: list[dict[str, bytes]] = [{} for _ in before.records]  # by processes that share limits
    for shard, records in enumerate(before.records):
        if LEAVING_KEY in records:
            for service, pull in read_leaving(records[LEAVING_KEY]):
                leaving[shard_of(new.shard_key(service), after.shards)].append((service, pull))
        if FLOORS_KEY in records:
            floors |= decode(FLOORS_KEY, records[FLOORS_KEY], FloorsRecord).floors
        for key, value in records.items():
            if key in OWN_KEYS:
                continue
            kind, _, rest = key.partition("/")
            if kind == mesh.KIND:
                held[shard][rest] = value
                continue
            if kind == "group":
                if shard_of(f"group:{rest}", shards) == shard:  # others have one too, which means nothing
                    layout.records[shard_of(f"group:{rest}", after.shards)][key] = _claims(key, value, rest, new)
                continue
            service = rest.partition("/")[0]
            if homes[service] == shard:
                layout.records[shard_of(new.shard_key(service), after.shards)][key] = value
                if kind == "parked":
                    layout.parked += sum(_counts(decode(key, value, SegmentRecord).count))
                elif kind == "scheduled":
                    layout.parked += sum(_counts(decode(key, value, ScheduledRecord).count))
    for target, part in enumerate(mesh.moved(held, lambda name: _place(name, new, after.shards), after.shards)):
        layout.records[target] |= {f"{mesh.KIND}/{key}": value for key, value in part.items()}
    _check(homes, old, shards, moves)
    for service, shard in homes.items():
        target = shard_of(new.shard_key(service), after.shards)
        if group_of(service) is None:  # else it is what is set for a group
            layout.services.add(service)
            if target != shard:
                layout.moved.add(service)
        floor = max(before.metas[shard].control, floors.get(service, 0))
        if floor > layout.meta.control:
            kept = layout.records[target].get(FLOORS_KEY)
            known = decode(FLOORS_KEY, kept, FloorsRecord).floors if kept is not None else {}
            layout.records[target][FLOORS_KEY] = encode(FloorsRecord({**known, service: floor}))
    _positions(before, layout, homes, names, marks, new)
    for target, pulls in enumerate(leaving):
        if pulls:
            layout.records[target][LEAVING_KEY] = encode_leaving(pulls)
    return layout


def _place(budget: str, policy: Policy, shards: int) -> int:
    """Return the shard of what calls are charged to: a service, one of its tenants, or a group."""
    return shard_of(budget if group_of(budget) is not None else policy.shard_key(budget.partition("/")[0]), shards)


def _homes(before: Shards, policy: Policy) -> dict[str, int]:
    """Return where the state of each service is: on the shard that the policy says, if some of it is there."""
    homes: dict[str, int] = {}
    for shard, records in enumerate(before.records):
        services = {
            rest.partition("/")[0]
            for kind, _, rest in (key.partition("/") for key in records if key not in OWN_KEYS)
            if kind not in {"group", mesh.KIND}
        }
        for service in services:
            if service not in homes or shard_of(policy.shard_key(service), before.generation.shards) == shard:
                homes[service] = shard
    return homes


def _meta(metas: Sequence[Meta], shards: int) -> Meta:
    """Return what describes new shards: they start no earlier than any has come, and hear what any has not heard."""
    return Meta(
        FORMAT,
        shards,
        at=max(meta.at for meta in metas),
        since=min((meta.since for meta in metas if meta.since), default=0),
        control=min(meta.control for meta in metas),
    )


def _claims(key: str, value: bytes, group: str, policy: Policy) -> bytes:
    """Leave out what services claim that are not in a group any more: others would wait for them."""
    record = decode(key, value, GroupRecord)
    kept = {service: claim for service, claim in record.claims.items() if policy.effective(service).group == group}
    return value if len(kept) == len(record.claims) else encode(msgspec.structs.replace(record, claims=kept))


def _check(homes: Mapping[str, int], policy: Policy, shards: int, moves: frozenset[str]) -> None:
    wrong = [
        service
        for service, shard in sorted(homes.items())
        if service not in moves and shard_of(policy.shard_key(service), shards) != shard
    ]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise GateError(
            f"the policy file puts {', '.join(wrong[:SHOWN])}{more} into another group than the one in which its state "
            "is",
            hint="give the file by which the gates run (--config); `--move SERVICE --group NAME` moves a service",
        )


def _positions(
    before: Shards,
    layout: Layout,
    homes: Mapping[str, int],
    names: Names,
    marks: Mapping[Partition, CommittedOffset],
    policy: Policy,
) -> None:
    """Keep from where on each partition is read, by the rule of the shard from which it comes.

    That rule looks at since when positions have been kept, which is not the same in all shards; so what it says is
    written down. Nothing is to be done without transactions: there the group's offsets alone count.
    """
    by_service: dict[str, list[Partition]] = {}
    for partition in marks:
        if (service := names.service_of(partition.topic)) is not None:
            by_service.setdefault(service, []).append(partition)
    shards, after = before.generation.shards, layout.generation.shards
    old = policy.placed(before.generation.groups)
    for service, partitions in by_service.items():
        shard = homes.get(service, shard_of(old.shard_key(service), shards))
        since = before.metas[shard].since
        if not since:
            continue
        key = f"{OFFSETS_KIND}/{service}"
        positions = Positions(names, marks, since)
        kept = before.records[shard].get(key)
        if kept is not None:
            positions.restore(service, key, kept)
        starts = {partition.number: positions.start(service, partition) for partition in partitions}
        added = False
        for number, start in starts.items():
            if start is not None and not positions.knows(service, number):
                positions.advance(service, number, [], start)
                added = True
        if added:
            target = shard_of(policy.shard_key(service), after)
            layout.records[target][key] = positions.record(service)
            layout.services.add(service)


def _counts(column: bytes) -> Sequence[int]:
    counts = array("H")
    counts.frombytes(column)
    return counts
