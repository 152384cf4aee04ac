"""Forecast by simulation, request by request: for what cannot be counted out, if little waits.

Where costs differ, or tenants wait for limits of their own, whose turn it is depends on all that went before;
`fair_share` can only estimate it. A simulation does over copies what the scheduler will do, request by request, so it
is exact for any mix, and takes time for each request that waits.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from gate.admission.fair_scheduler import FairScheduler
from gate.admission.forecast.single_queue import ready_at
from gate.admission.model import FOREVER, MS, whole_ms
from gate.admission.queues.fair_queue import COST_CAP, FairQueue
from gate.admission.queues.parked_places import ParkedPlaces
from gate.admission.queues.queue import Arrival, Lane, Queue, Tenant, head
from gate.admission.queues.segment import NO_DEADLINE
from gate.limits import NEVER, Limiter

MOST: Final = 128  # requests that wait: some ms of CPU for a batch that is added to them


@dataclass(slots=True)
class _Entry:
    """Requests that are alike, of one queue."""

    left: int
    cost: int
    latest: int  # they are dropped if they can't go by then
    arrival: int | None = None  # which of the batch; None: parked before


class SimulatedQueues:
    """All that waits for one service, as it will go if nothing else comes. Good for one `play`."""

    def __init__(
        self,
        scheduler: FairScheduler,
        parked: ParkedPlaces,
        arrivals: Sequence[Arrival],
        counts: Sequence[int],
        latest: Sequence[int],
    ) -> None:
        """Take what is parked, and of each arrival the first so many that are left."""
        self._lanes: FairQueue[Lane] = FairQueue()
        self._lanes.virtual = scheduler.lanes.virtual
        self._waiting: dict[Queue, deque[_Entry]] = {}  # by the copies of the queues
        self._blocked: list[tuple[int, str, int, Queue]] = []
        self.own: dict[Tenant, Limiter] = {}  # charged ahead
        fresh: dict[Queue, list[_Entry]] = {}
        for number, (arrival, count, limit) in enumerate(zip(arrivals, counts, latest, strict=True)):
            if count:
                fresh.setdefault(arrival.queue, []).append(_Entry(count, arrival.cost, limit, number))
        lanes: dict[str, Lane] = {}
        for queue in scheduler.working():
            entries = deque([*_entries(parked, queue), *fresh.get(queue, ())])
            if entries:
                lane = lanes.get(queue.lane.name)
                if lane is None:
                    lane = lanes[queue.lane.name] = _copy_lane(queue.lane)
                self._enter(queue, lane, entries)

    def _enter(self, queue: Queue, lane: Lane, entries: deque[_Entry]) -> None:
        twin = Queue(lane, queue.tenant)
        twin.epoch, twin.start, twin.order = queue.epoch, queue.start, queue.order
        twin.requests = sum(entry.left for entry in entries)
        self._waiting[twin] = entries
        limiter = queue.tenant.limiter
        if limiter is not None and queue.tenant not in self.own:
            self.own[queue.tenant] = limiter.copy()
        if queue.until:
            heappush(self._blocked, (queue.until, lane.name, queue.order, twin))
        else:
            lane.fair.join(twin)
            self._lanes.join(lane)

    @property
    def plain(self) -> bool:
        """Tell whether all requests cost 1, none is parked that may be dropped, and no tenant's limit plays a part."""
        alike = all(
            entry.cost == 1 and (entry.arrival is not None or entry.latest == NEVER)
            for entries in self._waiting.values()
            for entry in entries
        )
        return alike and not self.own and not self._blocked

    def play(self, limiters: Sequence[Limiter], now: int) -> tuple[dict[int, list[int]], dict[int, int]]:
        """Let everything go from `now` on by copies of the shared limiters, which are charged ahead.

        Returns, by arrival, the times that are not after its latest one, and the time of the first that is. That one
        and all behind it will not be parked, so it should not have played a part: play again without them.
        """
        times: dict[int, list[int]] = {}
        shed: dict[int, int] = {}
        while self._waiting:
            self._unblock(now)
            queue = head(self._lanes)
            if queue is None:
                now = self._next_unblocked()
                continue
            entry = self._waiting[queue][0]
            if now > entry.latest and entry.arrival is None:  # its deadline has passed by then
                self._done(queue, entry, entry.left)
                continue
            until = self._blocks(queue.tenant, now, entry.cost)
            ready = until or ready_at(limiters, now, entry.cost)
            late = ready > entry.latest
            if ready >= FOREVER or (late and entry.arrival is not None):  # it will not even be parked
                if entry.arrival is not None:
                    shed[entry.arrival] = ready
                self._done(queue, entry, entry.left)
            elif until:
                queue.lane.fair.leave(queue)
                heappush(self._blocked, (until, queue.lane.name, queue.order, queue))
            elif ready > now:  # what can't go in time stands in front of others until its time is over
                now = min(entry.latest + MS if late else ready, self._next_unblocked())
            else:
                self._charge(limiters, queue, now, entry.cost)
                if entry.arrival is not None:
                    times.setdefault(entry.arrival, []).append(now)
                self._done(queue, entry, 1)
        return times, shed

    def _unblock(self, now: int) -> None:
        while self._blocked and self._blocked[0][0] <= now:
            queue = heappop(self._blocked)[3]
            queue.lane.join(queue)
            self._lanes.join(queue.lane)

    def _next_unblocked(self) -> int:
        return whole_ms(self._blocked[0][0]) if self._blocked else NEVER

    def _blocks(self, tenant: Tenant, now: int, cost: int) -> int:
        """Return until when a tenant has to wait for itself; 0: it has not."""
        if tenant.closed_until > now:
            return tenant.closed_until
        own = self.own.get(tenant)
        return 0 if own is None or own.fit(now, 1, cost) else whole_ms(own.ready_at(now, cost))

    def _charge(self, limiters: Sequence[Limiter], queue: Queue, now: int, cost: int) -> None:
        for limiter in limiters:
            limiter.charge(now, cost)
        if queue.tenant in self.own:
            self.own[queue.tenant].charge(now, cost)
        tag = min(cost, COST_CAP)
        queue.lane.fair.charge(tag, 1)
        self._lanes.charge(tag * queue.lane.stride, 1)

    def _done(self, queue: Queue, entry: _Entry, count: int) -> None:
        entry.left -= count
        queue.requests -= count
        if not entry.left:
            self._waiting[queue].popleft()
            if not self._waiting[queue]:
                del self._waiting[queue]


def _entries(parked: ParkedPlaces, queue: Queue) -> Iterator[_Entry]:
    for count, cost, deadline in parked.entries(queue):
        yield _Entry(count, cost, NEVER if deadline == NO_DEADLINE else deadline * MS)


def _copy_lane(lane: Lane) -> Lane:
    twin = Lane(lane.name, lane.weight, lane.stride, lane.order)
    twin.start, twin.epoch, twin.orders, twin.fair.virtual = lane.start, lane.epoch, lane.orders, lane.fair.virtual
    return twin
