"""Open alerts, as the alerts topic tells them: what a gate has begun to say, and nobody has said to be over.

The gate that began may be gone, so that only the topic knows. No I/O, no clock.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from gate.observe import alerts
from gate.observe.alerts import AlertRecord
from gate.protocol.alert_types import (
    POLICY_ACCEPTED,
    POLICY_REFUSED,
    RESUMED,
    SHARD_FAILED,
    SHARD_RECOVERED,
    WAITING,
)
from gate.units import MS

ENDS: Final = {SHARD_FAILED: SHARD_RECOVERED, WAITING: RESUMED, POLICY_REFUSED: POLICY_ACCEPTED}
_BEGINS: Final = {end: begin for begin, end in ENDS.items()}

Place = tuple[str, int, int]  # topic, partition, offset

# Of what anybody has written who may write there: an end repeats it, and an owner's batch holds the ends.
LONGEST_NAME: Final = 1_000  # characters
LONGEST_REMEDY: Final = 2_000
MOST_OPEN: Final = 10_000  # beyond, the oldest is forgotten
_FIRST: Final = datetime.fromtimestamp(0, UTC)
_LAST: Final = datetime(9999, 1, 1, tzinfo=UTC)


class _Told(msgspec.Struct, frozen=True):
    """The data of an alert, as far as its end repeats it."""

    service: str = ""
    shard: int = -1
    topic: str = ""
    partition: int = -1
    offset: int = -1
    since: datetime = _FIRST
    remedy: str = ""
    gate: str = ""
    policy: str = ""
    policy_file: str = ""


_TOLD: Final = msgspec.json.Decoder(_Told)


@dataclass(frozen=True, slots=True)
class OpenAlert:
    """An alert that has not ended. `at` is the offset at which it was first told: what tells it from the next one."""

    at: int
    kind: str
    id: str
    told: _Told

    @property
    def shard(self) -> int:
        """The shard that it is about; -1: it is about a gate."""
        return self.told.shard

    @property
    def gate(self) -> str:
        """The gate that told it; empty: of an earlier version."""
        return self.told.gate

    @property
    def place(self) -> Place:
        """The request that waits."""
        return self.told.topic, self.told.partition, self.told.offset

    def end(self, reason: str, at: int, gate: str, prefix: str) -> AlertRecord:
        """Return the alert that it is over, as `gate` has found. `at` is in ns; the same one always has the same id."""
        told = self.told
        if self.kind == SHARD_FAILED:
            return alerts.shard_recovered(told.shard, at, prefix, reason, gate, self.id)
        if self.kind == POLICY_REFUSED:
            return alerts.policy_accepted(told.policy_file, told.policy, at, prefix, told.gate, reason, self.id)
        return alerts.partition_resumed(
            at=at, prefix=prefix, begun=self.id, service=told.service, topic=told.topic, partition=told.partition,
            offset=told.offset, since=_ns(told.since), reason=reason, remedy=told.remedy, shard=told.shard, gate=gate,
        )  # fmt: skip


class OpenAlerts:
    """All of them, after the records of the topic up to some offset."""

    def __init__(self) -> None:
        self.forgotten = 0  # to make room for newer ones
        self._open: dict[tuple[str, object], OpenAlert] = {}

    def __iter__(self) -> Iterator[OpenAlert]:
        """Yield each, in the order of the topic."""
        yield from sorted(self._open.values(), key=lambda alert: alert.at)

    def __len__(self) -> int:
        return len(self._open)

    def begins(self, otherwise: int) -> int:
        """Return the offset before which nothing is open; `otherwise` where nothing is at all."""
        return min((alert.at for alert in self._open.values()), default=otherwise)

    def take(self, offset: int, headers: Mapping[str, bytes | None], value: bytes | None) -> None:
        """Take a record. What can't be read is passed over: whoever may write could have written it."""
        kind = (headers.get("ce_type") or b"").decode(errors="replace")
        begun = kind if kind in ENDS else _BEGINS.get(kind)
        if begun is None:
            return
        try:
            told = _TOLD.decode(value or b"")
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return
        subject = begun, _subject(begun, told)
        if kind != begun:
            self._open.pop(subject, None)
        elif subject not in self._open:  # it may be told again and again
            identity = (headers.get("ce_id") or b"").decode(errors="replace")
            if not _is_sound(told, identity):
                return
            told = msgspec.structs.replace(told, remedy=told.remedy[:LONGEST_REMEDY])
            self._open[subject] = OpenAlert(offset, kind, identity, told)
            if len(self._open) > MOST_OPEN:
                del self._open[next(iter(self._open))]
                self.forgotten += 1


def _is_sound(told: _Told, identity: str) -> bool:
    """Tell whether a gate can have written what an alert tells."""
    names = identity, told.service, told.topic, told.gate, told.policy, told.policy_file
    return max(map(len, names)) <= LONGEST_NAME and told.since.tzinfo is not None and _FIRST <= told.since < _LAST


def _subject(begun: str, told: _Told) -> object:
    if begun == SHARD_FAILED:
        return told.shard
    if begun == WAITING:
        return told.topic, told.partition, told.offset
    return told.gate, told.policy_file


def _ns(moment: datetime) -> int:
    return (moment - _FIRST) // timedelta(milliseconds=1) * MS
