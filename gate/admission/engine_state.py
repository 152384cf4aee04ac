"""State of one service's engine: all that its records keep, in one place."""

from collections import Counter
from collections.abc import Iterable
from fractions import Fraction

from gate.admission.breach_events import AlertSchedule, Breach, DecayingRate
from gate.admission.fair_scheduler import FairScheduler
from gate.admission.forecast.forecast import Forecast
from gate.admission.forecast.single_queue import SingleQueue
from gate.admission.limits.budget import Budgets
from gate.admission.limits.service import Bound, Limits
from gate.admission.model import EXPEDITED, FOREVER, UNTIL_RESUMED, Reason, Verdict
from gate.admission.overflow import Held
from gate.admission.queues.holding import Holding
from gate.admission.queues.queue import Lane, Queue, express_lane, lanes_of
from gate.admission.queues.scheduled_places import Scheduled
from gate.admission.queues.selectable import SelectablePlaces
from gate.admission.queues.tenants import Tenants
from gate.admission.recent_ids import RecentIds
from gate.admission.state import LaneRecord, ServiceRecord, TotalRecord
from gate.limits import Limiter
from gate.policy import Deduplicate, ServicePolicy

TotalKey = tuple[str, Verdict, Reason | None, bool]  # lane, verdict, reason, pulled


