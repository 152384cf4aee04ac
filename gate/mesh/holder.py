"""Holder: the side of the distributed limiter that lives in each process and decides without asking."""

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from gate.limits import NEVER
from gate.limits.checks import check_cost
from gate.mesh.holding import Holding
from gate.mesh.questions import Names, Questions, Refusal
from gate.mesh.terms import DEFAULT, Away, Terms, shorter
from gate.mesh.wire import NONE, Grant, Report
from gate.units import SECOND

_RENEW: Final = 2  # a lease is renewed when an n-th of it has passed, whether anything changed or not
_UNANSWERED: Final = 64  # reports whose times are remembered
MOST_TOLD: Final = 500  # budgets in one report
_MOST_BYTES: Final = 200 << 10  # of a report
_ENTRY_BYTES: Final = 60  # about, beside its name
_USE_BYTES: Final = 14


@dataclass(slots=True)
class _Waiter:
    ticket: Hashable
    cost: int


class Holder:
    """Holds parts of the limits of one shard for one process. Not thread-safe.

    `epoch` must differ from that of every earlier holder of this name: after a restart, and in a forked child. Every
    `now` is in ns by a clock that goes on while the machine is suspended (CLOCK_BOOTTIME).
    """

    def __init__(
        self, name: str, epoch: int, now: int, terms: Terms = DEFAULT, on_owner_away: Away = Away.CLOSED
    ) -> None:
        self.name = name
        self.epoch = epoch
        self.terms = terms
        self.on_owner_away = on_owner_away
        self.beyond = 0  # units that were let go without an owner, for metrics: they may be over the limits
        self.until = now  # of the lease
        self._alive = self._left = False
        self._seq = self._answered = 0
        self._sent: dict[int, int] = {}  # when each unanswered report was sent
        self._held: dict[str, Holding] = {}
        self._known: dict[Names, tuple[Holding, ...]] = {}
        self._measured = self._next = now
        self._renewed: int | None = None  # when the report was sent from which the lease runs
        self.silent: int | None = None  # since when its reports have not been answered
        self.questions = Questions(terms)
        self._queues: dict[Names, deque[_Waiter]] = {}
        self._urgent = False
        self.goes_on = False  # whether there was too much to tell for one report: the next one goes out at once
        self._first = 0  # report of this period
        self._since = 0  # version from which on shares are of the lease that runs

    def forked(self, epoch: int, now: int) -> "Holder":
        """Return what a forked child goes on with: nothing, since its parent has all of it."""
        return Holder(self.name, epoch, now, self.terms, self.on_owner_away)

    def check(self, now: int, names: Names, cost: int = 1) -> Refusal | None:
        """Charge a call of `cost` units to all of `names` if it may go: None. It goes at once; else it is charged.

        Who waits in the queue for the same budgets comes first.
        """
        held = self._known.get(names) or self._meet_all(names)
        if now < self.until and len(held) == 1 and not self._queues and not self.questions.slots:  # usual: in one go
            only = held[0]
            part = only.part
            if only.live and part is not None:
                if only.granting:
                    if only.take(now, cost):
                        return None
                elif part.try_take(now, cost) is None:
                    only.wanted += cost
                    return None
        check_cost(cost)
        if not any(budget.limits is not None and NONE != budget.limits.ceiling < cost for budget in held):
            for budget in held:
                budget.wanted += cost
        if self._queues.get(names):
            return Refusal(self.terms.period_ns, asked=False)
        return self._decide(now, names, held, cost)

    def fits_beside(self, now: int, names: Names, cost: int, needs: dict[str, int]) -> int | None:
        """Add what a call needs to `needs` (units by budget), if it fits here beside these: 0.

        Else return the ns after which it may, where these alone keep it out; None: it does not fit by itself.
        """
        check_cost(cost)
        held = self._known.get(names) or self._meet_all(names)
        fits = self._alive and now < self.until and not self._queues.get(names)
        if not fits or not all(budget.live and not self._opens(now, budget, cost) for budget in held):
            return None
        wait = max([self._opens(now, budget, needs.get(budget.name, 0) + cost) for budget in held])
        if not wait:
            for budget in held:
                needs[budget.name] = needs.get(budget.name, 0) + cost
        return wait

    def charge(self, now: int, needs: Mapping[str, int]) -> None:
        """Charge what fits, by budget."""
        for name, cost in needs.items():
            budget = self._held[name]
            budget.wanted += cost
            budget.charge(now, cost)

    def wait(self, now: int, names: Names, cost: int, ticket: Hashable) -> None:
        """Queue a call: `poll` names its ticket when it goes. It counts as wanted as long as it waits."""
        check_cost(cost)
        for budget in self._known.get(names) or self._meet_all(names):
            budget.waiting += cost
        self._queues.setdefault(names, deque()).append(_Waiter(ticket, cost))
        self._hand_over()
        self._hasten(now)

    def cancel(self, names: Names, ticket: Hashable) -> None:
        """Take a call out of the queue."""
        queue = self._queues.get(names, deque())
        for waiter in [waiter for waiter in queue if waiter.ticket == ticket]:
            queue.remove(waiter)
            self._unwait(names, waiter.cost)

    def poll(self, now: int) -> tuple[list[Hashable], int]:
        """Charge those whose turn has come, in order; return their tickets, and when to poll again if nothing comes."""
        gone: list[Hashable] = []
        again = NEVER
        for names, queue in list(self._queues.items()):
            held = self._known.get(names) or self._meet_all(names)
            while queue:
                refusal = self._decide(now, names, held, queue[0].cost)
                if refusal is not None:
                    again = min(again, now + refusal.wait)
                    break
                waiter = queue.popleft()
                self._unwait(names, waiter.cost)
                for budget in held:
                    budget.wanted += waiter.cost
                gone.append(waiter.ticket)
            if not queue:
                del self._queues[names]
        return gone, again

    @property
    def was_leased(self) -> bool:
        """Tell whether it has ever had a lease: it decides by itself, then, for as long as it may without an owner."""
        return self._renewed is not None

    @property
    def waits(self) -> bool:
        """Tell whether anybody waits in a queue."""
        return bool(self._queues)

    def look(self, now: int, names: Names, cost: int = 1) -> Refusal | None:
        """Return what `check` would, as far as that is known here: nothing is charged, and nobody asked."""
        check_cost(cost)
        held = self._known.get(names) or self._meet_all(names)
        if self._queues.get(names):
            return Refusal(self.terms.period_ns, asked=False)
        slot = self.questions.slots.get(names)
        alive = self._alive and now < self.until
        fits = alive and all(budget.live and not self._opens(now, budget, cost) for budget in held)
        if fits or (slot is not None and now < slot[0] and cost <= slot[1]):
            return None
        ceilings = [budget.limits.ceiling for budget in held if budget.limits is not None]
        if any(ceiling != NONE and cost > ceiling for ceiling in ceilings):
            return Refusal(NEVER, asked=False)
        until, denied = self.questions.denied.get(names, (now, 0))
        if now < until and cost >= denied:
            return Refusal(until - now, asked=False)
        if any(self._beyond(budget, cost) for budget in held):
            return None  # nobody knows before the owner is asked
        return Refusal(max(1, *[self._opens(now, budget, cost) for budget in held]), asked=False)

    def left(self, now: int, names: Names) -> list[tuple[str, int, int]]:
        """Return of each budget its name, the units left here, and the ns until it is one more, as far as is known."""
        found = []
        for budget in self._known.get(names) or self._meet_all(names):
            ceiling = NONE if budget.limits is None else budget.limits.ceiling
            left = budget.left(now) if self._alive and now < self.until and budget.live else 0
            until = self.questions.denied.get(names, (now, 0))[0]
            more = 0 if 0 <= ceiling <= left else max(until - now, self._opens(now, budget, left + 1))
            found.append((budget.name, left, more))
        return found

    def usage(self, now: int, name: str) -> tuple[float, float, int, int]:
        """Return of a budget's part: units per second of late, tokens, and of its first window units and limit."""
        budget = self._held.get(name) or self._meet(name)
        part = budget.part
        if part is None:
            return budget.want / 1000, 0.0, 0, 0
        counts, windows = part.counted(now), part.spec.windows
        rate = counts[0] * SECOND / windows[0].size if windows else budget.want / 1000
        tokens = float(part.tokens(now)) if part.spec.step else 0.0
        return rate, tokens, counts[0] if windows else 0, windows[0].limit if windows else 0

    def due(self, now: int) -> bool:
        """Tell whether `report` has anything to say."""
        return now >= self._next or self._urgent

    def wake_at(self) -> int:
        """Return when the next report is due if nothing else comes."""
        return self._next

    def report(self, now: int, *, leaving: bool = False) -> Report | None:
        """Return what is to be sent now, None where nothing is. Whoever leaves gives up all."""
        self._look(now)
        if leaving:
            self._lapse()
            self.until, self._left = now, True
        periodic = leaving or self.goes_on
        if now >= self._next or (leaving and not self.goes_on):
            periodic = True
            self._end_period(now)
            self._first = self._seq + 1
        self._urgent = self.goes_on = False
        told = [held for held in self._held.values() if held.news(self._answered, periodic=periodic)]
        told = self._first_of(told)
        asking = self.questions.unsent()
        renewed = self._renewed is not None and now - self._renewed < self.terms.lease_ns // _RENEW
        if not told and not asking and renewed and not leaving:
            return None
        self._seq += 1
        self._sent[self._seq] = now
        if self.silent is None:
            self.silent = now
        self._sent.pop(self._seq - _UNANSWERED, None)
        budgets = tuple([held.report(now, self._seq) for held in told])
        return Report(self.name, self.epoch, self._seq, budgets, self.questions.send(now), leaving and not self.goes_on)

    def _first_of(self, told: list[Holding]) -> list[Holding]:
        """Return what fits into one report, of what is to be told; the others come at once in another one."""
        if _fitting(told) == len(told):
            return told
        told = [held for held in told if held.shrunk or held.sent < self._first]  # others are out, without an answer
        count = _fitting(told)
        self._urgent = self.goes_on = count < len(told)
        return told[:count]

    def receive(self, now: int, grant: Grant) -> None:
        """Take what the owner granted. What comes twice, late or in another order does no harm."""
        if self._left or (grant.holder, grant.epoch) != (self.name, self.epoch):
            return
        self._look(now)
        if grant.answers > self._answered:
            self._renew(now, grant)
        if now < self.until:
            self._alive = True
        void = grant.since < self._since  # it is from before the owner forgot this holder
        self._since = max(self._since, grant.since)
        for slot in grant.slots:
            self.questions.answer(now, slot)
        if void or not self._alive:
            self._hand_over()
            return
        for share in grant.shares:
            held = self._held.get(share.name) or self._meet(share.name)
            if share.version > held.version and held.apply(share, now):
                self._urgent = True  # what became smaller is somebody else's as soon as that is known
        self._next = min(self._next, now + self.terms.period_ns)
        self._hand_over()

    def _hand_over(self) -> None:
        """Say of each budget until when its part decides alone: where nothing is granted, asked or waited for."""
        until = self.until if self._alive and not self._queues and not self.questions.slots else 0
        for held in self._held.values():
            held.decides_until = until if held.live and held.part is not None else 0

    def holding(self, name: str) -> Holding:
        """Return what it has of a budget, which may be nothing yet."""
        return self._held.get(name) or self._meet(name)

    def _renew(self, now: int, grant: Grant) -> None:
        self._answered = grant.answers
        self.silent = None
        sent = self._sent.pop(grant.answers, None)
        for seq in [seq for seq in self._sent if seq < grant.answers]:
            del self._sent[seq]
        if sent is not None:
            self.until = max(self.until, sent + shorter(grant.lease))
            self._renewed = sent
            trip = self.questions.round_trip
            self.questions.round_trip = max(now - sent, trip - trip // 8)
        for held in self._held.values():
            held.answered(grant.answers)

    def _decide(self, now: int, names: Names, held: Sequence[Holding], cost: int) -> Refusal | None:
        if now >= self.until and self._alive:
            self._look(now)
        if names in self.questions.slots and self.questions.use_slot(now, names, cost):
            return None
        if self._alive and all(budget.live and not self._opens(now, budget, cost) for budget in held):
            for budget in held:
                budget.charge(now, cost)
            return None
        return self._refuse(now, names, held, cost)

    def _opens(self, now: int, held: Holding, cost: int) -> int:
        """Return the ns until `cost` fits into the part and the granted units; 0: now."""
        wait = 0
        if held.part is not None:
            ready = held.part.ready_at(now, cost)
            wait = ready - now if ready < NEVER else self.terms.period_ns
        if held.granting and held.unopened(now, cost):
            start = next((at for position, at in held.starts if position - held.consumed >= cost), None)
            wait = max(wait, 1, self.terms.period_ns // 2 if start is None else start - now)
        return wait

    def _alone(self, now: int, held: Sequence[Holding], cost: int) -> bool:
        """Decide without an owner, for a bounded time; tell whether the call may go."""
        gone = now - self.until
        if self._alive or self._left or self._renewed is None or gone >= self.terms.away_ns:
            return False
        if self.on_owner_away is Away.FLOOR:
            floors = [budget.floors(now, gone // self.terms.lease_ns, self.terms.stock_ns) for budget in held]
            if not all(floors) or any(part.ready_at(now, cost) > now for parts in floors for part in parts):
                return False
            for part in chain(*floors):
                part.charge(now, cost)
        self.go_alone(held, cost, allowed=True)
        return True

    def go_alone(self, held: Sequence[Holding], cost: int, *, allowed: bool) -> None:
        """Note what became of a call without an owner."""
        self.beyond += cost if allowed else 0
        for budget in held[:1]:  # each call is told once
            budget.go_alone(cost, allowed=allowed)

    def give_up(self, names: Names, cost: int, *, allowed: bool) -> None:
        """Note what became of a call after nobody had answered for so long that it was not waited for any more."""
        self.go_alone(self._known.get(names) or self._meet_all(names), cost, allowed=allowed)

    def _refuse(self, now: int, names: Names, held: Sequence[Holding], cost: int) -> Refusal | None:
        if self.on_owner_away is not Away.CLOSED and self._alone(now, held, cost):
            return None
        for budget in held:
            ceiling = NONE if budget.limits is None else budget.limits.ceiling
            if ceiling != NONE and cost > ceiling:
                return Refusal(NEVER, asked=False)
        if any(self._beyond(budget, cost) for budget in held):
            refusal, new = self.questions.ask(now, names, cost)
            self._urgent = self._urgent or new
            if new and not any(budget.want for budget in held):
                self._hasten(now)  # the owner knows of no want yet
            return refusal
        for budget in held:
            budget.settle()
        if any(budget.wanted * SECOND * 1000 > budget.want * 3 * self.terms.period_ns // 2 for budget in held):
            self._hasten(now)  # far more is wanted than the owner knows of
        return Refusal(max(1, *[self._opens(now, budget, cost) for budget in held]), asked=False)

    def _beyond(self, held: Holding, cost: int) -> bool:
        """Tell whether a call is too dear for what this holder has, however long it waits."""
        if held.part is None or not held.live or not self._alive:
            return True
        spec = held.part.spec
        if (spec.step and cost > spec.burst) or any(cost > window.limit for window in spec.windows):
            return True
        return held.granting and cost > max(held.stock, held.granted - held.consumed)

    def _end_period(self, now: int) -> None:
        terms = self.terms
        elapsed = now - self._measured
        for held in self._held.values():
            held.measure(elapsed, terms.period_ns, terms.stock_ns)
        self.questions.tidy(now)
        self._measured = now
        jitter = (self.epoch * 7919 + self._seq * 104_729) % 201 - 100  # thousandths: so that not all come at once
        self._next = now + terms.period_ns * (1000 + jitter) // 1000

    def _hasten(self, now: int) -> None:
        self._next = min(self._next, max(now, self._measured + self.terms.period_ns // 4))

    def _look(self, now: int) -> None:
        if self._alive and now >= self.until:
            self._lapse()

    def _lapse(self) -> None:
        self._alive = False
        for held in self._held.values():
            held.lapse()

    def _meet(self, name: str) -> Holding:
        held = self._held[name] = Holding(name)
        return held

    def _meet_all(self, names: Names) -> tuple[Holding, ...]:
        held = self._known[names] = tuple([self._held.get(name) or self._meet(name) for name in names])
        return held

    def _unwait(self, names: Names, cost: int) -> None:
        for name in names:
            self._held[name].waiting -= cost


def _fitting(told: Sequence[Holding]) -> int:
    """Return how many of these fit into one report."""
    size = 0
    for count, held in enumerate(told):
        size += _ENTRY_BYTES + len(held.name) + _USE_BYTES * len(held.uses)
        if count == MOST_TOLD or (count and size > _MOST_BYTES):
            return count
    return len(told)
