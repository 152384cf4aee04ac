"""The judge of `/readyz` finds a gate that lies: each case is shown once as it should be, and once not."""

from tests.chaos.readiness import Answers, assignments, problems

MINE = frozenset({0, 1})
STEADY = list(range(0, 60_000, 100))  # ms


def said(*spans: tuple[int, int, bool | None]) -> list[tuple[int, bool | None]]:
    return [(at, ready) for begin, end, ready in spans for at in range(begin, end, 300)]


def silent(begin: int, end: int) -> list[int]:
    return [at for at in STEADY if not begin <= at < end]


def judge(ready: list[tuple[int, bool | None]], decided: list[int], came: list[int] = STEADY) -> list[str]:
    gate = Answers("gate1", ready, [(0, MINE), (50_000, frozenset({1}))])
    return problems([gate], {0: came}, {0: decided})


def test_a_gate_that_decides_while_it_is_green_tells_the_truth():
    assert judge(said((0, 60_000, True)), STEADY) == []
    assert judge(said((0, 60_000, True)), silent(20_000, 28_000)) == []  # not for long


def test_one_that_is_green_and_decides_nothing_does_not():
    (found,) = judge(said((0, 60_000, True)), silent(20_000, 40_000))
    assert "green for 20.0 s from 20000 on in which nothing of what waited at its shards [0, 1]" in found
    assert judge(said((0, 24_000, True), (24_000, 39_000, False), (39_000, 60_000, True)), silent(20_000, 40_000)) == []
    assert judge(said((0, 24_000, True), (24_000, 39_000, None), (39_000, 60_000, True)), silent(20_000, 40_000)) == []


def test_who_has_nothing_to_decide_may_be_green():
    assert judge(said((0, 60_000, True)), silent(20_000, 40_000), silent(20_000, 39_000)) == []
    assert len(judge(said((0, 60_000, True)), silent(20_000, 40_000), silent(20_000, 29_000))) == 1


def test_what_others_own_is_theirs():
    assert judge(said((0, 90_000, True)), silent(50_000, 60_000)) == []


def test_what_another_was_given_meanwhile_is_no_more_that_of_one_that_was_expelled():
    red = Answers("gate1", said((0, 20_000, True), (20_000, 30_000, False), (30_000, 60_000, True)), [(0, MINE)])
    other = Answers("gate2", said((0, 60_000, True)), [(0, frozenset({2})), (20_500, frozenset({0, 1, 2}))])
    assert problems([red, other], {0: STEADY}, {0: STEADY}) == []
    assert len(problems([red], {0: STEADY}, {0: STEADY})) == 1


def test_one_that_is_red_while_it_decides_does_not_tell_the_truth():
    (found,) = judge(said((0, 20_000, True), (20_000, 30_000, False), (30_000, 60_000, True)), STEADY)
    assert "red for 9.9 s from 20000 on, and decided" in found
    assert judge(said((0, 20_000, True), (20_000, 22_500, False), (22_500, 60_000, True)), STEADY) == []


def test_a_new_gate_is_red_until_all_of_its_shards_were_tried():
    assert judge(said((0, 20_000, False), (20_000, 60_000, True)), STEADY) == []


def test_ownership_is_what_the_log_says():
    text = (
        "2026-11-30T10:00:00.500000Z [info     ] assigned                       services=2 shards=[0, 3]\n"
        "2026-11-30T10:00:01.000000Z [info     ] shard taken over               keys=3 seconds=0.1 shard=0\n"
        "2026-11-30T10:00:02.000000Z [info     ] assigned                       services=0 shards=[]\n"
    )
    assert assignments(text) == [(1_796_032_800_500, frozenset({0, 3})), (1_796_032_802_000, frozenset())]
