"""What the console says of the whole group, from records as gates write them."""

import gc
import json
from random import Random

import pytest

from gate.admission.model import SECOND, Binding, Event, EventKind, LimitUsage, PausedTenant, Reason
from gate.console.group import Group, as_json
from gate.console.records import decode
from gate.console.view import Mark, Word
from gate.limits import NEVER
from gate.observe import alerts
from gate.protocol import answers
from tests.console.conftest import AT_MS, MS

AT = AT_MS * MS


def names(pressure):
    return [line.service for line in pressure.lines]


def state(group, service="pay", now_ms=AT_MS, *, names=True):
    return group.line(service, now_ms, names=names).state


def test_what_takes_longest_to_drain_comes_first(group, tell):
    tell("quiet")
    tell("minute", backlog=9, eta=60.0, binding=Binding(Reason.RATE, "minute.rate"))
    tell("hour", backlog=1, eta=3600.0, binding=Binding(Reason.WINDOW, "hour.window"))
    tell("never", backlog=1, eta=None, binding=Binding(Reason.IN_FLIGHT, "never.in-flight"))
    tell("also-quiet")
    assert names(group.pressure(AT_MS)) == ["never", "hour", "minute", "also-quiet", "quiet"]
    tell("minute", at_ms=AT_MS + 1)
    assert names(group.pressure(AT_MS)) == ["never", "hour", "also-quiet", "minute", "quiet"]
    tell("hour", backlog=5, eta=None, binding=Binding(Reason.PAUSED, "hour"))
    assert names(group.pressure(AT_MS))[:2] == ["hour", "never"], "of two that nobody can tell, where more wait"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, ("free", "", "")),
        ({"limits": (LimitUsage("pay.rate", 9, 1.0, 0.5), LimitUsage("pay.window.60s", 9, 1.0, 0.83))},
         ("near", "window.60s", "83% used")),
        ({"binding": Binding(Reason.WINDOW, "pay.window.60s")}, ("limited", "window.60s", "")),
        ({"binding": Binding(Reason.GROUP, "group.bank.rate")}, ("limited", "group.bank.rate", "")),
        ({"binding": Binding(Reason.RATE, "pay.rate"), "breach_since": AT - 90 * SECOND},
         ("limited", "rate", "breach for 90 s")),
        ({"binding": Binding(Reason.TENANT, "pay.tenant.acme")}, ("limited", "tenant.acme", "")),
        ({"paused_until": NEVER}, ("paused", "", "until resumed")),
        ({"paused_until": AT + 600 * SECOND}, ("paused", "", "until 23:08:43")),
        ({"paused_until": AT}, ("free", "", "")),
        ({"blocked_until": NEVER, "binding": Binding(Reason.BLOCKED, "pay")}, ("limited", "", "blocked until cleared")),
        ({"blocked_until": AT + 600 * SECOND}, ("limited", "", "blocked until 23:08:43")),
        ({"blocked_until": AT}, ("free", "", "")),
        ({"paused_tenants": (PausedTenant("acme", None),), "tenants_paused": 1},
         ("free", "", "tenant acme is paused until resumed")),
    ],
)  # fmt: skip
def test_the_state_is_one_word_with_the_limit_that_binds(group, tell, fields, said):
    tell("pay", **fields)
    assert state(group)[:3] == said


def test_who_paused_it_and_why_stands_beside_it(group, tell, audited):
    tell("pay", paused_until=NEVER)
    audited("pause", "pay", who="ann@ops", reason="the bank is down")
    audited("pause", "pay", who="bob@ops", said={"tenant": "acme"})
    assert state(group).more == "until resumed, by ann@ops: the bank is down"
    assert state(group, names=False).more == "until resumed"


def test_a_stranger_is_told_no_tenant(group, tell):
    tell("pay", binding=Binding(Reason.TENANT, "pay.tenant.acme"))
    tell("loan", paused_tenants=(PausedTenant("acme", None),), tenants_paused=1)
    assert state(group, names=False).limit == "tenant"
    assert state(group, "loan", names=False).more == "a tenant is paused"
    assert "acme" not in json.dumps([as_json(line) for line in group.pressure(AT_MS, names=False).lines])


def test_a_partition_that_stands_is_worse_than_any_limit(group, tell):
    tell("late", backlog=9, eta=None, binding=Binding(Reason.RATE, "late.rate"))
    stalled = {"topic": "gate.requests.pay", "partition": 3, "offset": 7, "why": "read-only", "remedy": "allow it"}
    tell("pay", beside={"waiting": [stalled]})
    assert state(group) == (Word.STANDS, "gate.requests.pay-3", "at offset 7", "bad")
    assert names(group.pressure(AT_MS)) == ["pay", "late"]


