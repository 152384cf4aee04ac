"""Serves queues as long as the limits allow: parked requests first, behind them those of the batch at hand."""

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from heapq import heappop, heappush
from typing import Final

from gate.admission.limits.service import Bound, Limits, is_shifted
from gate.admission.model import UNTIL_RESUMED, Pull, Started, Verdict, whole_ms
from gate.admission.queues.fair_queue import COST_CAP, Aside, FairQueue
from gate.admission.queues.parked_places import ParkedPlaces
from gate.admission.queues.queue import Arrival, Lane, Queue, Tenant, head
from gate.admission.queues.tenants import SLICE, Tenants

_AT_ONCE: Final = 2_000  # queues that a step blocks or lets go on; more would hold up everything else of the process

_Blocked = tuple[int, str, int, Queue]  # until, lane, order


class StepCounts:
    """What a step admitted."""

    __slots__ = ("pulled", "pulled_units", "requests", "started", "units")

    def __init__(self, *, tracking: bool = False) -> None:
        self.requests = 0
        self.units = 0
        self.pulled: dict[str, int] = {}  # requests, by lane
        self.pulled_units = 0
        self.started: list[Started] | None = [] if tracking else None  # parked ones that run now


class FairScheduler:
    """The queues of one service that have work, and whose turn it is."""

    def __init__(self, lanes: Mapping[str, Lane], parked: ParkedPlaces, tenants: Tenants) -> None:
        self.lanes: FairQueue[Lane] = FairQueue()
        self.more = False  # could have been pulled in the last step, had there been room
        self.waiting = 0  # queues with something parked
        self.coming: dict[Queue, int] = {}  # cost of the first request of queues whose requests have no place yet
        self.tally = StepCounts()
        self._all = lanes
        self._parked = parked
        self._tenants = tenants
        self._blocked: list[_Blocked] = []  # heap
        self._arrived: dict[Queue, None] = {}  # with fresh requests
        self._served: set[Queue] = set()  # whose tags or limits moved in this step

    @property
    def all(self) -> Iterable[Lane]:
        """All lanes of the policy."""
        return self._all.values()

    def working(self) -> Iterator[Queue]:
        """Yield the queues that take part or that a tenant's limit blocks."""
        for lane in self.lanes.flows():
            yield from lane.fair.flows()
        told: set[Queue] = set()
        for entry in self._blocked:  # lazily: some ask for a few only
            if _holds(entry) and entry[3] not in told:
                told.add(entry[3])
                yield entry[3]

    def queue(self, arrivals: Iterable[Arrival]) -> None:
        """Append fresh requests to their queues."""
        for arrival in arrivals:
            queue = arrival.queue
            if queue.fresh is None:
                queue.fresh = deque()
            queue.fresh.append(arrival)
            self._arrived[queue] = None
            self.join(arrival.queue)
            self._served.add(arrival.queue)

    def unqueue(self, arrivals: Iterable[Arrival]) -> None:
        """Take what is left of fresh requests out of their queues."""
        for arrival in arrivals:
            arrival.queue.fresh = None

    def park(self, arrivals: Iterable[Arrival]) -> None:
        """Count what is left of fresh requests as parked."""
        for arrival in arrivals:
            queue = arrival.queue
            queue.fresh = None
            self.grow(queue, arrival.left, arrival.left * arrival.cost)
            self._served.add(queue)

    def rebuild(self) -> Iterator[None]:
        """Count and order anew what is parked in the queues of all tenants, in slices."""
        self.lanes.clear()
        self._blocked.clear()
        self.waiting = 0
        for lane in self._all.values():
            lane.fair.clear()
            lane.requests = lane.units = lane.ready_units = lane.waiting = 0
        for number, tenant in enumerate(sorted(self._tenants, key=lambda tenant: tenant.name)):
            if number % SLICE == 0:
                yield
            for queue in tenant.queues.values():
                if queue.requests:
                    requests, units, queue.requests, queue.units = queue.requests, queue.units, 0, 0
                    self.grow(queue, requests, units)
                    self._join_again(queue)

    def _join_again(self, queue: Queue) -> None:
        if queue.until:
            heappush(self._blocked, (queue.until, queue.lane.name, queue.order, queue))
            return
        if queue.order:
            queue.lane.rejoin(queue)
        else:
            queue.lane.join(queue)
        self.lanes.join(queue.lane)

    def join(self, queue: Queue) -> None:
        """Let a queue that has work take part, unless its tenant's limit blocks it."""
        if not queue.until:
            queue.lane.join(queue)
            self.lanes.join(queue.lane)

    def rest(self, now: int, limits: Limits) -> None:
        """End a step: note what changed, forget tags that nobody is measured by, say what waits for the budget."""
        for queue in self._served:
            if not queue.requests:
                queue.until = 0
                queue.lane.fair.leave(queue)
                if not queue.tenant.requests:
                    queue.tenant.forecast, queue.tenant.forecast_stale = None, False
            if queue.tenant.limiter is not None or queue.lane.requests:
                self._tenants.touch(queue.tenant, now)
        self._served.clear()
        self._arrived.clear()
        for lane in self._all.values():
            if not lane.requests:
                lane.rest()
            if not lane.fair:
                self.lanes.leave(lane)
        if not self.waiting:
            self.lanes.clear()
            self.lanes.virtual = 0
            for lane in self._all.values():
                lane.start = 0
        if limits.budget is not None:
            head = self.head()
            units = 0 if head is None else sum(lane.ready_units for lane in self._all.values())
            ready = now if head is None else limits.own_ready_at(now, self.head_cost(head))
            limits.budget.wait(limits.service, units, ready)

    def pause(self, tenant: Tenant, until: int, now: int) -> None:
        """Let nothing of a tenant go before `until`; 0: let it go on."""
        self._tenants.pause(tenant, until)
        self.look_again(tenant, now)

    def look_again(self, tenant: Tenant, now: int) -> None:
        """See at the next step whether what blocks a tenant still does."""
        for queue in tenant.queues.values():
            if queue.until:  # looked at anew at the next step, which blocks it again where that is right
                queue.until = now
                heappush(self._blocked, (now, queue.lane.name, queue.order, queue))
        self._tenants.touch(tenant, now)

    def release(self, room: int, pulls: list[Pull]) -> None:
        """Let go all that is parked, whatever the limits say."""
        waiting = [queue for tenant in self._tenants for queue in tenant.queues.values() if queue.requests]
        for queue in sorted(waiting, key=lambda queue: (queue.lane.order, queue.tenant.name)):
            while queue.requests and room:
                count, cost = self._parked.head(queue)
                count = min(count, room)
                room -= count
                self._pull(queue, count, cost, pulls, None)

    def head_cost(self, queue: Queue) -> int:
        """Return the cost of the oldest request that waits in a queue; there must be one."""
        count, cost = self._parked.head(queue)
        return cost if count else self.coming[queue]

    def block(self, queue: Queue, until: int) -> None:
        """Leave a queue, which takes no part now, out until its tenant's limit lets it go on."""
        self._served.add(queue)
        queue.until = until
        queue.lane.ready_units -= queue.units
        heappush(self._blocked, (until, queue.lane.name, queue.order, queue))

    def hasten(self, queues: Iterable[Queue], now: int) -> None:
        """Let queues go on sooner that lost requests out of turn: each was blocked for as long as its first one has to.

        Not for later: what has come to be first may cost more, which is found out when it would go.
        """
        for queue in queues:
            tenant = queue.tenant
            if queue.until and queue.requests and tenant.limiter is not None and tenant.closed_until <= now:
                until = max(now, whole_ms(tenant.ready_at(now, self.head_cost(queue))))
                if until < queue.until:
                    queue.until = until
                    heappush(self._blocked, (until, queue.lane.name, queue.order, queue))
                    self._tenants.touch(tenant, now)

    def unblock(self, now: int) -> None:
        """Let queues whose time has come take part again; of very many, the others at the next step."""
        for _ in range(_AT_ONCE):
            until = self.next_unblocked()
            if until is None or until > now:
                return
            queue = heappop(self._blocked)[3]
            limiter = queue.tenant.limiter
            if until < now and limiter is not None and is_shifted(limiter, now):
                queue.tenant.forecast_stale = True
            queue.until = 0
            queue.lane.ready_units += queue.units
            self.join(queue)
            self._served.add(queue)

    def next_unblocked(self) -> int | None:
        """Return when the next blocked queue may go on; None: none is blocked."""
        blocked = self._blocked
        while blocked and not _holds(blocked[0]):
            heappop(blocked)
        return blocked[0][0] if blocked else None

    def next_blocked(self) -> Queue | None:
        """Return the blocked queue that may go on first; None: none is blocked."""
        return None if self.next_unblocked() is None else self._blocked[0][3]

    def head(self) -> Queue | None:
        """Return the queue whose turn it is; None: no queue has work that its tenant's limit allows."""
        return head(self.lanes)

    def serve(self, now: int, limits: Limits, room: int, pulls: list[Pull]) -> Bound | None:
        """Admit while queues and limits allow, at most `room` parked requests.

        Appends to `pulls`, decides on the arrivals in the queues. Returns the limit that stopped it; None: the queues
        are empty, or what is left waits for room or for its tenant's limit.
        """
        stopped: Bound | None = None
        aside: list[tuple[Lane, Aside[Queue]]] = []  # no room for what is parked
        blocking, self.more = _AT_ONCE, False
        closed = limits.closed(now)
        while blocking and (queue := self.head()) is not None:
            if closed is not None:
                stopped = closed
                break
            lane, tenant = queue.lane, queue.tenant
            fresh = queue.fresh
            if queue.requests or fresh is None:
                count, cost = self._parked.head(queue)
                if not room:
                    self.more = True
                    aside = self._set_parked_aside()
                    if not aside:
                        break
                    continue
                count = min(count, room)
            else:
                count, cost = fresh[0].left, fresh[0].cost
            tag = min(cost, COST_CAP)
            count = min(count, lane.fair.turns(tag) or count, self.lanes.turns(tag * lane.stride) or count)
            if tenant.closed_until > now:
                lane.fair.leave(queue)
                self.block(queue, tenant.closed_until)
                blocking -= bool(queue.requests)
                continue
            if tenant.limiter is not None:
                fitting = tenant.fit(now, count, cost)
                if not fitting:
                    lane.fair.leave(queue)
                    self.block(queue, whole_ms(tenant.ready_at(now, cost)))
                    blocking -= bool(queue.requests)
                    continue
                count = tenant.may_run(fitting)
                if not count:
                    lane.fair.leave(queue)
                    self.block(queue, UNTIL_RESUMED)  # or until one of its requests is done
                    blocking -= bool(queue.requests)
                    continue
            count = limits.fit(now, count, cost)
            if not count:
                stopped = limits.bound(now, cost)
                break
            limits.charge(now, count, cost)
            if tenant.limiter is not None:
                tenant.charge(now, count, cost)
                if limits.running.tracking:
                    tenant.running += count
            if limits.concurrent:
                closed = limits.closed(now)
            self._served.add(queue)
            self.tally.requests += count
            self.tally.units += count * cost
            if queue.requests or fresh is None:
                room -= count
                self._pull(queue, count, cost, pulls, None if tenant.limiter is None else tenant.name)
            else:
                fresh[0].decide(count, Verdict.ADMITTED)
                if not fresh[0].left:
                    fresh.popleft()
                    queue.fresh = fresh or None
            lane.fair.charge(tag, count)
            self.lanes.charge(tag * lane.stride, count)
        self.more = self.more or not blocking
        for lane, flows in aside:
            lane.fair.put_back(flows)
            if lane.fair:
                self.lanes.join(lane)
        return stopped

    def _set_parked_aside(self) -> list[tuple[Lane, Aside[Queue]]]:
        """Let only queues go on of which nothing is parked; empty: there are none."""
        fresh: dict[Lane, list[Queue]] = {}
        for queue in self._arrived:
            if queue.fresh and not queue.requests and queue.entry is not None:
                fresh.setdefault(queue.lane, []).append(queue)
        return [(lane, lane.fair.only(fresh.get(lane, ()))) for lane in self._all.values()] if fresh else []

    def _pull(self, queue: Queue, count: int, cost: int, pulls: list[Pull], runs_for: str | None) -> None:
        partition, offset = self._parked.take(queue, count)
        if self.tally.started is not None:
            self.tally.started.append(Started(partition, offset, count, runs_for))
        self.shrink(queue, count, count * cost)
        self.tally.pulled[queue.lane.name] = self.tally.pulled.get(queue.lane.name, 0) + count
        self.tally.pulled_units += count * cost
        add_pull(pulls, Pull(partition, offset, count, Verdict.ADMITTED))

    def grow(self, queue: Queue, requests: int, units: int) -> None:
        """Count requests that come to wait in a queue."""
        began = bool(queue.requests + requests) - bool(queue.requests)
        self.waiting += began
        queue.lane.waiting += began
        queue.requests += requests
        queue.units += units
        queue.lane.requests += requests
        queue.lane.units += units
        if not queue.until:
            queue.lane.ready_units += units
        if began < 0:
            queue.until = 0
            self._served.add(queue)

    def shrink(self, queue: Queue, requests: int, units: int) -> None:
        """Count requests that leave a queue."""
        self.grow(queue, -requests, -units)


def _holds(entry: _Blocked) -> bool:
    """Tell whether a queue is blocked as an entry says: it may have gone on before, after a pause, and come again."""
    until, _, order, queue = entry
    return queue.until == until and queue.order == order


def add_pull(pulls: list[Pull], pull: Pull) -> None:
    """Append a pull, or lengthen the last one where it continues that."""
    last = pulls[-1] if pulls else None
    if (
        last is not None
        and last.partition == pull.partition
        and last.offset + last.count == pull.offset
        and (last.verdict, last.reason, last.limit) == (pull.verdict, pull.reason, pull.limit)
        and (last.not_before is None) is (pull.not_before is None)
    ):
        times = None if last.not_before is None else (*last.not_before, *(pull.not_before or ()))
        pulls[-1] = dataclasses.replace(last, count=last.count + pull.count, not_before=times)
    else:
        pulls.append(pull)
