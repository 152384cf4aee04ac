"""What an owner does with commands about limits: each once, against the version that was looked at, and kept."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.protocol.answers import decode_answer, decode_audit
from gate.protocol.control import Abort, ClearLimit, ImportLimits, SetLimit
from gate.protocol.policies import LimitSet, LiveLimit, Part, PartRow
from gate.protocol.policies import decode as decode_policy
from gate.protocol.topics import Names
from gate.shard.live_limits import KEPT, LiveLimits
from gate.shard.owner_views import Received
from gate.shard.tenant_limits import TenantLimits
from gate.units import MS, SECOND
from tests.console.conftest import usage_of

NOW = 1_764_000_000 * SECOND
NAMES = Names()
FIFTY = LiveLimit(requests_per_second="50", burst_size=80)
TEN = LiveLimit(requests_per_second="10/min")


class Owner:
    """Live limits with the log in which their batches are written."""

    def __init__(self):
        self.state, self.offset, self.told = {}, 0, []
        self.live = LiveLimits(NAMES)

    def give(self, command, known=None, now=NOW, offset=None, *, who="ann@ops", reason="campaign"):
        self.offset += 1
        received = Received(
            self.offset if offset is None else offset, command.service, command, True, known or f"c{self.offset}",
            who, reason, now // MS,
        )  # fmt: skip
        changed = self.live.take(received, now)
        self.write()
        return changed

    def abort(self, known, own="abort"):
        self.offset += 1
        received = Received(self.offset, "pay", Abort("pay", known), True, own, "ann@ops", "oh", NOW // MS)
        found = self.live.abort(received, received.command, NOW)
        self.write()
        return found

    def expire(self, now):
        changed = self.live.expire(now)
        self.write()
        return changed

    def write(self):
        for key, value in self.live.changes().items():
            self.state.pop(key, None)
            if value is not None:
                self.state[key] = value
        self.told += self.live.reports()

    def restart(self):
        self.live = LiveLimits(NAMES)
        for key, value in self.state.items():
            assert self.live.restore(key, value)
        for _ in self.live.restored():
            pass

    @property
    def answers(self):
        return [decode_answer(record.value) for (topic, _), record in self.told if topic == NAMES.answers]

    @property
    def audit(self):
        return [decode_audit(record.value) for (topic, _), record in self.told if topic == NAMES.audit]

    @property
    def published(self):
        rows = {}
        for (topic, _), record in self.told:
            if topic == NAMES.policies:
                rows[record.key.decode()] = record.value and decode_policy(record.value)
        return {key: row for key, row in rows.items() if row is not None}

    def holds(self, service="pay"):
        live = self.live.in_force()[service]
        return live.version, live.limit, dict(live.tenants)


def test_what_is_set_holds_and_is_told_and_noted():
    owner = Owner()
    assert owner.give(SetLimit("pay", FIFTY))
    assert owner.give(SetLimit("pay", TEN, tenant="acme/eu"))
    assert owner.holds() == (2, FIFTY, {"acme/eu": TEN})
    assert [(answer.state, answer.version) for answer in owner.answers] == [("done", 1), ("done", 2)]
    told = owner.published
    assert (told["pay"].version, told["pay"].limit, told["pay"].who) == (2, FIFTY, "ann@ops")
    assert (told["pay/acme/eu"].limit, told["pay/acme/eu"].reason) == (TEN, "campaign")
    noted = owner.audit[-1]
    assert (noted.what, noted.said["tenant"], noted.before) == ("set-limit", "acme/eu", {})
    assert noted.after == {"requests_per_second": "10/min", "version": 2}


def test_a_change_against_an_old_version_is_refused_and_told_which_one_is_current():
    owner = Owner()
    owner.give(SetLimit("pay", FIFTY, if_version=0))
    owner.give(SetLimit("pay", TEN, if_version=1))
    assert not owner.give(SetLimit("pay", FIFTY, if_version=1))
    assert owner.holds()[:2] == (2, TEN)
    refused = owner.answers[-1]
    assert (refused.state, refused.version) == ("failed", 2)
    assert refused.why == "the limits of pay are at version 2, not 1: they were changed since"
    assert "--if-version 2" in refused.hint
    assert (owner.audit[-1].result, owner.audit[-1].why) == ("failed", refused.why)
    assert not owner.give(ClearLimit("pay", if_version=1))
    assert owner.give(ClearLimit("pay", if_version=2))


@pytest.mark.parametrize("restarted", [False, True])
def test_a_command_that_comes_twice_is_carried_out_once(restarted):
    owner = Owner()
    owner.give(SetLimit("pay", FIFTY), "one")
    owner.give(SetLimit("pay", TEN), "two")
    if restarted:
        owner.restart()
    assert not owner.give(SetLimit("pay", FIFTY), "one")
    assert owner.holds()[:2] == (2, TEN)
    assert (owner.answers[-1].command, owner.answers[-1].version) == ("one", 1)
    assert len(owner.audit) == 2
    told = len(owner.answers)
    assert not owner.give(SetLimit("pay", TEN), "two", offset=2)  # the very record, read once more
    assert len(owner.answers) == told
    assert owner.give(SetLimit("pay", FIFTY), "one", now=NOW + KEPT + SECOND)  # nobody else has that id by then


def test_what_is_not_set_can_not_be_cleared_and_what_is_no_limit_not_set():
    owner = Owner()
    owner.give(SetLimit("pay", TEN, tenant="acme"))
    for command, why in (
        (ClearLimit("pay"), "nothing is set for pay"),
        (ClearLimit("pay", "beta"), "nothing is set for tenant beta of pay"),
        (
            SetLimit("pay", LiveLimit(requests_per_second="fast")),
            'requests_per_second: must be a rate above 0, or 0 to block, not "fast"',
        ),
    ):
        assert not owner.give(command)
        assert (owner.answers[-1].state, owner.answers[-1].why) == ("failed", why)
    assert owner.give(ClearLimit("pay", all=True))
    assert owner.holds() == (2, None, {})
    assert set(owner.published) == {"pay"}
    assert not owner.give(ClearLimit("pay", all=True))


@pytest.mark.parametrize("tenant", ["", "acme"])
def test_it_ends_by_itself_counted_from_when_it_was_said(tenant):
    owner = Owner()
    owner.give(SetLimit("pay", FIFTY, tenant="other"))
    owner.give(SetLimit("pay", TEN, tenant, for_ms=30_000))
    end = NOW + 30 * SECOND
    assert owner.live.next_end() == end
    owner.restart()
    assert owner.live.next_end() == end
    assert owner.expire(end - MS) == set()
    assert owner.expire(end) == {"pay"}
    assert owner.holds() == (3, None, {"other": FIFTY})
    assert owner.live.next_end() is None
    noted = owner.audit[-1]
    assert (noted.what, noted.who, noted.before["requests_per_second"]) == ("limit-ended", "gate", "10/min")
    assert set(owner.published) == {"pay", "pay/other"}
    owner.restart()
    assert owner.holds() == (3, None, {"other": FIFTY})


names = st.sampled_from(["a", "b", "a/b", "ü", "x" * 200, "default", "a*"])
a_limit = st.builds(
    LiveLimit, requests_per_second=st.sampled_from(["0", "5", None]), burst_size=st.integers(1, 9),
    until_ms=st.none() | st.integers(1, 50), max_running=st.none() | st.integers(1, 9),
    quotas=st.sampled_from([None, "5/day"]), windows=st.sampled_from([None, "5/10s"]),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.tuples(names, st.none() | a_limit)), st.integers(1, 3), st.integers(0, 60))
def test_a_table_is_a_mapping_that_survives(changes, buckets, now):
    table, model, kept = TenantLimits("pay", 7, buckets), {}, {}
    for tenant, limit in changes:
        table.set(tenant, limit)
        model.pop(tenant, None)
        if limit is not None:
            model[tenant] = limit
        kept |= table.changes()
    again = TenantLimits("pay", 7, buckets)
    for key, value in kept.items():
        if value is not None:
            again.restore(int(key.rsplit("/", 1)[1]), key, value)
    for each in (table, again):
        assert dict(each) == model
        assert len(each) == len(model)
        assert all((tenant in each) == (tenant in model) for tenant in ["a", "b", "c"])
        assert set(each.patterns) == model.keys() & {"default", "a*"}
        assert each.some_run == any(limit.max_running for limit in model.values())
        ends = [limit.until_ms for limit in model.values() if limit.until_ms]
        assert min(each.ends.values(), default=None) == min(ends, default=None)
    ended = {}
    for number in [n for n, end in again.ends.items() if end <= now]:
        ended |= again.pop_ended(number, now)
    assert ended == {t: limit for t, limit in model.items() if limit.until_ms and limit.until_ms <= now}
    assert dict(again) == {t: limit for t, limit in model.items() if t not in ended}


def test_a_record_of_a_policy_is_json_that_people_can_read():
    owner = Owner()
    owner.give(SetLimit("pay", FIFTY, for_ms=1000))
    value = next(record.value for (topic, _), record in owner.told if topic == NAMES.policies)
    assert json.loads(value) == {
        "version": 1, "limit": {"requests_per_second": "50", "burst_size": 80, "until_ms": NOW // MS + 1000},
        "at_ms": NOW // MS, "who": "ann@ops", "reason": "campaign", "command": "c1",
    }  # fmt: skip


@pytest.mark.parametrize("tenant", ["", "acme"])
def test_what_is_set_for_longer_than_a_century_has_no_end(tenant):
    owner = Owner()
    for length in (100 * 365 * 86_400_000, 2**53 - 1):
        owner.give(SetLimit("pay", FIFTY, tenant, for_ms=length))
        assert owner.answers[-1].state == "done"
        assert owner.audit[-1].after["requests_per_second"] == "50"
        assert "until_ms" not in owner.audit[-1].after
        assert not owner.expire(NOW + 99 * 365 * 86_400 * SECOND)
    owner.give(SetLimit("pay", FIFTY, tenant, for_ms=100 * 365 * 86_400_000 - 1))
    assert owner.audit[-1].after["until_ms"] == NOW // MS + 100 * 365 * 86_400_000 - 1


# -- imports -----------------------------------------------------------------------------------------------------------


def parts_of(rows, command="whole", size=500):
    """Return an import's parts as a client sends them."""
    rows = list(rows.items())
    return [
        msgspec.msgpack.encode(Part(command, [PartRow(t, *row, None, None) for t, row in rows[at : at + size]]))
        for at in range(0, len(rows), size)
    ]


