"""What an owner does with limits of groups: it is their shard's, none of their services need have come."""

import pytest

from gate.policy import parse_policy
from gate.protocol.answers import decode_answer
from gate.protocol.control import Cancel, ClearLimit, ImportLimits, Selection, SetLimit
from gate.protocol.policies import LiveLimit
from gate.protocol.topics import Names
from gate.shard.buffer import FetchBuffer, MemoryPool
from gate.shard.changelog_records import FORMAT, Meta, read_meta
from gate.shard.owner import Shard
from gate.shard.owner_views import Received
from gate.shard.placement import shard_of
from gate.shard.records import Fetched, Partition
from gate.shard.routing import Batch
from gate.shard.state import ShardState
from gate.units import MS
from tests.shard import memory
from tests.shard.memory import SHARDS, Kafka, until
from tests.shard.test_state import Commands, look
from tests.sim.log import Stored

SECOND = 1_000 * MS
NOW = 1_764_000_000 * SECOND
POLICY = """
groups: {bank: {requests_per_second: 1, burst_size: 1}, other: {requests_per_second: 1}}
services: {a: {group: bank}, b: {group: bank, overflow: reject}, c: {group: other}}
"""
HOME = shard_of("group:bank", 16)
BLOCK = LiveLimit(requests_per_second="0")
MORE = LiveLimit(requests_per_second="2", burst_size=20)


