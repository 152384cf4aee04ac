"""The engine against a scheduler that is written to be obvious: lists, fractions, one request at a time."""

from dataclasses import dataclass, field
from fractions import Fraction

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gate.admission.model import MS, SECOND, Run
from gate.limits import Per, Quota, Spec, Window
from gate.policy import ServicePolicy, Tenants
from tests.admission.simulation import Simulation
from tests.limits.oracle import period

HOUR = 3600 * SECOND
START = 1_764_000_000 * SECOND


class Log:
    """A limit by its definition: the list of what it admitted."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.tokens, self.last = Fraction(spec.burst), START
        self.log: list[tuple[int, int]] = []

    def tokens_at(self, now: int) -> Fraction:
        assert self.spec.rate is not None
        return min(Fraction(self.spec.burst), self.tokens + self.spec.rate * (now - self.last) / SECOND)

    def fits(self, now: int, cost: int) -> bool:
        if self.spec.rate is not None and self.tokens_at(now) < cost:
            return False
        if any(self.used_of(quota, now) + cost > quota.limit for quota in self.spec.quotas):
            return False
        return all(
            sum(units for at, units in self.log if at > now - window.size) + cost <= window.limit
            for window in self.spec.windows
        )

    def used_of(self, quota: Quota, now: int) -> int:
        return sum(units for at, units in self.log if period(quota, at) == period(quota, now))

    def take(self, now: int, cost: int) -> None:
        if self.spec.rate is not None:
            self.tokens, self.last = self.tokens_at(now) - cost, now
        self.log.append((now, cost))

    def ready(self, now: int, cost: int) -> int:
        """The first whole millisecond at which it fits: found by asking at every moment at which something changes."""
        moments = {now, *(at + window.size for at, _ in self.log for window in self.spec.windows)}
        if self.spec.rate is not None:
            missing = max(Fraction(0), cost - self.tokens_at(now)) * SECOND / self.spec.rate
            moments.add(now - (-missing.numerator // missing.denominator))
        days = range(now - now % HOUR, now + 33 * 24 * HOUR, HOUR) if self.spec.quotas else ()
        moments |= {hour for hour in days if hour > now}  # some of them are midnight in whole hours
        return min(t for m in moments if (t := -(-m // MS) * MS) >= now and self.fits(t, cost))


@dataclass
class Line:
    """A queue: requests (number, cost) of one tenant in one lane."""

    requests: list[tuple[int, int]] = field(default_factory=list)
    tag: Fraction = Fraction(0)
    order: int = 0
    until: int = 0


class Reference:
    """Start-time fair queueing over lanes and their tenants, by the book."""

    def __init__(self, policy: ServicePolicy) -> None:
        self.policy = policy
        self.limit = Log(policy.spec)
        self.tenants: dict[str, Log | None] = {}
        self.lanes: dict[str, dict[str, Line]] = {name: {} for name in policy.lanes}
        self.lane_tags = dict.fromkeys(policy.lanes, Fraction(0))
        self.active: set[str] = set()  # lanes
        self.virtual = Fraction(0)  # of the lanes
        self.virtuals = dict.fromkeys(policy.lanes, Fraction(0))  # of the tenants in each
        self.orders = dict.fromkeys(policy.lanes, 0)
        self.taking: set[tuple[str, str]] = set()  # lines that take part

    def step(self, now: int, arrivals: list[tuple[int, str, str, int]]) -> list[int]:
        """Return the numbers of those that are admitted, in order."""
        blocked = sorted(
            (line.until, name, line.order, tenant)
            for name, lines in self.lanes.items()
            for tenant, line in lines.items()
            if line.until and line.until <= now
        )
        for _, name, _, tenant in blocked:
            self.lanes[name][tenant].until = 0
            self.join(name, tenant)
        for number, name, tenant, cost in arrivals:
            self.lanes[name].setdefault(tenant, Line()).requests.append((number, cost))
            self.join(name, tenant)
        admitted = []
        while (place := self.next()) is not None:
            name, tenant = place
            line = self.lanes[name][tenant]
            number, cost = line.requests[0]
            own = self.own(tenant)
            if own is not None and not own.fits(now, cost):
                line.until = own.ready(now, cost)
                self.leave(name, tenant)
                continue
            if not self.limit.fits(now, cost):
                break
            self.limit.take(now, cost)
            if own is not None:
                own.take(now, cost)
            line.requests.pop(0)
            admitted.append(number)
            self.virtuals[name], line.tag = line.tag, line.tag + cost
            self.virtual = self.lane_tags[name]
            self.lane_tags[name] += cost / self.policy.lanes[name]
            if not line.requests:
                self.leave(name, tenant)
        self.rest()
        return admitted

    def own(self, tenant: str) -> Log | None:
        if tenant not in self.tenants:
            spec = self.policy.tenant(tenant)
            self.tenants[tenant] = None if spec is None else Log(spec)
        return self.tenants[tenant]

    def join(self, name: str, tenant: str) -> None:
        line = self.lanes[name][tenant]
        if line.until or (name, tenant) in self.taking:
            return
        if not line.order or line.tag <= self.virtuals[name]:
            self.orders[name] += 1
            line.order, line.tag = self.orders[name], self.virtuals[name]
        self.taking.add((name, tenant))
        if name not in self.active:
            self.active.add(name)
            self.lane_tags[name] = max(self.lane_tags[name], self.virtual)

    def leave(self, name: str, tenant: str) -> None:
        self.taking.discard((name, tenant))
        if not any(lane == name for lane, _ in self.taking):
            self.active.discard(name)

    def next(self) -> tuple[str, str] | None:
        if not self.active:
            return None
        ranks = {name: rank for rank, name in enumerate(self.policy.lanes)}
        name = min(self.active, key=lambda name: (self.lane_tags[name], ranks[name]))
        lines = self.lanes[name]
        tenant = min(
            (tenant for lane, tenant in self.taking if lane == name),
            key=lambda tenant: (lines[tenant].tag, lines[tenant].order),
        )
        return name, tenant

    def rest(self) -> None:
        """Nobody waits in a lane, or in all: what was had before counts no more."""
        for name, lines in self.lanes.items():
            if not any(line.requests for line in lines.values()):
                self.virtuals[name] = Fraction(0)
                for line in lines.values():
                    line.tag, line.order, line.until = Fraction(0), 0, 0
        if not any(line.requests for lines in self.lanes.values() for line in lines.values()):
            self.virtual = Fraction(0)
            self.lane_tags = dict.fromkeys(self.lane_tags, Fraction(0))

    def waiting(self) -> list[tuple[str, str, int, int]]:
        return [
            (name, tenant, number, cost)
            for name, lines in self.lanes.items()
            for tenant, line in lines.items()
            for number, cost in line.requests
        ]


SPECS = st.builds(
    Spec,
    st.sampled_from([None, Fraction(1, 3), Fraction(2), Fraction(7), Fraction(50)]),
    st.sampled_from([4, 5, 20]),
    st.sampled_from([(), (Window(4, SECOND),), (Window(6, 5 * SECOND), Window(50, 60 * SECOND))]),
    st.sampled_from([(), (), (Quota(9, Per.DAY, "Europe/Berlin"),), (Quota(12, Per.DAY), Quota(30, Per.MONTH))]),
)
LANES = st.sampled_from(
    [{"default": 1}, {"hi": 6, "default": 3, "low": 1}, {"default": Fraction(5, 2), "x": Fraction(1, 3)}]
)
RUNS = st.lists(
    st.tuples(
        st.sampled_from(["hi", "default", "low", "x"]),
        st.sampled_from(["", "a", "b"]),
        st.integers(1, 9),
        st.integers(1, 4),
    ),
    max_size=5,
)


class Comparison(RuleBasedStateMachine):
    @initialize(spec=SPECS, lanes=LANES, limited=st.booleans(), restart=st.booleans())
    def begin(self, spec: Spec, lanes: dict[str, int], limited: bool, restart: bool) -> None:
        tenants = {"a": {"requests_per_second": Fraction(1, 2), "burst_size": 4, "window_size": None}}
        policy = ServicePolicy(
            "svc", spec, lanes={name: Fraction(w) for name, w in lanes.items()},
            tenants=Tenants.of(tenants) if limited else None,
        )  # fmt: skip
        self.sim = Simulation(policy, now=START, restart=restart)
        self.reference = Reference(policy)
        self.arrived: list[tuple[int, str, str, int]] = []

    def both(self, runs: list[tuple[str, str, int, int]]) -> None:
        first = len(self.sim.history.submitted_at)
        at, made, arrivals = 0, [], []
        for named, tenant, count, cost in runs:
            made.append(Run(at, count, named, tenant, cost))
            lane = named if named in self.sim.policy.lanes else "default"
            arrivals += [(first + at + i, lane, tenant, cost) for i in range(count)]
            at += count
        before = len(self.sim.history.admissions)
        self.sim.submit(*made)
        self.arrived += arrivals
        admitted = [
            n for _, number, count in self.sim.history.admissions[before:] for n in range(number, number + count)
        ]
        assert sorted(admitted) == sorted(self.reference.step(self.sim.now, arrivals))

    @rule(runs=RUNS)
    def arrive(self, runs: list[tuple[str, str, int, int]]) -> None:
        self.both(runs)

    @rule(wait=st.sampled_from([1, 40, 500, 3000, 20_000]), runs=RUNS)
    def later(self, wait: int, runs: list[tuple[str, str, int, int]]) -> None:
        self.sim.now += wait * MS
        self.both(runs)

    @rule()
    def wake(self) -> None:
        wake = self.sim.engine.wake_at()
        if wake is not None:
            self.sim.now = max(self.sim.now, wake)
            self.both([])

    @invariant()
    def the_same_waits(self) -> None:
        if hasattr(self, "sim"):
            waiting = self.reference.waiting()
            assert self.sim.engine.waiting == len(waiting)
            lanes = {lane.name: (lane.requests, lane.units) for lane in self.sim.engine.state.lanes.values()}
            for name, counted in lanes.items():
                costs = [cost for lane, _, _, cost in waiting if lane == name]
                assert counted == (len(costs), sum(costs))

    @invariant()
    def first_in_first_out_in_lane_and_tenant(self) -> None:
        if hasattr(self, "sim"):
            last: dict[tuple[str, str], int] = {}
            for number, lane, tenant, _ in self.arrived:
                at = self.sim.history.admitted_at[number] or 2**62
                assert at >= last.get((lane, tenant), 0)
                last[lane, tenant] = at


TestComparison = Comparison.TestCase
TestComparison.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)


def test_who_has_room_of_its_own_takes_a_turn_like_all_others():
    """A tenant without a limit pays its lane's tag though another one's limit keeps the batch from passing."""
    one = Comparison()
    one.begin(Spec(None, 4, ()), {"hi": 6, "default": 3, "low": 1}, limited=True, restart=False)
    one.both([("hi", "", 1, 1), ("hi", "a", 1, 2), ("default", "a", 1, 3)])
    one.the_same_waits()
