"""One service's engine: decides about batches of requests. Pure and mutable."""

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from typing import Final, Self

from gate.admission import records
from gate.admission.breach import Beat, Breach, Meter, Situation
from gate.admission.forecast.forecast import Forecast
from gate.admission.forecast.single_queue import ready_at
from gate.admission.limits.budget import Budgets
from gate.admission.limits.service import Limits
from gate.admission.model import MS, UNTIL_RESUMED, Event, Reason, Run, Step, Usage, Verdict
from gate.admission.overflow import Held
from gate.admission.queues.holding import Holding
from gate.admission.queues.parked import Parked
from gate.admission.queues.queue import Arrival, lanes_of
from gate.admission.queues.segment import NO_DEADLINE
from gate.admission.queues.tenants import Tenants, short
from gate.admission.report import eta_of_all, fullest, service_usage
from gate.admission.scheduler import Scheduler
from gate.admission.step import decide
from gate.limits import Limiter
from gate.policy import ServicePolicy

_SWEEP_PAUSE: Final = 1_000 * MS  # between looks that only forget tenants
_RIVAL_POLL: Final = 10 * MS  # while a service that shares the budget is to take its turn first

TotalKey = tuple[str, Verdict, Reason | None, bool]  # lane, verdict, reason, pulled


class Engine:
    """Admission of one service's requests.

    Times are ns of unix time; a `now` before the newest one seen is taken as the newest one seen. After a step with
    DELAYED decisions `parked` must follow before the next step. Not thread-safe.
    """

    def __init__(
        self, service: str, policy: ServicePolicy, budgets: Budgets, now: int, version: str, *, beat: Beat | None = None
    ) -> None:
        self.service = service
        self.policy = policy
        self.version = version
        self.now = now
        self.budgets = budgets
        self.lanes = lanes_of(policy.lanes)
        self.limits = Limits(service, Limiter(policy.spec, now), budgets.get(policy.group))
        self.tenants = Tenants(service, policy, self.lanes, now)
        self.places = Parked(service)
        self.scheduler = Scheduler(self.lanes, self.places, self.tenants)
        self.forecast = Forecast(self.scheduler, self.places, self.limits)
        self.sequence = 0  # numbers all requests in the order of arrival
        self.paused_until = 0
        self.lag: int | None = None  # of the workers, as last reported
        self.admitted_since = 0  # that report
        self.purge = False  # a new policy may have made parked requests impossible
        self.held: Held | None = None
        self.holding = Holding()
        self.breach = Breach(beat or Beat())
        self.totals: Counter[TotalKey] = Counter()
        self.unknown_lanes = 0
        self.gone = 0  # parked requests that somebody deleted
        self.refusal: tuple[int, Reason, str] | None = None
        self.offered, self.admitted, self.units = Meter(), Meter(), Meter()
        self.changed = True  # since the last call of `changes`
        self._events: list[Event] = []
        self.unplaced: list[tuple[Arrival, int, int]] = []  # delayed: with number in the batch and count
        self._base = 0  # the sequence of the batch's first request

    def step(self, now: int, runs: Sequence[Run], room: int, again: Sequence[tuple[int, int]] = ()) -> Step:
        """Decide about a batch, and pull at most `room` parked requests.

        `again` says which of the batch, as first and count, were held before: they are counted already.
        ValueError: a run without requests, or with a cost below 1. RuntimeError: places of the last step are missing.
        """
        if self.unplaced:
            raise RuntimeError(f"{self.service}: step was called before parked, which it still expects")
        now = self.now = max(now, self.now)
        self.held, self.changed, self._base = None, True, self.sequence
        self.holding.again = again
        offered = 0
        for run in runs:
            if run.count < 1 or run.cost < 1:
                raise ValueError(f"{self.service}: a run needs requests and a cost of at least 1: {run}")
            offered += run.count
        if runs:
            self.offered.add(now, offered - sum(self.holding.known(run.first, run.count) for run in runs if again))
            self.sequence += runs[-1].first + runs[-1].count
        step = decide(self, now, runs, offered, room)
        self._watch_breach(now)
        self.tenants.sweep(now, quiet=not runs)
        return step

    def parked(self, places: Sequence[tuple[int, int]]) -> None:
        """Take partition and offset of each request that the last step delayed, in the order of its decisions.

        ValueError: there are more or fewer places than delayed requests.
        """
        expected = sum(count for _, _, count in self.unplaced)
        if len(places) != expected:
            raise ValueError(f"{self.service}: {len(places)} places for {expected} delayed requests")
        at = 0
        for arrival, number, count in self.unplaced:
            deadline = NO_DEADLINE if arrival.deadline is None else min(arrival.deadline // MS, NO_DEADLINE)
            seq, end = self._base + number, at + count
            while at < end:
                partition, offset = places[at]
                length = 1
                while at + length < end and places[at + length] == (partition, offset + length):
                    length += 1
                self.places.add(arrival.queue, partition, offset, seq, length, arrival.cost, deadline)
                at, seq = at + length, seq + length
        self.unplaced.clear()
        self.scheduler.coming.clear()
        self.changed = True

    def wake_at(self) -> int | None:
        """Return when to call `step` again even if nothing arrives, in whole ms; None: not by itself."""
        now, times = self.now, []
        if self.waiting:
            if self.scheduler.more or self.policy.shadow or self.purge:
                return now
            times += self._ready_times(now)
            deadline = self.places.next_deadline()
            if deadline is not None:
                times.append((deadline + 1) * MS)
        if self.held is not None and (self.held.until is not None or self.allowed() != 0):
            times.append(self.held.until or now)
        due = self.breach.due(self.waiting)
        if due is not None:
            times.append(due)
        look = self.tenants.next_look()
        if look is not None:
            times.append(max(look, now + _SWEEP_PAUSE))
        return max(now, -(-min(times) // MS) * MS) if times else None

    def low_watermark(self, partition: int) -> int | None:
        """Return the oldest parked offset of a partition of the delayed topic; None: nothing is parked there."""
        return self.places.low_watermark(partition)

    def low_watermarks(self) -> dict[int, int]:
        """Return the oldest parked offset of each partition in which something is parked."""
        found = {number: self.places.low_watermark(number) for number in self.places.partitions}
        return {number: offset for number, offset in found.items() if offset is not None}

    @property
    def waiting(self) -> int:
        """Parked requests."""
        return sum(lane.requests for lane in self.lanes.values())

    def pause(self, now: int, until: int, tenant: str = "") -> None:
        """Admit nothing, or nothing of one tenant, before `until`.

        The longest pause counts: a worker that was told to wait for seconds must not end what an operator asked for.
        """
        until = min(until, UNTIL_RESUMED)
        before = self.tenants.find(short(tenant), max(now, self.now)).paused_until if tenant else self.paused_until
        self._pause(now, max(before, until), tenant)

    def resume(self, now: int, tenant: str = "") -> None:
        """End a pause."""
        self._pause(now, 0, tenant)

    def forget(self, now: int, partition: int, end: int) -> int:
        """Forget what was parked in a partition below an offset, as it is gone from there; return how many requests.

        They take nothing of the limits, and those behind them come earlier. Not between `step` and `parked`.
        """
        now = self.now = max(now, self.now)
        gone = 0
        for queue, _, _, count, cost in self.places.drop_below(partition, end):
            self.scheduler.shrink(queue, count, count * cost)
            queue.tenant.forecast = None
            self.tenants.touch(queue.tenant, now)
            gone += count
        if gone:
            self.gone += gone
            self.changed = True
            self.forecast.expired()
            self.scheduler.rest(now, self.limits)
            self.forecast.stepped(now, max(now, self.paused_until), admitted=True)
        return gone

    def set_in_flight(self, now: int, lag: int | None) -> None:
        """Report how many admitted requests the workers have not finished; None: not known, so nothing is held back."""
        self.now = max(now, self.now)
        if (self.lag, self.admitted_since) != (lag, 0):
            self.lag, self.admitted_since, self.changed = lag, 0, True

    def set_policy(self, now: int, policy: ServicePolicy, version: str) -> None:
        """Decide by another policy from now on: what was used stays counted, what is parked is forecast anew."""
        for _ in self.changing_policy(now, policy, version):
            pass

    def changing_policy(self, now: int, policy: ServicePolicy, version: str) -> Generator[None, None, None]:
        """Do as `set_policy` does, in slices of some ms; the engine is of no use before the last one."""
        now = self.now = max(now, self.now)
        return records.change_policy(self, now, policy, version)

    def events(self) -> tuple[Event, ...]:
        """Return the breach events since the last call."""
        events, self._events = tuple(self._events), []
        return events

    def usage(self, now: int) -> Usage:
        """Return limits, rates, backlog and counters at one moment; decides nothing."""
        return service_usage(self, max(now, self.now))

    def changes(self) -> dict[str, bytes | None]:
        """Return the state records that changed since the last call; None: delete."""
        return records.changes(self)

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
        beat: Beat | None = None,
    ) -> Self:
        """Return an engine that goes on where the writer of `state` ended. StateError: damaged, or too new."""
        restoring = cls.restoring(service, policy, budgets, now, version, dict(state), beat=beat)
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
        beat: Beat | None = None,
    ) -> Generator[None, None, Self]:
        """Do as `restore` does, in slices of some ms; `state` is taken apart."""
        engine = cls(service, policy, budgets, now, version, beat=beat)
        yield from records.restore(engine, state)
        return engine

    def close(self) -> None:
        """Let go of what refers to each other: the memory of many tenants must not wait for the garbage collector."""
        for tenant in self.tenants:
            tenant.queues.clear()
        for lane in self.lanes.values():
            lane.fair.clear()

    def allowed(self, admitted: int = 0) -> int | None:
        """Return how many requests may go before workers fall too far behind; None: any number."""
        if self.policy.max_in_flight is None or self.lag is None:
            return None
        return max(0, self.policy.max_in_flight - self.lag - self.admitted_since - admitted)

    def _watch_breach(self, now: int) -> None:
        """Collect the breach events of a step."""
        fill = fullest(self.limits, now)

        def situation() -> Situation:
            return Situation(
                service=self.service,
                policy=self.version,
                backlog=self.waiting + self.holding.total,
                offered_per_second=self.offered.at(now),
                eta_seconds=eta_of_all(self, now),
                usage=0.0 if fill is None else fill.usage,
            )

        self._events += self.breach.events(now, self.waiting, situation)
        if fill is not None:
            self._events += self.breach.near(now, fill.usage, self.policy.near_limit, fill.name, fill.reason, situation)

    def _ready_times(self, now: int) -> list[int]:
        """Return when the queue whose turn it is, and those that their tenant's limit blocks, can go on."""
        times = []
        start = max(now, self.paused_until)
        head = self.scheduler.head()
        if head is not None and self.allowed() != 0:
            cost = self.scheduler.head_cost(head)
            ready = max(start, ready_at(self.limits.limiters(), now, cost))
            if ready <= now and not self.limits.fit(now, 1, cost):
                ready = now + _RIVAL_POLL
            times.append(ready)
        unblocked = self.scheduler.next_unblocked()
        if unblocked is not None:
            times.append(max(start, unblocked))
        return times

    def _pause(self, now: int, until: int, tenant: str) -> None:
        now = self.now = max(now, self.now)
        if tenant:
            self.scheduler.pause(self.tenants.find(short(tenant), now), until, now)
        else:
            self.paused_until = until
        self.forecast.forget()
        self.tenants.forget_forecasts()
        self.changed = True
