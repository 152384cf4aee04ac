"""Limits that processes share, with a queue beside them, under real faults on a real broker."""

import asyncio
from pathlib import Path

import pytest

from tests.chaos.mesh import LIMITS, SECOND, Limit, excess, play


def test_nothing_is_over_whoever_is_killed_stopped_or_forked(bootstrap: str, tmp_path: Path) -> None:
    result = asyncio.run(play(tmp_path, bootstrap, seconds=20, processes=5, kills=1, owners=1, seed=1))
    print(result)
    assert result.over == []
    assert all(calls > 3 * LIMITS[name].burst for name, calls in result.calls.items()), str(result)
    assert result.by_queue, str(result)


class TestJudge:
    LIMIT = Limit(rate=10, burst=5, limit=8, window=SECOND)

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
    def test_it_finds_a_choice_of_times_where_there_is_one(self, calls: list[tuple[int, int]], fits: bool) -> None:
        assert (not excess(self.LIMIT, calls)) == fits
