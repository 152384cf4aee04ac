"""What one process holds of shared limits: a holder per shard, and what calls are charged to. No I/O and no clock."""

import math
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from gate.limits.checks import check_cost, check_spelling, shown
from gate.limits.errors import NeverAdmittedError
from gate.limits.rate_limits import Asked
from gate.limits.result import LimitState
from gate.limits.spec import NEVER, SECOND
from gate.limits.waiting import LoopWaiter, ThreadWaiter
from gate.mesh.holder import Holder
from gate.mesh.holding import MOST_COUNTED, Holding
from gate.mesh.questions import Names, Refusal
from gate.mesh.terms import DEFAULT, Away
from gate.mesh.wire import Charged, Grant, Report, WireError, decode, encode
from gate.shard.placement import shard_of

Waiter = LoopWaiter | ThreadWaiter
Key = tuple[str, str]  # a service, and a tenant or ""
Answer = tuple[bool, float | None]

ALLOWED: Final = (True, None)
MOST_KEYS: Final = 100_000  # services and tenants that one process asks for
NOTHING: Final = Holding("")  # decides nothing
_LOOKUPS: Final = 100  # that one report carries
_HOST: Final = 40  # characters
_REFRESH_NS: Final = 10 * SECOND  # after which is asked again whether no limit applies


@dataclass(slots=True)
class Route:
    """What calls of a service, or of its tenant, are charged to."""

    holder: Holder | None
    names: Names
    allowed: bool
    why: str
    policy: str
    at: int  # when that was told
    ceilings: tuple[int, ...]  # of each: the largest cost that can ever be admitted; below 0: no bound
    only: Holding  # of the one budget, where it is one
    most: float = field(init=False)  # the largest cost that can ever be admitted

    def __post_init__(self) -> None:
        self.most = min([ceiling for ceiling in self.ceilings if ceiling >= 0], default=math.inf)


class Pending:
    """No answer yet: the owner is being asked."""


PENDING: Final = Pending()


