"""Undecided requests of each service, and their age: by the ends of the logs, not by what could be read.

What stands behind an open transaction of a producer, or behind a request that a shard fails at, is in no batch, so that
nothing else counts it. Once a second the ends of all request partitions are asked for, and nothing per record.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import structlog

from gate.kafka.aio.batch_header import BatchHeader
from gate.kafka.aio.reader import EARLIEST, LATEST
from gate.kafka.open_transactions import shown
from gate.protocol.topics import Names
from gate.shard.owner_views import OwnedService
from gate.shard.records import CommittedOffset, Partition
from gate.shard.stalled_partitions import SECOND, StalledPartition
from gate.units import MS

EVERY: Final = 1.0  # seconds
DEADLINE: Final = 10.0  # seconds, for all that a look asks
OPEN_AFTER: Final = 10 * SECOND  # a transaction that lasts as long holds its readers up
STANDS_AFTER: Final = 2 * SECOND  # from then on the usage topic is told of it, although nothing is decided
MARKS_EVERY: Final = 5 * SECOND  # where no owner tells its position: restored again and again, or no policy
SAMPLES: Final = 64
DATES: Final = 4  # batches, each read as a whole, that a look asks for the age of what was there before it

log = structlog.get_logger("gate.undecided")


class Undecided(NamedTuple):
    """What of a service is not decided. `since_ns`: when the first of it came; None: there is nothing."""

    requests: int
    since_ns: int | None


async def nobody_tells(_partition: Partition, _offset: int) -> str | None:
    """Know the name of no transaction."""
    return None


class Ends(Protocol):
    """Who knows the partitions' ends, see `wire.Reader`."""

    async def learn(self, topics: Iterable[str]) -> None: ...  # noqa: D102
    async def ends(  # noqa: D102
        self, partitions: Collection[Partition], which: int, *, committed: bool
    ) -> dict[Partition, int]: ...
    async def head(self, partition: Partition, offset: int) -> BatchHeader | None: ...  # noqa: D102


class Teller(Protocol):
    """Who is told, see `reporting.Reporter`."""

    def undecided(self, service: str, undecided: Undecided | None) -> None: ...  # noqa: D102
    def waiting(self, shard: int, waiting: Sequence[StalledPartition], source: str) -> None: ...  # noqa: D102


class Arrivals:
    """When what is in a partition came, as far as was seen: the log's end at some moments, oldest first."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque()
        self._first = True  # the oldest sample is the first of all: what it has may have been there for long
        self._dated: int | None = None

    def see(self, now: int, end: int) -> None:
        """Take the end of the log at `now`."""
        samples = self._samples
        if samples and end < samples[-1][1]:  # made anew
            samples.clear()
            self._first, self._dated = True, None
        if samples and (back := samples[-1][0] - now) > 0:  # the clock was set back
            self._samples = samples = deque((at - back, seen) for at, seen in samples)
        if not samples or end > samples[-1][1]:
            samples.append((now, end))
        if len(samples) > SAMPLES:  # what came in between then seems to have come a little later
            self._samples = deque([samples[0], *list(samples)[2::2]])

    def since(self, position: int) -> int:
        """Return when the record at `position`, which is below the newest end, came at the latest."""
        samples = self._samples
        while len(samples) > 1 and samples[0][1] <= position:
            samples.popleft()
            self._first, self._dated = False, None
        at = samples[0][0]
        return at if self._dated is None else min(at, self._dated)

    def is_old(self, position: int) -> bool:
        """Tell whether the record at `position` was there at the first look, so that only itself says when it came."""
        return self._first and position < self._samples[0][1]

    def date(self, timestamp: int) -> None:
        """Take the timestamp, ns, of a record that was there at the first look."""
        if self._first and timestamp > 0:
            self._dated = timestamp


class _Open(NamedTuple):
    """A partition that can't be read beyond its last stable offset."""

    offset: int
    since_ns: int  # when it was first seen so
    head: BatchHeader | None = None
    name: str | None = None  # its transactional id, if that is told


