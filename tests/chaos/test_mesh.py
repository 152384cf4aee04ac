"""Limits that processes share, with a queue beside them, under real faults on a real broker."""

import asyncio
from pathlib import Path

from tests.chaos.mesh import LIMITS, play


def test_nothing_is_over_whoever_is_killed_stopped_or_forked(bootstrap: str, tmp_path: Path) -> None:
    result = asyncio.run(play(tmp_path, bootstrap, seconds=20, processes=5, kills=1, owners=1, seed=1))
    print(result)
    assert result.over == []
    assert all(calls > 3 * LIMITS[name].burst for name, calls in result.calls.items()), str(result)
    assert result.by_queue, str(result)