class Holders:
    """Everything that one process holds. Not thread-safe; every `now` is ns of CLOCK_BOOTTIME."""

    def __init__(self, away: Away, now: int) -> None:
        self.away = away
        self.routes: dict[Key, Route] = {}
        self.plain: dict[str, Route] = {}  # of services without a tenant: the same, found in one go
        self.alone: dict[str, Holding] = {}  # and the budget of those that have one, which decides for a time
        self.woken: list[Waiter] = []  # to be woken when the lock is free
        self.waiting: dict[Waiter, None] = {}  # for whatever comes next, in order
        self.heard = now  # when an owner said anything last
        self.asked: int | None = None  # since when nobody has answered
        self.beyond = 0  # units that were let go while no owner had ever answered
        self._unrouted: dict[Key, tuple[int, int]] = {}  # units let go, and refused, of what no owner had told of
        self._begun = now
        self.renew(now)

    def renew(self, now: int) -> None:
        """Begin anew, as somebody else who holds nothing: in the child of a fork, or with other shards."""
        host = socket.gethostname()[:_HOST]
        self.name = f"{host}-{os.getpid()}-{secrets.token_hex(6)}"
        self.partition = 0
        self.shards = 0  # not known yet
        self.holders: dict[int, Holder] = {}
        self._by_name: dict[str, Holder] = {}
        self._lookups: dict[Key, int] = {}  # when each was asked last; 0: not yet
        self.routes.clear()
        self.plain.clear()
        self.alone.clear()
        self._unrouted.clear()
        self._begun = self.heard = now
        self.asked = None

    def settle(self, shards: int, partitions: int) -> None:
        """Take how many shards there are, and how many partitions grants come in."""
        self.shards = shards
        self.partition = int(secrets.randbelow(partitions))

    # -- decisions -------------------------------------------------------------------------------------------------

    def decide(self, now: int, service: str, tenant: str, cost: int) -> Answer | Pending:
        """Charge a call that may go: `ALLOWED`; else say when; PENDING: nobody knows before the owner answers."""
        route = self.routes.get((service, tenant)) if tenant else self.plain.get(service)
        if route is None:
            return self._unknown(now, service, tenant, cost)
        if route.holder is None:
            check_cost(cost)
            if now - route.at > _REFRESH_NS:
                self._look_up(now, (service, tenant))
            return ALLOWED if route.allowed else (False, math.inf)
        check_cost(cost)
        if cost > route.most:  # nobody waits for it, so that it is no want, either
            return False, math.inf
        refusal = route.holder.check(now, route.names, cost)
        return ALLOWED if refusal is None else self.told(refusal)

    @staticmethod
    def told(refusal: Refusal) -> Answer | Pending:
        """Return what a refused call is told; PENDING: that the owner is asked."""
        if refusal.asked:
            return PENDING
        return False, math.inf if refusal.wait == NEVER else refusal.wait / SECOND

    def charge_all(self, now: int, asked: Sequence[Asked]) -> tuple[int, float | None] | None:
        """Charge all calls by what is held here: None. Else charge none, and return the place of the first in the way.

        With it come the seconds to wait, where it fits but for those before it; None: it does not fit by itself.
        """
        needs: dict[int, tuple[Holder, dict[str, int]]] = {}
        for place, (service, tenant, cost) in enumerate(asked):
            route = self.routes.get((service, tenant))
            if route is None or route.holder is None:
                return place, None
            _, of_holder = needs.setdefault(id(route.holder), (route.holder, {}))
            wait = route.holder.fits_beside(now, route.names, cost, of_holder)
            if wait is None:
                return place, None
            if wait:
                return place, wait / SECOND
        for holder, of_holder in needs.values():
            holder.charge(now, of_holder)
        return None

    def find(self, now: int, service: str, tenant: str) -> Route | None:
        """Return what calls are charged to; None: it is being looked up."""
        route = self.routes.get((service, tenant))
        if route is None:
            self._look_up(now, (service, tenant))
        return route

    def enter(self, now: int, route: Route, service: str, waiter: Waiter) -> bool:
        """Go at once: False; else wait in the queue. Raises NeverAdmittedError."""
        if route.holder is None:
            check_cost(waiter.cost)
            if route.allowed:
                return False
            raise NeverAdmittedError(f"{shown(service)} admits nothing: {route.why}", hint="see the gates' policy")
        refusal = route.holder.check(now, route.names, waiter.cost)
        if refusal is None:
            return False
        if refusal.wait == NEVER or waiter.cost > route.most:
            raise NeverAdmittedError(
                f"{shown(service)} can never admit {waiter.cost} units at once: its limits give at most {route.most}",
                hint="ask for less at a time, or raise its burst and its windows",
            )
        route.holder.wait(now, route.names, waiter.cost, waiter)
        return True

    def leave(self, route: Route, waiter: Waiter) -> None:
        """Wait no longer."""
        if route.holder is not None:
            route.holder.cancel(route.names, waiter)

    def gave_up(self, now: int, service: str, tenant: str, cost: int) -> Answer:
        """Return what a call is told that nobody has answered."""
        cost = min(cost, MOST_COUNTED)
        holder = self._asked_by(service, tenant)
        silent = self.asked if holder is None else holder.silent
        # with a lease, its holder has decided already, and would have let it go
        unknown = holder is None or not holder.was_leased
        allowed = self.away is Away.OPEN and unknown and silent is not None and now - silent < DEFAULT.away_ns
        route = self.routes.get((service, tenant))
        if route is not None and route.holder is not None:
            route.holder.give_up(route.names, cost, allowed=allowed)
        else:
            self.beyond += cost if allowed else 0
            let_go, refused = self._unrouted.get((service, tenant), (0, 0))
            self._unrouted[service, tenant] = (let_go + cost, refused) if allowed else (let_go, refused + cost)
        return ALLOWED if allowed else (False, DEFAULT.period_ns / SECOND)

    def is_hopeless(self, now: int, service: str, tenant: str, patience: int) -> bool:
        """Tell whether who may give an answer has given none for so many ns, and the lease is over."""
        holder = self._asked_by(service, tenant)
        if holder is None or holder.silent is None:
            return False
        return now >= holder.until and now - holder.silent > patience

    def _asked_by(self, service: str, tenant: str) -> Holder | None:
        route = self.routes.get((service, tenant))
        if route is not None:
            return route.holder
        return self.holders.get(shard_of(service, self.shards)) if self.shards else None

    def away_for(self, now: int) -> int:
        """Return for how many ns an owner has not answered that was asked; 0: all have."""
        since = [holder.silent for holder in self.holders.values() if holder.silent is not None]
        return max([now - moment for moment in (*since, *([] if self.asked is None else [self.asked]))], default=0)

    def states(self, now: int, route: Route, cost: int) -> tuple[bool, float | None, tuple[LimitState, ...]]:
        """Return what a call would be told, and what this process has left of each limit. Charges nothing."""
        check_cost(cost)
        if route.holder is None:
            return route.allowed, None if route.allowed else math.inf, ()
        refusal = route.holder.look(now, route.names, cost)
        never = refusal is not None and (refusal.wait == NEVER or cost > route.most)
        wait = None if refusal is None else math.inf if never else refusal.wait / SECOND
        states = []
        for ceiling, (name, left, more) in zip(route.ceilings, route.holder.left(now, route.names), strict=True):
            kind = "group." if name.startswith("group:") else "tenant." if "/" in name else ""
            if ceiling >= 0:
                seconds = more / SECOND
                states.append(LimitState(f"{kind}limit", ceiling, min(left, ceiling), seconds, seconds, None))
        return refusal is None, wait, tuple(states)

    def poll(self, now: int) -> int:
        """Let those go whose turn has come; return when to look again if nothing comes."""
        again = NEVER
        for holder in self.holders.values():
            if holder.waits:
                gone, next_look = holder.poll(now)
                again = min(again, next_look)
                for waiter in gone:
                    if isinstance(waiter, LoopWaiter | ThreadWaiter):
                        waiter.gone = True
                        self.woken.append(waiter)
        return again

    # -- messages --------------------------------------------------------------------------------------------------

    def is_due(self, now: int) -> bool:
        """Tell whether there is something to report."""
        return any(not sent for sent in self._lookups.values()) or any(h.due(now) for h in self.holders.values())

    def wakes_at(self, now: int) -> int:
        """Return when there is something to report if nothing comes."""
        times = [holder.wake_at() for holder in self.holders.values()]
        if self._lookups:
            times.append(min(self._lookups.values()) + DEFAULT.period_ns)
        return min(times, default=now + DEFAULT.period_ns)

    def reports(self, now: int, busy: Sequence[int] = (), *, leaving: bool = False) -> Iterator[tuple[int, str, bytes]]:
        """Yield what is to be sent now: shard, holder and value. Shards that are `busy` wait."""
        if not self.shards:
            return
        asked: dict[int, list[Key]] = {}
        for key, sent in self._lookups.items():
            shard = shard_of(key[0], self.shards)
            late = now >= sent + (DEFAULT.period_ns if sent else 0)
            if late and shard not in busy and not leaving and len(asked.setdefault(shard, [])) < _LOOKUPS:
                asked[shard].append(key)
        for shard in {*self.holders, *asked}:
            holder = self._holder(now, shard)
            if shard in busy or not (leaving or shard in asked or holder.due(now)):
                continue
            report = holder.report(now, leaving=leaving)
            while leaving and holder.goes_on and report is not None:
                yield shard, holder.name, encode(report)
                report = holder.report(now, leaving=leaving)
            lookups = asked.get(shard, [])
            if report is None and not lookups:
                continue
            if report is None:
                report = Report(holder.name, holder.epoch, 0)
            for key in lookups:
                self._lookups[key] = now
            if lookups and holder.silent is None:
                holder.silent = now
            if self.asked is None:
                self.asked = now
            full = msgspec.structs.replace(report, partition=self.partition, lookups=tuple(lookups))
            yield shard, holder.name, encode(full)

    def receive(self, now: int, key: bytes | None, value: bytes | None) -> str | None:
        """Take a record of the topic of grants, most of which are others'. Returns what is wrong with it."""
        try:
            holder = self._by_name.get((key or b"").decode())
            if holder is None or value is None:
                return None
            grant = decode(Grant, value)
        except (WireError, UnicodeDecodeError) as error:
            return str(error)
        if grant.epoch != holder.epoch:
            return None
        self.heard, self.asked = now, None
        for charged in grant.found:
            self._take(now, charged, grant.policy)
            holder.silent = None
        if grant.answers or grant.shares or grant.slots:
            holder.receive(now, grant)
        for (service, tenant), route in self.routes.items() if grant.policy else ():
            if route.holder is holder and route.policy != grant.policy and (service, tenant) not in self._lookups:
                self._lookups[service, tenant] = 0
        self.woken += self.waiting
        self.waiting.clear()
        return None

    @property
    def let_go(self) -> int:
        """Units that were let go without an owner: they may be over the limits."""
        return self.beyond + sum(holder.beyond for holder in self.holders.values())

    # -- inside ----------------------------------------------------------------------------------------------------

    def _unknown(self, now: int, service: str, tenant: str, cost: int) -> Pending:
        check_cost(cost)
        self._look_up(now, (service, tenant))
        return PENDING

    def _look_up(self, now: int, key: Key) -> None:
        if key in self._lookups:
            return
        check_spelling(key[0])
        if key[1]:
            check_spelling(key[1], "tenant")
        if len(self.routes) + len(self._lookups) >= MOST_KEYS:
            raise TooManyKeysError(
                f"this process asks for more than {MOST_KEYS} services and tenants; {shown(key[0])} is one too many",
                hint="share limits by what there are few of, or in more processes",
            )
        self._lookups[key] = 0
        if self.asked is None:
            self.asked = now

    def _take(self, now: int, charged: Charged, policy: str) -> None:
        key = charged.service, charged.tenant
        self._lookups.pop(key, None)
        there = charged.names and 0 <= charged.shard < self.shards
        holder = self._holder(now, charged.shard) if there else None
        why = charged.why or ("" if there or not charged.names else "its shard is not there any more")
        allowed = charged.allowed and not why
        only = NOTHING if holder is None or len(charged.names) > 1 else holder.holding(charged.names[0])
        route = Route(holder, charged.names, allowed, why, policy, now, charged.ceilings, only)
        self.routes[key] = route
        let_go, refused = self._unrouted.pop(key, (0, 0))
        if holder is not None and (let_go or refused):
            holder.give_up(route.names, let_go, allowed=True)
            holder.give_up(route.names, refused, allowed=False)
            holder.beyond -= let_go  # it is counted already
        if not charged.tenant:
            self.plain[charged.service] = route
            self.alone[charged.service] = only

    def _holder(self, now: int, shard: int) -> Holder:
        holder = self.holders.get(shard)
        if holder is None:
            holder = self.holders[shard] = Holder(
                f"{self.name}.{shard}", 1 + secrets.randbelow(2**31), now, on_owner_away=self.away
            )
            self._by_name[holder.name] = holder
        return holder


class TooManyKeysError(NeverAdmittedError):
    """More services and tenants than one process may share the limits of."""
