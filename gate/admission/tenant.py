"""One tenant, or those that share a limit: its limiter, its queues, and what is kept of them."""

from typing import Any, Final

from gate.admission.lanes import Queue
from gate.admission.state import QueueTag, TenantRecord
from gate.limits import Limiter, Spec


class Tenant:
    """One tenant, over all lanes."""

    __slots__ = ("_plan", "entered", "limiter", "look_at", "name", "overdue", "paused_until", "queues")

    def __init__(self, name: str, limiter: Limiter | None) -> None:
        self.name = name
        self.limiter = limiter  # None: no limit of its own
        self.overdue = False  # it was not served when its limit would have, so the plan can't come true
        self.paused_until = 0
        self.queues: dict[str, Queue] = {}  # by lane
        self.look_at = 0  # when to look whether it can be forgotten; 0: nothing of it is kept
        self.entered = 0  # for when it stands in the heap of those to be looked at; 0: it does not
        self._plan: Limiter | bytes | None = None

    @property
    def plan(self) -> Limiter | None:
        """Its limiter, charged with everything of it that waits; None: must be made."""
        plan = self._plan
        if isinstance(plan, bytes):  # of a restored one, most are never asked for
            plan = self._plan = None if self.limiter is None else Limiter.load(self.limiter.spec, plan)
        return plan

    @plan.setter
    def plan(self, plan: Limiter | None) -> None:
        self._plan = plan

    @property
    def requests(self) -> int:
        """Parked requests."""
        return sum([queue.requests for queue in self.queues.values()])

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

    def record(self, plans: int) -> TenantRecord:
        """Return what is kept; `plans` says how often all plans were thrown away."""
        tags = [
            QueueTag(queue.lane.name, queue.epoch, queue.start, queue.order, queue.until)
            for queue in self.queues.values()
        ]
        limiter = None if self.limiter is None else self.limiter.dump()
        plan = self._plan.dump() if isinstance(self._plan, Limiter) else self._plan
        return TenantRecord(limiter, plan, tags, self.overdue, self.look_at, plans)

    def restore(self, record: TenantRecord, spec: Spec | None, plans: int) -> None:
        """Take what was kept beside its queues. Its limiter and plan are read when they are asked for, if ever."""
        self.overdue = record.overdue
        self.look_at = self.entered = record.look_at
        self._plan = record.plan if record.plans == plans else None
        if spec is not None and record.limiter is not None:
            self.limiter = spec, record.limiter  # type: ignore[assignment]
            self.__class__ = _Asleep


_SLOT: Final[Any] = vars(Tenant)["limiter"]


class _Asleep(Tenant):
    """A tenant whose limiter has not been read yet. It turns into another one then, which does without a property."""

    __slots__ = ()

    @property
    def limiter(self) -> Limiter | None:
        """Its limiter."""
        spec, data = _SLOT.__get__(self)
        limiter = Limiter.load(spec, data)
        self.limiter = limiter
        return limiter

    @limiter.setter
    def limiter(self, limiter: Limiter | None) -> None:
        self.__class__ = Tenant  # type: ignore[assignment]
        _SLOT.__set__(self, limiter)
