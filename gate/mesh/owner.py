"""Owner: the side of the distributed limiter that divides the limits of one shard among holders."""

from collections.abc import Callable, Mapping
from typing import Final

from gate.limits import Spec
from gate.mesh.budget import FOREVER, Budget
from gate.mesh.changes import Changes
from gate.mesh.held import Held, Key
from gate.mesh.state import restore
from gate.mesh.terms import DEFAULT, Terms, longer
from gate.mesh.wire import NONE, Ask, Grant, Report, Slot

MOST_HOLDERS: Final = 10_000  # of a shard; others are not heard
MOST_HELD: Final = 10_000  # budgets of a holder; it hears nothing of others
MOST_BUDGETS: Final = 100_000  # of a shard
TENANT: Final = "/"  # between a service and its tenant, in the name of a budget


class Lease:
    """One holder, as its owner knows it."""

    __slots__ = ("answer", "held", "news", "resends", "seq", "since", "slots", "told", "until")

    def __init__(self, since: int) -> None:
        self.since = since  # version
        self.until = 0
        self.seq = 0
        self.held: dict[str, Held] = {}
        self.news: dict[str, Held] = {}  # budgets of which it does not yet know the newest
        self.answer = False  # whether it has reported and not yet been answered
        self.told: dict[str, Held] = {}  # what it has reported of since
        self.resends = 0  # before which it is not told again what it has not acknowledged
        self.slots: list[Slot] = []