class Owner:
    """A shard's state, and all that its batches have written."""

    def __init__(self, number=HOME, policy=POLICY):
        self.number, self.policy, self.kept, self.answers, self.offset = number, parse_policy(policy), {}, [], 0
        self.meta = Meta(FORMAT, 16)
        self.sent = []
        self.begin()

    def begin(self, now=NOW):
        """Take over."""
        self.state = ShardState(Names(), self.policy, self.meta, {}, now)
        for _ in self.state.restore(dict(self.kept), now):
            pass
        self.state.start_mesh(self.number, now, 10 * SECOND)

    def give(self, command, now=NOW):
        self.offset += 1
        at = self.offset
        self.sent.append(Received(at, command.service, command, True, f"c{at}", "ann@ops", "campaign", now // MS))
        self.look(now)

    def look(self, now):
        self.state.apply(Commands(*self.sent), now)
        for _ in self.state.follow_limits(now):
            pass
        self.write(now, [])

    def write(self, now, turns):
        for key, value in self.state.changes(turns).items():
            self.kept.pop(key, None)
            if value is not None:
                self.kept[key] = value
        reports = [record.value for (topic, _), record in self.state.live.reports() if topic == Names().answers]
        self.answers += map(decode_answer, reports)
        self.meta = read_meta(self.state.meta(now), 16)

    def ask(self, service, count, now):
        """Have so many requests decided."""
        served = self.state.serve(service, now)
        buffer = FetchBuffer(1 << 20, MemoryPool(1 << 20, 1), lambda: None)
        records = [Stored(offset, now // MS, b"k", b"v", ()) for offset in range(count)]
        buffer.put(Partition(f"gate.requests.{service}", 0), Fetched(records, count, 10 * count))
        turn, batch = look(self.state, served, buffer, now), Batch(now)
        self.state.route(turn, batch)
        self.state.parked([turn], {place: range(len(parts)) for place, parts in batch.outputs.items()})
        self.write(now, [turn])

    @property
    def budget(self):
        return self.state.budgets.get("bank").limiter.spec


def test_a_limit_of_a_group_is_set_where_none_of_its_services_has_come_and_is_theirs_when_they_do():
    owner = Owner()
    owner.give(SetLimit("group:bank", MORE))
    assert [(one.service, one.state, one.version) for one in owner.answers] == [("group:bank", "done", 1)]
    assert owner.budget.burst == 20
    engine = owner.state.serve("a", NOW).engine
    assert engine.usage(NOW).policy != owner.policy.version
    owner.give(ClearLimit("group:bank"))
    assert owner.budget == owner.policy.group("bank").spec
    assert owner.meta.control == 3


def test_a_batch_is_written_for_it_although_no_service_has_anything_to_say():
    owner = Owner()
    assert owner.state.next_wake() is None
    owner.state.apply(Commands(Received(1, "group:bank", ClearLimit("group:bank"), True, "c1")), NOW)
    assert owner.state.next_wake() == 0
    (answer,) = [decode_answer(r.value) for (topic, _), r in owner.state.live.reports() if topic == Names().answers]
    assert (answer.state, answer.why) == ("failed", "nothing is set for group bank")


def test_others_than_the_owner_of_its_shard_leave_it_alone():
    owner = Owner((HOME + 1) % 16)
    owner.give(SetLimit("group:bank", MORE))
    assert (owner.answers, owner.state.live.in_force(), owner.meta.control) == ([], {}, 2)


def test_it_is_carried_out_once_over_a_take_over_and_ends_by_itself_with_the_next_owner():
    owner = Owner()
    owner.state.serve("a", NOW)
    owner.give(SetLimit("group:bank", MORE, for_ms=60_000))
    owner.begin(NOW + SECOND)
    assert owner.budget.burst == 20
    owner.look(NOW + SECOND)
    assert len(owner.answers) == 1
    assert not owner.state.has_new_limits(lambda: NOW + 59 * SECOND)
    assert owner.state.has_new_limits(lambda: NOW + 60 * SECOND)
    owner.look(NOW + 60 * SECOND)
    assert owner.budget == owner.policy.group("bank").spec
    owner.begin(NOW + 61 * SECOND)
    owner.look(NOW + 61 * SECOND)
    assert (owner.budget.burst, len(owner.answers)) == (1, 1)


def test_it_holds_on_when_the_file_changes_beneath_it():
    owner = Owner()
    owner.give(SetLimit("group:bank", LiveLimit(burst_size=20)))
    owner.policy = parse_policy(POLICY.replace("bank: {requests_per_second: 1,", "bank: {requests_per_second: 9,"))
    for _ in owner.state.follow_policy(owner.policy, NOW):
        pass
    assert (owner.budget.rate, owner.budget.burst) == (9, 20)


@pytest.mark.parametrize("restarted", [False, True])
def test_what_waits_in_a_group_is_planned_anew(restarted):
    owner = Owner()
    owner.ask("a", 5, NOW)
    engine = owner.state.services["a"].engine
    assert (engine.waiting, engine.usage(NOW).eta_seconds) == (4, 4)
    owner.give(SetLimit("group:bank", LiveLimit(requests_per_second="4")))
    if restarted:
        owner.begin()
    usage = owner.state.serve("a", NOW).engine.usage(NOW)
    assert (usage.backlog, usage.eta_seconds) == (4, 1)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_group_of_0_blocks_all_of_its_services_and_no_other(restarted):
    owner = Owner()
    owner.state.serve("a", NOW)
    owner.give(SetLimit("group:bank", BLOCK))
    if restarted:
        owner.begin()
    blocked = {name: owner.state.serve(name, NOW).engine.usage(NOW).blocked_until for name in "abc"}
    assert blocked["c"] is None
    assert None not in {blocked["a"], blocked["b"]}
    owner.give(ClearLimit("group:bank"))
    assert {owner.state.serve(name, NOW).engine.usage(NOW).blocked_until for name in "abc"} == {None}


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (SetLimit("group:bank", MORE, tenant="acme"), "group bank has no tenants"),
        (ClearLimit("group:bank", all=True), "group bank has no tenants"),
        (ImportLimits("group:bank", [], 0), "group bank has no tenants"),
        (
            SetLimit("group:bank", LiveLimit(requests_per_second="ten")),
            "requests_per_second: must be a rate above 0, or 0 to block",
        ),
    ],
)
def test_what_can_not_be_set_for_a_group_is_refused(command, why):
    owner = Owner()
    owner.give(command)
    (answer,) = owner.answers
    assert answer.state == "failed"
    assert why in answer.why
    assert owner.state.live.in_force().get("group:bank") is None
    assert not owner.state.live.imports


def test_of_a_group_that_is_not_there_the_owner_of_its_shard_says_so():
    owner = Owner(shard_of("group:gone", 16))
    owner.give(SetLimit("group:gone", MORE))
    assert [one.why for one in owner.answers] == ["there is no group 'gone'; known are bank, other"]
    owner.give(Cancel("group:gone", Selection(all=True)))  # is about no service
    assert len(owner.answers) == 1


async def test_the_owner_of_a_shard_without_a_service_commits_and_answers_it_once_whoever_takes_over():
    group = next(name for name in map(str, range(99)) if shard_of(f"group:{name}", SHARDS) == 1)
    policy = parse_policy(f"groups: {{'{group}': {{requests_per_second: 1}}}}\nservices: {{pay: {{}}}}")
    kafka, subject = Kafka(), f"group:{group}"
    asked = Commands(Received(1, subject, SetLimit(subject, MORE), True, "c1", "ann@ops", "campaign", memory.NOW // MS))
    told = Partition(kafka.names.answers, 0)
    kafka.fail["commit"] = 1
    for owners in (1, 2):
        around = memory.Surroundings(kafka)
        around.feedback.since = asked.since
        shard = Shard(1, policy, around)
        shard.start({})
        try:
            await until(lambda shard=shard: shard.ready)
            await until(lambda: told in kafka.logs and f"limit/{subject}" in kafka.state)
        finally:
            await shard.stop(5.0)
        assert len(kafka.logs[told]) == 1, owners
        assert read_meta(kafka.state["meta"], SHARDS).control == 2
