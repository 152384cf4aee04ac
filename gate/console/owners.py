"""Owners of shards: which gate has which, how much waits there, and how it goes on. No I/O, no clock."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gate.console.records import Record


@dataclass(frozen=True, slots=True)
class Owner:
    """A shard, and the gate that has told of it last."""

    shard: int
    gate: str
    services: int
    waiting: int  # requests
    told_ms: int  # unix ms
    undecided: int  # requests in its request topics
    age_seconds: float  # of the oldest of these
    commit_seconds: float | None  # that a batch of its gate takes of late; None: a gate of an earlier version


def owners_of(records: Iterable[Record]) -> Sequence[Owner]:
    """Return each shard that has services, with the gate that has told of it last."""
    newest: dict[int, Record] = {}
    services: Counter[int] = Counter()
    waiting: Counter[int] = Counter()
    undecided: Counter[int] = Counter()
    ages: dict[int, float] = {}
    for record in records:
        if record.shard is not None:
            services[record.shard] += 1
            waiting[record.shard] += record.backlog
            undecided[record.shard] += record.undecided or 0
            ages[record.shard] = max(ages.get(record.shard, 0.0), record.undecided_age_seconds or 0.0)
            if record.shard not in newest or record.at_ms > newest[record.shard].at_ms:
                newest[record.shard] = record
    return [
        Owner(
            shard,
            one.owner,
            services[shard],
            waiting[shard],
            one.at_ms,
            undecided[shard],
            ages[shard],
            one.commit_seconds,
        )
        for shard, one in sorted(newest.items())
    ]
