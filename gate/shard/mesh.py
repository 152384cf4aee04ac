"""The mesh of a shard: holders in processes that share its services' limits with the requests in its topics.

Pure, as the state that it is part of: the shard's task brings reports, and writes grants with the state that they are
from, in one transaction. A shard without holders writes nothing here and looks at nothing.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

import msgspec
import structlog

from gate.admission.engine import Engine
from gate.admission.queues.tenants import short
from gate.limits import Limiter, Spec
from gate.limits.limit import Limit
from gate.mesh.budget import FOREVER, Budget
from gate.mesh.held import Key
from gate.mesh.owner import MOST_BUDGETS, TENANT, Owner
from gate.mesh.state import OWNER, HeldRecord, LeaseRecord, OwnerRecord, read, record_key, write
from gate.mesh.terms import DEFAULT
from gate.mesh.wire import NONE, Charged, Grant, encode
from gate.policy import Policy
from gate.protocol.policies import GROUP
from gate.protocol.topics import TopicNameError, check_service_name
from gate.shard.lease_reports import LONGEST_TENANT, LeaseReports
from gate.shard.placement import shard_of
from gate.shard.queue_shares import QueueLoad, SharedLimits, TenantShare, rounded
from gate.shard.records import Raw, Record
from gate.units import MS, SECOND

KIND: Final = "mesh"  # of its records in the state
POSITION: Final = "position"
SINCE_FORMAT: Final = 2  # of the state
GATHER_NS: Final = 40 * MS  # for which reports are gathered, so that many holders do not make as many transactions
REST_NS: Final = 10 * SECOND  # between looks whether budgets can be forgotten
MOST_UNLISTED: Final = 10_000  # services without an entry of their own: callers make names up
FOUND_AT_ONCE: Final = 40  # answers to lookups in one record, and shares: a record has a largest size
SHARES_AT_ONCE: Final = 250
TOLD_NS: Final = 10 * SECOND  # between alerts of what one service's calls did without an owner
OTHERS: Final = "*"  # for a service without an entry of its own, as a label
_CELLS: Final = 200  # in which what a limiter counts is handed over

log = structlog.get_logger("gate.mesh")


class Mesh:
    """Holders of one shard, and what of its limits they have.

    `engines` are those of services with requests in topics, which share the same limits; `group` gives the limiter of a
    group, `queues` all these services, each with its group.
    """

    def __init__(
        self,
        shards: int,
        policy: Policy,
        state_format: Callable[[], int],
        engines: Callable[[str], Engine | None],
        group: Callable[[str], Limiter | None],
        queues: Callable[[], Collection[tuple[str, str | None]]],
    ) -> None:
        self.owner = Owner(self._limits, opened=self._seed)
        self.position: int | None = None  # of the next report
        self.shared: dict[str, SharedLimits] = {}  # by service
        self._tenants: dict[str, dict[str, TenantShare]] = {}  # whose limits calls have parts of, by service
        self._refused: dict[str, set[str]] = {}  # of them, whose requests share others' limits
        self._shards = shards
        self._policy = policy
        self._format = state_format
        self._engines = engines
        self._group = group
        self._queues = queues
        self._loads: dict[str, QueueLoad] = {}  # by service
        self._number = -1
        self._stored: dict[str, bytes] = {}
        self._places: dict[tuple[str, int], int] = {}  # partition of the topic of grants, by holder
        self._unlisted: set[str] = set()
        self.reports = LeaseReports()
        self.alone: dict[str, tuple[int, int]] = {}  # units let go, and refused, without an owner, of which none knows
        self.gone_alone: list[tuple[str, int, int]] = []
        self._alerted: dict[str, int] = {}  # when that was last told, by service
        self._moved = False  # its position, since it was last written
        self._next: int | None = None
        self._rested = 0
        self._last = 0

    # -- life ------------------------------------------------------------------------------------------------------

    def keep(self, key: str, value: bytes) -> None:
        """Take one of its records, by the rest of its key."""
        if key == POSITION:
            self.position = int(value)
        else:
            self._stored[key] = value

    def start(self, number: int, now: int, lease_ns: int = DEFAULT.lease_ns) -> None:
        """Go on as the owner of shard `number`, with the records that were taken: every lease begins anew."""
        self._number = number
        self.owner.terms = replace(DEFAULT, lease_ns=lease_ns)
        stored, self._stored = self._stored, {}
        if stored:
            self.owner.load(now, stored)
            self._next = now

    def set_policy(self, policy: Policy, now: int) -> None:
        """Go over to other limits. Lower ones hold a lease later at the latest."""
        self._policy = policy
        if self.owner.budgets:
            self.owner.reload(now)
            self._next = now

    @property
    def is_used(self) -> bool:
        """Tell whether anybody shares its limits, or did of late."""
        return bool(self.owner.budgets or self.shared or self._tenants)

    @property
    def holders(self) -> int:
        """How many processes hold some of it."""
        return len(self.owner.leases)

    def wakes_at(self, waiting: bool) -> int | None:
        """Return when `turn` has something to do; None: not by itself. `waiting`: reports have come."""
        gathered = self._last + GATHER_NS if waiting else None
        return min((time for time in (self._next, gathered) if time is not None), default=None)

    # -- one batch -------------------------------------------------------------------------------------------------

    def turn(self, now: int, records: Iterable[Record], end: int | None, partitions: int) -> dict[int, list[Raw]]:
        """Take reports, divide, and return what is granted, by partition of the topic of grants, of so many.

        `end` is the offset behind the reports.
        """
        if end is not None:
            self.position, self._moved = end, True
        owner, answers = self.owner, dict[tuple[str, int], list[Charged]]()
        self._last = now
        for record in records:
            if (report := self.reports.read(record, partitions, owner.leases)) is None:
                continue
            key = report.holder, report.epoch
            self._places[key] = report.partition
            if report.lookups:
                answers.setdefault(key, []).extend([self.find(*asked) for asked in report.lookups])
            if report.seq and self._format() >= SINCE_FORMAT:
                owner.receive(now, report)
        if not owner.budgets and not owner.leases and not answers:
            self._next = None
            return {}
        self._meet_queues(now)
        grants = owner.step(now)
        self._note_alone()
        if now >= self._rested + REST_NS:
            self._rested = now
            owner.forget_idle(now)
            asked = {name.partition(TENANT)[0] for name in owner.budgets}
            self._unlisted &= asked | self.shared.keys()
            self._loads = {service: load for service, load in self._loads.items() if service in self.shared}
        self._places = {key: place for key, place in self._places.items() if key in owner.leases or key in answers}
        self._plan(now)
        return self._written(grants, answers)

    def changes(self, now: int) -> dict[str, bytes | None]:
        """Return the records of the state that have changed since the last call."""
        found = {f"{KIND}/{key}": value for key, value in self.owner.drain_changes(now).items()}
        if self._moved:
            self._moved = False
            found[f"{KIND}/{POSITION}"] = str(self.position).encode()
        return found

    def _note_alone(self) -> None:
        alone, self.owner.alone = self.owner.alone, {}
        for name, (let_go, refused) in alone.items():
            service = name if name.startswith(GROUP) else name.partition(TENANT)[0]
            if service not in self._policy.layers.exact and not name.startswith(GROUP):
                service = OTHERS
            before = self.alone.get(service, (0, 0))
            self.alone[service] = before[0] + let_go, before[1] + refused

    def pop_alone(self, now: int) -> dict[str, tuple[int, int]]:
        """Return by service what calls did without an owner, as is to be told now; each unit once."""
        due = [service for service in self.alone if now >= self._alerted.get(service, 0) + TOLD_NS]
        self._alerted |= dict.fromkeys(due, now)
        told = {service: self.alone.pop(service) for service in due}
        self.gone_alone += [(service, *units) for service, units in told.items()]
        return told

    def drain_alone(self) -> list[tuple[str, int, int]]:
        """Return what was told of that since the last call: service, units let go, and refused."""
        told, self.gone_alone = self.gone_alone, []
        return told

    def open_queues(self, now: int) -> list[str]:
        """Return the services whose requests may try again."""
        opened = []
        for service, shared in self.shared.items():
            if shared.short and shared.opens_at(now) <= now + MS:
                shared.open(now)
                opened.append(service)
        return opened

    def share(self) -> list[str]:
        """Find which services (and their groups) share limits with calls; return those of which that has changed."""
        budgets = self.owner.budgets
        of_tenants: dict[str, list[str]] = {}
        for name in self.owner.of_tenants:
            service, _, tenant = name.partition("/")
            of_tenants.setdefault(service, []).append(tenant)
        changed = []
        for service, group in self._queues():
            names = tuple([name for name in (service, f"{GROUP}{group}") if name in budgets])
            before = self.shared.get(service)
            if self._share_tenants(service, of_tenants.get(service, ())):
                changed.append(service)
            closed = bool(self._refused.get(service))  # else these would have it beside what calls of them had
            if not names and not closed:
                if self.shared.pop(service, None) is not None:
                    changed.append(service)
                continue
            if before is None or before.names != names:
                before = self.shared[service] = self._shared(service, group, names)
                changed.append(service)
            if before.closed != closed:
                before.closed = closed
                changed.append(service)
        return changed

    def _share_tenants(self, service: str, tenants: Collection[str]) -> bool:
        """Have requests of tenants leave to calls what these hold; tell whether that has changed."""
        before = self._tenants.get(service, {})
        engine = self._engines(service)
        if engine is None or (before.keys() == set(tenants) and service not in self._refused):
            return False
        shares = {name: before.get(name) or TenantShare(self.owner, f"{service}/{name}") for name in tenants}
        self._tenants[service] = shares
        self._refused.pop(service, None)
        if refused := engine.share_tenants(shares):
            self._refused[service] = refused
        if not shares:
            del self._tenants[service]
        return before.keys() != shares.keys()

    def find(self, service: str, tenant: str) -> Charged:
        """Return what calls of a service are charged to."""

        def refused(why: str) -> Charged:
            return Charged(service, tenant, (), self._number, allowed=False, why=why)

        try:
            check_service_name(service)
        except TopicNameError as error:
            return refused(str(error))
        if len(tenant) > LONGEST_TENANT or not tenant.isprintable():
            return refused(f"a tenant's name has at most {LONGEST_TENANT} characters, all of them printable")
        if self._format() < SINCE_FORMAT:
            return refused("the gates' state is written in an older format: `gate upgrade finish` first")
        if not self._knows(service):
            return refused(f"more than {MOST_UNLISTED} services without an entry of their own are asked for")
        policy, shard = self._policy.service(service), shard_of(self._policy.shard_key(service), self._shards)
        if policy is None:
            allowed = self._policy.settings.fail_open
            why = "" if allowed else "no policy says what may pass"
            return Charged(service, tenant, (), shard, allowed=allowed, why=why)
        if policy.shadow:
            return Charged(service, tenant, (), shard)
        if policy.blocked_until or policy.tenant_blocked_until(tenant):
            return refused(f"the limit of {f'tenant {tenant} of ' if tenant else ''}{service} is 0")
        specs = {service: policy.spec} if policy.spec.limits else {}
        if tenant and (spec := policy.tenant(tenant)) is not None and spec.limits:
            engine = self._engines(service)
            if engine is not None and not engine.has_own(short(tenant)):
                most = policy.max_tenants
                return refused(f"{service} has more than {most} tenants: requests of this one share others' limit")
            specs[f"{service}/{short(tenant)}"] = spec
        group = None if policy.group is None else self._policy.group(policy.group)
        if group is not None and group.spec.limits:
            specs[f"{GROUP}{group.name}"] = group.spec
        if len(self.owner.budgets) >= MOST_BUDGETS and any(name not in self.owner.budgets for name in specs):
            return refused(f"this shard divides {MOST_BUDGETS} limits already")
        ceilings = tuple([NONE if spec.ceiling is None else spec.ceiling for spec in specs.values()])
        return Charged(service, tenant, tuple(specs), shard, ceilings)

    def _shared(self, service: str, group: str | None, names: tuple[str, ...]) -> SharedLimits:
        policy = self._policy.service(service)
        covers_all = len(names) == (1 if group is None else 2) and policy is not None and not policy.spec.quotas
        limit = self._described(service, group)
        return SharedLimits(service, names, self.owner, limit, covers_all=covers_all)

    def _described(self, service: str, group: str | None) -> Limit | None:
        specs = [policy.spec] if (policy := self._policy.service(service)) is not None else []
        if group is not None and (shared := self._policy.group(group)) is not None:
            specs.append(shared.spec)
        return next((limit for spec in specs for limit in spec.limits), None)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _limits(self, name: str) -> Spec | None:
        """Return the limits of a budget of this shard; None: there are none, or calls may not have them."""
        key, spec = name, None
        if name.startswith(GROUP):
            group = self._policy.group(name.removeprefix(GROUP))
            spec = None if group is None or group.blocked_until else group.spec  # as below, of a blocked service
        else:
            service, of_tenant, tenant = name.partition("/")
            policy = self._policy.service(service) if self._knows(service) else None
            if policy is not None and (policy.blocked_until or (of_tenant and policy.tenant_blocked_until(tenant))):
                return None  # what was used goes on to count, and nothing is granted
            engine = self._engines(service) if of_tenant else None
            if policy is not None and not policy.shadow and (engine is None or engine.has_own(tenant)):
                spec = policy.tenant(tenant) if of_tenant else policy.spec
                key = self._policy.shard_key(service)
        if spec is None or not spec.limits or shard_of(key, self._shards) != self._number:
            return None
        return spec if spec.running is None else replace(spec, running=None)

    def _knows(self, service: str) -> bool:
        """Tell whether a name may be looked up: what is looked up is remembered, and callers make names up."""
        if service in self._policy.layers.exact or service in self._unlisted:
            return True
        try:
            check_service_name(service)
        except TopicNameError:
            return False
        if len(self._unlisted) >= MOST_UNLISTED:
            return False
        self._unlisted.add(service)
        return True

    def _seed(self, now: int, budget: Budget) -> None:
        """Charge a budget that begins with what requests in topics have used of its limits."""
        name = budget.name
        if name.startswith(GROUP):
            limiter = self._group(name.removeprefix(GROUP))
        else:
            service, of_tenant, tenant = name.partition("/")
            engine = self._engines(service)
            limiter = None if engine is None else engine.tenant_limiter(tenant) if of_tenant else engine.limiter
        if limiter is None:
            return
        parts = budget.parts
        if parts.bucket:
            parts.account.charge(now, parts.account.burst - int(limiter.tokens(now)))
        for ledger in (*parts.windows, *budget.grants.longs):
            before = 0
            for cell in range(1, _CELLS + 1):
                spent = limiter.spent(now, ledger.size * cell // _CELLS)
                ledger.add(now - ledger.size * (cell - 1) // _CELLS, spent - before)
                before = max(spent, before)
        if budget.grants.quotas is not None:
            kept = Limiter.load(None, limiter.dump())
            kept.reconfigure(budget.grants.quotas.spec, now)
            budget.grants.quotas = kept

    def _meet_queues(self, now: int) -> None:
        """Tell the owner what requests in topics want, and which services are paused."""
        wants: dict[str, int] = {}
        groups = {name: 0 for name in self.owner.budgets if name.startswith(GROUP)}
        for name in self.owner.budgets:
            service, _, tenant = name.partition("/")
            engine = None if name in groups else self._engines(service)
            if engine is not None:
                self.owner.pause(now, name, min(engine.paused_until(tenant), FOREVER - 1))
                if not tenant:
                    wants[name] = self._want(now, service, engine)
                elif (share := self._tenants.get(service, {}).get(tenant)) is not None:
                    wants[name] = rounded(share.wants(now) + engine.tenant_units(tenant))
        for service, group in self._queues() if groups else ():
            name = f"{GROUP}{group}"
            if name in groups and (engine := self._engines(service)) is not None:
                groups[name] += self._want(now, service, engine)
        for name, want in (wants | groups).items():
            self.owner.want(now, name, want)

    def _want(self, now: int, service: str, engine: Engine) -> int:
        """Return what requests of a service want, in units per second: what comes, and what waits."""
        load = self._loads.get(service)
        if load is None:
            load = self._loads[service] = QueueLoad(now, engine.arrivals, engine.recent_per_second(now))
        load.measure(now, engine.arrivals)
        return rounded(engine.wants(load.per_second))

    def _plan(self, now: int) -> None:
        """Say when to look again."""
        owner, period = self.owner, self.owner.terms.period_ns
        if not owner.budgets and not owner.leases:
            self._next = None
            return
        if any(budget.hurries for budget in owner.budgets.values()):
            self._next = now + period // 10
        elif owner.leases:
            self._next = now + period * (900 + (self._number * 7919 + now // MS) % 201) // 1000
        else:
            self._next = now + REST_NS
        for shared in self.shared.values():
            if shared.short:
                self._next = min(self._next, shared.opens_at(now))

    def note_short(self, now: int) -> None:
        """Look again when requests that did not fit may, and soon where more want to go than the owner knows of.

        Called when a batch is decided.
        """
        for service, shared in self.shared.items():
            if shared.short and self._next is not None:
                self._next = min(self._next, shared.opens_at(now))
                engine = self._engines(service)
                if engine is not None and shared.wants_more(self._want(now, service, engine)):
                    self._next = min(self._next, max(now, self._last + self.owner.terms.period_ns // 10))

    def _written(
        self, grants: Iterable[Grant], answers: Mapping[tuple[str, int], list[Charged]]
    ) -> dict[int, list[Raw]]:
        written: dict[int, list[Raw]] = {}
        for grant in self._complete(grants, answers):
            place = self._places.get((grant.holder, grant.epoch))
            if place is not None:  # else it is told when it has said where it reads
                written.setdefault(place, []).append((grant.holder.encode(), encode(grant), None, []))
        return written

    def _complete(self, grants: Iterable[Grant], answers: Mapping[tuple[str, int], list[Charged]]) -> Iterator[Grant]:
        version = self._policy.version
        for grant in grants:
            found = answers.get((grant.holder, grant.epoch), [])
            first, found[:FOUND_AT_ONCE] = tuple(found[:FOUND_AT_ONCE]), []
            shares = grant.shares[:SHARES_AT_ONCE]
            yield msgspec.structs.replace(grant, policy=version, shares=shares, found=first)
            for begin in range(SHARES_AT_ONCE, len(grant.shares), SHARES_AT_ONCE):
                more = grant.shares[begin : begin + SHARES_AT_ONCE]
                yield msgspec.structs.replace(grant, policy=version, shares=more, slots=())
        for (holder, epoch), found in answers.items():
            for begin in range(0, len(found), FOUND_AT_ONCE):
                some = tuple(found[begin : begin + FOUND_AT_ONCE])
                yield Grant(holder, epoch, 0, self.owner.terms.lease_ns, 0, policy=version, found=some)


def moved(before: Iterable[Mapping[str, bytes]], place: Callable[[str], int], shards: int) -> list[dict[str, bytes]]:
    """Lay records out anew, by what follows their kind in their keys; `place` tells the shard of a budget.

    Who holds something goes on holding it until his lease is over, and reports to the new shards as somebody else.
    """
    after: list[dict[str, bytes]] = [{} for _ in range(shards)]
    leases: dict[Key, bytes] = {}
    homes: dict[Key, set[int]] = {}
    at = version = 0
    for records in before:
        for key, value in records.items():
            if key == POSITION:
                continue
            record = read(value)
            if isinstance(record, OwnerRecord):
                at, version = max(at, record.at), max(version, record.version)
            elif isinstance(record, LeaseRecord):
                leases[record.key] = value
            else:
                home = place(record.name)
                after[home][key] = value
                if isinstance(record, HeldRecord):
                    homes.setdefault(record.key, set()).add(home)
    for holder, found in homes.items():
        for home in found:
            after[home][record_key("lease", *holder)] = leases[holder]
    for records_after in after:
        if records_after:
            records_after[OWNER] = write(OwnerRecord(at, version))
    return after
