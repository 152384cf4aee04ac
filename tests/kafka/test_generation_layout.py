"""Where the state goes when it is laid out anew: nothing is lost, and each owner decides on as the one before would."""

import msgspec
import pytest

from gate.admission.limits.budget import Budgets
from gate.admission.model import SECOND, Pull, Verdict
from gate.admission.state import ClaimRecord, GroupRecord, decode, encode
from gate.errors import GateError
from gate.kafka.generation_layout import Shards, lay_out
from gate.kafka.generations import PLACEMENT_KEY, Generation, Placed
from gate.kafka.reshard_plan import BATCH_RECORDS, parts_of
from gate.policy import parse_policy
from gate.protocol.topics import Names
from gate.shard.changelog_records import (
    FLOORS_KEY,
    FORMAT,
    LEAVING_KEY,
    META_KEY,
    FloorsRecord,
    Meta,
    encode_leaving,
    encode_meta,
    read_leaving,
    read_meta,
)
from gate.shard.placement import shard_of
from gate.shard.positions import Positions
from gate.shard.records import CommittedOffset, Partition
from gate.units import MS
from tests.admission.simulation import Simulation

START = 1_764_000_000 * SECOND
NAMES = Names()
POLICY = parse_policy("""
defaults: {requests_per_second: 1, burst_size: 1}
groups: {bank: {requests_per_second: 5, burst_size: 5}, other: {requests_per_second: 5, burst_size: 5}}
services: {left: {group: bank}, right: {group: bank}}
""")
ALL_IN_ONE = parse_policy("""
defaults: {group: other}
groups: {bank: {requests_per_second: 5}, other: {requests_per_second: 5}}
""")
SERVICES = ("pay", "mail", "left", "right", *(f"s{n}" for n in range(20)))
PARKED = 7
GROUPS = ("bank", "other", "a", "b", "c")


def engine_records(service):
    sim = Simulation(POLICY.effective(service), now=START, budgets=Budgets(START, {}))
    sim.offer(1 + PARKED)
    sim.save()
    return {key.replace(f"/{sim.policy.name}", f"/{service}"): value for key, value in sim.state.items()}


def shards(count=4, *, since=(5, 6, 7, 8), control=(3, 3, 3, 3), extra=None, policy=POLICY, groups=None):
    records = [{} for _ in range(count)]
    for service in SERVICES:
        records[shard_of(policy.shard_key(service), count)] |= engine_records(service)
    bank = encode(GroupRecord(b"bank", 4, {"left": ClaimRecord(1, 2, 3, 4), "gone": ClaimRecord(units=9)}))
    for number, kept in enumerate(records):
        for name in GROUPS:
            home = shard_of(f"group:{name}", count) == number
            kept[f"group/{name}"] = bank if home else encode(GroupRecord(b"stale"))
        kept.update((extra or {}).get(number, {}))
    metas = [Meta(FORMAT, count, START + n, since[n % 4], control[n % 4]) for n in range(count)]
    for kept, meta in zip(records, metas, strict=True):
        kept[META_KEY] = encode_meta(meta)
    return Shards(Generation(1, count, groups or {}), records, metas)


def laid_out(before, count, *, marks=None, groups=None, moves=(), policy=POLICY):
    after = Generation(2, count, {**before.generation.groups, **(groups or {})})
    return lay_out(before, after, policy, NAMES, marks or {}, frozenset(moves))


@pytest.mark.parametrize("count", [1, 2, 4, 9, 64])
def test_each_record_goes_as_it_is_to_the_shard_of_its_service(count):
    before = shards()
    layout = laid_out(before, count)
    kept = {key: value for one in before.records for key, value in one.items() if "/" in key}
    placed = {key: (shard, value) for shard, one in enumerate(layout.records) for key, value in one.items()}
    assert placed.keys() == kept.keys()
    assert sum(map(len, layout.records)) == len(kept)  # none is in two shards
    for key, (shard, value) in placed.items():
        kind, _, rest = key.partition("/")
        if kind != "group":
            assert value == kept[key]
            assert shard == shard_of(POLICY.shard_key(rest.partition("/")[0]), count)
    assert layout.parked == PARKED * len(SERVICES)
    assert layout.services == set(SERVICES)


def test_a_group_is_taken_from_its_own_shard_and_loses_who_is_not_in_it():
    layout = laid_out(shards(), 9)
    assert len({shard_of(f"group:{name}", 4) for name in GROUPS}) > 2
    for name in GROUPS:
        key = f"group/{name}"
        record = decode(key, layout.records[shard_of(f"group:{name}", 9)][key], GroupRecord)
        assert (record.limiter, record.virtual) == (b"bank", 4)
        assert set(record.claims) == ({"left"} if name == "bank" else set())


@pytest.mark.parametrize("policy", [POLICY, ALL_IN_ONE])
def test_what_is_set_for_a_group_goes_with_it(policy):
    kept = {"limit/group:bank": b"set", "limited/group:bank/c1": b"done"}
    layout = laid_out(shards(extra={shard_of("group:bank", 4): kept}, policy=policy), 6, policy=policy)
    holders = [number for number, records in enumerate(layout.records) if records.items() >= kept.items()]
    assert holders == [shard_of("group:bank", 6)]
    assert "group:bank" not in layout.services | layout.moved


