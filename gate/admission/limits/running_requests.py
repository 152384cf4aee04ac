"""Running requests: admitted, and neither told to be done nor so old that nobody will tell."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from gate.admission.limits.budget import Budget
from gate.admission.model import FOREVER, UNTIL_RESUMED
from gate.admission.state import VERSION, RunningRecord, decode, encode
from gate.limits import Running

_CHUNK: Final = 256  # requests of a record: each that is done has its record written anew


class _Chunk:
    """Requests that were admitted at one time, by their ids, with the tenant that they count for."""

    __slots__ = ("at", "number", "tenants")

    def __init__(self, number: int, at: int) -> None:
        self.number = number
        self.at = at
        self.tenants: dict[str, str | None] = {}


class RunningCounter:
    """The running requests of a service, each by its id; those that were admitted first come first.

    A step charges requests by their number, and `name` says then which they are. What is told to be done counts once,
    and only if it runs.
    """

    __slots__ = ("_chunks", "_dirty", "_next", "_prefix", "_where", "limit", "owner", "timeout", "tracking", "used")

    def __init__(self, service: str, limit: Running | None, timeout: int | None) -> None:
        self.owner = service
        self.limit = limit
        self.timeout = timeout  # ns after which a request is taken to be done; None: never
        self.tracking = limit is not None  # also for the limits of tenants and of the group
        self.used = 0
        self._prefix = f"running/{service}/"
        self._chunks: dict[int, _Chunk] = {}  # in the order of their times
        self._where: dict[str, _Chunk] = {}
        self._dirty: dict[int, None] = {}
        self._next = 0

    def fit(self, now: int, count: int, cost: int) -> int:  # noqa: ARG002 - it counts requests, and knows no times
        """Return how many of `count` requests may go now."""
        return count if self.limit is None else max(0, min(count, self.limit.capacity - self.used))

    def charge(self, now: int, count: int, cost: int) -> None:  # noqa: ARG002 - as in fit
        """Count requests that go; `name` must follow."""
        if self.tracking:
            self.used += count

    def ready_at(self, now: int, cost: int) -> int:
        """Return `now`, or UNTIL_RESUMED: nobody knows when a worker is done."""
        return now if self.fit(now, 1, cost) else UNTIL_RESUMED

    def name(self, now: int, ids: Iterable[tuple[str | None, str | None]]) -> list[str | None]:
        """Take id and tenant of each request that was charged; id None: it did not go.

        Returns the tenants of those that did not, or that ran already: each was counted once too often.
        """
        chunk: _Chunk | None = None
        freed: list[str | None] = []
        for request, tenant in ids:
            if request is None or request in self._where:  # decided anew, as an owner without transactions may have to
                self.used -= 1
                freed.append(tenant)
                continue
            if chunk is None or len(chunk.tenants) >= _CHUNK:
                chunk = self._chunks[self._next] = _Chunk(self._next, now)
                self._dirty[self._next] = None
                self._next += 1
            chunk.tenants[request] = tenant
            self._where[request] = chunk
        return freed

    def done(self, request: str) -> tuple[bool, str | None]:
        """Take that a request is done. Returns whether it was running, and the tenant that it counted for."""
        chunk = self._where.pop(request, None)
        if chunk is None:
            return False, None
        self.used -= 1
        self._dirty[chunk.number] = None
        tenant = chunk.tenants.pop(request)
        if not chunk.tenants:
            del self._chunks[chunk.number]
        return True, tenant

    def expire(self, now: int) -> Iterator[str | None]:
        """Take those to be done of which nobody has told for too long; yield the tenant of each."""
        while (due := self.expires_at()) is not None and due <= now:
            chunk = next(iter(self._chunks.values()))
            for request in list(chunk.tenants):
                yield self.done(request)[1]

    def expires_at(self) -> int | None:
        """Return when the next of them is taken to be done; None: none is."""
        if self.timeout is None or not self._chunks:
            return None
        return min(next(iter(self._chunks.values())).at + self.timeout, FOREVER)

    def tenants(self) -> Iterator[str]:
        """Yield the tenant of each running request that counts for one."""
        for chunk in self._chunks.values():
            yield from (tenant for tenant in chunk.tenants.values() if tenant is not None)

    def drain_changes(self, version: int = VERSION) -> dict[str, bytes | None]:
        """Return the records that changed since the last call; None: delete."""
        records: dict[str, bytes | None] = {}
        for number in self._dirty:
            chunk = self._chunks.get(number)
            records[f"{self._prefix}{number}"] = None if chunk is None else encode(_record(chunk), version)
        self._dirty.clear()
        return records

    def restore(self, records: Mapping[int, bytes]) -> None:
        """Take what was kept, by number."""
        for number in sorted(records):
            record = decode(f"{self._prefix}{number}", records[number], RunningRecord)
            chunk = self._chunks[number] = _Chunk(number, record.at)
            chunk.tenants.update(zip(record.ids, record.tenants or [None] * len(record.ids), strict=True))
            self._where.update(dict.fromkeys(record.ids, chunk))
            self._next = number + 1
        self.used = len(self._where)


def _record(chunk: _Chunk) -> RunningRecord:
    tenants = list(chunk.tenants.values())
    return RunningRecord(chunk.at, list(chunk.tenants), tenants if any(t is not None for t in tenants) else [])


class GroupRunning:
    """The running requests of a group: those of all its services."""

    __slots__ = ("_budget", "owner")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.owner = f"group.{budget.name}"

    @property
    def limit(self) -> Running | None:
        """The limit; None: the group has none."""
        return self._budget.limiter.spec.running

    @property
    def used(self) -> int:
        """Requests that run."""
        return self._budget.running

    def fit(self, now: int, count: int, cost: int) -> int:  # noqa: ARG002 - it counts requests, and knows no times
        """Return how many of `count` requests may go now, whoever else waits."""
        limit = self.limit
        return count if limit is None else max(0, min(count, limit.capacity - self.used))

    def charge(self, now: int, count: int, cost: int) -> None:
        """Count nothing: the service does."""

    def ready_at(self, now: int, cost: int) -> int:
        """Return `now`, or UNTIL_RESUMED: nobody knows when a worker is done."""
        return now if self.fit(now, 1, cost) else UNTIL_RESUMED
