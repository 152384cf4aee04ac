"""The tenants of a service: their own limits, made on first touch and forgotten when they tell nothing any more."""

import hashlib
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Final

from gate.admission.lanes import Lane, Queue
from gate.admission.model import SECOND
from gate.admission.state import QueueTag, TenantRecord, decode, encode
from gate.limits import Limiter, Spec

_NAME_MAX: Final = 200  # characters; a longer name is cut and told apart by its hash
_SWEEP: Final = 64  # tenants looked at per step
_PATIENCE: Final = 10 * SECOND  # before a tenant is looked at again


def short(name: str) -> str:
    """Return a tenant's name in the length that is kept: a name of 10 KB must not become a key of 10 KB."""
    if len(name) <= _NAME_MAX:
        return name
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{name[: _NAME_MAX - 33]}~{digest}"


class Tenant:
    """One tenant, over all lanes."""

    __slots__ = ("limiter", "name", "overdue", "paused_until", "plan", "queues", "watched")

    def __init__(self, name: str, limiter: Limiter | None) -> None:
        self.name = name
        self.limiter = limiter  # None: no limit of its own
        self.plan: Limiter | None = None  # charged with everything of it that waits; None: must be made
        self.overdue = False  # it was not served when its limit would have, so the plan can't come true
        self.paused_until = 0
        self.queues: dict[str, Queue] = {}  # by lane
        self.watched = False

    @property
    def requests(self) -> int:
        """Parked requests."""
        return sum(queue.requests for queue in self.queues.values())

    def idle(self, now: int) -> bool:
        """Tell whether nothing would change if it were forgotten."""
        return (
            self.paused_until <= now
            and (self.limiter is None or self.limiter.idle(now))
            and all(
                not queue.requests and (queue.epoch != queue.lane.epoch or queue.start <= queue.lane.fair.virtual)
                for queue in self.queues.values()
            )
        )

    def record(self) -> TenantRecord:
        """Return what is kept."""
        tags = [
            QueueTag(queue.lane.name, queue.epoch, queue.start, queue.order, queue.until)
            for queue in self.queues.values()
        ]
        limiter = None if self.limiter is None else self.limiter.dump()
        return TenantRecord(limiter, None if self.plan is None else self.plan.dump(), tags, self.overdue)