def test_a_gate_that_says_nothing_when_a_request_was_to_go_is_told(group, tell):
    tell("pay", backlog=2, eta=5.0, next_slot=AT + SECOND, binding=Binding(Reason.RATE, "pay.rate"))
    assert state(group, now_ms=AT_MS + 15_000).word is Word.LIMITED
    silent = state(group, now_ms=AT_MS + 17_000)
    assert (silent.word, silent.kind) == (Word.SILENT, "bad")
    tell("month", backlog=2, eta=9e6, next_slot=AT + 10**6 * SECOND, binding=Binding(Reason.QUOTA, "month.quota.month"))
    assert state(group, "month", AT_MS + 10**8).word is Word.LIMITED, "it waits for a quota, and nothing happens"


def test_what_has_just_come_is_no_worse_than_a_limit(group, tell):
    tell("slow", backlog=4, eta=9.0, binding=Binding(Reason.RATE, "slow.rate"))
    for age, word, first in ((1.4, Word.FREE, "slow"), (6.0, Word.STANDS, "fresh")):
        late = {"undecided": 5, "undecided_age_seconds": age}
        tell("fresh", beside=late)
        assert (state(group, "fresh").word, names(group.pressure(AT_MS))[0]) == (word, first)


def test_for_how_long_something_waits_is_told_where_it_is_known(group, tell):
    tell("pay", backlog=2, eta=None, paused_until=NEVER)
    assert group.line("pay", AT_MS, names=True).waits_seconds is None
    tell("pay", backlog=2, breach_since=AT - 9 * SECOND, beside={"undecided": 1, "undecided_age_seconds": 2.0})
    assert group.line("pay", AT_MS + 1_000, names=True).waits_seconds == 10.0


def test_the_age_of_the_oldest_that_is_parked_counts_more_than_that_of_the_breach(group, tell):
    tell("pay", backlog=2, breach_since=AT - 9 * SECOND, beside={"waiting_since_ms": AT_MS - 60_000})
    assert group.line("pay", AT_MS, names=True).waits_seconds == 60.0
    tell("pay", backlog=0, beside={"waiting_since_ms": AT_MS - 60_000})
    assert group.line("pay", AT_MS, names=True).waits_seconds is None, "what was parked has gone meanwhile"


def test_what_waits_in_all_and_states_that_time_changes_are_as_the_records_say(group, tell):
    tell("pay", backlog=2, eta=5.0, next_slot=AT + SECOND, binding=Binding(Reason.RATE, "pay.rate"))
    tell("loan", backlog=5, eta=600.0, paused_until=AT + 60 * SECOND, binding=Binding(Reason.PAUSED, "loan"))
    tell("calm")
    now = group.pressure(AT_MS)
    assert (now.waiting, dict(now.counts)) == (7, {Word.PAUSED: 1, Word.LIMITED: 1, Word.FREE: 1})
    later = group.pressure(AT_MS + 90_000)
    assert dict(later.counts) == {Word.SILENT: 1, Word.LIMITED: 1, Word.FREE: 1}
    tell("loan", at_ms=AT_MS + 90_000)
    group.take_usage(b"calm", None)
    assert group.pressure(AT_MS + 90_000).waiting == 2
    group.take_usage(b"pay", None)
    left = group.pressure(AT_MS + 90_000)
    assert (left.waiting, left.services, names(left), dict(left.counts)) == (0, 1, ["loan"], {Word.FREE: 1})


def test_times_go_on_between_two_records(group, tell):
    tell("pay", backlog=2, eta=60.0, binding=Binding(Reason.RATE, "pay.rate"))
    assert group.line("pay", AT_MS + 20_000, names=True).drain_seconds == 40.0
    assert group.line("pay", AT_MS + 90_000, names=True).drain_seconds == 0.0
    assert group.line("pay", AT_MS + 1_000, names=True).offered == 180.0
    assert group.line("pay", AT_MS + 90_000, names=True).offered == 0.0, "a gate with nothing to do tells no rates"


def test_ten_thousand_services_are_searched_and_paged(group, tell):
    for number in range(10_000):
        held = number % 1000 == 7
        binding = Binding(Reason.RATE, f"s{number:04}.rate") if held else None
        tell(f"s{number:04}", backlog=number if held else 0, eta=float(number), binding=binding)
    first = group.pressure(AT_MS)
    assert (first.services, first.pages, len(first.lines)) == (10_000, 200, 50)
    assert names(first)[:10] == [f"s{number}007" for number in range(9, -1, -1)]
    assert dict(first.counts) == {Word.LIMITED: 10, Word.FREE: 9_990}
    last = group.pressure(AT_MS, page=999)
    assert (last.page, names(last)[-1]) == (199, "s9999")
    found = group.pressure(AT_MS, query=" S900")
    assert (found.found, names(found)[0]) == (10, "s9007")
    assert names(group.pressure(AT_MS, state="limited", query="5007")) == ["s5007"]
    assert group.pressure(AT_MS, state="paused").lines == []


