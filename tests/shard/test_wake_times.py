"""When services are looked at next: soon, at the earliest of their times, once."""

import pytest

from gate.shard.wake_times import WakeTimes


@pytest.mark.parametrize(
    ("planned", "others", "next_look"),
    [
        ((), (), None),
        ((), (None, 7), 7),
        ((("a", 5),), (None,), 5),
        ((("a", 5), ("b", 3)), (4,), 3),
        ((("a", 5), ("a", 9)), (), 5),
        ((("a", 9), ("a", 5)), (), 5),
    ],
)
def test_the_next_look_is_the_earliest(planned, others, next_look):
    wakes = WakeTimes()
    for service, moment in planned:
        wakes.wake_at(service, moment)
    assert wakes.next(*others) == next_look


def test_what_is_to_be_looked_at_soon_is_due_at_once_and_once():
    wakes = WakeTimes()
    wakes.wake_at("b", 10)
    wakes.wake_soon("a")
    assert wakes.next() == 0
    assert wakes.pop_due(0) == {"a"}
    assert wakes.pop_due(9) == set()
    assert wakes.pop_due(10) == {"b"}
    assert wakes.next() is None


def test_a_later_look_can_be_planned_after_an_earlier_one_is_over():
    wakes = WakeTimes()
    wakes.wake_at("a", 5)
    wakes.pop_due(5)
    wakes.wake_at("a", 9)
    assert wakes.next() == 9
    assert wakes.pop_due(9) == {"a"}