class Tenants:
    """All tenants that are remembered. Those of a restored engine stay bytes until they are touched."""

    def __init__(self, service: str, spec_of: Callable[[str], Spec | None], lanes: dict[str, Lane]) -> None:
        self.paused: dict[str, int] = {}  # until when, by name
        self._prefix = f"tenant/{service}/"
        self._spec_of = spec_of
        self._lanes = lanes
        self._plans = True
        self._known: dict[str, Tenant] = {}
        self._raw: dict[str, bytes] = {}
        self._unswept: list[str] = []  # restored and not looked at yet
        self._watch: list[tuple[int, str]] = []  # when to look whether a tenant can be forgotten
        self._changed: dict[Tenant, None] = {}  # in order, so that a run can be repeated
        self._gone: list[str] = []

    def __len__(self) -> int:
        return len(self._known) + len(self._raw)

    def find(self, name: str, now: int) -> Tenant:
        """Return a tenant by its short name; a new one starts with its limits full."""
        tenant = self._known.get(name)
        if tenant is not None:
            return tenant
        data = self._raw.pop(name, None)
        if data is not None:
            return self._load(name, data, now)
        spec = self._spec_of(name)
        tenant = self._known[name] = Tenant(name, None if spec is None else Limiter(spec, now))
        self._look_later(tenant, now)
        return tenant

    def remembered(self, name: str, now: int) -> Tenant | None:
        """Return a tenant if it is remembered."""
        return self.find(name, now) if name in self._known or name in self._raw else None

    def queue(self, tenant: Tenant, lane: Lane) -> Queue:
        """Return the queue of a tenant in a lane."""
        queue = tenant.queues.get(lane.name)
        if queue is None:
            queue = tenant.queues[lane.name] = Queue(lane, tenant)
        return queue

    def touch(self, tenant: Tenant, now: int) -> None:
        """Note that something of a tenant changed, and so must be written."""
        self._changed[tenant] = None
        self._look_later(tenant, now)

    def sweep(self, now: int) -> None:
        """Forget some tenants of which nothing is left to tell, and pauses that are over."""
        if self.paused:
            self.paused = {name: until for name, until in self.paused.items() if until > now}
        for _ in range(min(_SWEEP, len(self._unswept))):
            tenant = self.remembered(self._unswept.pop(), now)
            if tenant is not None and not tenant.watched:
                self._look(tenant, now)
        for _ in range(_SWEEP):
            if not self._watch or self._watch[0][0] > now:
                return
            tenant = self._known.get(heappop(self._watch)[1])
            if tenant is not None:
                self._look(tenant, now)

    def _look(self, tenant: Tenant, now: int) -> None:
        if tenant.idle(now):
            del self._known[tenant.name]
            self._changed.pop(tenant, None)
            self._gone.append(tenant.name)
            tenant.watched = False
        else:
            tenant.watched = False
            self._look_later(tenant, now)

    def _look_later(self, tenant: Tenant, now: int) -> None:
        if not tenant.watched:
            tenant.watched = True
            heappush(self._watch, (now + _PATIENCE, tenant.name))

    def reconfigure(self, spec_of: Callable[[str], Spec | None], now: int) -> None:
        """Change to other limits; what was used stays counted. Touches every tenant: policies change rarely."""
        for name in list(self._raw):
            self.find(name, now)
        self._spec_of = spec_of
        for tenant in self._known.values():
            tenant.plan = None
            spec = spec_of(tenant.name)
            if spec is None:
                tenant.limiter = None
            elif tenant.limiter is None or tenant.limiter.idle(now):  # as if it had been forgotten already
                tenant.limiter = Limiter(spec, now)
            elif tenant.limiter.spec != spec:
                tenant.limiter.reconfigure(spec, now)

    def forget_plans(self) -> None:
        """Plan anew what restored tenants wait for: they were planned under another policy."""
        self._plans = False

    def pause(self, tenant: Tenant, until: int) -> None:
        """Let nothing of a tenant go before `until`; 0: let it go on."""
        tenant.paused_until = until
        if until:
            self.paused[tenant.name] = until
        else:
            self.paused.pop(tenant.name, None)

    def __iter__(self) -> Iterator[Tenant]:
        return iter(self._known.values())

    def changes(self) -> dict[str, bytes | None]:
        """Return the records that changed since the last call; None: delete."""
        records: dict[str, bytes | None] = {self._prefix + name: None for name in self._gone}
        for tenant in self._changed:
            records[self._prefix + tenant.name] = encode(tenant.record())
        self._changed.clear()
        self._gone.clear()
        return records

    def restore(self, name: str, data: bytes) -> None:
        """Take the record of a tenant; it is read when the tenant is touched."""
        self._raw[name] = data
        self._unswept.append(name)

    def _load(self, name: str, data: bytes, now: int) -> Tenant:
        record = decode(self._prefix + name, data, TenantRecord)
        spec = self._spec_of(name)
        limiter = None
        if spec is not None:
            limiter = Limiter(spec, now) if record.limiter is None else Limiter.load(spec, record.limiter)
        tenant = self._known[name] = Tenant(name, limiter)
        if limiter is not None and record.plan is not None and self._plans:
            tenant.plan = Limiter.load(limiter.spec, record.plan)
        tenant.overdue = record.overdue
        for tag in record.queues:
            lane = self._lanes.get(tag.lane)
            if lane is not None:
                queue = tenant.queues[lane.name] = Queue(lane, tenant)
                queue.epoch, queue.start, queue.order, queue.until = tag.epoch, tag.start, tag.order, tag.until
        return tenant