def test_of_what_comes_while_nobody_looks_only_the_newest_is_read(group, tell, monkeypatch):
    read = []
    monkeypatch.setattr("gate.console.group.decode", lambda value: (read.append(value), decode(value))[1])
    for second in range(9):
        tell("pay", backlog=second, at_ms=AT_MS + second * 1_000)
    assert len(read) == 1, "the first is, by which a take-over is known"
    assert (group.pressure(AT_MS).waiting, group.record("pay").at_ms, len(read)) == (8, AT_MS + 8_000, 2)
    tell("pay", backlog=1, at_ms=AT_MS + 9_000)
    assert (group.line("pay", AT_MS, names=True).waiting, len(read)) == (1, 3)


def test_a_take_over_is_marked_with_its_time_although_nobody_looks(group, tell):
    for second, owner in enumerate(["a:1", "a:1", "b:2", "b:2", "a:1", "a:1"]):
        tell("pay", owner=owner, at_ms=AT_MS + second * 1_000)
    assert [(mark.at_ms, mark.what) for mark in group.marks("pay", names=True)] == [
        (AT_MS + 2_000, "b:2 took over"),
        (AT_MS + 4_000, "a:1 took over"),
    ]


def test_what_can_not_be_read_leaves_what_came_before(group, tell):
    tell("pay")
    tell("pay", backlog=4)
    group.take_usage(b"pay", b'{"policy":"9f2c01","owner":"a:1"')
    assert group.pressure(AT_MS).services == 1
    assert group.unreadable == 1


def test_the_collector_need_not_go_through_all_that_is_known(group, tell):
    for number in range(100):
        tell(f"s{number}", backlog=number, binding=Binding(Reason.RATE, f"s{number}.rate"))
    group.pressure(AT_MS)
    gc.collect()  # it takes tuples of what it need not go through out of its sight
    record = group.record("s7")
    assert not any(map(gc.is_tracked, (record, record.limits, record.limits[0], record.waiting, record.binding)))


def test_what_is_shown_does_not_depend_on_when_somebody_looked(tell, group):
    """What is kept up from look to look is as if all had come at once."""
    random = Random(7)
    came: list[tuple[bytes, bytes | None]] = []
    take = group.take_usage
    group.take_usage = lambda key, value: (came.append((key, value)), take(key, value))
    for step in range(200):
        service, now = f"s{random.randrange(40):02}", AT_MS + step * 500
        held = random.random() < 0.6
        tell(
            service, at_ms=now, backlog=random.randrange(9) if held else 0, eta=random.choice([None, 5.0, 600.0]),
            owner=random.choice(["a:1", "b:2"]), binding=random.choice([None, None, Binding(Reason.RATE, "x.rate")]),
            next_slot=random.choice([None, now * MS + SECOND]),
            paused_until=random.choice([None, None, now * MS + 9 * SECOND]),
            breach_since=random.choice([None, None, now * MS]),
        )  # fmt: skip
        if random.random() < 0.05:
            group.take_usage(service.encode(), None)
        if random.random() < 0.3:
            group.pressure(now, page=random.randrange(3), size=4)
    end = AT_MS + 200 * 500
    anew = fresh(came)
    for now in (end, end + 2_000, end + 30_000, end):
        for asked in ({"size": 4}, {"size": 4, "page": 2}, {"size": 99}, {"state": "paused"}, {"query": "s1"}):
            told = fresh(came).pressure(now, **asked)
            assert group.pressure(now, **asked) == told
            assert anew.pressure(now, **asked) == told
    assert [group.marks(f"s{n:02}", names=True) for n in range(40)] == [
        anew.marks(f"s{n:02}", names=True) for n in range(40)
    ]


def fresh(came) -> Group:
    """Return a group that has been told all of it, and was not looked at."""
    group = Group()
    for key, value in came:
        group.take_usage(key, value)
    return group


