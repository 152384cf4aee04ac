"""Budgets that several services share: one limiter per group, given out in fair turns to those that wait for it."""

from collections.abc import Mapping
from typing import Final, Protocol

from gate.admission.model import SECOND
from gate.admission.queues.fair_queue import COST_CAP
from gate.admission.state import VERSION, ClaimRecord, GroupRecord, decode, encode
from gate.limits import Limiter, Spec

# A service whose turn it is and that does not take it (its shard task hangs, say) is waited for no longer than this.
_PATIENCE: Final = SECOND


class Runner(Protocol):
    """A service of which requests run."""

    used: int


class Demand:
    """What one service has had of a budget, and what it waits for."""

    __slots__ = ("asked", "ready", "start", "units")

    def __init__(self, start: int = 0) -> None:
        self.start = start  # tag, as in start-time fair queueing
        self.units = 0  # that wait
        self.ready = 0  # when the service's own limits let it go on
        self.asked = 0  # since when others have held back for it; 0: they have not

    def active(self, now: int) -> bool:
        """Tell whether others must leave it its part."""
        return self.units > 0 and self.ready <= now and (not self.asked or now - self.asked <= _PATIENCE)


class Budget:
    """One group's limiter and the services that draw on it."""

    def __init__(self, name: str, limiter: Limiter) -> None:
        self.name = name
        self.limiter = limiter
        self.changed = True
        self.runners: dict[str, Runner] = {}  # by service
        self._virtual = 0
        self._claims: dict[str, Demand] = {}

    @property
    def running(self) -> int:
        """Requests of all services that run."""
        return sum(runner.used for runner in self.runners.values())

    def _room(self, count: int) -> int:
        """Return how many of `count` requests may run beside those that do."""
        limit = self.limiter.spec.running
        return count if limit is None else max(0, min(count, limit.capacity - self.running))

    def promises(self, service: str, waiting: int) -> bool:
        """Tell whether so many requests could run beside all that others wait with."""
        wanted = waiting + sum(self.others(service))
        return self._room(wanted) >= wanted

    def fit(self, service: str, now: int, count: int, cost: int) -> int:
        """Tell how many of `count` equal requests a service may admit now, leaving to others that wait their part."""
        rivals = {name: claim for name, claim in self._claims.items() if name != service and claim.active(now)}
        room = self._room(count)
        if not rivals:
            return self.limiter.fit(now, room, cost)
        wanted = count * cost + sum(claim.units for claim in rivals.values())
        given = self.limiter.fit(now, wanted, 1)
        if self.limiter.spec.running is not None:  # requests of this cost, as far as may run
            given = min(given, self._room(wanted) * cost)
        part = self._part(service, rivals, given)
        mine = self._claim(service).start
        first = all((mine, service) < (claim.start, name) for name, claim in rivals.items())
        # Whole requests only; the one whose turn it is may go beyond its part, or it would never go.
        allowed = min(room, max(part // cost, 1 if first else 0))
        allowed = self.limiter.fit(now, allowed, cost) if allowed else 0
        if allowed < count:
            for claim in rivals.values():
                claim.asked = claim.asked or now
            self.changed = True
        return allowed

    def charge(self, service: str, now: int, count: int, cost: int) -> None:
        """Take what `fit` allowed."""
        self.limiter.charge(now, count * cost)
        self.changed = True
        if any(claim.units for claim in self._claims.values()):
            claim = self._claim(service)
            self._virtual = max(self._virtual, claim.start)
            claim.start += count * min(cost, COST_CAP)

    def wait(self, service: str, units: int, ready: int) -> None:
        """Say how many units of a service wait for this budget, and from when on it could use them."""
        claim = self._claims.get(service)
        if claim is None:
            if not units:
                return
            claim = self._claim(service)
        if (claim.units, claim.ready, claim.asked) != (units, ready, 0):
            claim.units, claim.ready, claim.asked = units, ready, 0
            self.changed = True
        if self._claims and not any(claim.units for claim in self._claims.values()):
            self._claims.clear()
            self._virtual = 0
            self.changed = True

    def others(self, service: str) -> list[int]:
        """Return how many units wait in each other service."""
        return [claim.units for name, claim in self._claims.items() if name != service and claim.units]

    def record(self) -> GroupRecord:
        """Return what is kept."""
        claims = {name: ClaimRecord(c.start, c.units, c.ready, c.asked) for name, c in sorted(self._claims.items())}
        return GroupRecord(self.limiter.dump(), self._virtual, claims)

    def restore(self, record: GroupRecord) -> None:
        """Take what was kept, except the limiter."""
        self._virtual = record.virtual
        for name, kept in record.claims.items():
            claim = self._claims[name] = Demand(kept.start)
            claim.units, claim.ready, claim.asked = kept.units, kept.ready, kept.asked
        self.changed = False

    def _claim(self, service: str) -> Demand:
        claim = self._claims.get(service)
        if claim is None:
            claim = self._claims[service] = Demand()
        if not claim.units:
            claim.start = max(claim.start, self._virtual)
        return claim

    def _part(self, service: str, rivals: Mapping[str, Demand], units: int) -> int:
        """Share out `units` as if in turns of one, lowest tag first; return what falls to `service`."""
        tags = sorted([(claim.start, name, claim.units) for name, claim in rivals.items()])
        mine = self._claim(service).start
        low, high = mine, mine + units
        while low < high:  # the highest tag up to which the service may draw so that all others up to it have drawn too
            middle = (low + high + 1) // 2
            before = sum(min(wanted, max(0, middle - start - (name > service))) for start, name, wanted in tags)
            if middle - mine + before <= units:
                low = middle
            else:
                high = middle - 1
        return low - mine


class Budgets:
    """The group limiters of a shard, shared by its engines; thrown away and restored together with them."""

    def __init__(
        self,
        now: int,
        groups: Mapping[str, Spec],
        records: Mapping[str, bytes] | None = None,
        version: int = VERSION,
    ) -> None:
        """Begin with what is kept. `version` is that in which records are written, those of the engines among them."""
        self.version = version
        self._budgets: dict[str, Budget] = {}
        for name, spec in groups.items():
            data = (records or {}).get(f"group/{name}")
            if data is None:
                self._budgets[name] = Budget(name, Limiter(spec, now))
            else:
                record = decode(f"group/{name}", data, GroupRecord)
                budget = self._budgets[name] = Budget(name, Limiter.load(spec, record.limiter))
                budget.restore(record)

    def get(self, name: str | None) -> Budget | None:
        """Return a group's budget; None where there is none."""
        return None if name is None else self._budgets.get(name)

    def set_groups(self, now: int, groups: Mapping[str, Spec]) -> None:
        """Take a new policy's groups: what was used stays counted. Call it before the engines' `set_policy`."""
        for name, spec in groups.items():
            budget = self._budgets.get(name)
            if budget is None:
                self._budgets[name] = Budget(name, Limiter(spec, now))
            elif budget.limiter.spec != spec:
                budget.limiter.reconfigure(spec, now)
                budget.changed = True

    def drain_changes(self) -> dict[str, bytes | None]:
        """Return the records of groups that changed since the last call. Engines pass them on with their own."""
        records: dict[str, bytes | None] = {}
        for name, budget in self._budgets.items():
            if budget.changed:
                budget.changed = False
                records[f"group/{name}"] = encode(budget.record(), self.version)
        return records
