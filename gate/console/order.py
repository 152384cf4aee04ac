"""The order of the pressure list: kept as records come, and sorted as far as somebody looks. No I/O, no clock."""

from collections.abc import Sequence
from heapq import nsmallest
from typing import Final

from gate.console.records import Record

_CALM: Final = 1.0
_STANDS: Final = float("-inf")  # it drains even later than what nobody can tell of
_PART: Final = 8  # of the services: to find more than one in so many takes no less than to sort all

_Urgency = tuple[float, int, bool, float, str]  # a float in front is compared fastest


class Order:
    """All services: what stands, what takes longest to drain, where most wait; those that are calm by name."""

    def __init__(self) -> None:
        self._urgencies: dict[str, _Urgency] = {}
        self._sorted: list[_Urgency] = []
        self._moved: set[str] = set()  # services, since they were sorted

    def put(self, service: str, record: Record, *, is_calm: bool) -> None:
        """Take the newest record of a service."""
        urgency = (_CALM, 0, True, 0.0, service) if is_calm else _urgency(service, record)
        if self._urgencies.get(service) != urgency:
            self._urgencies[service] = urgency
            self._moved.add(service)

    def drop(self, service: str) -> None:
        """Forget a service."""
        del self._urgencies[service]
        self._moved.add(service)

    def all(self) -> Sequence[str]:
        """Return all services."""
        if moved := self._moved:
            stayed = [urgency for urgency in self._sorted if urgency[-1] not in moved]
            came = sorted(self._urgencies[name] for name in moved if name in self._urgencies)
            self._sorted = sorted(stayed + came)  # two runs, which are merged
            self._moved = set()
        return [urgency[-1] for urgency in self._sorted]

    def first(self, count: int) -> Sequence[str]:
        """Return the first services, so many; without sorting the others where these are few."""
        if count > len(self._urgencies) // _PART:
            return self.all()[:count]
        return [urgency[-1] for urgency in nsmallest(count, self._urgencies.values())]


def _urgency(service: str, record: Record) -> _Urgency:
    stands = bool(record.waiting) or (record.binding is None and record.is_late)
    drained = _STANDS if stands else -float(record.drained_ms) if record.backlog else 0.0
    fullest = max((limit.usage for limit in record.limits), default=0.0)
    return drained, -record.backlog, record.breach_since_ms is None, -fullest, service
