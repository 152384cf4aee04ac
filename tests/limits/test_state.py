"""State as bytes, and copies charged ahead: what is stored comes back, what is damaged is refused, waits are true."""

import random
from fractions import Fraction
from zlib import crc32

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from gate.limits import NEVER, Limiter, Per, Quota, Spec, StateError, Window

MS = 10**6
SECOND = 10**9
START = 1_764_025_123 * SECOND
SPEC = Spec(Fraction(10), 20, (Window(300, SECOND), Window(1000, 10 * SECOND)))


def busy(spec: Spec = SPEC, steps: int = 400) -> Limiter:
    limiter = Limiter(spec, START)
    for step in range(steps):
        limiter.charge(START + step * MS, 1 + step % 3)
    return limiter


@given(st.integers(0, 500), st.integers(1, 2**62), st.integers(1, 2**40), st.integers(1, 2**62))
@settings(max_examples=60, deadline=None)
def test_a_dump_comes_back_the_same(steps: int, limit: int, size: int, burst: int) -> None:
    spec = Spec(Fraction(limit, size), burst, (Window(limit, size), Window(7, 3 * SECOND)))
    limiter = busy(spec, steps)
    twin = Limiter.load(spec, limiter.dump())
    assert twin.dump() == limiter.dump()
    now = START + 300 * MS
    assert twin.ready_at(now) == limiter.ready_at(now)
    assert twin.tokens(now) == limiter.tokens(now)
    assert twin.spec is spec


def test_every_damaged_byte_is_found() -> None:
    data = busy(steps=40).dump()
    for place in range(len(data)):
        for flip in (1, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[place] ^= flip
            with pytest.raises(StateError):
                Limiter.load(SPEC, bytes(damaged))


def test_every_cut_is_found() -> None:
    data = busy(steps=200).dump()
    for length in range(len(data)):
        with pytest.raises(StateError, match=r"cut short|damaged"):
            Limiter.load(SPEC, data[:length])


def test_a_newer_version_is_refused_by_name() -> None:
    body = bytes([9]) + busy().dump()[1:-4]
    with pytest.raises(StateError, match="version 9") as caught:
        Limiter.load(SPEC, body + crc32(body).to_bytes(4, "little"))
    assert "newer release" in (caught.value.hint or "")


@given(st.binary(max_size=60))
@settings(max_examples=400, deadline=None)
def test_nonsense_with_a_right_checksum_is_refused_or_harmless(noise: bytes) -> None:
    body = b"\x01" + noise
    try:
        limiter = Limiter.load(SPEC, body + crc32(body).to_bytes(4, "little"))
    except StateError:
        return
    assert 0 <= limiter.take(START, 30) <= 20


def test_a_hot_key_is_stored_in_little_more_than_its_cells() -> None:
    limiter = Limiter(Spec(Fraction(100), 150, (Window(6000, 60 * SECOND),)), START)
    for step in range(12_000):
        limiter.take(START + step * 10 * MS, 1)
    assert len(limiter.dump()) < 1100
    assert len(Limiter(SPEC, START).dump()) < 50


def test_limits_that_changed_while_the_state_lay_are_carried_over() -> None:
    limiter = Limiter(Spec(Fraction(1), 10, (Window(10, SECOND),)), START)
    limiter.charge(START, 8)
    spec = Spec(Fraction(1), 100, (Window(9, 2 * SECOND),))
    twin = Limiter.load(spec, limiter.dump())
    assert (twin.tokens(START), twin.fit(START, 5), twin.ready_at(START, 2)) == (2, 1, START + 2 * SECOND)
    assert Limiter.load(None, limiter.dump()).spec == limiter.spec


@pytest.mark.parametrize("spec", [
    Spec(Fraction(1000, 7), 5, ()),
    Spec(None, 1, (Window(50, SECOND),)),
    Spec(Fraction(1000), 40, (Window(500, SECOND), Window(2000, 10 * SECOND))),
])  # fmt: skip
def test_whoever_waits_is_admitted_when_a_copy_charged_ahead_said(spec: Spec) -> None:
    draw = random.Random(1)
    limiter = Limiter(spec, START)
    limiter.take(START, 30)
    ahead = limiter.copy()
    queue = [(START + step * 10_000, draw.choice((1, 1, 2, 5))) for step in range(3000)]
    told = []
    for joined, cost in queue:
        told.append(ahead.ready_at(joined, cost))
        ahead.charge(told[-1], cost)
    assert told == sorted(told)
    for ready, (joined, cost) in zip(told, queue, strict=True):
        assert limiter.ready_at(joined, cost) == ready
        assert limiter.fit(ready - 1, 1, cost) == 0 or ready == max(joined, limiter.last)
        assert limiter.take(ready, 1, cost) == 1


def test_many_at_once_are_charged_as_each_behind_the_other() -> None:
    each, many = busy(), busy()
    singly, together = [], []
    while len(singly) < 500:
        singly.append(each.ready_at(START, 2))
        each.charge(singly[-1], 2)
    while len(together) < 500:
        ready = many.ready_at(START, 2)
        together += [ready] * many.take(ready, 500 - len(together), 2)
    assert together == singly


def test_who_can_never_be_admitted_is_told_so_and_takes_nothing() -> None:
    limiter = Limiter(SPEC, START)
    assert limiter.ready_at(START, 21) == NEVER
    assert limiter.take(START, 3, 21) == 0
    assert limiter.ready_at(START, 20) == START


LARGE = Spec(Fraction(1000), 9, (Window(7, SECOND), Window(70_000, 60 * SECOND)), (Quota(40, Per.DAY),))


@given(
    st.sampled_from([SPEC, LARGE]), st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(1, 9)), max_size=30),
    st.integers(0, 99 * SECOND),
)  # fmt: skip
def test_a_question_changes_nothing(spec: Spec, charges: list[tuple[int, int]], later: int) -> None:
    """Also one about the future: what was charged in between, or is asked as of then, is as if nobody had asked."""
    limiter, now = Limiter(spec, START), START
    limiter.expect_many()
    for gap, units in charges:
        now += gap
        limiter.charge(now, units)
    before, asked = limiter.dump(), now + later
    assert limiter.fit(asked, 9) >= limiter.fit(now, 9)
    for question in (limiter.ready_at, limiter.binding, limiter.tokens, limiter.bucket_fill, limiter.shares,
                     limiter.fills, limiter.window_fill, limiter.fullest, limiter.idle):  # fmt: skip
        question(asked)
    limiter.spent(asked, SECOND)
    assert limiter.dump() == before
    assert limiter.ready_at(now) == Limiter.load(spec, before).ready_at(now)
