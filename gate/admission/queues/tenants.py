"""The tenants of a service: their own limits, made on first touch and forgotten when they tell nothing any more.

No more than `max_tenants` are told apart, beside those that the policy names. Who comes then shares a limit, see
`sharing`, and goes on while anything waits behind it: that is served first in, first out. If one of those who share is
given a limit of its own later, it begins with all that is charged to the shared one. So nobody's limit is exceeded.

A step forgets at its end whom it has met and left as new. So how many are remembered follows from what is written, and
an engine that is restored decides alike.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Final

from gate.admission.model import SECOND, UNTIL_RESUMED, Run
from gate.admission.queues.call_share import CallShare
from gate.admission.queues.queue import Lane, Queue, Tenant
from gate.admission.queues.sharing import is_shared, parts_of, shared_name, slot_of
from gate.admission.state import VERSION, TenantRecord, decode, encode
from gate.limits import Limiter, Spec
from gate.policy import ServicePolicy

SLICE: Final = 256  # tenants: a few ms
_NAME_MAX: Final = 200  # characters; a longer name is cut and told apart by its hash
_SWEEP: Final = 64  # tenants looked at per step
_QUIET_SWEEP: Final = 1_000  # where nothing came
_POPPED: Final = 4_096  # entries per step that only say when to look again
_CROWD: Final = 1_000  # tenants: fewer are left where they are while nothing happens
_PATIENCE: Final = 10 * SECOND  # before a tenant is looked at again
_BUSY_PATIENCE: Final = 60 * SECOND  # where only others can tell when: each look is written


def short(name: str) -> str:
    """Return a tenant's name in the length that is kept: a name of 10 KB must not become a key of 10 KB."""
    if len(name) <= _NAME_MAX:
        return name
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{name[: _NAME_MAX - 33]}~{digest}"


