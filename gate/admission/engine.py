"""Engine of one service: decides about batches of requests. Pure and mutable."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Final, Self

from gate.admission import parked_selection, records
from gate.admission.breach_events import AlertSchedule, Situation
from gate.admission.decide_batch import decide
from gate.admission.engine_state import EngineState
from gate.admission.forecast.single_queue import ready_at
from gate.admission.limits.budget import Budgets
from gate.admission.limits.in_flight import LimitsOfCalls
from gate.admission.model import MS, SECOND, UNTIL_RESUMED, Event, Pull, Reason, Run, Started, Step, Usage
from gate.admission.queues.call_share import CallShare
from gate.admission.queues.holding import Holding
from gate.admission.queues.queue import Arrival, Queue
from gate.admission.queues.segment import NO_DEADLINE
from gate.admission.queues.spans import Cursor, Span
from gate.admission.queues.tenants import short
from gate.admission.recent_ids import RecentIds
from gate.admission.report import eta_of_all, fullest, service_usage
from gate.admission.scheduled_requests import take_due
from gate.limits import Limiter
from gate.policy import ServicePolicy

_SWEEP_PAUSE: Final = 1_000 * MS  # between looks that only forget tenants
_RIVAL_POLL: Final = 10 * MS  # while a service that shares the budget is to take its turn first


class Engine:
    """Admission of one service's requests.

    Times are ns of unix time; a `now` before the newest one seen is taken as the newest one seen. After a step with
    DELAYED decisions `parked` must follow before the next step. Not thread-safe.
    """

    def __init__(
        self,
        service: str,
        policy: ServicePolicy,
        budgets: Budgets,
        now: int,
        version: str,
        *,
        schedule: AlertSchedule | None = None,
    ) -> None:
        self.state = EngineState(service, policy, budgets, now, version, schedule or AlertSchedule())
        self._events: list[Event] = []
        self._unplaced: Sequence[tuple[Arrival, int, int]] = ()  # delayed: with number in the batch and count
        self._unnamed: Sequence[Started] = ()  # running, by ids that are not known yet
        self._freed = False  # requests that ran are done, so that others of the group may go
        self._base = 0  # the sequence of the batch's first request

    @property
    def service(self) -> str:
        """The service's name."""
        return self.state.service

    @property
    def policy(self) -> ServicePolicy:
        """The policy by which it decides."""
        return self.state.policy

    @property
    def now(self) -> int:
        """The newest time seen."""
        return self.state.now

    @property
    def tracks_running(self) -> bool:
        """Whether what is admitted counts as running."""
        return self.state.limits.running.tracking

    @property
    def waiting(self) -> int:
        """Parked requests."""
        return self.state.waiting

    @property
    def scheduled(self) -> int:
        """Requests that are not to go before a time of their own: parked too, but they wait for nothing else."""
        return self.state.scheduled.requests

    @property
    def scheduled_ends(self) -> dict[int, int]:
        """By partition of the delayed topic, the offset behind the newest of these."""
        return self.state.scheduled.ends

    @property
    def next_start(self) -> int | None:
        """When the first of these is to go, in ms; None: there is none."""
        return self.state.scheduled.next_start()

    def upcoming(self, after: int, until: int, most: int) -> Iterator[tuple[int, int]]:
        """Yield where those lie that are due soon, as `Scheduled.upcoming` does."""
        return self.state.scheduled.upcoming(after, until, most)

    @property
    def recent(self) -> RecentIds:
        """The ids of requests that were not rejected, where the policy asks for each only once."""
        return self.state.recent

    @property
    def holding(self) -> Holding:
        """The held requests."""
        return self.state.holding

    @property
    def partitions(self) -> Iterable[int]:
        """The partitions of the delayed topic in which something is parked."""
        return {*self.state.places.partitions, *self.state.scheduled.partitions}

    def step(self, now: int, runs: Sequence[Run], room: int, again: Sequence[tuple[int, int]] = ()) -> Step:
        """Decide about a batch, and pull at most `room` parked requests.

        `again` says which of the batch, as first and count, were held before: they are counted already.
        ValueError: a run without requests, or with a cost below 1. RuntimeError: places of the last step are missing.
        """
        state = self.state
        if self._unplaced:
            raise RuntimeError(f"{state.service}: step was called before parked, which it still expects")
        if self._unnamed:
            raise RuntimeError(f"{state.service}: step was called before name_running, which it still expects")
        now = state.now = max(now, state.now)
        self._expire_running(now)
        state.changed, self._base = True, state.sequence
        state.holding.again = again
        offered, due = 0, list[Arrival]()
        start = state.scheduled.next_start()
        if start is not None and start * MS <= now and room:
            due = take_due(state, now, room)
            self._base = state.sequence
        for run in runs:
            if run.count < 1 or run.cost < 1:
                raise ValueError(f"{state.service}: a run needs requests and a cost of at least 1: {run}")
            offered += run.count
        if runs:
            state.offered.add(now, offered - sum(state.holding.known(run.first, run.count) for run in runs if again))
            state.sequence += runs[-1].first + runs[-1].count
        result = decide(state, now, runs, offered, room, due)
        self._unplaced, self._unnamed, state.held = result.unplaced, result.step.started, result.held
        self._watch_breach(now)
        state.tenants.sweep(now, quiet=not runs)
        return result.step

    def parked(self, places: Sequence[tuple[int, int]]) -> None:
        """Take partition and offset of each request that the last step delayed, in the order of its decisions.

        ValueError: there are more or fewer places than delayed requests.
        """
        state = self.state
        expected = sum(count for _, _, count in self._unplaced)
        if len(places) != expected:
            raise ValueError(f"{state.service}: {len(places)} places for {expected} delayed requests")
        at = 0
        for arrival, number, count in self._unplaced:
            deadline = NO_DEADLINE if arrival.deadline is None else min(arrival.deadline // MS, NO_DEADLINE)
            seq, end = self._base + number, at + count
            start = None if arrival.start is None else arrival.start // MS
            while at < end:
                partition, offset = places[at]
                length = 1
                while at + length < end and places[at + length] == (partition, offset + length):
                    length += 1
                if start is None:
                    state.places.add(arrival.queue, partition, offset, seq, length, arrival.cost, deadline)
                else:
                    owner = arrival.queue.lane.name, arrival.queue.tenant.name
                    state.scheduled.add(owner, partition, offset, length, arrival.cost, deadline, start)
                at, seq = at + length, seq + length
        self._unplaced = ()
        state.scheduler.coming.clear()
        state.changed = True

    def name_running(self, ids: Sequence[str | None]) -> None:
        """Take the id of each request that the last step had started, in that order; None: it is gone, and runs not.

        ValueError: there are more or fewer ids than started requests.
        """
        state, started = self.state, self._unnamed
        tenants = [part.tenant for part in started for _ in range(part.requests)]
        if len(ids) != len(tenants):
            raise ValueError(f"{state.service}: {len(ids)} ids for {len(tenants)} started requests")
        self._unnamed = ()
        if freed := state.limits.running.name(state.now, zip(ids, tenants, strict=True)):
            self._free(state.now, freed)

    def done(self, now: int, ids: Iterable[str]) -> int:
        """Take that requests are done, by their ids. Returns how many of them ran: each counts once."""
        state = self.state
        now = state.now = max(now, state.now)
        self._expire_running(now)  # first: who is told of too late has ended before, and does not count
        ended = [state.limits.running.done(request) for request in ids]
        if freed := [tenant for ran, tenant in ended if ran]:
            self._free(now, freed)
        return len(freed)

    def pop_freed(self) -> bool:
        """Tell whether requests that ran have ended since the last call, so that others of the group may go."""
        freed, self._freed = self._freed, False
        return freed

    def _expire_running(self, now: int) -> None:
        if expired := list(self.state.limits.running.expire(now)):
            self._free(now, expired)

    def _free(self, now: int, tenants: Sequence[str | None]) -> None:
        self._freed = True
        self.state.free(now, tenants)

    def wake_at(self) -> int | None:
        """Return when to call `step` again even if nothing arrives, in whole ms; None: not by itself."""
        state = self.state
        now, times = state.now, []
        if state.waiting:
            if state.scheduler.more or state.policy.shadow or state.purge:
                return now
            times += self._ready_times(now)
            deadline = state.places.next_deadline()
            if deadline is not None:
                times.append((deadline + 1) * MS)
        start = state.scheduled.next_start()
        if start is not None:
            times.append(start * MS)
        if state.held is not None and (state.held.until_ns is not None or not state.limits.closed(now)):
            times.append(state.held.until_ns or now)
        expires = state.limits.running.expires_at()
        if expires is not None:
            budget = state.limits.budget
            awaited = state.waiting or state.held or (budget is not None and budget.others(state.service))
            times.append(expires if awaited else expires + SECOND)
        due = state.breach.due(state.waiting)
        if due is not None:
            times.append(due)
        look = state.tenants.next_look()
        if look is not None:
            times.append(max(look, now + _SWEEP_PAUSE))
        return max(now, -(-min(times) // MS) * MS) if times else None

    def low_watermark(self, partition: int) -> int | None:
        """Return the oldest parked offset of a partition of the delayed topic; None: nothing is parked there."""
        lows = self.state.places.low_watermark(partition), self.state.scheduled.low_watermark(partition)
        return min((low for low in lows if low is not None), default=None)

    def low_watermarks(self) -> dict[int, int]:
        """Return the oldest parked offset of each partition in which something is parked."""
        found = {number: self.low_watermark(number) for number in self.partitions}
        return {number: offset for number, offset in found.items() if offset is not None}

    def pause(self, now: int, until: int, tenant: str = "") -> None:
        """Admit nothing, or nothing of one tenant, before `until`.

        The longest pause counts: a worker that was told to wait for seconds must not end what an operator asked for.
        """
        before = self.paused_until(tenant)
        until = min(until, UNTIL_RESUMED)
        self._pause(now, max(before, until), tenant)

    def paused_until(self, tenant: str = "") -> int:
        """Return until when nothing is admitted, or nothing of one tenant; ns, 0 or over already: it is not paused."""
        state = self.state
        return state.tenants.find(short(tenant), state.now).paused_until if tenant else state.paused_until

    def resume(self, now: int, tenant: str = "") -> None:
        """End a pause."""
        self._pause(now, 0, tenant)

    def forget(self, now: int, partition: int, end: int) -> int:
        """Forget what was parked in a partition below an offset, as it is gone from there; return how many requests.

        They take nothing of the limits, and those behind them come earlier. Not between `step` and `parked`.
        """
        state = self.state
        now = state.now = max(now, state.now)
        gone = 0
        queues: dict[Queue, None] = {}
        for queue, _, _, count, cost in state.places.drop_below(partition, end):
            queues[queue] = None
            state.scheduler.shrink(queue, count, count * cost)
            queue.tenant.forecast = None
            state.tenants.touch(queue.tenant, now)
            gone += count
        scheduled = state.scheduled.drop_below(partition, end)
        state.gone += scheduled
        state.changed |= bool(scheduled)
        if gone:
            state.gone += gone
            state.changed = True
            state.scheduler.hasten(queues, now)
            state.forecast.expired()
            state.scheduler.rest(now, state.limits)
            state.forecast.stepped(now, max(now, state.closed_until), admitted=True)
        return gone + scheduled

    @property
    def arrivals(self) -> int:
        """How many requests have come so far: the next one's arrival number."""
        return self.state.sequence

    @property
    def names_tenants(self) -> bool:
        """Whether it knows the tenant of each parked request."""
        return parked_selection.names_tenants(self.state)

    def select(
        self, fit: parked_selection.Filter, cursor: Cursor, end: int, entries: int, requests: int
    ) -> tuple[list[Span], Cursor | None]:
        """Look for parked requests as `SelectablePlaces.select` does."""
        return parked_selection.select(self.state, fit, cursor, end, entries, requests)

    def reject(self, now: int, spans: Sequence[Span], reason: Reason) -> list[Pull]:
        """Let parked requests go without their turn. Not between `step` and `parked`."""
        self.state.now = max(now, self.state.now)
        return parked_selection.take_out(self.state, self.state.now, spans, reason)

    def lose(self, now: int, spans: Sequence[Span]) -> None:
        """Forget parked requests that turned out to be gone from the delayed topic. Not between `step` and `parked`."""
        self.state.now = max(now, self.state.now)
        parked_selection.take_out(self.state, self.state.now, spans, None)

    def shift(self, now: int, spans: Sequence[Span], lane: str) -> int:
        """Put parked requests into another lane of the policy; return how many. Not between `step` and `parked`."""
        self.state.now = max(now, self.state.now)
        return parked_selection.shift(self.state, self.state.now, spans, self.state.lanes[lane])

    def expedite(self, now: int, spans: Sequence[Span]) -> int:
        """Let parked requests go next, ahead of all others, as far as the limits allow; return how many.

        Not between `step` and `parked`.
        """
        self.state.now = max(now, self.state.now)
        return parked_selection.shift(self.state, self.state.now, spans, self.state.express)

    def count_gone(self, count: int) -> None:
        """Count parked requests that turned out to be gone from the delayed topic when they were to leave it."""
        self.state.gone += count

    def set_in_flight(self, now: int, lag: int | None) -> None:
        """Report how many admitted requests the workers have not finished; None: not known, so nothing is held back."""
        state = self.state
        state.now = max(now, state.now)
        state.changed |= state.limits.in_flight.report(lag)

    def share(self, calls: LimitsOfCalls | None) -> None:
        """Share the limits with calls in processes, from the next step on; None: no longer."""
        self.state.limits.share(calls, self.state.policy)

    def share_tenants(self, calls: Mapping[str, CallShare]) -> set[str]:
        """Share the limits of these tenants, and of no others, with calls; return those of which that can't be."""
        refused = self.state.tenants.share(calls, self.now)
        for name in calls.keys() - refused:
            self.state.scheduler.look_again(self.state.tenants.find(name, self.now), self.now)
        self.state.changed = True
        return refused

    def has_own(self, tenant: str) -> bool:
        """Tell whether a tenant has its limits to itself; else it is told apart from others no more."""
        return self.state.tenants.own(tenant, self.now) is not None

    def tenant_limiter(self, tenant: str) -> Limiter | None:
        """Return a tenant's own limits, and what counts in them. To be read, not to be charged."""
        own = self.state.tenants.own(tenant, self.now)
        return None if own is None else own.limiter

    def tenant_units(self, tenant: str) -> int:
        """Return how many units of a tenant are parked."""
        own = self.state.tenants.own(tenant, self.now)
        return 0 if own is None else sum(queue.units for queue in own.queues.values())

    @property
    def limiter(self) -> Limiter:
        """The service's own limits, and what counts in them. To be read, not to be charged."""
        return self.state.limits.limiter

    def recent_per_second(self, now: int) -> float:
        """Return about how many requests have come in a second of late."""
        state = self.state  # the rates take ten seconds to rise, what counts in a window does not
        requests, units = state.admitted.at(now), state.units.at(now)
        went = self.limiter.spent(now, SECOND) * requests / units if units else 0.0
        return max(state.offered.at(now), went)

    def wants(self, per_second: float) -> int:
        """Return about how many units it would admit in the next second if its limits allowed and so many came."""
        head = self.state.scheduler.head()
        cost = 1 if head is None else self.state.scheduler.head_cost(head)
        return (round(per_second) + self.waiting + self.holding.total) * cost

    def set_policy(self, now: int, policy: ServicePolicy, version: str) -> None:
        """Decide by another policy from now on: what was used stays counted, what is parked is forecast anew."""
        for _ in self.changing_policy(now, policy, version):
            pass

    def changing_policy(self, now: int, policy: ServicePolicy, version: str) -> Generator[None, None, None]:
        """Do as `set_policy` does, in slices of some ms; the engine is of no use before the last one."""
        state = self.state
        now = state.now = max(now, state.now)
        return records.change_policy(state, now, policy, version)

    def drain_events(self) -> tuple[Event, ...]:
        """Return the breach events since the last call, once."""
        events, self._events = tuple(self._events), []
        return events

    def usage(self, now: int) -> Usage:
        """Return limits, rates, backlog and counters at one moment; decides nothing."""
        return service_usage(self.state, max(now, self.state.now))

    def drain_changes(self) -> dict[str, bytes | None]:
        """Return the state records that changed since the last call; None: delete."""
        return records.drain_changes(self.state)

    @classmethod
    def restore(
        cls,
        service: str,
        policy: ServicePolicy,
        budgets: Budgets,
        now: int,
        version: str,
        state: Mapping[str, bytes],
        *,
        schedule: AlertSchedule | None = None,
    ) -> Self:
        """Return an engine that goes on where the writer of `state` ended. StateError: damaged, or too new."""
        restoring = cls.restoring(service, policy, budgets, now, version, dict(state), schedule=schedule)
        while True:
            try:
                next(restoring)
            except StopIteration as done:
                engine: Self = done.value
                return engine

    @classmethod
    def restoring(
        cls,
        service: str,
        policy: ServicePolicy,
        budgets: Budgets,
        now: int,
        version: str,
        state: dict[str, bytes],
        *,
        schedule: AlertSchedule | None = None,
    ) -> Generator[None, None, Self]:
        """Do as `restore` does, in slices of some ms; `state` is taken apart."""
        engine = cls(service, policy, budgets, now, version, schedule=schedule)
        yield from records.restore(engine.state, state)
        return engine

    def close(self) -> None:
        """Let go of what refers to each other: the memory of many tenants must not wait for the garbage collector."""
        state = self.state
        for tenant in state.tenants:
            tenant.queues.clear()
        for lane in state.lanes.values():
            lane.fair.clear()

    def _watch_breach(self, now: int) -> None:
        """Collect the breach events of a step."""
        state = self.state
        fill = fullest(state.limits, now)

        def situation() -> Situation:
            return Situation(
                service=state.service,
                policy=state.version,
                backlog=state.waiting + state.holding.total,
                offered_per_second=state.offered.at(now),
                eta_seconds=eta_of_all(state, now),
                usage=0.0 if fill is None else fill.usage,
            )

        self._events += state.breach.events(now, state.waiting, situation)
        if fill is not None:
            threshold = state.policy.near_limit
            self._events += state.breach.near(now, fill.usage, threshold, fill.name, fill.reason, situation)

    def _ready_times(self, now: int) -> list[int]:
        """Return when the queue whose turn it is, and those that their tenant's limit blocks, can go on."""
        state = self.state
        times = []
        start = max(now, state.closed_until)
        head = state.scheduler.head()
        if head is not None and state.limits.closed(now) is None:
            cost = state.scheduler.head_cost(head)
            ready = max(start, ready_at(state.limits.limiters(), now, cost))
            if ready <= now and not state.limits.fit(now, 1, cost):
                ready = now + _RIVAL_POLL
            times.append(ready)
        unblocked = state.scheduler.next_unblocked()
        if unblocked is not None:
            times.append(max(start, unblocked))
        return times

    def _pause(self, now: int, until: int, tenant: str) -> None:
        state = self.state
        now = state.now = max(now, state.now)
        if tenant:
            state.scheduler.pause(state.tenants.find(short(tenant), now), until, now)
        else:
            state.paused_until = until
        state.forecast.forget()
        state.tenants.forget_forecasts()
        state.changed = True