class Importer(Owner):
    def begin(self, rows, *, count=None, parts=None, known="whole", version=None, reason="contracts", now=NOW):
        self.parts = parts_of(rows, known) if parts is None else parts
        self.offset += 1
        offsets = list(range(1000, 1000 + len(self.parts)))
        count = len(rows) if count is None else count
        command = ImportLimits("pay", offsets, count, version)
        self.live.take(Received(self.offset, "pay", command, True, known, "ann@ops", reason, now // MS), now)
        self.write()

    def step(self, now=NOW):
        for service, offset in self.live.wanted():
            part = self.parts[offset - 1000]
            self.live.was_read(service, part)
        changed = self.live.work("pay", now)
        self.write()
        return changed

    def finish(self, restarting=False):
        steps = 0
        while self.live.imports:
            self.step()
            steps += 1
            if restarting:
                self.restart()
        return steps


ROWS = {f"t{number}": (str(1 + number % 7), 3) for number in range(1_700)}
OTHERS = {f"t{number}": ("9", 1) for number in range(1_600, 3_000)}


def limits(rows):
    return {tenant: LiveLimit(rate, burst) for tenant, (rate, burst) in rows.items()}


@pytest.mark.parametrize("restarting", [False, True])
def test_an_import_takes_the_place_of_all_that_tenants_had(restarting):
    owner = Importer()
    owner.give(SetLimit("pay", FIFTY))
    owner.give(SetLimit("pay", TEN, tenant="before"))
    for known, rows in (("one", ROWS), ("two", OTHERS), ("none", {})):
        version = owner.holds()[0]
        owner.begin(rows, known=known, version=version)
        owner.finish(restarting)
        assert owner.holds() == (version + 1, FIFTY, limits(rows))
        published = owner.published
        assert {key: row.limit for key, row in published.items() if key != "pay"} == {
            f"pay/{tenant}": limit for tenant, limit in limits(rows).items()
        }
        assert (published["pay"].limit, published["pay"].importing, published["pay"].command) == (FIFTY, False, "c1")
        assert (owner.answers[-1].state, owner.answers[-1].version) == ("done", version + 1)
        noted = owner.audit[-1]
        assert (noted.what, noted.who, noted.reason, noted.result) == ("import-limits", "ann@ops", "contracts", "done")
        assert (noted.said, noted.after["tenants"]) == ({"count": len(rows)}, len(rows))
    kept = [key for key in owner.state if not key.startswith("limited/")]
    assert kept == ["limit/pay"]


def set_by(published):
    return published.who, published.reason, published.command, published.at_ms


@pytest.mark.parametrize("restarting", [False, True])
def test_who_set_the_limit_of_a_service_is_told_whatever_is_changed_beside_it(restarting):
    owner = Importer()
    owner.give(SetLimit("pay", FIFTY), "anns", NOW, reason="the bank is slow", who="ann@ops")
    anns = ("ann@ops", "the bank is slow", "anns", NOW // MS)
    later = NOW + 60 * SECOND
    owner.give(SetLimit("pay", TEN, tenant="acme", for_ms=1_000), "bobs", later, reason="more", who="bob@ops")
    assert set_by(owner.published["pay"]) == anns
    assert set_by(owner.published["pay/acme"]) == ("bob@ops", "more", "bobs", later // MS)
    if restarting:
        owner.restart()
    owner.expire(later + 2 * SECOND)
    assert (owner.published["pay"].version, set_by(owner.published["pay"])) == (3, anns)
    owner.begin(ROWS, now=later)
    owner.finish(restarting)
    assert (owner.published["pay"].version, set_by(owner.published["pay"])) == (4, anns)
    owner.give(ClearLimit("pay"), "gone", later, reason="the bank is well", who="bob@ops")
    assert set_by(owner.published["pay"]) == ("bob@ops", "the bank is well", "gone", later // MS)


def test_usage_tells_what_is_set_and_for_how_many_tenants():
    owner = Importer()
    assert owner.live.shown(usage_of("pay"), None) == usage_of("pay")
    owner.give(SetLimit("pay", FIFTY, for_ms=60_000), "anns", NOW, reason="the bank is slow", who="ann@ops")
    owner.begin(ROWS)
    owner.finish()
    owner.give(SetLimit("group:bank", TEN), "bobs", NOW, who="bob@ops")
    told = owner.live.shown(usage_of("pay"), "bank")
    assert (told.tenants_limited, told.limits_version, told.group_limits_version) == (len(ROWS), 2, 1)
    until = NOW // MS + 60_000
    assert told.limit_set == LimitSet(FIFTY.fields, until, "ann@ops", "the bank is slow")
    assert (told.group_limit_set.group, told.group_limit_set.fields) == ("bank", TEN.fields)
    owner.give(ClearLimit("pay"), "gone", NOW)
    told = owner.live.shown(usage_of("pay"), "bank")
    assert (told.limit_set, told.limits_version, told.tenants_limited) == (None, 3, len(ROWS))


def test_rows_of_an_import_tell_who_imported_them_and_why():
    owner = Importer()
    owner.begin(ROWS, reason="contracts " * 100)
    owner.finish()
    tenants = [record for key, record in owner.published.items() if "/" in key]
    said = {set_by(record) for record in tenants}
    assert (len(tenants), said) == (len(ROWS), {("ann@ops", ("contracts " * 100)[:100], "whole", NOW // MS)})


@pytest.mark.parametrize("restarting", [False, True])
def test_of_an_import_is_told_how_many_others_it_cleared(restarting):
    owner = Importer()
    for rows, cleared in ((ROWS, 0), (OTHERS, 1_600), (OTHERS, 0), ({}, 1_400)):
        owner.begin(rows, known=f"of{len(owner.told)}")
        owner.finish(restarting)
        answer = owner.answers[-1]
        assert (answer.state, answer.of, answer.cleared) == ("done", len(rows), cleared)


def test_nothing_of_an_import_holds_before_all_of_it_does_and_nothing_changes_meanwhile():
    owner = Importer()
    owner.give(SetLimit("pay", TEN, tenant="before"))
    owner.begin(ROWS)
    while not owner.step():
        assert owner.holds() == (1, None, {"before": TEN})
        assert not owner.give(SetLimit("pay", FIFTY))
        assert "an import of limits of pay is under way: command whole" in owner.answers[-1].why
    assert owner.holds() == (2, None, limits(ROWS))
    assert owner.published["pay"].importing
    assert owner.give(SetLimit("pay", TEN, tenant="t5"))  # while it is told
    owner.finish()
    assert owner.published["pay/t5"].limit == owner.holds()[2]["t5"] == TEN
    assert not owner.published["pay"].importing


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"rows": ROWS, "count": 1_701}, "the parts hold limits of 1700 tenants, and 1701 were said"),
        ({"rows": {"a": ("fast", 1)}}, "tenant 'a': requests_per_second: must be a rate above 0"),
        ({"rows": {" a": ("1", 1)}}, "tenant ' a': \" a\" cannot be a tenant"),
        ({"rows": {"a": (None, None)}}, "tenant 'a': no limit is given"),
        ({"rows": ROWS, "parts": [*parts_of(ROWS)[:3], b"x"]}, "a part of the import can't be read"),
        ({"rows": ROWS, "parts": parts_of(ROWS, "another")}, "a part belongs to another import"),
        ({"rows": ROWS, "parts": [parts_of(ROWS)[0], None]}, "part 2 of 2 is gone from gate.control"),
        ({"rows": ROWS, "version": 7}, "the limits of pay are at version 1, not 7"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("restarting", [False, True])
def test_of_an_import_in_which_something_is_wrong_nothing_holds(said, why, restarting):
    owner = Importer()
    owner.give(SetLimit("pay", TEN, tenant="before"))
    owner.begin(**said)
    owner.finish(restarting)
    assert owner.holds() == (1, None, {"before": TEN})
    assert owner.answers[-1].state == owner.audit[-1].result == "failed"
    assert why in owner.answers[-1].why
    assert set(owner.published) == {"pay", "pay/before"}
    kept = [key for key in owner.state if not key.startswith("limited/")]
    assert len(kept) == 2
    owner.begin(ROWS, known="again")
    owner.finish()
    assert owner.holds() == (2, None, limits(ROWS))


@pytest.mark.parametrize("restarting", [False, True])
def test_an_import_is_aborted_before_it_is_in_force_or_not_at_all(restarting):
    owner = Importer()
    owner.give(SetLimit("pay", TEN, tenant="before"))
    assert not owner.abort("whole")  # nobody knows it: it may be a command on what waits
    owner.begin(ROWS)
    owner.step()
    if restarting:
        owner.restart()
    assert owner.abort("whole", "stop")
    assert (owner.answers[-1].command, owner.answers[-1].state) == ("stop", "done")
    owner.finish(restarting)
    assert owner.holds() == (1, None, {"before": TEN})
    assert (owner.answers[-1].command, owner.answers[-1].state) == ("whole", "aborted")
    assert owner.answers[-1].why == "aborted by ann@ops"
    assert [(one.what, one.result) for one in owner.audit[1:]] == [("abort", "done"), ("import-limits", "aborted")]
    assert owner.abort("whole", "stop")  # sent again
    assert len(owner.audit) == 3
    assert owner.abort("whole", "later")
    assert (owner.answers[-1].state, owner.answers[-1].why) == ("failed", "command whole is over: aborted")
    assert set(owner.published) == {"pay", "pay/before"}
    owner.begin(ROWS, known="again")
    while not owner.step():
        pass
    assert owner.abort("again", "too-late")
    assert (owner.answers[-1].state, owner.answers[-1].why) == ("failed", "import again is in force already")
    owner.finish()
    assert owner.holds() == (2, None, limits(ROWS))


def test_an_import_that_is_sent_twice_is_carried_out_once():
    owner = Importer()
    owner.begin(ROWS)
    owner.step()
    owner.begin(ROWS)
    assert owner.answers[-1].state == "taken"
    owner.finish()
    owner.begin(ROWS)
    assert (owner.holds()[0], owner.answers[-1].state, len(owner.audit)) == (1, "done", 1)


def test_what_many_tenants_have_is_cleared_bit_by_bit():
    owner = Importer()
    owner.give(SetLimit("pay", FIFTY))
    owner.begin(ROWS)
    owner.finish()
    owner.parts = []
    owner.give(ClearLimit("pay", all=True), "off")
    assert owner.finish() > 3
    assert owner.holds() == (3, None, {})
    assert set(owner.published) == {"pay"}
    assert (owner.answers[-1].command, owner.answers[-1].state) == ("off", "done")
    assert owner.audit[-1].what == "clear-limit"


@pytest.mark.parametrize("restarted", [False, True])
def test_what_is_set_for_a_group_is_kept_published_and_noted_by_its_own_name(restarted):
    owner = Owner()
    assert owner.give(SetLimit("group:bank", FIFTY, for_ms=60_000))
    if restarted:
        owner.restart()
    assert owner.holds("group:bank")[:2] == (1, msgspec.structs.replace(FIFTY, until_ms=NOW // MS + 60_000))
    assert owner.published["group:bank"].version == 1
    assert (owner.audit[-1].service, owner.answers[-1].service) == ("group:bank", "group:bank")
    assert not owner.give(SetLimit("group:bank", TEN, if_version=3))
    assert owner.answers[-1].why.startswith("the limits of group bank are at version 1, not 3")
    assert "`gate limit show --group bank`" in owner.answers[-1].hint
    assert owner.live.next_end() == NOW + 60 * SECOND
    assert owner.expire(NOW + 60 * SECOND) == {"group:bank"}
    assert owner.holds("group:bank") == (2, None, {})
    assert not owner.give(ClearLimit("group:bank"))
    assert owner.answers[-1].why == "nothing is set for group bank"
