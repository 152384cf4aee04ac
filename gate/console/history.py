"""Tracks of the services that somebody looks at: read once from the history topic, then kept up by the usage feed."""

import asyncio
from collections import OrderedDict
from typing import Final, NamedTuple

from aiokafka.errors import KafkaError

from gate.config import Connection
from gate.console.records import Record
from gate.errors import GateError, reason_of
from gate.kafka.history import read_history
from gate.log import get_logger
from gate.observe.history import Point, counted
from gate.observe.track import FINE_MS, Track

MOST: Final = 32  # services: of a day 0.4 MB each
WRITTEN_MS: Final = 40_000  # after which gates have written what was
_AT_ONCE: Final = 2  # are read

log = get_logger("gate.console")


def point_of(record: Record) -> Point:
    """Return the point that a record of the usage topic tells."""
    offered, granted = counted((total.verdict, total.pulled, total.requests) for total in record.totals)
    return Point(record.at_ms, offered, granted, record.backlog, record.per_second)


class _Kept(NamedTuple):
    """A track; unix ms since when it was read, and when. What is not written yet by then is read once more."""

    track: Track
    since_ms: int
    read_ms: int
    is_whole: bool  # all of what came before the feed is written, and read

    def is_enough(self, since_ms: int, now_ms: int) -> bool:
        moved_on = self.since_ms <= since_ms + FINE_MS // 10  # a window that has moved on a little is the same
        return moved_on and (self.is_whole or now_ms < self.read_ms + WRITTEN_MS)


class Histories:
    """The tracks, those that were looked at last."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tracks: OrderedDict[str, _Kept] = OrderedDict()
        self._reads: dict[str, asyncio.Lock] = {}
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    def __len__(self) -> int:
        return len(self._tracks)

    def __contains__(self, service: object) -> bool:
        return service in self._tracks

    def clear(self) -> None:
        """Forget all of it: records of usage may have been missed."""
        self._tracks.clear()

    def told(self, service: str, record: Record | None) -> None:
        """Take the newest usage of a service."""
        if record is not None and (kept := self._tracks.get(service)) is not None:
            kept.track.add(point_of(record), record.owner, record.policy)

    async def track(self, service: str, since_ms: int, now_ms: int) -> Track:
        """Return the track of a service since a time at least, unix ms; nothing where it can't be read."""
        lock = self._reads.setdefault(service, asyncio.Lock())
        async with lock:
            kept = self._tracks.get(service)
            if kept is None or not kept.is_enough(since_ms, now_ms):
                async with self._at_once:
                    read = await self._read(service, since_ms, now_ms)
                if read is None:
                    return Track() if kept is None else kept.track
                kept = self._tracks.get(service)  # it may have gone meanwhile
                if kept is not None:
                    read.follow(kept.track)
                is_whole = kept is not None and now_ms >= kept.read_ms + WRITTEN_MS
                kept = self._tracks[service] = _Kept(read, since_ms, now_ms, is_whole)
            self._tracks.move_to_end(service)
            while len(self._tracks) > MOST:
                self._tracks.popitem(last=False)
        if not lock.locked():
            self._reads.pop(service, None)
        return kept.track

    async def _read(self, service: str, since_ms: int, now_ms: int) -> Track | None:
        try:
            topic, access = self._connection.names.history, self._connection.access()
            return await read_history(topic, service, since_ms, now_ms - FINE_MS, **access)
        except (KafkaError, GateError, OSError, TimeoutError) as error:
            log.warning("the history of a service can't be read now", service=service, why=reason_of(error))
            return None
