import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.limits import StateError
from gate.shard.seen_feedback import MOST_GROUPS, MOST_TOLD, SeenFeedback


def test_the_same_is_taken_once_per_group():
    told = SeenFeedback()
    assert told.take("a", 7, 0)
    assert not told.take("a", 7, 0)
    assert told.take("b", 7, 0)
    assert told.take("a", 5, 0)
    assert not told.take("a", 7, 5)


def test_what_is_below_what_a_group_has_finished_is_not_taken():
    told = SeenFeedback()
    assert told.take("a", 9, 9)
    assert not told.take("a", 8, 0)
    assert told.take("b", 8, 0)
    told.settle("b", 20)
    assert not told.take("b", 19, 0)
    assert told.take("b", 20, 0)


def test_a_group_can_not_finish_what_lies_ahead():
    told = SeenFeedback()
    assert told.take("a", 3, 2**62)
    assert told.take("a", 4, 0)


def test_a_successor_knows_as_much():
    told = SeenFeedback()
    for offset in (90, 12, 40, 41):
        told.take("a", offset, 10)
    told.take("bö", 2**62, 0)
    after = SeenFeedback.load("told/s/0", told.dump())
    assert [after.take("a", offset, 0) for offset in (9, 10, 12, 40, 42, 90, 91)] == [
        False, True, False, False, True, False, True,
    ]  # fmt: skip
    assert not after.take("bö", 2**62, 0)
    with pytest.raises(StateError):
        SeenFeedback.load("told/s/0", told.dump()[:-1])


def test_in_a_topic_that_was_made_anew_nothing_has_been_told():
    told = SeenFeedback()
    assert told.take("a", 900, 880, at=5_000)
    assert not told.take("a", 3, 0, at=4_000)  # from before
    assert not told.take("a", 900, 0, at=5_000)
    told = SeenFeedback.load("told/s/0", told.dump())
    assert told.take("a", 3, 0, at=6_000)
    assert not told.take("a", 3, 0, at=6_000)
    assert told.take("a", 900, 0, at=7_000)


def test_memory_is_bounded_whoever_tells():
    told = SeenFeedback()
    for offset in range(2 * MOST_TOLD):
        assert told.take("a", offset, 0)
    assert len(told.dump()) < 2 * MOST_TOLD
    assert not told.take("a", MOST_TOLD - 1, 0)
    assert not told.take("a", MOST_TOLD, 0)
    told.take("a", 2 * MOST_TOLD, 0)
    for number in range(3 * MOST_GROUPS):
        told.take(f"stranger{number}", 1, 0)
        told.take("a", 10**6 + number, 0)
    assert not told.take("a", 10**6, 0)  # who goes on telling is not forgotten
    assert len(told.dump()) < 3 * MOST_TOLD


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30), st.integers(0, 30))))
def test_nothing_is_taken_twice(calls):
    told, taken = SeenFeedback(), set()
    for group, offset, settled in calls:
        if told.take(group, offset, settled):
            assert (group, offset) not in taken
            taken.add((group, offset))
        told = SeenFeedback.load("told/s/0", told.dump())
