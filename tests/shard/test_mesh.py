"""The mesh of a shard: what processes and requests in topics have of one limit, together."""

import operator
from itertools import pairwise
from random import Random

import msgspec
import pytest

from gate.admission.engine import Engine
from gate.admission.limits.budget import Budgets
from gate.admission.model import Decision, Run, Verdict
from gate.mesh import wire
from gate.mesh.holder import Holder
from gate.mesh.terms import DEFAULT
from gate.mesh.wire import Ask, BudgetReport, Grant, Report, decode, encode
from gate.policy import parse_policy
from gate.policy.live import LiveService
from gate.protocol.policies import LiveLimit
from gate.shard.mesh import GATHER_NS, Mesh, moved
from gate.shard.placement import shard_of
from gate.units import MS, SECOND
from tests.mesh.checker import Use, over
from tests.sim.log import Stored

START = 1_764_000_000 * SECOND
SHARDS = 4
STEP_MS = 20


class Shard:
    """A shard's mesh, with engines of those services that have requests in topics; every message takes 20 ms."""

    def __init__(self, text: str, topics: tuple[str, ...] = (), *, service: str = "pay", state_format: int = 2) -> None:
        self.policy = parse_policy(text)
        self.now = START
        groups = {name: group.spec for name, group in self.policy.groups.items()}
        self.budgets = Budgets(self.now, groups)
        self.engines: dict[str, Engine] = {}
        self.state_format = state_format
        self.number = shard_of(self.policy.shard_key(service), SHARDS)
        self.kept: dict[str, bytes] = {}
        self.mesh = self._mesh()
        for name in topics:
            self.serve(name)
        self.holders: dict[str, Holder] = {}
        self.reports: list[tuple[int, bytes]] = []
        self.grants: list[tuple[int, Grant]] = []
        self.offset = self.parked = 0
        self.sequence: dict[str, int] = {}
        self.told: dict[int, int] = {}  # when each parked request was to go
        self.late_ms: list[int] = []  # of those that went, by how much later
        self.waits_ms: list[int] = []  # that they were told

    def _mesh(self) -> Mesh:
        def group(name: str):
            budget = self.budgets.get(name)
            return None if budget is None else budget.limiter

        def queues():
            return [(name, self.policy.effective(name).group) for name in self.engines]

        mesh = Mesh(SHARDS, self.policy, lambda: self.state_format, self.engines.get, group, queues)
        for key, value in self.kept.items():
            mesh.keep(key.removeprefix("mesh/"), value)
        mesh.start(self.number, self.now)
        return mesh

    def serve(self, name: str) -> None:
        policy = self.policy.effective(name)
        self.engines[name] = Engine(name, policy, self.budgets, self.now, self.policy.version)

    def take_over(self) -> None:
        """Let another owner go on with what is kept. The engines stay: theirs is another state."""
        self.mesh = self._mesh()
        self.share()

    def share(self) -> None:
        for service in self.mesh.share():
            self.engines[service].share(self.mesh.shared.get(service))
        for service in self.mesh.open_queues(self.now):
            self.engines[service].wake_at()  # as the shard asks before it decides: it must not close them again

    def keep(self) -> None:
        for key, value in self.mesh.changes(self.now).items():
            self.kept.pop(key, None) if value is None else self.kept.update({key: value})

    def report(self, report: Report) -> None:
        self.reports.append((self.now + 20 * MS, encode(report)))

    def look_up(self, *asked: tuple[str, str]) -> list:
        """Ask what calls are charged to, and return the answer."""
        self.report(Report("who", 1, 0, lookups=asked))
        self.now += 20 * MS + GATHER_NS
        return [found for grant in self.batch() if grant.holder == "who" for found in grant.found]

    def batch(self) -> list[Grant]:
        ready = [data for at, data in self.reports if at <= self.now]
        due = self.mesh.wakes_at(waiting=bool(ready))
        if due is None or due > self.now:
            self.share()
            return []
        self.reports = [(at, data) for at, data in self.reports if at > self.now]
        self.offset += len(ready)
        records = [Stored(0, 0, None, data, ()) for data in ready]
        written = self.mesh.turn(self.now, records, self.offset if ready else None, 1)
        self.share()
        return [decode(Grant, value) for record in written.get(0, ()) if (value := record[1])]

    def offer(self, name: str, count: int, tenant: str = "", cost: int = 1) -> int:
        """Offer requests of a topic, and return how many units go."""
        engine = self.engines[name]
        step = engine.step(self.now, [Run(0, count, tenant=tenant, cost=cost)] if count else [], 1000)
        times = [time for d in step.decisions if d.verdict is Verdict.DELAYED for time in self._times(d)]
        engine.parked([(0, self.parked + number) for number in range(len(times))])
        self.told |= {self.parked + number: time for number, time in enumerate(times)}
        self.waits_ms += [(time - self.now) // MS for time in times]
        self.parked += len(times)
        for pull in step.pulls:
            offsets = range(pull.offset, pull.offset + pull.count)
            self.late_ms += [(self.now - self.told.pop(offset)) // MS for offset in offsets]
        self.mesh.note_short(self.now)
        went = sum(d.count for d in step.decisions if d.verdict is Verdict.ADMITTED)
        return cost * (went + sum(pull.count for pull in step.pulls if pull.verdict is Verdict.ADMITTED))

    @staticmethod
    def _times(decision: Decision) -> list[int]:
        assert decision.not_before is not None
        times = decision.not_before
        return list(times) if len(times) == decision.count else list(times) * decision.count

    def run(
        self,
        seconds: float,
        calls: int = 0,
        requests: int = 0,
        *,
        names: tuple[str, ...] = ("pay",),
        tenant: str = "",
        cost: int = 1,
    ):
        """Let each holder try so many calls, and the topic bring so many requests, at each step; return what went."""
        went: list[Use] = []
        by_queue: list[Use] = []
        for _ in range(int(seconds * 1000) // STEP_MS):
            self.now += STEP_MS * MS
            for holder in self.holders.values():
                for at, grant in self.grants:
                    if at <= self.now and grant.holder == holder.name:
                        holder.receive(self.now, grant)
            self.grants = [(at, grant) for at, grant in self.grants if at > self.now]
            for holder in self.holders.values():
                count = sum(cost for _ in range(calls) if holder.check(self.now, names, cost) is None)
                went += [(self.now, count)] if count else []
                if holder.due(self.now) and (report := holder.report(self.now)) is not None:
                    self.report(report)
            self.grants += [(self.now + 20 * MS, grant) for grant in self.batch()]
            for name in self.engines if requests else ():
                count = self.offer(name, requests, tenant, cost)
                by_queue += [(self.now, count)] if count else []
            self.keep()
        return went, by_queue

    def join(self, *names: str) -> None:
        for name in names:
            self.holders[name] = Holder(name, 1, self.now)


BUCKET = """services:
  pay: {requests_per_second: 100, burst_size: 20, window_size: 1, window_limit: 110, overflow: reject}
"""
WINDOW = """services:
  pay: {requests_per_second: 20, burst_size: 40, window_size: 60, window_limit: 400, overflow: reject}
"""


@pytest.mark.parametrize("text", [BUCKET, WINDOW], ids=["bucket", "window"])
def test_calls_and_requests_in_topics_together_keep_to_one_limit_and_use_it(text: str) -> None:
    shard = Shard(text, ("pay",))
    spec = shard.policy.effective("pay").spec
    alone = shard.run(15, requests=3)[1]  # the queue has used the limit when the first process comes
    shard.join("p1", "p2")
    went, by_queue = shard.run(75, calls=1, requests=2)
    assert went
    assert by_queue
    assert over(spec, [*alone, *went, *by_queue], START) == []
    late = [use for use in (*went, *by_queue) if use[0] > START + 30 * SECOND]
    flow = min(float(spec.rate), *[window.limit * SECOND / window.size for window in spec.windows])
    assert sum(units for _, units in late) > 0.9 * flow * 60


class TestTenants:
    """Of a service with requests in topics, for which calls go too."""

    TEXT = """
groups: {{bank: {{requests_per_second: 400, burst_size: 100, window_size: 1}}}}
services:
  pay:
    {{group: bank, requests_per_second: 300, burst_size: 100, window_size: 1,
     overflow: {overflow}, max_delay: 3, max_tenants: 2,
     tenants: {{default: {{requests_per_second: 40, burst_size: 10, window_size: {window}}}}}}}
"""
    NAMES = ("pay", "pay/acme", "group:bank")

    @pytest.mark.parametrize(
        ("overflow", "window", "cost"),
        [("reject", 1, 1), ("delay", 20, 1), ("hold", 1, 1), ("delay", 1, 3), ("reject", 20, 3)],
    )
    def test_calls_and_requests_of_one_tenant_keep_to_its_limit_and_use_it(
        self, overflow: str, window: int, cost: int
    ) -> None:
        shard = Shard(self.TEXT.format(overflow=overflow, window=window), ("pay",))
        spec = shard.policy.effective("pay").tenant("acme")
        assert spec is not None
        alone = shard.run(5, requests=1, tenant="acme", cost=cost)[1]
        [charged] = shard.look_up(("pay", "acme"))
        assert charged.names == self.NAMES
        shard.join("p1", "p2")
        went, by_queue = shard.run(30, calls=1, requests=1, names=self.NAMES, tenant="acme", cost=cost)
        late = [sum(n for at, n in uses if at > shard.now - 20 * SECOND) for uses in (went, by_queue)]
        shard.take_over()
        more = shard.run(5, calls=1, requests=1, names=self.NAMES, tenant="acme", cost=cost)
        assert over(spec, [*alone, *went, *by_queue, *more[0], *more[1]], START) == []
        flow = min(float(spec.rate), *[limit.limit * SECOND / limit.size for limit in spec.windows])
        parts = 3  # each of which may have less left than a dear one costs
        assert sum(late) > (0.9 * flow - (cost - 1) * parts) * 20
        assert min(late) > 0.1 * flow * 20

    def test_others_of_the_service_go_on_meanwhile(self) -> None:
        shard = Shard(self.TEXT.format(overflow="delay", window=1), ("pay",))
        shard.join("p1")
        shard.run(10, calls=3, names=self.NAMES)
        assert sum(units for _, units in shard.run(10, calls=3, requests=1, names=self.NAMES, tenant="other")[1]) > 350

    def test_who_is_forgotten_by_calls_is_forgotten_by_the_queue(self) -> None:
        shard = Shard(self.TEXT.format(overflow="reject", window=1), ("pay",))
        shard.join("p1")
        assert shard.run(5, calls=1, names=self.NAMES)[0]
        tenants = shard.engines["pay"].state.tenants
        assert list(tenants.calls) == ["acme"]
        shard.holders.clear()
        for _ in range(100):
            shard.run(1, requests=0)
            shard.offer("pay", 1, "other")
        assert not tenants.calls
        assert [tenant.name for tenant in tenants] == ["other"]

    def test_a_new_owner_tells_it_apart_although_others_share_a_limit(self) -> None:
        shard = Shard(self.TEXT.format(overflow="reject", window=1), ("pay",))
        shard.join("p1")
        kept: dict[str, bytes] = {}
        shard.run(3, calls=1, names=self.NAMES)
        crowd = [Run(number, 1, tenant=f"t{number}") for number in range(5000)]
        shard.engines["pay"].step(shard.now, crowd, 0)
        shard.run(2, calls=1, names=self.NAMES)
        kept |= {key: value for key, value in shard.engines["pay"].drain_changes().items() if value is not None}
        assert shard.engines["pay"].state.tenants.crowded
        policy = shard.policy.effective("pay")
        for restored in ({}, kept):
            engine = Engine.restore("pay", policy, shard.budgets, shard.now, shard.policy.version, restored)
            engine.step(shard.now, crowd if not restored else [], 0)
            assert engine.state.tenants.crowded
            assert engine.has_own("acme") == bool(restored)

    def test_a_pause_of_a_tenant_holds_for_its_calls_alone(self) -> None:
        shard = Shard(self.TEXT.format(overflow="reject", window=1), ("pay",))
        shard.join("p1")
        shard.run(3, calls=2, names=self.NAMES)
        shard.engines["pay"].pause(shard.now, shard.now + 60 * SECOND, "acme")
        shard.run(12, calls=1, names=self.NAMES)  # what is out ends with its lease
        assert shard.run(5, calls=1, names=self.NAMES)[0] == []
        other = ("pay", "pay/other", "group:bank")
        assert sum(units for _, units in shard.run(5, calls=1, names=other)[0]) > 100

    def test_a_tenant_with_a_limit_of_0_has_no_calls_either(self) -> None:
        shard = Shard(self.TEXT.format(overflow="reject", window=1), ("pay",))
        shard.join("p1")
        shard.run(3, calls=2, names=self.NAMES)
        zero = shard.policy.overlaid({"pay": LiveService(1, None, {"acme": LiveLimit("0")})})
        shard.mesh.set_policy(zero, shard.now)
        shard.run(12, calls=1, names=self.NAMES)
        assert shard.run(5, calls=1, names=self.NAMES)[0] == []


def test_requests_in_topics_go_on_while_their_first_holders_get_their_parts() -> None:
    shard = Shard("services: {pay: {requests_per_second: 100, burst_size: 10, window_size: 3}}", ("pay",))
    before = shard.run(5, requests=1)[1]
    times = [shard.now]
    shard.join("p1", "p2")
    went, by_queue = shard.run(4, calls=6, requests=1)
    times += [at for at, _ in by_queue]
    assert max(after - at for at, after in pairwise(times)) <= 250 * MS
    assert sum(units for at, units in went if at > times[0] + 2 * SECOND) >= 0.9 * 2 * 100 / 2
    assert over(shard.policy.effective("pay").spec, [*before, *went, *by_queue], START) == []


@pytest.mark.parametrize("holders", [(), ("p1", "p2", "p3")])
@pytest.mark.parametrize("grouped", [False, True])
def test_nobody_waits_longer_than_told_when_processes_come(holders: tuple[str, ...], *, grouped: bool) -> None:
    """The topic wants less than its share, as ever: what it wants is known when parts are divided first."""
    limits = "requests_per_second: 280, burst_size: 140, window_size: 3"
    text = f"services: {{pay: {{{limits}}}}}"
    if grouped:
        text = f"groups: {{bank: {{{limits}}}}}\nservices: {{pay: {{group: bank, requests_per_second: 1000}}}}"
    shard = Shard(text, ("pay",))
    shard.run(2, requests=1)
    shard.join(*holders)
    went, by_queue = shard.run(6, calls=2, requests=1, names=("group:bank",) if grouped else ("pay",))
    assert bool(went) is bool(holders)
    assert max(shard.late_ms, default=0) <= 2 * STEP_MS
    assert sum(units for _, units in by_queue) >= 6 * 1000 // STEP_MS - 10


@pytest.mark.parametrize(
    ("limits", "holders", "calls", "requests"),
    [
        ("requests_per_second: 280, burst_size: 140, window_size: 3", 0, 0, 7),
        ("requests_per_second: 280, burst_size: 140, window_size: 3", 3, 2, 3),
        ("requests_per_second: 280, burst_size: 140", 3, 2, 3),
        ("requests_per_second: 280, burst_size: 140, window_size: 20", 3, 2, 3),
    ],
)
def test_what_waits_is_told_by_what_processes_leave(limits: str, holders: int, calls: int, requests: int) -> None:
    """More comes than the topic's share, so that ever more waits; nobody is told the time of a limit without calls."""
    shard = Shard(f"services: {{pay: {{{limits}}}}}", ("pay",))
    shard.join(*[f"p{number}" for number in range(holders)])
    went, by_queue = shard.run(8, calls=calls, requests=requests)
    assert over(shard.policy.effective("pay").spec, [*went, *by_queue], START) == []
    assert max(shard.waits_ms) > 1500
    assert max(shard.late_ms) <= (600 if holders else STEP_MS)
    assert min(shard.late_ms) >= (-600 if holders else 0)


def test_what_is_refused_is_told_when_processes_leave_room() -> None:
    limits = "requests_per_second: 20, burst_size: 20, window_size: 3, overflow: reject"
    shard = Shard(f"services: {{pay: {{{limits}}}}}", ("pay",))
    shard.join("p1", "p2")
    shard.run(6, calls=2, requests=1)
    step = shard.engines["pay"].step(shard.now, [Run(0, 20)], 0)
    [told] = {time for decision in step.decisions for time in decision.not_before or ()}
    assert shard.now < told <= shard.now + 3 * SECOND


def test_what_is_held_back_is_not_tried_again_until_processes_leave_room() -> None:
    shard = Shard("services: {pay: {requests_per_second: 20, burst_size: 20, overflow: hold}}", ("pay",))
    shard.join("p1", "p2")
    shard.run(6, calls=2, requests=1)
    engine = shard.engines["pay"]
    engine.step(shard.now, [Run(0, 20)], 0)
    assert engine.state.held is not None
    wake = engine.wake_at()
    assert wake is None or wake > shard.now + SECOND
    while (wake := engine.wake_at()) is None or wake > shard.now:
        shard.now += STEP_MS * MS
        shard.batch()
    assert engine.step(shard.now, [Run(0, 20)], 0, [(0, 20)]).decisions[0].verdict is Verdict.ADMITTED


def test_what_holders_leave_is_the_queues_again_and_nothing_is_kept_of_them() -> None:
    shard = Shard(BUCKET, ("pay",))
    shard.join("p1")
    went, by_queue = shard.run(5, calls=2, requests=3)
    shard.holders.clear()  # killed
    quiet = shard.run(40)
    assert shard.mesh.wakes_at(waiting=False) is None
    assert not shard.mesh.shared
    assert [key for key in shard.kept if key not in {"mesh/position", "mesh/owner"}] == []
    more = shard.run(5, requests=3)[1]
    assert over(shard.policy.effective("pay").spec, [*went, *by_queue, *more], START) == []
    assert sum(units for _, units in more) > 450
    assert quiet == ([], [])


def test_a_new_owner_goes_on_at_once_and_admits_nothing_beside_what_is_out() -> None:
    shard = Shard(BUCKET, ("pay",))
    shard.join("p1", "p2")
    went, by_queue = shard.run(5, calls=2, requests=3)
    for _ in range(6):
        shard.take_over()
        more = shard.run(2, calls=2, requests=3)
        assert sum(units for _, units in (*more[0], *more[1])) > 150
        went, by_queue = went + more[0], by_queue + more[1]
    assert over(shard.policy.effective("pay").spec, [*went, *by_queue], START) == []


def test_services_without_an_entry_go_on_with_a_new_owner_and_a_new_policy() -> None:
    text = "defaults: {requests_per_second: 100, burst_size: 20, window_size: 1}\nservices: {pay: {}}"
    other = next(name for name in map(str, range(99)) if shard_of(name, SHARDS) == shard_of("pay", SHARDS))
    shard = Shard(text)
    shard.join("p1")
    assert shard.run(3, calls=2, names=(other,))[0]
    shard.take_over()
    shard.run(1, calls=2, names=(other,))
    assert sum(units for _, units in shard.run(3, calls=2, names=(other,))[0]) > 200
    shard.mesh.set_policy(parse_policy(text.replace("100", "50")), shard.now)
    shard.run(11, calls=2, names=(other,))
    assert 130 < sum(units for _, units in shard.run(3, calls=2, names=(other,))[0]) <= 170


def test_a_topic_that_comes_later_shares_what_processes_hold_already() -> None:
    shard = Shard(BUCKET)
    shard.join("p1")
    went, _ = shard.run(5, calls=3)
    shard.serve("pay")
    more = shard.run(20, calls=3, requests=3)
    assert over(shard.policy.effective("pay").spec, [*went, *more[0], *more[1]], START) == []
    assert sum(units for _, units in more[1]) > 300


def test_services_of_a_group_share_its_budget_with_calls() -> None:
    text = """
groups: {bank: {requests_per_second: 50, burst_size: 10, window_size: 1}}
services:
  pay: {group: bank, requests_per_second: 1000, burst_size: 1000, overflow: reject}
  ask: {group: bank, requests_per_second: 1000, burst_size: 1000, overflow: reject}
"""
    shard = Shard(text, ("ask",))
    before = shard.run(3, requests=1)[1]
    [charged] = shard.look_up(("pay", ""))
    assert charged.names == ("pay", "group:bank")
    shard.join("p1")
    went, by_queue = shard.run(20, calls=2, requests=2, names=charged.names)
    assert over(shard.policy.groups["bank"].spec, [*before, *went, *by_queue], START) == []
    assert min(sum(units for _, units in went), sum(units for _, units in by_queue)) > 200


def test_a_pause_and_a_new_policy_hold_for_calls() -> None:
    shard = Shard(BUCKET, ("pay",))
    shard.join("p1")
    shard.run(3, calls=2)
    shard.engines["pay"].pause(shard.now, shard.now + 30 * SECOND)
    shard.run(12)  # what is out ends with its lease
    assert shard.run(10, calls=2)[0] == []
    assert shard.run(15, calls=2)[0]
    low = parse_policy(BUCKET.replace("100", "10"))
    shard.mesh.set_policy(low, shard.now)
    shard.policy = low
    shard.run(11, calls=2)
    lower = shard.run(10, calls=2)[0]
    assert 80 <= sum(units for _, units in lower) <= 110


class TestLookups:
    TEXT = """
fail_open: false
groups: {bank: {requests_per_second: 50, burst_size: 10}}
services:
  pay:
    {group: bank, requests_per_second: 10, burst_size: 10, overflow: reject,
     window_size: 1, tenants: {default: {requests_per_second: 1, burst_size: 1, window_size: 1}}}
  seen: {requests_per_second: 10, burst_size: 10, shadow: true}
"""

    def test_it_says_what_calls_are_charged_to_and_where(self) -> None:
        shard = Shard(self.TEXT)
        plain, tenant, shadow, unknown, odd = shard.look_up(
            ("pay", ""), ("pay", "acme"), ("seen", ""), ("no", ""), ("a b", "")
        )
        home = shard_of("group:bank", SHARDS)
        assert (plain.names, plain.shard) == (("pay", "group:bank"), home)
        assert (tenant.names, tenant.shard) == (("pay", "pay/acme", "group:bank"), home)
        assert (shadow.names, shadow.allowed) == ((), True)
        assert (unknown.names, unknown.allowed, unknown.why) == ((), False, "no policy says what may pass")
        assert (odd.allowed, "letters" in odd.why) == (False, True)

    def test_a_tenant_whose_requests_share_others_limits_is_refused(self) -> None:
        shard = Shard(self.TEXT.replace("pay:\n    {", "pay:\n    {max_tenants: 1, "), ("pay",))
        shard.offer("pay", 1, "a")
        shard.offer("pay", 1, "b")
        crowd = [f"t{number}" for number in range(5000)]
        shard.engines["pay"].step(shard.now, [Run(number, 1, tenant=name) for number, name in enumerate(crowd)], 0)
        found = shard.look_up(*[("pay", name) for name in ["a", *crowd[:90]]])
        assert found[0].allowed
        refused = [one for one in found if not one.allowed]
        assert refused
        assert {one.why for one in refused} == {"pay has more than 1 tenants: requests of this one share others' limit"}

    def test_a_state_in_an_older_format_grants_nothing(self) -> None:
        shard = Shard(self.TEXT, state_format=1)
        assert "upgrade finish" in shard.look_up(("pay", ""))[0].why
        shard.join("p1")
        assert shard.run(3, calls=1)[0] == []
        shard.keep()
        assert set(shard.kept) <= {"mesh/position"}

    def test_made_up_names_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gate.shard.mesh.MOST_UNLISTED", 3)
        shard = Shard("defaults: {requests_per_second: 1, burst_size: 1}\nservices: {pay: {}}")
        found = shard.look_up(*[(f"s{number}", "") for number in range(5)], ("pay", ""))
        assert [one.allowed for one in found] == [True] * 3 + [False] * 2 + [True]


class TestReports:
    @pytest.mark.parametrize(
        "value",
        [
            None,
            b"",
            b"\x01\x00",
            encode(Report("h", 1, 1, (BudgetReport("pay", 0, -5, 0),))),
            encode(Report("h", 1, 1, (BudgetReport("pay", 0, 5, 2**60),))),
            encode(Report("h", 1, 1, (BudgetReport("pay", 0, 5, 0),), partition=7)),
            encode(Report("h", -1, 1, (BudgetReport("pay", 0, 5, 0),))),
            encode(Report("", 1, 1, (BudgetReport("pay", 0, 5, 0),))),
            encode(Report("h" * 201, 1, 1, (BudgetReport("pay", 0, 5, 0),))),
            encode(Report("h", 1, 1, (BudgetReport("pay" * 1000, 0, 5, 0),))),
            encode(Report("h", 1, 1, tuple([BudgetReport(str(n), 0, 5, 0) for n in range(501)]))),
            encode(
                Report("h", 1, 1, (BudgetReport("pay", 0, 5, 0, (), tuple([wire.Run(n, 1) for n in range(1001)])),))
            ),
            encode(Report("h", 1, 1, (BudgetReport("pay", 0, 5, 0, (), (wire.Run(1, 2**60),)),))),
            encode(Report("h", 1, 1, (BudgetReport("pay", 0, 5, 0, alone=(-1, 0)),))),
            encode(Report("h", 1, 1, (), (Ask(1, (), 1),))),
            encode(Report("h", 1, 1, (), (Ask(1, ("a", "b", "c", "d", "e"), 1),))),
            encode(Report("h", 1, 1, (), (Ask(1, ("pay",), -1),))),
            encode(Report("h", 1, 1, (), tuple([Ask(n, ("pay",), 1) for n in range(501)]))),
            encode(Report("h", 1, 1, lookups=(("pay", "x" * 2000),))),
            encode(Report("h", 1, 1, lookups=(("pay", ""),) * 501)),
            b"\x02" + encode(Report("h", 1, 1))[1:],
            b"\x01" + msgspec.msgpack.encode(["h", 1, 1, [["pay", 0, float("nan"), 0]]]),
            b"\x01" + msgspec.msgpack.encode(["h", 1, 1, [["pay", 0, 1.5, 0]]]),
            b"\x01" + b"\xdd\xff\xff\xff\xff",
            b"\x01" + 1_000_000 * b"\x91",
            # deep in what a later holder might have added
            b"\x01\x99" + msgspec.msgpack.encode(["h", 1, 1, [], [], False, 0, []])[1:] + 200_000 * b"\x91" + b"\x90",
            bytes(1 << 20),
        ],
    )
    def test_what_nobody_can_have_sent_is_passed_over(self, value: bytes | None) -> None:
        shard = Shard(BUCKET)
        shard.join("p1")
        shard.run(2, calls=1)
        holders = shard.mesh.holders
        shard.mesh.turn(shard.now, [Stored(0, 0, None, value, ())], 1, 1)
        assert shard.mesh.holders == holders
        assert [one.reports for one in shard.mesh.reports.drain()] == [1]
        assert shard.mesh.reports.drain() == []
        assert shard.run(1, calls=1)[0]

    def test_a_name_and_another_epoch_are_another_holder_and_an_old_report_changes_nothing(self) -> None:
        shard = Shard(BUCKET)
        shard.join("p1")
        shard.run(3, calls=2)
        mine = shard.mesh.owner.leases["p1", 1]
        before = mine.seq, mine.until, mine.held["pay"].acked
        stolen = BudgetReport("pay", 99, 0, 2**50, (0,))
        for report in (
            Report("p1", 2, 2**50, (stolen,), leaving=True),
            Report("p1", 1, 1, (stolen,), leaving=True),
            Report("P1", 1, 2**50, (stolen,)),
        ):
            shard.mesh.turn(shard.now, [Stored(0, 0, None, encode(report), ())], 1, 1)
        assert (mine.seq, mine.until, mine.held["pay"].acked) == before
        assert over(shard.policy.effective("pay").spec, shard.run(12, calls=2)[0], START) == []
        assert shard.mesh.holders == 1

    def test_answers_to_many_lookups_and_many_shares_come_in_records_that_a_broker_takes(self) -> None:
        text = "defaults: {requests_per_second: 1, burst_size: 1, tenants: {default: {requests_per_second: 1}}}\n"
        shard = Shard(text + "services: {pay: {}}")
        tenants = [f"{number:03}" + "t" * 197 for number in range(500)]
        long = [("pay", name + "x" * 800) for name in tenants[:100]]
        entries = tuple([BudgetReport(f"pay/{name}", 0, 5, 0) for name in tenants])
        shard.report(Report("who", 1, 1, entries, lookups=tuple(long)))
        shard.now += 20 * MS + GATHER_NS
        records = shard.mesh.turn(shard.now, [Stored(0, 0, None, data, ()) for _, data in shard.reports], 1, 1)[0]
        assert max(len(value or b"") for _, value, _, _ in records) < 500_000
        grants = [decode(Grant, value) for _, value, _, _ in records if value]
        assert len([found for grant in grants for found in grant.found]) == 100
        assert len({grant.answers for grant in grants if grant.shares}) == 1

    def test_what_processes_did_without_an_owner_is_told_once_and_then_now_and_then(self) -> None:
        shard = Shard(BUCKET)

        def hear(seq: int, let_go: int, refused: int, told: tuple[int, int] = (0, 0), name: str = "pay") -> dict:
            entry = BudgetReport(name, 0, 5, 0, alone=(let_go, refused), told=told)
            shard.report(Report("h", 1, seq, (entry,)))
            shard.now += SECOND
            shard.batch()
            return shard.mesh.pop_alone(shard.now)

        assert hear(1, 0, 0) == {}
        assert hear(2, 5, 1) == {"pay": (5, 1)}
        assert hear(2, 5, 1) == {}  # twice
        assert hear(3, 5, 1) == {}  # the answer was lost
        assert hear(4, 9, 1, told=(5, 1)) == {}
        assert hear(5, 9, 3, told=(5, 1)) == {}
        shard.now += 10 * SECOND
        assert shard.mesh.pop_alone(shard.now) == {"pay": (4, 2)}
        assert shard.mesh.drain_alone() == [("pay", 5, 1), ("pay", 4, 2)]
        assert shard.mesh.drain_alone() == []

    def test_a_budget_of_another_shard_is_not_divided_here(self) -> None:
        shard = Shard("defaults: {requests_per_second: 1, burst_size: 1}\nservices: {pay: {}, ask: {}}")
        other = next(name for name in map(str, range(99)) if shard_of(name, SHARDS) != shard.number)
        shard.look_up((other, ""))
        shard.join("p1")
        assert shard.run(3, calls=1, names=(other,))[0] == []
        assert not shard.mesh.owner.budgets

    def test_nobody_beyond_the_most_is_heard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gate.shard.lease_reports.MOST_HOLDERS", 2)
        shard = Shard(BUCKET)
        shard.join("p1", "p2", "p3")
        shard.run(2, calls=1)
        assert shard.mesh.holders == 2


def test_a_shard_without_holders_has_nothing_to_do_and_nothing_to_write() -> None:
    shard = Shard(BUCKET, ("pay",))
    shard.run(2, requests=3)
    assert shard.mesh.wakes_at(waiting=False) is None
    assert shard.kept == {}
    assert not shard.mesh.is_used


@pytest.mark.parametrize("seed", range(5))
def test_a_reshard_takes_along_what_is_out(seed: int) -> None:
    random = Random(seed)
    shard = Shard(BUCKET, ("pay",))
    shard.join("p1", "p2")
    shard.run(random.randint(2, 6), calls=2, requests=1)
    after = moved([{k.removeprefix("mesh/"): v for k, v in shard.kept.items()}], lambda name: shard_of(name, 7), 7)
    home = shard_of("pay", 7)
    assert [number for number, records in enumerate(after) if records] == [home]
    mesh = Mesh(7, shard.policy, lambda: 2, lambda _: None, lambda _: None, list)
    for key, value in after[home].items():
        mesh.keep(key, value)
    mesh.start(home, shard.now)
    assert mesh.holders == 2
    budget = mesh.owner.budgets["pay"]
    for key, held in shard.mesh.owner.budgets["pay"].held.items():
        kept = budget.held[key].reserved(shard.now)
        assert all(map(operator.ge, kept, held.reserved(shard.now)))  # time in between counts for nothing
    mesh.turn(shard.now + 2 * DEFAULT.lease_ns, [], None, 1)
    assert mesh.holders == 0


def test_a_group_that_is_set_to_0_lets_no_call_of_its_services_through() -> None:
    shard = Shard("groups: {bank: {requests_per_second: 50, window_size: 1}}\nservices: {pay: {group: bank}}")
    [charged] = shard.look_up(("pay", ""))
    shard.join("p1")
    assert shard.run(20, calls=1, names=charged.names)[0]
    shard.mesh.set_policy(shard.policy.overlaid({"group:bank": LiveService(1, LiveLimit("0"))}), shard.now)
    shard.run(12, calls=1, names=charged.names)  # what is out ends with its lease
    assert shard.run(5, calls=1, names=charged.names)[0] == []
    [charged_now] = shard.look_up(("pay", ""))
    assert not charged_now.allowed
    shard.mesh.set_policy(shard.policy, shard.now)
    assert shard.run(20, calls=1, names=charged.names)[0]


def test_a_limit_that_is_set_to_0_lets_no_call_through_and_mints_nothing() -> None:
    shard = Shard(WINDOW)
    shard.join("p1")
    went = shard.run(20, calls=1)[0]
    shard.mesh.set_policy(shard.policy.overlaid({"pay": LiveService(1, LiveLimit("0"))}), shard.now)
    went += shard.run(12, calls=1)[0]  # what is out ends with its lease
    assert shard.run(5, calls=1)[0] == []
    [charged] = shard.look_up(("pay", ""))
    assert (charged.allowed, charged.why) == (False, "the limit of pay is 0")
    shard.mesh.set_policy(shard.policy, shard.now)
    more = shard.run(50, calls=1)[0]
    assert more
    assert over(shard.policy.effective("pay").spec, [*went, *more], START) == []