def test_new_shards_start_where_the_furthest_is_and_hear_what_the_last_has_not():
    layout = laid_out(shards(control=(3, 9, 4, 3)), 2)
    assert layout.meta == Meta(FORMAT, 2, at=START + 3, since=5, control=3)
    floors = {}
    for records in layout.records:
        if FLOORS_KEY in records:
            floors |= decode(FLOORS_KEY, records[FLOORS_KEY], FloorsRecord).floors
    heard = {service: (3, 9, 4, 3)[shard_of(POLICY.shard_key(service), 4)] for service in SERVICES}
    assert floors == {service: next_one for service, next_one in heard.items() if next_one > 3}


def test_floors_are_kept_where_they_are_higher():
    service = next(s for s in SERVICES if shard_of(POLICY.shard_key(s), 4) == 1)
    before = shards(control=(3, 4, 5, 3), extra={1: {FLOORS_KEY: encode(FloorsRecord({service: 8}))}})
    layout = laid_out(before, 3)
    records = layout.records[shard_of(POLICY.shard_key(service), 3)]
    assert decode(FLOORS_KEY, records[FLOORS_KEY], FloorsRecord).floors[service] == 8


def test_reading_goes_on_where_the_owner_before_would_have():
    """A shard that keeps positions for longer than others does not believe offsets that it did not write."""
    since = (5 * MS, 600 * MS, 700 * MS, 800 * MS)
    known = Positions(NAMES, {}, 0)
    known.advance("pay", 0, [], 40)
    shard = shard_of("pay", 4)
    before = shards(since=since, extra={shard: {"offsets/pay": known.record("pay")}})
    topics = {service: NAMES.requests(service) for service in (*SERVICES, "idle")}
    marks = {Partition(topics[s], n): CommittedOffset(30 + n, at) for s in topics for n, at in enumerate((1, 650, 900))}
    layout = laid_out(before, 2, marks=marks)
    for service, topic in topics.items():
        old = Positions(NAMES, marks, since[shard_of(POLICY.shard_key(service), 4)])
        if service == "pay":
            old.restore("pay", "offsets/pay", known.record("pay"))
        new = Positions(NAMES, marks, layout.meta.since)
        records = layout.records[shard_of(POLICY.shard_key(service), 2)]
        if f"offsets/{service}" in records:
            new.restore(service, f"offsets/{service}", records[f"offsets/{service}"])
        for number in range(4):
            place = Partition(topic, number)
            assert new.start(service, place) == old.start(service, place), (service, number)


def test_what_was_on_its_way_out_goes_with_its_service():
    pulls = [("pay", Pull(0, 4, 2, Verdict.ADMITTED)), ("mail", Pull(1, 9, 1, Verdict.ADMITTED))]
    layout = laid_out(shards(extra={0: {LEAVING_KEY: encode_leaving(pulls)}}), 16)
    found = {}
    for shard, records in enumerate(layout.records):
        if LEAVING_KEY in records:
            found[shard] = read_leaving(records[LEAVING_KEY])
    assert found == {shard_of("pay", 16): [pulls[0]], shard_of("mail", 16): [pulls[1]]}


def test_a_service_moves_into_a_group_with_all_that_it_has():
    layout = laid_out(shards(), 4, groups={"pay": "bank"}, moves=["pay"])
    home = layout.records[shard_of("group:bank", 4)]
    assert engine_records("pay").items() <= home.items()
    flip = layout.flip
    assert msgspec.json.decode(flip[0][PLACEMENT_KEY], type=Placed).groups == {"pay": "bank"}
    assert [read_meta(records[META_KEY], 4) for records in flip] == [layout.meta] * 4
    records = [kept | new for kept, new in zip(layout.records, flip, strict=True)]
    again = Shards(layout.generation, records, [layout.meta] * 4)
    assert engine_records("pay").items() <= laid_out(again, 3).records[shard_of("group:bank", 3)].items()


def test_a_policy_by_which_the_gates_do_not_run_is_refused():
    other = parse_policy("defaults: {requests_per_second: 1}\ngroups: {bank: {requests_per_second: 5}}\n"
                         "services: {left: {group: bank}}")  # fmt: skip
    wrong = [s for s in ("right",) if shard_of(s, 4) != shard_of("group:bank", 4)]
    assert wrong
    with pytest.raises(GateError, match="the policy file puts right into another group than"):
        laid_out(shards(), 9, policy=other)
    moved = parse_policy("defaults: {requests_per_second: 1}\ngroups: {bank: {requests_per_second: 5}}\n"
                         "services: {left: {group: bank}, right: {group: bank}, pay: {group: bank}}")  # fmt: skip
    laid_out(shards(), 4, policy=moved, groups={"pay": "bank"}, moves=["pay"])  # the file was changed before


def test_what_is_there_is_not_written_again_and_what_is_left_over_goes():
    there = [{"a": b"1", "b": b"2"}, {"c": b"3"}]
    wanted = [{"a": b"1", "b": b"9"}, {"d": b"4"}]
    assert list(parts_of(there, wanted)) == [{0: {"b": b"9"}, 1: {"c": None, "d": b"4"}}]
    assert list(parts_of(wanted, wanted)) == []
    many = [{str(n): b"x" for n in range(2 * BATCH_RECORDS + 1)}]
    assert [sum(map(len, part.values())) for part in parts_of([{}], many)] == [BATCH_RECORDS, BATCH_RECORDS, 1]
