"""Whereabouts of a request: what a search for it tells."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gate.protocol.headers import Headers


class Standing(StrEnum):
    """Where a request stands."""

    UNDECIDED = "undecided"  # in the request topic, also where it is held there
    WAITING = "waiting"
    ADMITTED = "admitted"
    REJECTED = "rejected"
    GIVEN_UP = "given-up"  # admitted, and then given up by its workers
    UNKNOWN = "unknown"  # what became of it can't be found any more, or not within MOST records


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a request stands, and in which place. Times are unix ms."""

    id: str
    service: str
    standing: Standing
    read: int  # records that were looked at to find it
    created_ms: int | None = None
    at_ms: int | None = None  # when that was decided
    attempt: int | None = None
    reason: str | None = None
    limit: str | None = None
    not_before_ms: int | None = None
    ahead: int | None = None  # that came before it and may still wait in its partition, at most
    origin: str | None = None
    producer_id: str | None = None
    error: str | None = None
    place: str | None = None  # topic-partition@offset of the record that tells
    decisions: tuple[Headers, ...] = field(default=(), repr=False)  # headers of each that was found

    def to_json(self) -> dict[str, Any]:
        """Return what is known, as JSON."""
        shown = {name: getattr(self, name) for name in self.__slots__ if name != "decisions"}
        return {name: value for name, value in shown.items() if value is not None}
