"""Parked requests that somebody deleted: where delayed topics begin, against what their owners take for parked there.

Only a log's beginning proves that what lay before it is gone; it is asked for at a take-over, about once a minute, and
when a request was not there as its turn came.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import structlog

from gate.kafka.aio.reader import EARLIEST
from gate.kafka.repeated_look import look_for_ever
from gate.kafka.undecided_requests import Ends
from gate.shard.owner_views import Parking
from gate.shard.records import Partition

EVERY: Final = 1.0  # seconds: how soon after a take-over
ANEW: Final = 60.0  # seconds
DEADLINE: Final = 10.0

log = structlog.get_logger("gate.losses")


class Losses:
    """Looks where the delayed topics begin of all services that a gate owns."""

    def __init__(
        self,
        ends: Ends,
        parked: Callable[[], Iterable[Parking]],
        tell: Callable[[int, Mapping[Partition, int]], None],
    ) -> None:
        self._ends = ends
        self._parked = parked
        self._tell = tell  # where partitions begin of which something is gone
        self._looked: dict[Partition, tuple[int, int, float]] = {}  # shard, session, when

    async def run(self) -> None:
        """Look for ever."""
        loop = asyncio.get_running_loop()
        await look_for_ever(
            lambda: self.look(loop.time()), EVERY, DEADLINE, log, "where the delayed topics begin is not known now"
        )

    async def look(self, now: float) -> None:
        """Look at the partitions whose turn it is; `now` in monotonic seconds."""
        parkings = list(self._parked())
        due = {p for parking in parkings for p in parking.lowest if self._is_due(parking, p, now)}
        known = {partition for parking in parkings for partition in parking.lowest}
        self._looked = {partition: looked for partition, looked in self._looked.items() if partition in known}
        if not due:
            return
        await self._ends.learn({partition.topic for partition in due})
        begins = await self._ends.ends(due, EARLIEST, committed=False)
        for parking in parkings:
            gone = {}
            for partition, lowest in parking.lowest.items():
                if partition in due and partition in begins:
                    self._looked[partition] = parking.shard, parking.session, now
                    if begins[partition] > lowest:
                        gone[partition] = begins[partition]
            if gone:
                self._tell(parking.shard, gone)

    def _is_due(self, parking: Parking, partition: Partition, now: float) -> bool:
        looked = self._looked.get(partition)
        if looked is None or looked[:2] != (parking.shard, parking.session):
            return True
        return now - looked[2] >= ANEW or partition in parking.missed