class Tenants:
    """All tenants that are remembered. Those of a restored engine stay bytes until they are touched."""

    def __init__(self, service: str, policy: ServicePolicy, lanes: dict[str, Lane], born: int) -> None:
        self.paused: dict[str, int] = {}  # until when, by name
        self.forecasts = 0  # how often all forecasts were thrown away
        self.salt = born  # of the hash that says who shares with whom
        self.shared_requests = 0  # of tenants that share
        self._service = service
        self._prefix = f"tenant/{service}/"
        self._policy = policy
        self._lanes = lanes
        self._known: dict[str, Tenant] = {}
        self._raw: dict[str, bytes] = {}
        self._own = 0  # tenants that count against the bound
        self._shared: dict[str, dict[str, None]] = {}  # names of shared limits, by slot
        self.renamed: dict[str, None] = {}  # named by a policy since they shared, and not met since
        self.calls: dict[str, CallShare] = {}  # of those whose limits calls in processes share, by name
        self._met: list[Tenant] = []  # made since the last step
        self._watch: list[tuple[int, str]] = []  # when to look whether a tenant can be forgotten
        self._changed: dict[Tenant, bytes | None] = {}  # in order; the record, if it is written already
        self._gone: list[str] = []

    def __len__(self) -> int:
        return len(self._known) + len(self._raw)

    @property
    def crowded(self) -> bool:
        """Tell whether any share a limit."""
        return bool(self._shared)

    @property
    def sharing(self) -> int:
        """How many shared limits are in use."""
        return sum(map(len, self._shared.values()))

    def find(self, name: str, now: int) -> Tenant:
        """Return a tenant by its short name, or those with whom it shares; a new one starts with its limits full."""
        tenant = self._known.get(name)
        if tenant is not None:
            return tenant
        data = self._raw.pop(name, None)
        return self._meet(name, now) if data is None else self._load(name, data, now)

    def _meet(self, name: str, now: int) -> Tenant:
        policy, named = self._policy, self._policy.names_tenant(name)  # these do not count
        room = named or self._own < policy.max_tenants
        if (room and not self._shared) or is_shared(name) or (named and name not in self.renamed):
            return self._make(name, now)
        slot = slot_of(name, self._service, self.salt)
        key = shared_name(slot, policy.tenant_globs(name))
        if key in self._shared.get(slot, ()):
            shared = self.find(key, now)
            if not room or shared.requests or shared.running or shared.paused_until > now:
                return shared
        self.renamed.pop(name, None)
        return self._make(name if room else key, now, slot)

    def _make(self, name: str, now: int, slot: str | None = None) -> Tenant:
        """Make a tenant that is new. Who may have shared a limit of `slot` has used what is used of that."""
        spec = self._spec(name)
        limiter = None if spec is None else Limiter(spec, now)
        if slot is not None and limiter is not None:
            for other in list(self._shared.get(slot, ())):
                theirs = self.find(other, now).limiter
                if theirs is not None:
                    limiter.inherit(theirs, now)
        tenant = self._known[name] = Tenant(name, limiter)
        tenant.blocked_until = self._blocked(name)
        self._count(name)
        self._met.append(tenant)
        return tenant

    def _spec(self, name: str) -> Spec | None:
        return self._policy.unnamed_tenant(parts_of(name)[1]) if is_shared(name) else self._policy.tenant(name)

    def _blocked(self, name: str) -> int:
        policy = self._policy
        shared = is_shared(name)
        until = policy.unnamed_blocked_until(parts_of(name)[1]) if shared else policy.tenant_blocked_until(name)
        return min(until, UNTIL_RESUMED)

    def _count(self, name: str) -> None:
        if is_shared(name):
            self._shared.setdefault(parts_of(name)[0], {})[name] = None
        elif not self._policy.names_tenant(name):
            self._own += 1

    def _drop(self, tenant: Tenant) -> None:
        name = tenant.name
        del self._known[name]
        tenant.queues.clear()  # each refers to it: they would wait for the garbage collector
        if is_shared(name):
            slot, _ = parts_of(name)
            del self._shared[slot][name]
            if not self._shared[slot]:
                del self._shared[slot]
                self._settle_names()
        elif not self._policy.names_tenant(name):
            self._own -= 1

    def own(self, name: str, now: int) -> Tenant | None:
        """Return a tenant by its short name that has its limits to itself; None: others have a part in what it uses."""
        if name not in self._known and name not in self._raw:
            if is_shared(name):
                return None
            slot = slot_of(name, self._service, self.salt)
            if shared_name(slot, self._policy.tenant_globs(name)) in self._shared.get(slot, ()):
                return None
            return self._make(name, now, slot)
        return self.find(name, now)

    def share(self, calls: Mapping[str, CallShare], now: int) -> set[str]:
        """Have calls in processes share the limits of these tenants, by short name, and of no others.

        They are kept as long as they do. Returns those that can't, see `own`.
        """
        for name in self.calls.keys() - calls.keys():
            tenant = self.find(name, now)
            tenant.calls = None
            self.touch(tenant, now)
        refused = set()
        for name, share in calls.items():
            own = self.own(name, now)
            if own is None:
                refused.add(name)
            elif own.calls is not share:
                own.calls = share
                self.touch(own, now)
        self.calls = {name: share for name, share in calls.items() if name not in refused}
        return refused

    def offer(self, now: int, runs: Sequence[Run]) -> None:
        """Note what came of those whose limits calls share."""
        for run in runs:
            if (share := self.calls.get(short(run.tenant))) is not None:
                share.offer(now, run.count * run.cost)

    def _settle_names(self) -> None:
        """Forget who was named since it shared, where nothing is left to share."""
        for name in list(self.renamed):
            if slot_of(name, self._service, self.salt) not in self._shared or not self._policy.names_tenant(name):
                del self.renamed[name]

    def queue(self, tenant: Tenant, lane: Lane) -> Queue:
        """Return the queue of a tenant in a lane."""
        queue = tenant.queues.get(lane.name)
        if queue is None:
            queue = tenant.queues[lane.name] = Queue(lane, tenant)
        return queue

    def touch(self, tenant: Tenant, now: int) -> None:
        """Note that something of a tenant changed, and so must be written."""
        self._changed[tenant] = None
        look_at = now + _PATIENCE
        if tenant.look_at < look_at:  # noqa: PLR1730 - max() takes thrice the time
            tenant.look_at = look_at
        if not tenant.entered:
            self._look_later(tenant)

    def sweep(self, now: int, *, quiet: bool) -> None:
        """End a step: forget some tenants of which nothing is left to tell, and pauses that are over."""
        if self.paused:
            self.paused = {name: until for name, until in self.paused.items() if until > now}
        for tenant in self._met:
            if not (tenant.look_at or tenant.requests or tenant.running or tenant.calls):
                self._drop(tenant)
        self._met.clear()
        looks, pops = _QUIET_SWEEP if quiet else _SWEEP, _POPPED
        while self._watch and self._watch[0][0] <= now and looks and pops:
            pops -= 1
            due, name = heappop(self._watch)
            if name not in self._known and name not in self._raw:
                continue
            tenant = self.find(name, now)
            if tenant.entered != due:  # it was forgotten and has come again
                continue
            tenant.entered = 0
            if tenant.look_at > now:
                self._look_later(tenant)
            elif not tenant.requests:  # else it is touched when they have gone
                looks -= 1
                self._look(tenant, now)

    def next_look(self) -> int | None:
        """Return when there may be somebody to be forgotten; None: it does not matter."""
        return self._watch[0][0] if self._watch and len(self) > _CROWD else None

    def _look(self, tenant: Tenant, now: int) -> None:
        if tenant.idle(now):
            self._drop(tenant)
            self._changed.pop(tenant, None)
            self._gone.append(tenant.name)
            return
        full = tenant.paused_until if tenant.limiter is None else max(tenant.paused_until, tenant.limiter.idle_at())
        tenant.look_at = full if full > now else now + _BUSY_PATIENCE
        self._changed[tenant] = None  # so that a successor looks at the same time
        self._look_later(tenant)

    def _look_later(self, tenant: Tenant) -> None:
        tenant.entered = tenant.look_at
        heappush(self._watch, (tenant.entered, tenant.name))

    def reconfigure(self, policy: ServicePolicy, now: int) -> Iterator[None]:
        """Change to other limits, in slices; what was used stays counted. Policies change rarely: all are touched."""
        for number, name in enumerate(list(self._raw)):
            self.find(name, now)  # by the limits of then
            if number % SLICE == 0:
                yield
        before, self._policy = self._policy, policy
        if self._shared:
            new = (name for name in policy.named_tenants() if not before.names_tenant(name) and name not in self._known)
            self.renamed |= dict.fromkeys(sorted(new))
        self._settle_names()
        self.forget_forecasts()
        self._own = 0
        self._shared.clear()
        for number, tenant in enumerate(list(self._known.values())):
            self._count(tenant.name)
            tenant.blocked_until = self._blocked(tenant.name)
            spec = self._spec(tenant.name)
            if spec is None:
                tenant.limiter = None
            elif tenant.limiter is None or tenant.limiter.idle(now):  # as if it had been forgotten already
                tenant.limiter = Limiter(spec, now)
            elif tenant.limiter.spec != spec:
                tenant.limiter.reconfigure(spec, now)
            if number % SLICE == 0:
                yield

    def forget_forecasts(self) -> None:
        """Plan anew what waits: something has changed the future."""
        self.forecasts += 1
        for tenant in self._known.values():
            tenant.forecast = None

    def pause(self, tenant: Tenant, until: int) -> None:
        """Let nothing of a tenant go before `until`; 0: let it go on."""
        tenant.paused_until = until
        if until:
            self.paused[tenant.name] = until
        else:
            self.paused.pop(tenant.name, None)

    def __iter__(self) -> Iterator[Tenant]:
        return iter(self._known.values())

    def prepare(self, version: int = VERSION) -> Iterator[None]:
        """Write the records of those that changed, in slices, so that `changes` need not do it in one piece."""
        for number, tenant in enumerate(list(self._changed)):
            self._changed[tenant] = encode(tenant.record(self.forecasts), version)
            if number % SLICE == 0:
                yield

    def drain_changes(self, version: int = VERSION) -> dict[str, bytes | None]:
        """Return the records that changed since the last call; None: delete."""
        records: dict[str, bytes | None] = {self._prefix + name: None for name in self._gone}
        for tenant, data in self._changed.items():
            records[self._prefix + tenant.name] = data or encode(tenant.record(self.forecasts), version)
        self._changed.clear()
        self._gone.clear()
        return records

    def restore(self, records: dict[str, bytes]) -> Iterator[None]:
        """Take the records of tenants, in slices; their limiters are read when they are touched."""
        self._raw = records
        for number, (name, data) in enumerate(records.items()):
            self._count(name)
            self._watch.append((decode(self._prefix + name, data, TenantRecord).look_at, name))
            if number % SLICE == 0:
                yield
        heapify(self._watch)

    def _load(self, name: str, data: bytes, now: int) -> Tenant:
        record = decode(self._prefix + name, data, TenantRecord)
        spec = self._spec(name)
        tenant = self._known[name] = Tenant(name, None if spec is None else Limiter(spec, now))
        tenant.blocked_until = self._blocked(name)
        tenant.restore(record, spec, self.forecasts)
        for tag in record.queues:
            lane = self._lanes.get(tag.lane)
            if lane is not None:
                queue = tenant.queues[lane.name] = Queue(lane, tenant)
                queue.epoch, queue.start, queue.order, queue.until = tag.epoch, tag.start, tag.order, tag.until
        return tenant
