"""Since when the oldest parked request of each service waits: by the date of its batch in the delayed topic.

Owners know the place of what is parked, not when it came there. The date is read where the oldest place has changed, of
some partitions at a time, so that it may be some seconds old while a backlog drains.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import structlog

from gate.kafka.repeated_look import look_for_ever
from gate.kafka.undecided_requests import Ends
from gate.protocol.topics import Names
from gate.shard.records import Partition

EVERY: Final = 2.0  # seconds
DEADLINE: Final = 10.0
DATES: Final = 8  # batches, each read as a whole, that a look asks for

log = structlog.get_logger("gate.parked")


class Lowest(NamedTuple):
    """The oldest parked offset of each partition, as a shard takes it."""

    shard: int
    offsets: Mapping[Partition, int]


class Teller(Protocol):
    """Who is told, see `reporting.Reporter`."""

    def parked(self, service: str, since_ms: int | None) -> None: ...  # noqa: D102


class ParkedSince:
    """Looks at the delayed partitions of all services that a gate owns."""

    def __init__(self, ends: Ends, names: Names, lowest: Callable[[], Iterable[Lowest]], teller: Teller) -> None:
        self._ends = ends
        self._names = names
        self._lowest = lowest
        self._teller = teller
        self._dated: dict[Partition, tuple[int, int]] = {}  # offset and unix ms
        self._told: dict[str, int] = {}
        self._turn = 0  # who is asked next

    async def run(self, publish: Callable[[Mapping[int, Sequence[str]]], None]) -> None:
        """Look for ever. `publish` gets what `look` returns."""

        async def look() -> None:
            publish(await self.look())

        await look_for_ever(look, EVERY, DEADLINE, log, "since when parked requests wait is not known now")

    async def look(self) -> dict[int, list[str]]:
        """Look once. Returns by shard the services of which nothing was known before."""
        parked = list(self._lowest())
        offsets = {partition: offset for one in parked for partition, offset in one.offsets.items()}
        self._dated = {partition: dated for partition, dated in self._dated.items() if partition in offsets}
        await self._date(offsets)
        since: dict[str, int] = {}
        news: dict[int, list[str]] = {}
        for one in parked:
            for partition in one.offsets:
                service = self._names.service_of(partition.topic, "delayed")
                if service is not None and partition in self._dated:
                    at_ms = self._dated[partition][1]
                    if service not in since and service not in self._told:
                        news.setdefault(one.shard, []).append(service)
                    since[service] = min(at_ms, since.get(service, at_ms))
        for service in self._told.keys() - since.keys():
            self._teller.parked(service, None)
        for service, at_ms in since.items():
            self._teller.parked(service, at_ms)
        self._told = since
        return news

    async def _date(self, offsets: Mapping[Partition, int]) -> None:
        undated = sorted(p for p, offset in offsets.items() if self._dated.get(p, (-1, 0))[0] != offset)
        undated.sort(key=lambda partition: partition in self._dated)  # what is not known at all goes first
        fresh = sum(partition not in self._dated for partition in undated)
        start = 0 if fresh else self._turn
        chosen = [undated[(start + index) % len(undated)] for index in range(min(DATES, len(undated)))]
        if chosen:
            await self._ends.learn({partition.topic for partition in chosen})
        for partition in chosen:
            head = await self._ends.head(partition, offsets[partition])
            if head is not None and head.timestamp > 0:
                self._dated[partition] = offsets[partition], head.timestamp
        self._turn += DATES
