"""What `gate demo` says about calls: its judge finds what no choice of times within calls would fit."""

from fractions import Fraction
from pathlib import Path

import pytest

from gate.cli.demo.calls import SERVICE, Calls, broken_together
from gate.cli.demo.intervals import excess, fullest, overdrawn
from gate.cli.demo.tally import Content, Ledger, Outcome
from gate.limits import Spec, Window
from gate.units import MS, SECOND

SPEC = Spec(Fraction(10), 5, (Window(8, SECOND),))


@pytest.mark.parametrize(
    ("calls", "fits"),
    [
        ([(0, 0)] * 5, True),
        ([(0, 0)] * 6, False),  # the bucket
        ([(0, SECOND // 10)] * 6, True),  # one of them a tenth of a second later
        ([(0, 0)] * 5 + [(k * SECOND // 10, k * SECOND // 10) for k in (1, 2, 3)], True),
        ([(0, 0)] * 5 + [(k * SECOND // 10, k * SECOND // 10) for k in (1, 2, 3, 4)], False),  # the window
        ([(0, 0)] * 5 + [(k * SECOND // 10, SECOND) for k in (1, 2, 3, 4)], True),
        ([(0, 2 * SECOND)] * 5 + [(SECOND // 2, SECOND // 2)] * 5, True),  # who has time leaves it to who has not
        ([(0, SECOND // 2)] * 6 + [(SECOND // 2, SECOND // 2)] * 5, False),
    ],
)
def test_it_finds_a_choice_of_times_where_there_is_one(calls: list[tuple[int, int]], fits: bool) -> None:
    assert (not excess(SPEC, calls)) == fits


def test_it_says_how_much_is_too_much_and_how_much_is_left() -> None:
    uses = sorted([(0, 0)] * 5 + [(k * SECOND // 10, k * SECOND // 10) for k in (1, 2, 3, 4)])
    assert excess(SPEC, uses) == ["9 of 8 in 1 s from 0"]
    assert fullest(SPEC.windows[0], uses) == (9, 0)
    assert overdrawn(Fraction(10), 5, uses)[0] == 0
    assert overdrawn(Fraction(1, 2), 5, uses) == (Fraction(38, 10), 4 * SECOND // 10)
    assert overdrawn(Fraction(10), 20, uses)[0] < 0
    assert excess(SPEC, []) == []


def told(calls: Calls, *lines: str) -> None:
    for file, line in zip(calls.files, lines, strict=False):
        with file.open("a") as out:
            out.write(line)
    calls.read()


def test_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    calls = Calls(tmp_path)
    told(calls, "1 2 1\n3 4 0\n5", "1 3 1\n")
    assert (calls.uses, calls.refused, calls.asked) == ([(1, 2), (1, 3)], 1, 3)
    told(calls, " 6 1\n", "", "7 8 0\n")
    assert (calls.uses, calls.refused, calls.asked) == ([(1, 2), (1, 3), (5, 6)], 2, 5)
    assert not calls.all_allowed
    told(calls, "", "", "8 9 1\n")
    assert calls.all_allowed


def admitted(number: int, created_ms: int, seen_ms: int) -> Outcome:
    return Outcome(f"r@{number}", seen_ms, seen_ms, None, Content(None, None, created_ms, ()))


def test_calls_and_topic_are_over_together_where_neither_is_alone(tmp_path: Path) -> None:
    calls, ledger = Calls(tmp_path), Ledger(SERVICE)
    ledger.admitted += [admitted(n, 100, 120) for n in range(3)]
    told(calls, f"{100 * MS} {101 * MS} 1\n" * 2)
    assert list(broken_together(calls, ledger, SPEC)) == []
    told(calls, f"{100 * MS} {101 * MS} 1\n")
    [line] = broken_together(calls, ledger, SPEC)
    assert line.startswith(f"{SERVICE}: calls and topic together are over the limit: 0.790 beyond the bucket")


def test_a_second_door_that_lets_nobody_in_is_found(tmp_path: Path) -> None:
    calls = Calls(tmp_path)
    told(calls, "1 2 0\n")
    assert list(broken_together(calls, Ledger(SERVICE), SPEC)) == [f"{SERVICE}: none of 1 calls was allowed"]
