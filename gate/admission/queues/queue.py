"""Queues: what waits of one tenant in one lane, and the lanes, tenants and arrivals that belong to it."""

from array import array
from collections import deque
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from gate.admission.model import EXPEDITED, UNTIL_RESUMED, Reason, Run, Verdict
from gate.admission.queues.call_share import CallShare
from gate.admission.queues.fair_queue import FairQueue, Flow, strides
from gate.admission.state import QueueTag, TenantRecord
from gate.limits import Limiter, Spec

_FIRST: Final = -1  # among lanes of the same tag
_HEAVY: Final = 2**20  # as its weight is told
Outcome = tuple[int, Verdict, Reason | None, str | None, list[int] | None]  # count, ..., times


class Arrival:
    """A run on its way through a step: first some of it is admitted, then the rest is settled."""

    __slots__ = (
        "came",
        "cost",
        "count",
        "deadline",
        "first",
        "late",
        "left",
        "never",
        "outcomes",
        "place",
        "queue",
        "start",
    )

    def __init__(self, run: Run, queue: "Queue") -> None:
        self.first = run.first
        self.count = run.count
        self.cost = run.cost
        self.deadline = run.deadline
        self.queue = queue
        self.left = run.count
        self.start: int | None = None  # of what is to be scheduled, ns
        self.came: int | None = None  # when it counts as come, ns; None: now
        self.place: tuple[int, int] | None = None  # partition and offset of what was scheduled, and whose time has come
        self.late = False  # its deadline has passed
        self.never: str | None = None  # the limit that can never give its cost
        self.outcomes: list[Outcome] = []

    def decide(
        self,
        count: int,
        verdict: Verdict,
        reason: Reason | None = None,
        limit: str | None = None,
        times: list[int] | None = None,
    ) -> None:
        """Say what becomes of the next `count` requests of the run."""
        if times and times[0] >= UNTIL_RESUMED:
            times = None  # nobody knows when
        if count:
            self.left -= count
            self.outcomes.append((count, verdict, reason, limit, times))


class Queue(Flow):
    """What waits of one tenant in one lane: parked requests, and behind them those of the batch at hand."""

    __slots__ = ("epoch", "fresh", "head", "lane", "refs", "requests", "tenant", "units", "until")

    def __init__(self, lane: "Lane", tenant: "Tenant") -> None:
        super().__init__(0)
        self.lane = lane
        self.tenant = tenant
        self.epoch = lane.epoch
        self.requests = 0  # parked
        self.units = 0
        self.refs = array("Q")  # to entries of segments
        self.head = 0  # refs before it are done
        self.until = 0  # blocked by the tenant's own limit; 0: not blocked
        self.fresh: deque[Arrival] | None = None  # an empty deque would be half of a queue's memory


class Lane(Flow):
    """A priority: a share of the service's limits."""

    __slots__ = (
        "busy",
        "epoch",
        "fair",
        "name",
        "orders",
        "ready_units",
        "requests",
        "stride",
        "units",
        "waiting",
        "weight",
    )

    def __init__(self, name: str, weight: Fraction, stride: int, order: int) -> None:
        super().__init__(order)
        self.name = name
        self.weight = weight
        self.stride = stride  # of a unit
        self.fair: FairQueue[Queue] = FairQueue()
        self.epoch = 0  # tags of an older epoch count as 0
        self.orders = 0
        self.busy = False  # queues have taken part since it was last at rest
        self.requests = 0  # parked
        self.units = 0
        self.waiting = 0  # queues with something parked
        self.ready_units = 0  # of them, those whose tenant's limit does not block them

    def _new_order(self) -> int:
        self.orders += 1
        return self.orders

    def remembers(self, queue: Queue) -> bool:
        """Tell whether a queue's tag still says that it had more than others."""
        return queue.epoch == self.epoch and queue.start > self.fair.virtual

    def join(self, queue: Queue) -> None:
        """Let a queue that has work take part. One whose tag tells nothing any more is as good as new."""
        if queue.entry is None:
            if not queue.order or not self.remembers(queue):
                queue.epoch, queue.start, queue.order = self.epoch, 0, self._new_order()
            self.rejoin(queue)

    def rejoin(self, queue: Queue) -> None:
        """Let a queue take part again as what it was."""
        self.busy = True
        self.fair.join(queue)

    def rest(self) -> None:
        """Forget who had how much: nobody waits here. Keeps the tags small."""
        if self.busy:
            self.busy = False
            self.fair.clear()
            self.fair.virtual = 0
            self.epoch += 1


def head(lanes: FairQueue[Lane]) -> Queue | None:
    """Return the queue whose turn it is; None: none that takes part has work. Those that have none leave."""
    while (lane := lanes.first()) is not None:
        while (queue := lane.fair.first()) is not None:
            if queue.requests or queue.fresh:
                return queue
            lane.fair.leave(queue)
        lanes.leave(lane)
    return None


