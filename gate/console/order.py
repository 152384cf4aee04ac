"""The order of the pressure list: kept as records come, and sorted as far as somebody looks. No I/O, no clock."""

from collections.abc import Iterable, Sequence
from typing import Final

from gate.console.records import Record

_CALM: Final = 1.0
_STANDS: Final = float("-inf")  # it drains even later than what nobody can tell of
_PART: Final = 8  # of the services: to keep more than one in so many apart takes no less than to sort all
_SPARE: Final = 4  # times what is asked for is kept apart: so many may become less urgent before all are looked through

_Urgency = tuple[float, int, bool, float, str]  # a float in front is compared fastest
_NOBODY: Final[_Urgency] = (_STANDS, 0, False, 0.0, "")  # more urgent than any


class Order:
    """All services: what stands, what takes longest to drain, where most wait; those that are calm by name."""

    def __init__(self) -> None:
        self._urgencies: dict[str, _Urgency] = {}
        self._sorted: list[_Urgency] = []
        self._moved: set[str] = set()  # services, since they were sorted
        self._front: dict[str, _Urgency] = {}  # all that are no less urgent than that
        self._bound: _Urgency = _NOBODY

    def put(self, service: str, record: Record, *, is_calm: bool) -> None:
        """Take the newest record of a service."""
        urgency = (_CALM, 0, True, 0.0, service) if is_calm else _urgency(service, record)
        urgencies = self._urgencies
        if urgencies.get(service) != urgency:
            urgencies[service] = urgency
            self._moved.add(service)
            if urgency <= self._bound:
                self._front[service] = urgency
            elif service in self._front:
                del self._front[service]

    def drop(self, service: str) -> None:
        """Forget a service."""
        del self._urgencies[service]
        self._front.pop(service, None)
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
        """Return the first services, so many; without looking at the others where these are few."""
        if count > len(self._urgencies) // _PART:
            return self.all()[:count]
        if len(self._front) < count:
            self._keep_apart(self._urgencies.values(), count * _SPARE)
        elif len(self._front) > count * _SPARE:
            self._keep_apart(self._front.values(), count * _SPARE)
        return [urgency[-1] for urgency in sorted(self._front.values())[:count]]

    def _keep_apart(self, urgencies: Iterable[_Urgency], count: int) -> None:
        first = sorted(urgencies)[:count]
        self._front = {urgency[-1]: urgency for urgency in first}
        self._bound = first[-1]


def _urgency(service: str, record: Record) -> _Urgency:
    stands = record.waiting or (record.binding is None and record.is_late)
    drained = _STANDS if stands else -float(record.drained_ms) if record.backlog else 0.0
    fullest = 0.0
    for limit in record.limits:  # max() of a generator takes several times as long, of thousands a second
        fullest = max(fullest, limit.usage)
    return drained, -record.backlog, record.breach_since_ms is None, -fullest, service