class Watch:
    """Looks at the request partitions of all services that a gate owns."""

    def __init__(
        self,
        ends: Ends,
        committed: Callable[[Sequence[Partition]], Awaitable[Mapping[Partition, CommittedOffset]]],
        owned: Callable[[], Iterable[OwnedService]],
        teller: Teller,
        where: str,
        name: Callable[[Partition, int], Awaitable[str | None]] = nobody_tells,
    ) -> None:
        self._name = name
        self._ends = ends
        self._committed = committed
        self._owned = owned
        self._teller = teller
        self._where = where
        self._arrivals: dict[Partition, Arrivals] = {}
        self._open: dict[Partition, _Open] = {}
        self._marks: dict[Partition, int] = {}
        self._marks_at = -MARKS_EVERY
        self._stood: set[str] = set()
        self._services: set[str] = set()
        self._shards: set[int] = set()
        self._turn = 0  # who is asked next for the date of its first request

    async def run(self, wall: Callable[[], int], publish: Callable[[Mapping[int, Mapping[str, int]]], None]) -> None:
        """Look once a second, for ever. `publish` gets what `look` returns."""
        while True:
            started = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(DEADLINE):
                    publish(await self.look(wall))
            except Exception as error:  # noqa: BLE001 - whatever it is: nothing is known now, and it is looked again
                log.debug("what is undecided is not known now", why=repr(error))
                self._say({})
            took = asyncio.get_running_loop().time() - started
            await asyncio.sleep(max(EVERY, 20 * took))  # however many there are, it is a small part of the work

    async def look(self, wall: Callable[[], int]) -> dict[int, dict[str, int]]:
        """Look once. Returns by shard the services that stand or have just ceased to, and what of each is undecided."""
        wanted = {partition for one in self._owned() for partition in one.positions}
        self._forget_all_but(wanted)
        await self._ends.learn({partition.topic for partition in wanted})
        ends = await self._ends.ends(wanted, LATEST, committed=False)
        owned = list(self._owned())  # anew: what was decided meanwhile is decided
        positions = await self._positions(owned, wall())
        behind = {p: at for p, at in positions.items() if p in ends and ends[p] > at}
        stable = await self._ends.ends(behind, LATEST, committed=True) if behind else {}
        now = wall()
        for partition, end in ends.items():
            self._arrivals.setdefault(partition, Arrivals()).see(now, end)
        await self._date(behind)
        await self._find_open(behind, ends, stable, now)
        known = {}
        for one in owned:
            if all(p in ends and p in positions for p in one.positions):
                late = [p for p in one.positions if p in behind]
                since = min((self._arrivals[p].since(behind[p]) for p in late), default=None)
                known[one.service] = Undecided(sum(ends[p] - behind[p] for p in late), since)
        return self._tell(owned, known, now)

    def _forget_all_but(self, wanted: set[Partition]) -> None:
        for kept in (self._arrivals, self._open, self._marks):
            if len(kept) > len(wanted) or not kept.keys() <= wanted:
                for partition in kept.keys() - wanted:
                    del kept[partition]

    async def _positions(self, owned: Iterable[OwnedService], now: int) -> dict[Partition, int]:
        """Return how far partitions are decided; where no owner knows, by the group's offsets, else the beginning."""
        positions = {p: at for one in owned for p, at in one.positions.items() if at is not None}
        unknown = [p for one in owned for p, at in one.positions.items() if at is None]
        is_fresh = self._marks_at <= now < self._marks_at + MARKS_EVERY  # not so where the clock was set back
        if unknown and not (is_fresh and self._marks.keys() >= set(unknown)):
            self._marks_at = now
            marks = await self._committed(unknown)
            begin = [partition for partition in unknown if partition not in marks]
            self._marks = await self._ends.ends(begin, EARLIEST, committed=False) if begin else {}
            self._marks |= {partition: mark.offset for partition, mark in marks.items()}
        return positions | {partition: self._marks[partition] for partition in unknown if partition in self._marks}

    async def _date(self, behind: Mapping[Partition, int]) -> None:
        """Ask some of the partitions whose first request was there before us when it was written."""
        undated = sorted(partition for partition, at in behind.items() if self._arrivals[partition].is_old(at))
        for index in range(min(DATES, len(undated))):
            partition = undated[(self._turn + index) % len(undated)]
            head = await self._ends.head(partition, behind[partition])
            if head is not None:
                self._arrivals[partition].date(head.timestamp * MS)
        self._turn += DATES

    async def _find_open(
        self,
        behind: Mapping[Partition, int],
        ends: Mapping[Partition, int],
        stable: Mapping[Partition, int],
        now: int,
    ) -> None:
        for partition in behind:
            if partition not in stable:
                continue  # not known now: as before
            offset, seen = stable[partition], self._open.get(partition)
            if offset >= ends[partition]:
                self._open.pop(partition, None)
            elif seen is None or seen.offset != offset or seen.since_ns > now:  # the clock was set back
                self._open[partition] = _Open(offset, now)
            elif seen.head is None and now - seen.since_ns >= OPEN_AFTER:
                head = await self._ends.head(partition, offset)
                self._open[partition] = seen._replace(head=head, name=await self._name(partition, offset))
        for partition in self._open.keys() - behind.keys():
            del self._open[partition]

    def _tell(
        self, owned: Sequence[OwnedService], known: Mapping[str, Undecided], now: int
    ) -> dict[int, dict[str, int]]:
        waiting: dict[int, list[StalledPartition]] = {one.shard: [] for one in owned}
        news: dict[int, dict[str, int]] = {}
        stands = set()
        for one in owned:
            open_here = [p for p in one.positions if p in self._open and now - self._open[p].since_ns >= OPEN_AFTER]
            waiting[one.shard] += [self._waiting(one.service, p, self._open[p]) for p in open_here]
            undecided = known.get(one.service)
            if undecided is not None and undecided.since_ns is not None and now - undecided.since_ns >= STANDS_AFTER:
                stands.add(one.service)
            if one.service in stands or one.service in self._stood:
                news.setdefault(one.shard, {})[one.service] = 0 if undecided is None else undecided.requests
        self._stood = stands
        for shard in self._shards - waiting.keys():
            self._teller.waiting(shard, (), "transactions")
        self._shards = set(waiting)
        for shard, found in waiting.items():
            self._teller.waiting(shard, found, "transactions")
        self._say(known)
        return news

    def _say(self, known: Mapping[str, Undecided]) -> None:
        for service in self._services - known.keys():
            self._teller.undecided(service, None)
        for service, undecided in known.items():
            self._teller.undecided(service, undecided)
        self._services = set(known)

    def _waiting(self, service: str, partition: Partition, found: _Open) -> StalledPartition:
        return open_transaction(service, partition, found.offset, found.since_ns, found.head, self._where, found.name)


def options(bootstrap: str, prefix: str) -> str:
    """Return the options by which a command gets to this cluster and these topics."""
    return f"--bootstrap {bootstrap}" + ("" if prefix == Names().prefix else f" --prefix {prefix}")


def open_transaction(
    service: str,
    partition: Partition,
    offset: int,
    seen: int,
    head: BatchHeader | None,
    where: str,
    name: str | None = None,
) -> StalledPartition:
    """Return what there is to say about a transaction that is open from `offset` on.

    `seen`: since when at least, ns; `where`: see `options`; `name`: its transactional id, if that is told.
    """
    at = head.timestamp * MS if head is not None and head.timestamp > 0 else seen
    who = f" of producer {head.producer_id} (epoch {head.producer_epoch})" if head is not None else ""
    who += f" with the transactional id {shown(name)}" if name is not None else ""
    return StalledPartition(
        partition.topic,
        partition.number,
        offset,
        min(seen, at),
        f"a transaction{who} is open, and nothing behind offset {offset} can be read until it ends",
        f"end its producer, or: gate transactions abort --topic {partition.topic} --partition {partition.number} "
        f"--start-offset {offset} {where}",
        service,
    )
