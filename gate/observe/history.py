"""History of services as gates write it to the history topic: points in time, half a minute of many services a record.

Requests are counted since the service's state began, so that two points tell exactly how many came between them,
whoever has written them, and whatever was lost in between.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby, pairwise
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from gate.admission.model import MS, Usage, Verdict

STILL_MS: Final = 10_000  # usage is told at least so often while anything is decided: before that nothing was
COARSE_MS: Final = 10_000
MOST: Final = 500  # services in a record
MOST_POINTS: Final = 200_000  # that wait to be written, beyond which none are taken: 40 MB or so


class Point(NamedTuple):
    """A service at one moment, unix ms."""

    at_ms: int
    offered: int  # requests that came since its state began
    granted: int  # and that were admitted
    waiting: int  # requests
    limit: float | None  # units per second that the tightest limit gives in the long run, quotas aside; None: no limit


class Stretch(msgspec.Struct, frozen=True):
    """Points of a service in order. Of each column but `limit` the first value is whole, the others are differences."""

    policy: str  # version
    at_ms: list[int]
    offered: list[int]
    granted: list[int]
    waiting: list[int]
    limit: list[float | None]

    @classmethod
    def of(cls, policy: str, points: Sequence[Point]) -> "Stretch":
        """Return a stretch of points."""
        at_ms, offered, granted, waiting, limit = zip(*points, strict=True)
        return cls(
            policy,
            _differences(at_ms),
            _differences(offered),
            _differences(granted),
            _differences(waiting),
            list(limit),
        )

    def points(self, fine_ms: int = 0) -> list[Point]:
        """Return its points, before `fine_ms` one in 10 s. Raises ValueError where columns differ in length."""
        columns = map(accumulate, (self.at_ms, self.offered, self.granted, self.waiting))
        rows = list(zip(*columns, self.limit, strict=True))
        kept = [
            row for row, after in pairwise(rows) if row[0] >= fine_ms or row[0] // COARSE_MS != after[0] // COARSE_MS
        ]
        return [Point(*row) for row in (*kept, *rows[-1:])]


class Block(msgspec.Struct, frozen=True):
    """A record of the history topic: what a gate tells of some services."""

    gate: str
    services: dict[str, list[Stretch]]


class _Index(msgspec.Struct, frozen=True):
    gate: str
    services: dict[str, msgspec.Raw]


_INDEX: Final = msgspec.json.Decoder(_Index)
_STRETCHES: Final = msgspec.json.Decoder(list[Stretch])


def point_of(usage: Usage) -> Point:
    """Return the point that a usage tells."""
    totals = ((total.verdict, total.pulled, total.requests) for total in usage.totals)
    offered, granted = counted(totals)
    limit = min((limit.per_second for limit in usage.limits if limit.renews_at is None), default=None)
    return Point(usage.at // MS, offered, granted, usage.backlog, limit)


def counted(totals: Iterable[tuple[str, bool, int]]) -> tuple[int, int]:
    """Return how many requests came and how many were admitted: of verdicts, whether after waiting, and how many."""
    offered = granted = 0
    for verdict, pulled, requests in totals:
        offered += 0 if pulled else requests
        granted += requests if verdict == Verdict.ADMITTED else 0
    return offered, granted


def partition_of(service: str, partitions: int) -> int:
    """Return where in the history topic a service is told of, whichever shard and gate it has."""
    return crc32(service.encode()) % partitions


def stretches_of(value: bytes, service: str) -> tuple[str, list[Stretch]] | None:
    """Return which gate tells what of a service in a record; None: nothing. Raises ValueError where it is no record."""
    if f'"{service}"'.encode() not in value:
        return None
    try:
        index = _INDEX.decode(value)
        found = index.services.get(service)
        return None if found is None else (index.gate, _STRETCHES.decode(found))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


class Recorder:
    """What one gate has to write: points that were told and are not yet drained. No I/O, no clock."""

    def __init__(self, gate: str) -> None:
        self._gate = gate
        self._last: dict[str, tuple[str, Point]] = {}  # policy and point, by service
        self._points: dict[str, list[tuple[str, Point]]] = {}
        self._count = 0
        self.lost = 0  # points

    def take(self, usage: Usage) -> None:
        """Take the newest usage of a service."""
        service, point = usage.service, point_of(usage)
        last = self._last.get(service)
        if last is not None and point.at_ms <= last[1].at_ms:
            return
        if self._count >= MOST_POINTS:
            self.lost += 1
            return
        self._last[service] = usage.policy, point
        points = self._points.setdefault(service, [])
        if last is not None:
            if not points:  # so that each record can be read by itself
                points.append(last)
            if point.at_ms - last[1].at_ms > STILL_MS:
                points.append((last[0], last[1]._replace(at_ms=point.at_ms - STILL_MS)))
        points.append((usage.policy, point))
        self._count += 1

    def forget(self, service: str) -> None:
        """Take what comes next of a service for its first: another gate has it, or had it meanwhile."""
        self._last.pop(service, None)

    def drain(self, partitions: int) -> Iterator[tuple[int, bytes]]:
        """Yield what has been told since the last time, as records and their partitions."""
        points, self._points, self._count = self._points, {}, 0
        by_partition: dict[int, list[str]] = {}
        for service in points:
            by_partition.setdefault(partition_of(service, partitions), []).append(service)
        for partition, services in by_partition.items():
            for first in range(0, len(services), MOST):
                told = {service: list(_stretches(points[service])) for service in services[first : first + MOST]}
                yield partition, msgspec.json.encode(Block(self._gate, told))


def _stretches(points: Sequence[tuple[str, Point]]) -> Iterator[Stretch]:
    for policy, some in groupby(points, key=lambda one: one[0]):
        yield Stretch.of(policy, [point for _, point in some])


def _differences(values: Sequence[int]) -> list[int]:
    return [values[0], *(after - before for before, after in pairwise(values))]