def test_a_refused_policy_is_a_trouble_until_the_same_gate_takes_it(group, tell, alerted):
    tell("pay", owner="a:1")
    tell("loan", owner="b:2", shard=1)
    for gate in ("a:1", "b:2"):
        alerted(alerts.policy_refused("policy.yaml", "9f2c01", "line 3: no such field", AT, gate=gate))
    first, second = group.troubles(AT_MS)
    assert first == (
        "policy refused at a:1; 9f2c01 stays in force: line 3: no such field",
        "repair policy.yaml: gate policy check FILE",
    )
    alerted(alerts.policy_accepted("policy.yaml", "9f2c02", AT, gate="a:1"))
    assert group.troubles(AT_MS) == [second]
    assert group.troubles(AT_MS + 10**9) == [second], "it still has a service, and still refuses"
    tell("loan", owner="a:1", shard=1)
    assert group.troubles(AT_MS + 10**9) == [], "that gate has gone, and what it refused with it"


def test_a_shard_that_fails_is_a_trouble_until_it_goes_on(group, alerted):
    alerted(alerts.shard_failed(3, "no broker", 5, AT))
    assert [trouble.what for trouble in group.troubles(AT_MS)] == ["shard 3 does not go on: no broker"]
    alerted(alerts.shard_recovered(3, AT))
    assert group.troubles(AT_MS) == []


def test_a_service_stays_shown_with_its_new_owner(group, tell):
    tell("pay", owner="a:1", shard=5)
    tell("loan", owner="b:2", shard=6, backlog=4)
    assert [(one.shard, one.gate, one.services, one.waiting) for one in group.owners()] == [
        (5, "a:1", 1, 0),
        (6, "b:2", 1, 4),
    ]
    tell("pay", owner="b:2", shard=5, at_ms=AT_MS + 3000)
    assert {one.gate for one in group.owners()} == {"b:2"}
    assert group.line("pay", AT_MS, names=True).owner == "b:2"
    assert group.marks("pay", names=True) == [Mark(AT_MS + 3000, "take-over", "b:2 took over", "from a:1")]


def test_what_happened_to_a_service_is_told_in_order(group, tell, alerted, audited):
    tell("pay")
    tell("pay", policy="aaaaaa", at_ms=AT_MS + 9000)
    audited("pause", "pay", who="ann", reason="the bank is down")
    breach = Event(EventKind.OPENED, "pay", "pay.rate", Reason.RATE, AT, AT, 3, 5.0, 3, 1.0, 1.0, "9f2c01")
    alerted(alerts.of_event(breach), AT_MS + 5000)
    assert [mark.what for mark in group.marks("pay", names=True)] == ["pause by ann", "breach opened", "policy aaaaaa"]
    assert group.marks("loan", names=True) == []


def test_lanes_that_cannot_be_read_are_left_out_and_the_service_is_shown(group, tell):
    tell("pay", beside={"lanes": [{"name": 5}], "totals": "many"})
    assert (group.record("pay").lanes, group.record("pay").totals, len(group)) == ([], [], 1)


def test_what_is_no_record_is_passed_over_and_counted(group, tell):
    tell("pay")
    group.take_usage(b"loan", b"{}")
    group.take_usage(b"loan", b"\xff")
    group.take_alert({"ce_type": b"gate.policy.refused"}, b"[]", AT_MS)
    group.take_audit(None)
    group.take_alert({"ce_type": None}, b"{}", AT_MS)
    assert (group.unreadable, len(group), group.troubles(AT_MS)) == (4, 1, [])
    group.take_usage(b"pay", None)
    assert len(group) == 0


@pytest.mark.parametrize("what", ["pause", "cancel", "set-limit", "clear-limit", "what-comes-next"])
def test_who_commanded_and_why_is_told_only_to_who_may_see_names(what):
    group = Group()
    group.take_audit(answers.encode(answers.Audit(AT_MS, what, "pay", "1", "ann", reason="acme has left")))
    assert group.marks("pay", names=False) == [Mark(AT_MS, what, what, is_command=True)]
    assert group.marks("pay", names=True) == [Mark(AT_MS, what, f"{what} by ann", "acme has left", is_command=True)]


@pytest.mark.parametrize(
    "forged",
    [
        {"eta_seconds": 1e308}, {"eta_seconds": -1e308}, {"backlog": 2**64}, {"breach_since_ms": -(10**400)},
        {"waiting_since_ms": -(10**400)}, {"service": "mail"},
    ],
)  # fmt: skip
def test_usage_that_no_gate_can_have_told_keeps_nobody_from_looking(group, tell, forged):
    tell("pay")
    record = {"service": "fake", "at_ms": AT_MS, "limits": [], "lanes": [], "requests_per_second": 1}
    group.take_usage(b"fake", json.dumps({**record, "offered_per_second": 1, "backlog": 3, **forged}).encode())
    shown = names(group.pressure(AT_MS))
    assert "pay" in shown
    assert set(shown) <= {"pay", "fake"}
