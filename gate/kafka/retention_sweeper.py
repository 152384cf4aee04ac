"""Deletes what has left the delayed and the retries topics, some time after it came there.

A record goes only if it lies before the oldest one that still waits, by a state that was committed after the end of the
log was read, and only if it was written longer ago than `keep_released`. What came since then is never touched, so that
whoever believes for a moment to own a shard can delete nothing that the owner has parked meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

import structlog
from aiokafka import errors

from gate.kafka.aio.reader import EARLIEST, LATEST
from gate.shard.owner_views import RetainedOffsets
from gate.shard.records import Partition
from gate.shard.stalled_partitions import SECOND
from gate.units import MS

MOST: Final = 3_600 * SECOND  # from sweep to sweep
LEAST: Final = SECOND
PARTS: Final = 24  # of `keep_released`, after each of which is looked
FIRST: Final = 60 * SECOND  # after a shard has come: it has more to do at the beginning
TICK: Final = 1.0  # seconds
DEADLINE: Final = 30.0

log = structlog.get_logger("gate.sweeping")


class Sweepable(Protocol):
    """A shard that this gate owns."""

    number: int

    def rooms(self) -> Mapping[str, Sequence[Partition]]:
        """Return, by service, the partitions of its delayed and its retries topics."""

    async def settled(self) -> RetainedOffsets:
        """Return what waits as of a commit that was begun after the call."""


class Logs(Protocol):
    """Who knows logs, see `wire.Reader`."""

    async def offsets(  # noqa: D102
        self, partitions: Sequence[Partition], which: int, *, committed: bool = True
    ) -> dict[Partition, int]: ...
    async def delete(self, bounds: Mapping[Partition, int]) -> dict[Partition, type[errors.KafkaError]]: ...  # noqa: D102


class Sweeper:
    """Sweeps up behind the shards that a gate owns. `keep` returns how long for a service, ns; None: for ever."""

    def __init__(
        self,
        logs: Logs,
        shards: Callable[[], Iterable[Sweepable]],
        keep: Callable[[str], int | None],
        confirm: Callable[[int], Awaitable[None]],
    ) -> None:
        self._logs = logs
        self._shards = shards
        self._keep = keep
        self._confirm = confirm
        self._due: dict[int, int] = {}  # by shard, local ns
        self._refused: set[tuple[str, type[errors.KafkaError]]] = set()

    async def run(self, local: Callable[[], int]) -> None:
        """Sweep for ever; `local` returns a monotonic time, ns."""
        while True:
            await asyncio.sleep(TICK)
            for shard in self.due(local()):
                try:
                    await self.sweep(shard)
                except Exception as error:  # noqa: BLE001 - whatever it is: it is swept the next time
                    log.debug("what has been released is not deleted now", shard=shard.number, why=repr(error))

    def due(self, now: int) -> list[Sweepable]:
        """Return the shards whose turn it is, and plan their next one."""
        shards = {shard.number: shard for shard in self._shards()}
        self._due = {number: at for number, at in self._due.items() if number in shards}
        found = []
        for number, shard in shards.items():
            keeps = [keep for service in shard.rooms() if (keep := self._keep(service)) is not None]
            if not keeps:
                continue
            every = max(LEAST, min(MOST, min(keeps) // PARTS))
            if number not in self._due:
                self._due[number] = now + min(FIRST, every)
            elif self._due[number] <= now:
                self._due[number] = now + every
                found.append(shard)
        return found

    async def sweep(self, shard: Sweepable) -> None:
        """Delete what a shard needs no more. Raises whatever keeps it from knowing that."""
        rooms = {service: some for service, some in shard.rooms().items() if some and self._keep(service) is not None}
        ends: dict[str, Mapping[Partition, int]] = {}
        for service, partitions in rooms.items():
            ends[service] = await self._offsets(service, partitions, LATEST)
        async with asyncio.timeout(DEADLINE):
            kept = await shard.settled()
            await self._confirm(shard.number)
        for service, partitions in rooms.items():
            keep = self._keep(service)
            if keep is None or kept.now_ns - kept.since_ns < keep:
                continue
            young = await self._offsets(service, partitions, (kept.now_ns - keep) // MS)
            begins = await self._offsets(service, partitions, EARLIEST)
            bounds = {
                partition: bound
                for partition in young.keys() & begins.keys() & ends[service].keys() & kept.floors.keys()
                if (bound := _bound(kept.floors[partition], ends[service][partition], young[partition]))
                > begins[partition]
            }
            if bounds:
                await self._delete(service, bounds, begins)

    async def _offsets(self, service: str, partitions: Sequence[Partition], which: int) -> dict[Partition, int]:
        """Return offsets of all partitions of a service, or of none where one is not told now."""
        try:
            async with asyncio.timeout(DEADLINE):
                return await self._logs.offsets(partitions, which)
        except (errors.KafkaError, OSError, TimeoutError) as error:
            log.debug("where topics begin and end is not known now", service=service, why=repr(error))
            return {}

    async def _delete(self, service: str, bounds: Mapping[Partition, int], begins: Mapping[Partition, int]) -> None:
        async with asyncio.timeout(DEADLINE):
            refused = await self._logs.delete(bounds)
        for partition, error in refused.items():
            if not error.retriable and (partition.topic, error) not in self._refused:  # said once
                self._refused.add((partition.topic, error))
                log.warning(
                    "what has been released stays in its topic: the broker lets this gate delete no records",
                    service=service, topic=partition.topic, why=error.__name__,
                    hint=f"allow Delete on {partition.topic}, or set `keep_released: null`",
                )  # fmt: skip
        count = sum(bound - begins[p] for p, bound in bounds.items() if p not in refused)
        if count:
            log.info("deleted what has been released", service=service, offsets=count)


def _bound(floor: int | None, end: int, young: int) -> int:
    """Return before which offset nothing of a partition is needed.

    `floor`: of what still waits; None: nothing does. `young`: of what is to be kept for its age; -1: nothing is.
    """
    known = (end, floor, None if young < 0 else young)
    return min(offset for offset in known if offset is not None)


async def refused_to_delete(logs: Logs, partition: Partition) -> type[errors.KafkaError] | None:
    """Return why a broker would delete no records of a partition; None: it would. All lies behind 0: nothing goes."""
    return (await logs.delete({partition: 0})).get(partition)
