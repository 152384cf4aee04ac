"""A part of a limit: empty at first, 0 at times, resized in place."""

import pytest

from gate.limits import NEVER
from gate.limits.part import Part, PartSpec, PartWindow
from gate.units import SECOND

NANO = 1_000_000_000


def bucket(rate: int, burst: int) -> PartSpec:
    return PartSpec.of(rate * NANO, burst, ())


def count(part: Part, now: int) -> int:
    taken = 0
    while part.try_take(now) is None:
        taken += 1
    return taken


def test_a_new_part_has_no_tokens():
    part = Part(bucket(10, 5), 0)
    assert part.try_take(0) == SECOND // 10
    assert count(part, SECOND) == 5


def test_a_part_of_nothing_admits_nothing_and_never_will():
    part = Part(PartSpec.of(0, 0, (PartWindow(0, SECOND),)), 0)
    assert part.try_take(SECOND) == NEVER
    assert part.ready_at(SECOND) == NEVER
    part = Part(PartSpec.of(0, 3, ()), 0)
    assert part.try_take(SECOND) == NEVER
    part.resize(SECOND, 10 * NANO, 3, ())
    part.resize(2 * SECOND, 0, 3, ())  # it keeps its tokens, and gets no more
    assert part.ready_at(2 * SECOND) == 2 * SECOND
    assert count(part, 2 * SECOND) == 3
    assert part.ready_at(9 * SECOND) == NEVER
    assert part.fit(9 * SECOND, 1) == 0


def test_growth_brings_no_tokens_and_shrinking_caps_them():
    part = Part(bucket(10, 10), 0)
    part.resize(SECOND, 10 * NANO, 100, ())
    assert part.tokens(SECOND) == 10
    part.resize(SECOND, 10 * NANO, 4, ())
    assert part.tokens(SECOND) == 4
    part.resize(SECOND, 20 * NANO, 10, ())
    assert part.tokens(SECOND) == 4
    assert count(part, SECOND) == 4
    assert part.try_take(SECOND) == SECOND + SECOND // 20


def test_what_counts_stays_counted_when_a_window_is_resized():
    part = Part(PartSpec.of(None, 0, (PartWindow(5, SECOND), PartWindow(9, 2 * SECOND))), 0)
    assert count(part, 0) == 5
    part.resize(0, None, 0, (2, 9))
    assert part.counted(0) == (5, 5)
    assert part.try_take(0) == SECOND
    part.resize(0, None, 0, (8, 9))
    assert count(part, 0) == 3
    assert part.counted(SECOND) == (0, 8)
    with pytest.raises(ValueError, match="1 parts for 2 windows"):
        part.resize(0, None, 0, (1,))


def test_tokens_that_were_somebody_elses_are_dropped():
    part = Part(PartSpec.of(10 * NANO, 10, (PartWindow(20, SECOND),)), 0)
    assert part.take(SECOND, 3) == 3
    part.empty(SECOND)
    assert part.tokens(SECOND) == 0
    assert part.counted(SECOND) == (3,)
    assert part.ready_at(SECOND) == SECOND + SECOND // 10
