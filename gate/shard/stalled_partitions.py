"""Stalled partitions: what can't go on, since when, why, and what to do about it, until it goes on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from gate.observe import alerts
from gate.observe.alerts import AlertRecord
from gate.units import MS

SECOND: Final = 1_000 * MS
ALERT_AFTER: Final = 60 * SECOND  # what stands shorter is in the log and at /readyz
ALERT_EVERY: Final = 300 * SECOND  # receivers such as Alertmanager take what is not told again for over

log = structlog.get_logger("gate")


@dataclass(frozen=True, slots=True)
class StalledPartition:
    """A partition that does not go on: the request at `offset` is the first that waits, since `since_ns` (unix)."""

    topic: str
    partition: int
    offset: int
    since_ns: int
    why: str
    remedy: str
    service: str = ""

    @property
    def place(self) -> tuple[str, int, int]:
        """What tells one wait from the next in the same partition."""
        return self.topic, self.partition, self.offset

    def as_json(self) -> dict[str, Any]:
        """Return it as `/readyz`, `/v1/usage` and the usage topic show it; times are unix ms."""
        return {
            "service": self.service,
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "since_ms": self.since_ns // MS,
            "why": self.why,
            "remedy": self.remedy,
        }


@dataclass(slots=True)
class _Told:
    waiting: StalledPartition
    seen: int  # by a monotonic clock, as all that lasts: `since` may be another host's
    next_alert: int


class StalledPartitions:
    """All that waits at one gate. Logs each once, alerts when it lasts, and logs when it goes on.

    Who watches for one cause (`source`) tells all that it finds on a shard, as often as it likes. `now` is a monotonic
    time, ns, and `wall` tells unix ns. An alert ends by `gate.kafka.alert_watch`, as this gate may be gone by then.
    """

    def __init__(self, prefix: str, gate: str, notify: Callable[[AlertRecord], None], wall: Callable[[], int]) -> None:
        self._wall = wall
        self._prefix = prefix
        self._gate = gate
        self._notify = notify
        self._told: dict[tuple[int, str], dict[tuple[str, int, int], _Told]] = {}

    def __iter__(self) -> Iterator[StalledPartition]:
        """Yield all that waits, sorted by place."""
        found = {one.waiting.place: one.waiting for told in self._told.values() for one in told.values()}
        yield from (found[place] for place in sorted(found))

    def of(self, service: str) -> list[StalledPartition]:
        """Return what waits of a service."""
        return [one for one in self if one.service == service]

    def partitions(self, shard: int) -> int:
        """Count the partitions of a shard that wait."""
        told = [one for (number, _), told in self._told.items() if number == shard for one in told]
        return len({(topic, partition) for topic, partition, _ in told})

    def take(self, shard: int, source: str, waiting: Sequence[StalledPartition], now: int) -> bool:
        """Take what waits on a shard now by what `source` sees. Returns whether that has changed."""
        before = self._told.get((shard, source), {})
        if not before and not waiting:
            return False
        after = {one.place: before.get(one.place) or _Told(one, now, now + ALERT_AFTER) for one in waiting}
        changed = before.keys() != after.keys()
        for one in waiting:
            told = after[one.place]
            changed, told.waiting = changed or told.waiting != one, one  # in other words, perhaps
            if one.place not in before:
                log.error(
                    "a partition waits", topic=one.topic, partition=one.partition, offset=one.offset, shard=shard,
                    why=one.why, remedy=one.remedy,
                )  # fmt: skip
        self._told[shard, source] = after
        for place in before.keys() - after.keys():
            self._end(shard, before[place], now)
        self.remind(now)
        if not after:
            del self._told[shard, source]
        return changed

    def drop(self, shard: int) -> None:
        """Forget a shard: who owns it now tells what waits there."""
        for key in [key for key in self._told if key[0] == shard]:
            del self._told[key]

    def remind(self, now: int) -> None:
        """Alert about what has waited for a minute, and again every five."""
        for (shard, _), told in self._told.items():
            for one in told.values():
                if now >= one.next_alert:
                    one.next_alert = now + ALERT_EVERY
                    self._notify(self._alert(shard, one))

    def _end(self, shard: int, told: _Told, now: int) -> None:
        one = told.waiting
        log.info(
            "a partition goes on", topic=one.topic, partition=one.partition, offset=one.offset, shard=shard,
            seconds=round((now - told.seen) / SECOND, 1),
        )  # fmt: skip

    def _alert(self, shard: int, told: _Told) -> AlertRecord:
        one = told.waiting
        return alerts.partition_waiting(
            service=one.service, topic=one.topic, partition=one.partition, offset=one.offset, since=one.since_ns,
            reason=one.why, remedy=one.remedy, shard=shard, gate=self._gate, at=self._wall(), prefix=self._prefix,
        )  # fmt: skip
