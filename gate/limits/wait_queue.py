"""Queue of those who wait for one service: first come, first served, and nobody held up by another tenant's limits.

Each tenant has a lane, in the order in which its requests came. The first of a lane is due when its tenant's own limits
admit it; of those that are due the one that came first is next, and none overtakes it while the service's limits lack
room for it: so a large cost does not starve. No I/O and no clock: `now` is ns of the clock of the limiter's keys.
"""

import heapq
import os
from collections import OrderedDict
from itertools import count

from gate.limits.keys import Keys, Name
from gate.limits.limiter import Limiter
from gate.limits.spec import NEVER

_PATIENCE = 250_000_000  # ns after its time at which who is next, and does not come, is overtaken
_order = count()


class Waiter:
    """One that waits. `wake` is called when it is next, or should look again."""

    __slots__ = ("cost", "gone", "order", "tenant")

    def __init__(self, cost: int, tenant: str) -> None:
        self.cost = cost
        self.tenant = tenant
        self.order = next(_order)
        self.gone = False

    def wake(self) -> None:
        """Make it look again; to be overridden."""
        raise NotImplementedError

    def lost(self) -> bool:
        """Tell whether nobody is there any more to take the turn."""
        return False


class WaitQueue:
    """Those who wait for one service. Not thread-safe: the limiter's lock is held."""

    def __init__(self, service: str, keys: Keys) -> None:
        self.process = os.getpid()  # who waits in the parent of a fork does not wait in the child
        self._service = service
        self._keys = keys
        self._lanes: dict[str, OrderedDict[int, Waiter]] = {}
        self._due: list[tuple[int, Waiter]] = []  # firsts of lanes that their tenants' limits admit, by order
        self._later: list[tuple[int, int, Waiter]] = []  # the other firsts, by the time when they will
        self._waiting = 0
        self._armed: Waiter | None = None  # who was told to be next
        self._at: int = NEVER  # when
        self._plan: Limiter | None = None  # the service's limits, charged with all who wait
        self._shift = 0  # ns from our clock to the plan's
        self._changes = 0  # in who waits, since the plan was made

    def __len__(self) -> int:
        return self._waiting

    def names(self, tenant: str) -> list[Name]:
        """Return the keys that decide about a request."""
        return self._keys.names(self._service, tenant)

    def join(self, waiter: Waiter, now: int) -> None:
        """Wait behind the others."""
        lane = self._lanes.setdefault(waiter.tenant, OrderedDict())
        lane[waiter.order] = waiter
        self._waiting += 1
        self._changes += 1
        if len(lane) == 1:
            self._stand_first(waiter, now)
        if self._plan is not None:
            _plan_one(self._plan, now + self._shift, waiter.cost)

    def leave(self, waiter: Waiter, now: int) -> None:
        """Wait no longer, admitted or not."""
        if waiter.gone:
            return
        waiter.gone = True
        self._waiting -= 1
        self._changes += 1
        lane = self._lanes[waiter.tenant]
        first = next(iter(lane.values())) is waiter
        del lane[waiter.order]
        if not lane:
            del self._lanes[waiter.tenant]
        elif first:
            self._stand_first(next(iter(lane.values())), now)

    def turn(self, now: int) -> tuple[Waiter, int] | None:
        """Return who is next, and when it is admitted if nothing else comes; None: nobody waits."""
        while (waiter := self._first(now)) is not None and waiter.lost():
            self.leave(waiter, now)
        if waiter is None:
            return None
        ready = now if self._due else self._later[0][0]
        return waiter, max(ready, *[self._keys.ready(name, waiter.cost, now) for name in self.names("")])

    def arm(self, now: int) -> None:
        """See to it that who is next knows it."""
        turn = self.turn(now)
        if turn is None:
            return
        waiter, ready = turn
        if waiter is self._armed:
            self._at = ready if ready > now else min(self._at, ready)
            return
        self._armed, self._at = waiter, ready
        waiter.wake()

    def limits_changed(self, now: int) -> None:
        """Look at all who wait anew, after the limits were changed: some may go, and some never can."""
        waiting = [waiter for lane in self._lanes.values() for waiter in lane.values()]
        self._due, self._later, self._plan = [], [], None
        for lane in self._lanes.values():
            self._stand_first(next(iter(lane.values())), now)
        for waiter in waiting:
            if self.ready(waiter, now) == NEVER:
                waiter.wake()
        self._armed = None
        self.arm(now)

    def ready(self, waiter: Waiter, now: int) -> int:
        """Return when one would be admitted if nobody else waited; NEVER if it can't be."""
        return max(now, *[self._keys.ready(name, waiter.cost, now) for name in self.names(waiter.tenant)])

    def holds_up(self, tenant: str, now: int) -> bool:
        """Tell whether others go before a request that comes now; not those behind one who is due and does not come."""
        turn = self.turn(now)
        if turn is None or (turn[1] <= now and self._at + _PATIENCE < now):
            return False
        return (bool(tenant) and tenant in self._lanes) or bool(self._due)

    def wait_behind(self, cost: int, now: int) -> int:
        """Return the ns until all who wait have gone, in order, and then `cost` is admitted; NEVER if it can't be."""
        key = self._keys.find(self._service, None)
        if key is None:
            return max(0, self._at - now) if self._at != NEVER else 0
        if self._plan is None or self._changes > 2 * self._waiting + 16:  # who left early still stands in the plan
            self._changes = 0
            self._plan, self._shift = key.copy(), key.shift
            waiting = [waiter for lane in self._lanes.values() for waiter in lane.values()]
            for waiter in sorted(waiting, key=lambda waiter: waiter.order):
                _plan_one(self._plan, now + key.shift, waiter.cost)
        ready = self._plan.ready_at(now + key.shift, cost)
        return NEVER if ready == NEVER else max(0, ready - key.shift - now)

    def _first(self, now: int) -> Waiter | None:
        """Return who is next: the first of those that are due, or else who is due first."""
        while self._later and (self._later[0][2].gone or self._later[0][0] <= now):
            _, order, waiter = heapq.heappop(self._later)
            if not waiter.gone:
                heapq.heappush(self._due, (order, waiter))
        while self._due and self._due[0][1].gone:
            heapq.heappop(self._due)
        if self._due:
            return self._due[0][1]
        return self._later[0][2] if self._later else None

    def _stand_first(self, waiter: Waiter, now: int) -> None:
        """Find out when the first of a lane is due."""
        ready = self._keys.ready((self._service, waiter.tenant), waiter.cost, now) if waiter.tenant else now
        if ready <= now:
            heapq.heappush(self._due, (waiter.order, waiter))
            return
        if len(self._later) > 2 * len(self._lanes) + 16:  # who left early is found only when its time comes
            self._later = [entry for entry in self._later if not entry[2].gone]
            heapq.heapify(self._later)
        heapq.heappush(self._later, (ready, waiter.order, waiter))


def _plan_one(plan: Limiter, now: int, cost: int) -> None:
    ready = plan.ready_at(now, cost)
    if ready != NEVER:
        plan.charge(ready, cost)