class Owner:
    """Divides the limits of one shard: hears reports, and at each step says what is granted.

    `limits` tells the limits of a budget by its name, None where it has none; `opened` is told of each that begins,
    full, and charges it with what counts already. What `step` returns may be sent only when the state is kept
    (`drain_changes`): both belong into one transaction. Every `now` is ns by the shard's clock.
    """

    def __init__(
        self,
        limits: Callable[[str], Spec | None],
        terms: Terms = DEFAULT,
        opened: Callable[[int, Budget], None] = lambda _now, _budget: None,
    ) -> None:
        self.terms = terms
        self._opened = opened
        self.budgets: dict[str, Budget] = {}
        self.of_tenants: set[str] = set()  # names of those budgets that are of a service's tenants
        self.leases: dict[Key, Lease] = {}
        self.version = 0
        self.alone: dict[str, tuple[int, int]] = {}  # units let go, and refused, without an owner, as was told of late
        self._limits = limits
        self._touched: set[str] = set()  # budgets that may have something to give
        self._changes = Changes()
        self._expiry = 0  # before which no lease ends: each only gets longer

    def __next__(self) -> int:
        """Return a version that is newer than all others."""
        self.version += 1
        return self.version

    def __iter__(self) -> "Owner":
        return self

    def receive(self, now: int, report: Report) -> None:
        """Take what a holder tells. An old report changes nothing."""
        self._expire(now)
        key = (report.holder, report.epoch)
        lease = self.leases.get(key)
        if lease is None:
            if len(self.leases) >= MOST_HOLDERS:
                return
            lease = self.leases[key] = Lease(self.version)
        if report.seq <= lease.seq:
            return
        lease.seq = report.seq
        lease.until = now + longer(self.terms.lease_ns)
        self._expiry = min(self._expiry, lease.until)
        lease.answer = True
        self._changes.leases.add(key)
        budgets, news, told, changes = self.budgets, lease.news, lease.told, self._changes
        for entry in report.budgets:
            name = entry.name
            budget = budgets.get(name) or self._budget(now, name)
            if budget is None or (name not in lease.held and len(lease.held) >= MOST_HELD):
                continue
            held = budget.hear(now, key, entry)
            if entry.alone is not None and entry.alone != held.alone:
                let_go, refused = held.lonely(entry)
                before = self.alone.get(name, (0, 0))
                self.alone[name] = (before[0] + let_go, before[1] + refused)
            lease.held[name] = told[name] = held
            if news and not held.pending:
                news.pop(name, None)
            if budget.limits.granted:
                (changes.counted if budget.grants.quotas is None else changes.budgets).add(name)
        self._changes.parts.update(told.values())
        self._touched.update(told)
        for ask in report.asks:
            lease.slots.append(self._decide(now, key, ask))
        if report.leaving:
            self._end(now, key, now, left=True)

    def step(self, now: int) -> list[Grant]:
        """Divide what is to be divided anew, and return what holders are to be told."""
        self._expire(now)
        for name, budget in self.budgets.items():
            if budget.due(now) and (name in self._touched or budget.held or budget.parts.rests):
                before = budget.direct, budget.asks.want, budget.parts.rests
                budget.divide(now)
                self._touched.add(name)
                if before != (budget.direct, budget.asks.want, budget.parts.rests):
                    self._changes.budgets.add(name)
            elif budget.parts.slides:
                self._touched.add(name)
        for name in self._touched:
            budget = self.budgets[name]
            own = budget.parts.own
            for held in budget.move(now, self):
                self._tell(held.key, name)
            if budget.parts.own is not own:
                self._changes.budgets.add(name)
        self._touched.clear()
        return [self._grant(now, key, lease) for key, lease in list(self.leases.items()) if lease.answer or lease.news]

    def room(self, now: int, name: str) -> int:
        """Return how many units of a budget the requests in topics may take now."""
        budget = self._budget(now, name)
        return 0 if budget is None else budget.room(now)

    def opens_at(self, now: int, name: str, units: int) -> int:
        """Return when requests in topics may have so many units; at the latest when it is divided anew."""
        budget = self.budgets.get(name)
        return now if budget is None else budget.opens_at(now, units)

    def charge(self, now: int, name: str, units: int) -> None:
        """Charge what requests in topics take now; the caller asked `room`."""
        budget = self._budget(now, name)
        if budget is not None:
            budget.charge(now, now, units)
            budget.asks.serve_queue(now)
            self._changes.budgets.add(name)

    def want(self, now: int, name: str, per_second: int) -> None:
        """Say what requests in topics want, in units per second: the queue is one more holder."""
        budget = self._budget(now, name)
        if budget is not None and budget.queue_want != per_second * 1000:
            budget.queue_want = per_second * 1000
            budget.eager = True
            self._touch(name)

    def pause(self, now: int, name: str, until: int) -> None:
        """Give nothing of a budget until a time; 0: go on. What is out ends with its lease at the latest."""
        budget = self._budget(now, name)
        if budget is not None and budget.paused_until not in {until, FOREVER}:  # what has no limits now stays so
            budget.paused_until = until
            budget.eager = True
            self._touch(name)

    def reload(self, now: int) -> None:
        """Go over to what the limits are now. Higher ones hold at once, lower ones a lease later at the latest."""
        for name, budget in list(self.budgets.items()):
            spec = self._limits(name)
            if spec is None:
                budget.paused_until = FOREVER
                continue
            if budget.paused_until == FOREVER:
                budget.paused_until = 0
            if spec != budget.spec:
                for held in budget.reconfigure(now, spec, self):
                    self._tell(held.key, name)
            self._touch(name)
            budget.eager = True

    def forget_idle(self, now: int) -> None:
        """Forget budgets that nobody holds and that are as new ones would be."""
        for name in [name for name, budget in self.budgets.items() if budget.idle(now)]:
            del self.budgets[name]
            self.of_tenants.discard(name)
            self._touched.discard(name)
            self._changes.budgets.add(name)

    def drain_changes(self, now: int) -> dict[str, bytes | None]:
        """Return the records that changed since the last call; None: delete it."""
        return self._changes.drain(now, self.version, self.budgets, self.leases)

    def load(self, now: int, records: Mapping[str, bytes]) -> None:
        """Go on with what another owner kept; every lease begins anew. Raises StateError."""
        found = restore(now, records, self.terms)
        self.version, self.budgets, self._changes.cells = found.version, found.budgets, found.cells
        self.of_tenants = {name for name in found.budgets if TENANT in name}
        for key, (seq, since, held) in found.leases.items():
            lease = self.leases[key] = Lease(since)
            lease.until = now + longer(self.terms.lease_ns)
            lease.seq, lease.held = seq, held
            self._changes.parts.update(held.values())  # all times are by another clock from now on
        self._changes.budgets.update(found.budgets.keys() | found.cells.keys())
        self.reload(now)

    def _budget(self, now: int, name: str) -> Budget | None:
        budget = self.budgets.get(name)
        if budget is None:
            spec = self._limits(name)
            if spec is None or len(self.budgets) >= MOST_BUDGETS:
                return None
            budget = self.budgets[name] = Budget(name, spec, now, self.terms)
            if TENANT in name:
                self.of_tenants.add(name)
            self._opened(now, budget)
            self._changes.budgets.add(name)
        return budget

    def _touch(self, name: str) -> None:
        self._touched.add(name)
        self._changes.budgets.add(name)

    def _tell(self, key: Key, name: str) -> None:
        lease = self.leases[key]
        held = lease.news[name] = lease.held[name]
        self._changes.parts.add(held)

    def _decide(self, now: int, key: Key, ask: Ask) -> Slot:
        budgets = [self._budget(now, name) for name in ask.names]
        known = [budget for budget in budgets if budget is not None]
        if len(known) < len(budgets) or ask.cost < 1:
            return Slot(ask.number, 0, NONE)
        waits = [budget.ask(now, key, ask.cost) for budget in known]
        self._touched.update(ask.names)
        self._changes.budgets.update(ask.names)
        if any(waits):
            return Slot(ask.number, 0, NONE if NONE in waits else max(waits))
        use_by = min(budget.use_by(ask.round_trip) for budget in known)
        for budget in known:
            budget.charge(now, now + longer(use_by), ask.cost)
            budget.asks.serve(now, key)
        return Slot(ask.number, use_by)

    def _grant(self, now: int, key: Key, lease: Lease) -> Grant:
        for name, held in lease.told.items():
            budget = self.budgets[name]
            if budget.limits.granted and budget.top_up(now, held, self):
                lease.news[name] = held
                self._changes.parts.add(held)
        if lease.answer and now >= lease.resends:  # what was sent may have been lost
            lease.resends = now + self.terms.period_ns * 3 // 4
            lease.news.update([(name, held) for name, held in lease.held.items() if held.pending])
        shares = [self.budgets[name].share(now, held) for name, held in lease.news.items()]
        answers = lease.seq if lease.answer else 0
        slots = tuple(lease.slots)
        lease.answer, lease.slots = False, []
        lease.news.clear()
        lease.told.clear()
        return Grant(key[0], key[1], answers, self.terms.lease_ns, lease.since, tuple(shares), slots)

    def _expire(self, now: int) -> None:
        if now < self._expiry:
            return
        for key, lease in [(key, lease) for key, lease in self.leases.items() if lease.until <= now]:
            self._end(now, key, lease.until)
        self._expiry = min([lease.until for lease in self.leases.values()], default=0)

    def _end(self, now: int, key: Key, until: int, *, left: bool = False) -> None:
        lease = self.leases.pop(key)
        self._changes.leases.add(key)
        for name, held in lease.held.items():
            self.budgets[name].end(now, key, until, left=left)
            self._changes.parts.discard(held)
            self._changes.gone.add(held)
            self._touch(name)