def lanes_of(weights: Mapping[str, Fraction]) -> dict[str, Lane]:
    """Make the lanes of a policy."""
    rows = zip(weights.items(), strides(list(weights.values())), strict=True)
    return {name: Lane(name, weight, stride, order) for order, ((name, weight), stride) in enumerate(rows)}


def express_lane() -> Lane:
    """Make the lane of what operators let go ahead of its turn: its turns cost nothing, so it is always the next."""
    return Lane(EXPEDITED, Fraction(_HEAVY), 0, _FIRST)


class Tenant:
    """One tenant, over all lanes."""

    __slots__ = (
        "_forecast",
        "blocked_until",
        "calls",
        "entered",
        "forecast_stale",
        "limiter",
        "look_at",
        "name",
        "paused_until",
        "queues",
        "running",
    )

    def __init__(self, name: str, limiter: Limiter | None) -> None:
        self.name = name
        self.limiter = limiter  # None: no limit of its own
        self.calls: CallShare | None = None  # what calls in processes leave of it; None: they have none of it
        self.forecast_stale = False  # it was not served when its limit would have, so the forecast can't come true
        self.paused_until = 0
        self.blocked_until = 0  # by its limit, which is 0 until then
        self.running = 0  # requests that run, where it has limits of its own
        self.queues: dict[str, Queue] = {}  # by lane
        self.look_at = 0  # when to look whether it can be forgotten; 0: nothing of it is kept
        self.entered = 0  # for when it stands in the heap of those to be looked at; 0: it does not
        self._forecast: Limiter | bytes | None = None

    @property
    def forecast(self) -> Limiter | None:
        """Its limiter, charged with everything of it that waits; None: must be made."""
        ahead = self._forecast
        if isinstance(ahead, bytes):  # of a restored one, most are never asked for
            ahead = self._forecast = None if self.limiter is None else Limiter.load(self.limiter.spec, ahead)
        return ahead

    @forecast.setter
    def forecast(self, forecast: Limiter | None) -> None:
        self._forecast = forecast

    @property
    def closed_until(self) -> int:
        """Until when nothing of it goes, by a pause or a limit of 0."""
        return max(self.paused_until, self.blocked_until)

    @property
    def requests(self) -> int:
        """Parked requests."""
        return sum([queue.requests for queue in self.queues.values()])

    def fit(self, now: int, count: int, cost: int) -> int:
        """Return how many of `count` equal requests its own limits let go now."""
        if self.limiter is None:
            return count
        fitting = self.limiter.fit(now, count, cost)
        return fitting if self.calls is None or not fitting else self.calls.fit(now, fitting, cost)

    def charge(self, now: int, count: int, cost: int) -> None:
        """Take what `fit` allowed."""
        if self.limiter is not None:
            self.limiter.charge(now, count * cost)
            if self.calls is not None:
                self.calls.charge(now, count, cost)

    def ready_at(self, now: int, cost: int) -> int:
        """Return when its own limits let a request go; where calls have them, when to look again."""
        own = now if self.limiter is None else self.limiter.ready_at(now, cost)
        return own if self.limiter is None or self.calls is None else max(own, self.calls.ready_at(now, cost))

    def may_run(self, count: int) -> int:
        """Return how many of `count` requests may run beside those that do."""
        limit = None if self.limiter is None else self.limiter.spec.running
        return count if limit is None else max(0, min(count, limit.capacity - self.running))

    def idle(self, now: int) -> bool:
        """Tell whether nothing would change if it were forgotten."""
        return (
            self.paused_until <= now
            and not self.running
            and self.calls is None
            and (self.limiter is None or self.limiter.idle(now))
            and all(
                not queue.requests and (queue.epoch != queue.lane.epoch or queue.start <= queue.lane.fair.virtual)
                for queue in self.queues.values()
            )
        )

    def record(self, forecasts: int) -> TenantRecord:
        """Return what is kept; `forecasts` says how often all forecasts were thrown away."""
        tags = [
            QueueTag(queue.lane.name, queue.epoch, queue.start, queue.order, queue.until)
            for queue in self.queues.values()
        ]
        limiter = None if self.limiter is None else self.limiter.dump()
        ahead = self._forecast.dump() if isinstance(self._forecast, Limiter) else self._forecast
        return TenantRecord(limiter, ahead, tags, self.forecast_stale, self.look_at, forecasts)

    def restore(self, record: TenantRecord, spec: Spec | None, forecasts: int) -> None:
        """Take what was kept beside its queues. Its limiter and forecast are read when they are asked for, if ever."""
        self.forecast_stale = record.overdue
        self.look_at = self.entered = record.look_at
        self._forecast = record.plan if record.plans == forecasts else None
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
