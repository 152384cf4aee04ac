"""Every shard has exactly one owner, numbers are even, and nothing moves without need."""

import random

import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from hypothesis import given
from hypothesis import strategies as st

from gate.errors import GateError
from gate.kafka.assignor import balance, make_assignor
from gate.kafka.upgrade import UpgradeStatus, check, member_of
from gate.shard.changelog_records import FORMAT
from gate.shard.placement import shard_of

claims = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3), st.lists(st.integers(-2, 70)), min_size=1, max_size=9
)


@given(st.integers(1, 64), claims)
def test_each_shard_goes_to_one_member_and_numbers_differ_by_at_most_one(shards, members):
    plan = balance(shards, members)
    assert sorted(shard for mine in plan.values() for shard in mine) == list(range(shards))
    sizes = [len(mine) for mine in plan.values()]
    assert max(sizes) - min(sizes) <= 1
    assert plan.keys() == members.keys()


@given(st.integers(1, 64), st.integers(1, 8), st.randoms(use_true_random=False))
def test_what_is_balanced_stays_where_it_is(shards, count, rng: random.Random):
    first = balance(shards, {f"m{i}": [] for i in range(count)})
    shuffled = {member: rng.sample(mine, len(mine)) for member, mine in first.items()}
    assert balance(shards, shuffled) == first


@given(st.integers(1, 64), st.integers(1, 8))
def test_a_newcomer_takes_its_share_and_no_more_moves(shards, count):
    before = balance(shards, {f"m{i}": [] for i in range(count)})
    after = balance(shards, before | {"new": []})
    moved = [shard for member, mine in before.items() for shard in mine if shard not in after[member]]
    assert sorted(moved) == after["new"]


@given(st.integers(1, 64), st.integers(2, 8))
def test_when_a_member_leaves_only_its_shards_move(shards, count):
    before = balance(shards, {f"m{i}": [] for i in range(count)})
    gone = before.pop("m0")
    after = balance(shards, before)
    for member, mine in before.items():
        assert set(mine) <= set(after[member])
    assert sorted(s for member in after for s in after[member] if s not in before[member]) == gone


def test_two_that_claim_the_same_shard_do_not_both_get_it():
    assert balance(2, {"a": [0, 1], "b": [0, 1]}) == {"a": [0], "b": [1]}


@pytest.mark.parametrize(("key", "shard"), [("payments", 2), ("search", 7), ("", 0)])
def test_the_shard_of_a_service_never_changes_between_versions(key, shard):
    assert shard_of(key, 16) == shard


class _Cluster:
    def __init__(self, topics: dict[str, int]) -> None:
        self._topics = topics

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        count = self._topics.get(topic)
        return None if count is None else set(range(count))


def _metadata(topics: list[str], user_data: bytes = b"") -> ConsumerProtocolMemberMetadata:
    return ConsumerProtocolMemberMetadata(0, topics, user_data)


def test_all_partitions_of_a_service_go_with_its_shard():
    topics = {"gate.requests.a": 3, "gate.requests.b": 2, "gate.state": 4}
    shards = {"gate.requests.a": 1, "gate.requests.b": 2}
    assignor = make_assignor(4, "gate.state", shards.get, list)
    plan = assignor.assign(_Cluster(topics), {m: _metadata(list(topics)) for m in ("one", "two")})
    assigned = {member: dict(assignment.assignment) for member, assignment in plan.items()}
    for mine in assigned.values():
        assert {topic for topic in mine if topic != "gate.state"} == {
            t for t, s in shards.items() if s in mine["gate.state"]
        }
    together = {topic: n for mine in assigned.values() for topic, n in mine.items() if topic != "gate.state"}
    assert together == {"gate.requests.a": [0, 1, 2], "gate.requests.b": [0, 1]}


@pytest.mark.parametrize("user_data", [b"", b"\xff", b"[1]", b'{"owned": "x"}', b'{"owned": 7}', b'{"owned": [[]]}'])
def test_a_member_of_another_version_is_treated_as_a_newcomer(user_data):
    assignor = make_assignor(2, "gate.state", lambda _: None, list)
    plan = assignor.assign(_Cluster({"gate.state": 2}), {"x": _metadata(["gate.state"], user_data)})
    assert plan["x"].assignment == [("gate.state", [0, 1])]


def test_a_member_tells_what_it_owns():
    assignor = make_assignor(4, "gate.state", lambda _: None, lambda: [3, 1])
    meta = assignor.metadata(["gate.state"])
    plan = assignor.assign(_Cluster({"gate.state": 4}), {"x": meta, "y": _metadata(["gate.state"])})
    assert dict(plan["x"].assignment)["gate.state"] == [1, 3]


def test_a_member_tells_which_format_of_the_state_it_knows():
    assignor = make_assignor(4, "gate.state", lambda _: None, list)
    (new, old, ancient) = (
        member_of(name, "/10.0.0.7", meta.encode())
        for name, meta in (
            ("new", assignor.metadata(["gate.state"])),
            ("old", _metadata(["gate.state"], b'{"shards": 4, "owned": [1]}')),
            ("ancient", _metadata(["gate.state"], b"\xff")),
        )
    )
    assert (new.format, bool(new.version), new.host) == (FORMAT, True, "10.0.0.7")
    assert (old.format, old.version) == (ancient.format, ancient.version) == (1, "")
    check(UpgradeStatus({0: 1}, [new]))
    with pytest.raises(GateError, match=r"2 of 3 gates do not know format 2 of the state: .*old.*ancient"):
        check(UpgradeStatus({0: 1}, [new, old, ancient]))
    with pytest.raises(GateError, match="no gate runs"):
        check(UpgradeStatus({0: 1}, []))