class EngineState:
    """What one service has used, what waits for it, and what was counted. Its parts change themselves."""

    def __init__(
        self, service: str, policy: ServicePolicy, budgets: Budgets, now: int, version: str, schedule: AlertSchedule
    ) -> None:
        self.service = service
        self.policy = policy
        self.version = version
        self.now = now
        self.budgets = budgets
        self.lanes = lanes_of(policy.lanes)
        self.limits = Limits(service, policy, budgets.get(policy.group), now)
        self.tenants = Tenants(service, policy, self.lanes, now)
        self.scheduled = Scheduled(service)
        self.places = SelectablePlaces(service)
        self.scheduler = FairScheduler(self.lanes, self.places, self.tenants)
        self.forecast = Forecast(self.scheduler, self.places, self.limits)
        self.recent = RecentIds(service, self.tenants.salt, _once(policy))
        self.sequence = 0  # numbers all requests in the order of arrival
        self.paused_until = 0
        self.purge = False  # a new policy may have made parked requests impossible
        self.held: Held | None = None
        self.holding = Holding()
        self.breach = Breach(schedule)
        self.totals: Counter[TotalKey] = Counter()
        self.unknown_lanes = 0
        self.gone = 0  # parked requests that somebody deleted
        self.refusal: tuple[int, Reason, str] | None = None
        self.offered, self.admitted, self.units = DecayingRate(), DecayingRate(), DecayingRate()
        self.changed = True  # since the last record

    @property
    def waiting(self) -> int:
        """Parked requests."""
        return sum(lane.requests for lane in self.lanes.values())

    @property
    def blocked_until(self) -> int:
        """Until when its limit is 0, ns."""
        return min(self.policy.blocked_until, UNTIL_RESUMED)

    @property
    def closed_until(self) -> int:
        """Until when nothing goes, by a pause or a limit of 0; ns."""
        return max(self.paused_until, self.blocked_until)

    def closed_by(self, now: int) -> Bound | None:
        """Name what lets nothing go; None: nothing does."""
        if self.blocked_until > now:
            return Bound(Reason.BLOCKED, self.service)
        return Bound(Reason.PAUSED, self.service) if self.paused_until > now else None

    def lane(self, name: str, count: int) -> Lane:
        """Return the lane that `count` requests name, and count those that name none of the policy's."""
        lane = self.lanes.get(name)
        if lane is None or not lane.stride:  # into that of the expedited only an operator puts anything
            if name:
                self.unknown_lanes += count
            lane = self.lanes[self.policy.default_lane]
        return lane

    @property
    def express(self) -> Lane:
        """The lane of what is expedited; it is there as long as something waits in it."""
        return self.lanes.setdefault(EXPEDITED, express_lane())

    def free(self, now: int, tenants: Iterable[str | None]) -> None:
        """Take that requests of these tenants run no more: others may go."""
        for name in tenants:
            if name is not None:
                tenant = self.tenants.find(name, now)
                tenant.running = max(0, tenant.running - 1)
                self.scheduler.look_again(tenant, now)
        if self.held is not None:
            self.held = Held(now)
        self.changed = True

    def admit(self, now: int, requests: int, units: int) -> None:
        """Count what a step admitted."""
        if requests:
            self.admitted.add(now, requests)
            self.units.add(now, units)

    def refuse(self, now: int, count: int, reason: Reason, limit: str) -> None:
        """Note that a limit stands in the way of requests, `count` of which are seen for the first time."""
        self.refusal = (now, reason, limit)
        self.breach.refuse(now, count, reason, limit)

    def queue(self, lane: str, tenant: str) -> Queue:
        """Return the queue of a restored segment."""
        return self.tenants.queue(self.tenants.find(tenant, self.now), self._kept_lane(lane))

    def take_policy(self, now: int, policy: ServicePolicy, version: str) -> None:
        """Take another policy's limits; what was used stays counted."""
        self.policy, self.version, self.changed = policy, version, True
        self.recent.follow(_once(policy), self.tenants.salt)
        self.limits.reconfigure(policy, self.budgets.get(policy.group), now)

    def take_lanes(self, kept: dict[str, Lane]) -> None:
        """Have these lanes and no others; turns begin anew."""
        self.lanes.clear()
        self.lanes.update(kept)
        self.scheduler.lanes.virtual = 0
        for lane in kept.values():
            lane.start = 0

    def record(self) -> ServiceRecord:
        """Return what is kept, but what hangs on the queues."""
        scheduler, single = self.scheduler, self.forecast.single
        return ServiceRecord(
            policy=self.version,
            now=self.now,
            sequence=self.sequence,
            limiter=self.limits.limiter.dump(),
            plan=None if single is None else [limiter.dump() for limiter in single.limiters],
            plan_at=0 if single is None else min(single.at, FOREVER),
            virtual=scheduler.lanes.virtual,
            lanes=[
                LaneRecord(lane.name, lane.start, lane.epoch, lane.fair.virtual, lane.orders, lane.busy)
                for lane in self.lanes.values()
                if lane.stride or lane.requests or lane.busy
            ],
            totals=[
                TotalRecord(lane, verdict, reason or "", pulled, requests)
                for (lane, verdict, reason, pulled), requests in sorted(self.totals.items(), key=str)
            ],
            breach=self.breach.record(),
            meters=[(meter.rate, meter.last) for meter in (self.offered, self.admitted, self.units)],
            paused_until=self.paused_until,
            paused=self.tenants.paused,
            lag=self.limits.in_flight.lag,
            admitted_since=self.limits.in_flight.admitted,
            unknown_lanes=self.unknown_lanes,
            refusal=self.refusal,
            more=scheduler.more,
            purge=self.purge,
            held=self.held,
            anchor=self.forecast.drift.record(),
            salt=self.tenants.salt,
            shared_requests=self.tenants.shared_requests,
            plans=self.tenants.forecasts,
            renamed=list(self.tenants.renamed),
            holding=self.holding.record(),
            gone=self.gone,
        )

    def restore(self, record: ServiceRecord) -> None:
        """Take what was kept, but what hangs on the queues."""
        self.now = max(self.now, record.now)
        self.sequence = record.sequence
        self.limits.limiter = Limiter.load(self.policy.spec, record.limiter)
        limiters = self.limits.limiters()
        if record.plan is not None and record.policy == self.version and len(record.plan) == len(limiters):
            ahead = [Limiter.load(own.spec, data) for own, data in zip(limiters, record.plan, strict=True)]
            self.forecast.single = SingleQueue(ahead, record.plan_at)
        if record.holding is not None:
            self.holding.restore(record.holding)
        if record.anchor is not None:
            self.forecast.drift.restore(record.anchor)
        self.scheduler.lanes.virtual = record.virtual
        self.scheduler.more = record.more
        for kept in record.lanes:
            lane = self._kept_lane(kept.name)
            lane.start, lane.epoch, lane.orders, lane.busy = kept.start, kept.epoch, kept.orders, kept.busy
            lane.fair.virtual = kept.virtual
        for total in record.totals:
            reason = Reason(total.reason) if total.reason else None
            self.totals[total.lane, Verdict(total.verdict), reason, total.pulled] = total.requests
        self.breach = Breach(self.breach.schedule, record.breach)
        self.offered, self.admitted, self.units = (DecayingRate(rate, last) for rate, last in record.meters)
        self.paused_until = record.paused_until
        self.limits.in_flight.lag, self.limits.in_flight.admitted = record.lag, record.admitted_since
        self.unknown_lanes, self.purge, self.gone = record.unknown_lanes, record.purge, record.gone
        if record.refusal is not None:
            self.refusal = record.refusal[0], Reason(record.refusal[1]), record.refusal[2]
        self.tenants.salt = record.salt or self.tenants.salt
        self.recent.follow(_once(self.policy), self.tenants.salt)
        self.tenants.shared_requests, self.tenants.forecasts = record.shared_requests, record.plans
        self.tenants.renamed = dict.fromkeys(record.renamed)
        self.held = None if record.held is None else Held(*record.held)

    def _kept_lane(self, name: str) -> Lane:
        """Return a lane by its name; the policy may have lost it while no gate ran."""
        if name == EXPEDITED:
            return self.express
        return self.lanes.setdefault(name, Lane(name, Fraction(1), 1, len(self.lanes)))


def _once(policy: ServicePolicy) -> Deduplicate | None:
    """Return by which rules repeats are told apart; a shadow refuses nothing, so it does not ask."""
    return None if policy.shadow else policy.deduplicate
