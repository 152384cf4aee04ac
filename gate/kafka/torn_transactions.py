"""Torn transactions: what a broker has left half-done of a predecessor's, and how that was decided.

A broker that is killed may note a transaction as complete without writing all of its markers: KRaft, where partitions
are not in its metadata yet when it looks for their leaders ("likely deleted already and hence can be skipped" in its
log). Then some partitions hold the batch, committed or not, and in others it is open: nobody reads it, nor anything
behind it, until the next transaction of the same producer publishes it.

Batches of a shard follow each other in time, and say by what time they were decided: in their stamps, and in the
changelog. So what is open was committed if anything as new was seen to be, and was not if nothing was.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from gate.errors import GateError
from gate.kafka.aio.compacted import end_behind, newest
from gate.kafka.aio.fencing import FencedOffError
from gate.kafka.aio.open_batches import OpenBatches
from gate.kafka.aio.reader import LATEST, Reader
from gate.kafka.aio.unknown_outcomes import ProducerIdentity, Torn
from gate.protocol.headers import ERROR_ATTEMPTS, JOB_ID, STAMP, decided_at, last
from gate.protocol.topics import Names
from gate.shard.changelog_records import META_KEY, read_meta
from gate.shard.placement import shard_of
from gate.shard.records import CommittedOffset, Partition, Record
from gate.shard.routing import Topics
from gate.units import MS

BACKOFF: Final = 0.1
TRIES: Final = 10  # for partitions that get a leader in a moment
PATIENCE: Final = 3.0  # seconds, for markers that are on their way

log = structlog.get_logger("gate.leftovers")


@dataclass(frozen=True, slots=True)
class Places:
    """Where the owner of a shard writes."""

    state: Partition
    outputs: tuple[Partition, ...]  # of its services alone
    reports: tuple[Partition, ...]  # others write there too


def places_of(
    shard: int, names: Names, shards: int, shard_key: Callable[[str], str], there: Mapping[str, int]
) -> tuple[Sequence[Partition], Places]:
    """Return the request partitions of a shard, and where its owner writes.

    `there` has the cluster's topics with their partitions; the group may not have been told of all of them yet.
    """
    found = {topic: service for topic in there if (service := names.service_of(topic)) is not None}
    mine = {t: s for t, s in found.items() if shard_of(shard_key(s), shards) == shard}
    requests = [Partition(topic, number) for topic in mine for number in range(there[topic])]
    outputs = tuple(
        Partition(output, number)
        for service in mine.values()
        for output in Topics.of(names, service).outputs
        for number in range(there.get(output, 0))
    )
    reports = Partition(names.alerts, 0), Partition(names.usage, 0)
    return requests, Places(Partition(names.state, shard), outputs, reports)


def was_committed(left: Iterable[int], seen: Iterable[int]) -> bool:
    """Tell how a transaction was decided: from the times in what it has left open, and in what is committed."""
    return max(left, default=0) <= max(seen, default=-1)


async def look(
    reader: Reader,
    places: Places,
    producer: ProducerIdentity,
    committed: Callable[[], Awaitable[Mapping[Partition, CommittedOffset]]],
    shards: int,
    barrier: int,
) -> Torn | None:
    """Look for what is left open of what was written by the id of a producer before it fenced. None: all is settled.

    `committed` reads the group's committed offsets: they may have their end where nothing else has. `barrier` is the
    offset of what was written to the changelog after the fence. Raises FencedOffError where another owner writes by the
    id since, GateError where somebody else has a transaction open in the changelog, and StateMismatchError.
    """
    places = await _led(reader, places)
    await reader.renew()  # one that stood still does not know that others lead
    await end_behind(reader, places.state, barrier, committed=False)
    left = await _left_open(reader, places, producer)
    torn = tuple(partition for partition, records in left.items() if records)
    if not torn:
        return None
    kept = await newest(reader, places.state, META_KEY)
    seen = [read_meta(kept, shards).at // MS, *(mark.at_ms for mark in (await committed()).values())]
    for partition, end in (await reader.offsets(places.outputs, LATEST)).items():
        newest_there = await reader.last_committed(partition, end)
        seen.append((_decided(newest_there) if newest_there is not None else None) or 0)
    key = META_KEY.encode()
    times = [read_meta(r.value, shards).at // MS for r in left.get(places.state, ()) if r.key == key]
    times += [at for p in places.outputs for r in left.get(p, ()) if (at := _decided(r)) is not None]
    return Torn(torn, was_committed(times, seen))


def _decided(record: Record) -> int | None:
    """Return by what time a record was written, unix ms; None: it is none of an owner's."""
    headers = record.headers
    if last(headers, ERROR_ATTEMPTS) or (last(headers, JOB_ID) and not last(headers, STAMP)):
        return record.timestamp  # a retry has no stamp yet, a dead letter that of its admission
    return decided_at(headers)


async def is_open(reader: Reader, places: Places, producer_id: int) -> bool:
    """Tell whether a producer has anything open that is neither committed nor aborted yet."""
    everywhere = (places.state, *places.outputs, *places.reports)
    await reader.learn({partition.topic for partition in everywhere})
    await reader.renew()
    unstable = await reader.unstable(everywhere)
    for partition, (start, end) in unstable.items():
        if (await reader.left_open(partition, start, end, producer_id)).records:
            return True
    return False


async def _led(reader: Reader, places: Places) -> Places:
    """Leave out what has no leader: it can't be looked at, and must not keep a shard's other services waiting."""
    everywhere = {places.state, *places.outputs, *places.reports}
    await reader.learn({partition.topic for partition in everywhere})
    for _ in range(TRIES):  # after a restart it takes a moment until all have one
        away = {partition for partition in everywhere if reader.leader(partition) is None}
        if not away:
            return places
        await asyncio.sleep(BACKOFF)
    log.warning("partitions without a leader; not looked at", partitions=sorted(f"{t}-{n}" for t, n in away))
    outputs = tuple(partition for partition in places.outputs if partition not in away)
    return Places(places.state, outputs, tuple(partition for partition in places.reports if partition not in away))


async def _left_open(
    reader: Reader, places: Places, producer: ProducerIdentity
) -> Mapping[Partition, Sequence[Record]]:
    everywhere = (places.state, *places.outputs, *places.reports)
    end = time.monotonic() + PATIENCE
    while True:
        left = {}
        for partition, (stable, newest_end) in (await reader.unstable(everywhere)).items():
            found = await reader.left_open(partition, stable, newest_end, producer.id)
            if found.epoch > producer.epoch:  # what it writes is under way, and not left behind
                raise FencedOffError(
                    f"another owner writes to {partition.topic}-{partition.number}, and has fenced this one off"
                )
            left[partition] = found
        hidden = left.get(places.state)
        if hidden is None or hidden.records:
            return {partition: found.records for partition, found in left.items()}
        if time.monotonic() > end:
            raise _not_ended(places.state, hidden)
        await asyncio.sleep(BACKOFF)


def _not_ended(state: Partition, found: OpenBatches) -> GateError:
    place = f"{state.topic}-{state.number}"
    if not found.others:
        return GateError(
            f"the broker shows nothing of {place} behind a transaction that has ended", hint="restart its leader"
        )
    whose = ", ".join(f"producer {one} from offset {at} on" for one, at in sorted(found.others.items()))
    return GateError(
        f"somebody else has a transaction open in {place}, {whose}; what was committed behind it can't be read",
        hint="find it with `gate transactions list`, and end it with `gate transactions abort`",
    )
