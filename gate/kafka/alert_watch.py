"""The watch over open alerts: who owns a shard says that what was alerted about it is over, whoever had alerted.

A gate that dies leaves its alerts open, and only their topic knows them. So nobody but a shard's owner ends alerts
about it: he reads the topic, and writes the end in a transaction of the shard, with a note in its state of what he has
ended. That makes it once, whoever is killed when; what a gate alerts late, when it has lost the shard, ends likewise.
Alerts about gates that are no members any more are ended by the owner of the first shard.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final, Protocol

import structlog
from aiokafka import errors

from gate.kafka.aio.reader import EARLIEST
from gate.kafka.repeated_look import look_for_ever
from gate.observe.alerts import AlertRecord
from gate.observe.open_alerts import MOST_OPEN, OpenAlert, OpenAlerts, Place
from gate.protocol.alert_types import POLICY_REFUSED, WAITING
from gate.shard.records import Fetched, Outgoing, Partition
from gate.units import MS

EVERY: Final = 1.0  # seconds
DEADLINE: Final = 60.0
SETTLED: Final = 5.0  # seconds without a failure
SEARCHED: Final = 20.0  # seconds in which whoever looks for partitions that wait has looked
LOOK_BACK_MS: Final = 7 * 86_400_000  # where no shard's state says from where on alerts may be open
FETCH_BYTES: Final = 1 << 20
ENDS_AT_ONCE: Final = 500  # that a batch writes, and its shard's description notes
ANEW: Final = 5.0  # seconds after which it is asked again which gates run
ORPHANS: Final = 0  # the shard whose owner ends what is about no shard, or about none that is there now

log = structlog.get_logger("gate.alerts")


class Alerted(Protocol):
    """A shard that this gate owns."""

    number: int

    @property
    def is_sound(self) -> bool:
        """Whether it has been taken over, and has not failed since its requests advanced."""

    @property
    def alerts_begin(self) -> int | None:
        """Before which offset of the topic nothing is open, by its state; None: it is not known."""

    def end_alerts(self, ends: Mapping[int, Outgoing], still_open: Collection[int], begins: int) -> None:
        """Write these ends, by the offset of what they end, unless that is done; of what is open before, see above."""


class Log(Protocol):
    """Who reads a topic, see `aio.reader.Reader`."""

    async def fetch_one(
        self, partition: Partition, offset: int, *, wait_ms: int, partition_bytes: int
    ) -> Fetched | None:
        """Return what is committed from an offset on; None: nothing yet."""

    async def offsets(self, partitions: list[Partition], which: int) -> Mapping[Partition, int]:
        """Return the first offset since a time, unix ms; negative: there is none."""


class Here(Protocol):
    """This gate, see `reporting.Reporter`."""

    name: str
    has_refused_policy: bool

    def is_waiting(self, place: Place) -> bool:
        """Tell whether a partition waits at this gate, at this request."""


class AlertWatch:
    """Ends alerts about the shards that a gate owns.

    `members` returns the names of the gates that run; None: not all of them tell theirs. `wall` tells unix ns.
    """

    def __init__(
        self,
        reader: Log,
        topic: str,
        shards: Callable[[], Collection[Alerted]],
        count: int,
        here: Here,
        members: Callable[[], Awaitable[Collection[str] | None]],
        wall: Callable[[], int],
        prefix: str,
    ) -> None:
        self._reader = reader
        self._partition = Partition(topic, 0)
        self._shards = shards
        self._count = count
        self._here = here
        self._members = members
        self._wall = wall
        self._prefix = prefix
        self._open = OpenAlerts()
        self._told = False  # that there are too many
        self._position: int | None = None
        self._sound: dict[int, float] = {}  # shards, and since when
        self._named: tuple[float, Collection[str] | None] = -ANEW, None  # the gates that run, and when they were asked

    async def run(self) -> None:
        """Look for ever."""
        loop = asyncio.get_running_loop()
        await look_for_ever(
            lambda: self.look(loop.time()), EVERY, DEADLINE, log, "which alerts are open is not known now"
        )

    async def look(self, now: float) -> None:
        """Look once; `now` in monotonic seconds."""
        sound = {shard.number: shard for shard in self._shards() if shard.is_sound}
        self._sound = {number: self._sound.get(number, now) for number in sound}
        if not sound:
            return
        position = await self._read(list(sound.values()))
        for shard in sound.values():
            ends: dict[int, Outgoing] = {}
            for alert in self._open:
                if len(ends) == ENDS_AT_ONCE or not shard.is_sound:
                    break
                if self._home(alert) != shard.number:
                    continue
                if (why := await self._over(alert, now, now - self._sound[shard.number])) is not None:
                    ends[alert.at] = _outgoing(alert.end(why, self._wall(), self._here.name, self._prefix))
            shard.end_alerts(ends, [alert.at for alert in self._open], self._open.begins(position))

    def _home(self, alert: OpenAlert) -> int:
        """Return the shard whose owner ends an alert. There may be fewer than as it was written."""
        return alert.shard if 0 <= alert.shard < self._count else ORPHANS

    async def _over(self, alert: OpenAlert, now: float, sound: float) -> str | None:
        """Return why an alert is over, whose shard has been sound for so many seconds; None: it is not."""
        if alert.kind == POLICY_REFUSED:
            return await self._is_gone(alert.gate, now)
        if alert.kind == WAITING:
            over = sound >= SEARCHED and not self._here.is_waiting(alert.place)
            return "it goes on" if over else None
        if sound < SETTLED:
            return None
        taken = alert.gate not in {"", self._here.name}
        return f"{self._here.name} has taken it over" if taken else "its requests go on"

    async def _is_gone(self, gate: str, now: float) -> str | None:
        if gate == self._here.name:  # it tells that itself, unless another process had its name
            return None if self._here.has_refused_policy else f"{gate} has started anew, which takes a policy file"
        asked, members = self._named
        if now - asked >= ANEW:
            members = await self._members()
            self._named = now, members
        if not gate or members is None or gate in members:
            return None
        return f"{gate} does not run any more"

    async def _read(self, shards: Collection[Alerted]) -> int:
        """Read what has come; return up to which offset."""
        position = self._position
        if position is None:
            position = await self._first(shards)
        while True:
            try:
                answer = await self._reader.fetch_one(self._partition, position, wait_ms=0, partition_bytes=FETCH_BYTES)
            except errors.OffsetOutOfRangeError:  # deleted, or made anew
                self._open = OpenAlerts()
                position = (await self._reader.offsets([self._partition], EARLIEST))[self._partition]
                continue
            if answer is None or answer.next_offset <= position:
                self._position = position
                return position
            for record in answer.records:
                self._open.take(record.offset, dict(record.headers), record.value)
            self._position = position = answer.next_offset
            if self._open.forgotten and not self._told:
                self._told = True
                log.warning(
                    "more alerts are open than a gate keeps, so that the oldest will not be ended; who writes there?",
                    topic=self._partition.topic, offset=position, most=MOST_OPEN,
                )  # fmt: skip
            await asyncio.sleep(0)  # others of this loop have heartbeats to send

    async def _first(self, shards: Collection[Alerted]) -> int:
        """Return from where on alerts may be open: what any shard's state knows is so for all of the topic."""
        known = [begin for shard in shards if (begin := shard.alerts_begin) is not None]
        if known:
            return max(known)
        since = self._wall() // MS - LOOK_BACK_MS
        found = (await self._reader.offsets([self._partition], since))[self._partition]
        return found if found >= 0 else (await self._reader.offsets([self._partition], EARLIEST))[self._partition]


def _outgoing(record: AlertRecord) -> Outgoing:
    return Outgoing(record.key, record.value, None, list(record.headers))
