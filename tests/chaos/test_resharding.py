"""The state moves to other shards while requests come: the short version of `python -m tests.chaos.resharding`."""

import logging

import pytest

from tests.chaos import resharding, resharding_large

pytestmark = pytest.mark.slow


@pytest.mark.timeout(600)  # on a busy machine; 30 s on an idle one
async def test_nothing_is_lost_or_doubled_when_the_state_moves_and_the_command_is_killed(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL, "aiokafka")
    points = "reshard-closing", "reshard-copying"
    found = await resharding.run(tmp_path, seconds=0.3, rate=200, points=points)
    text = "\n".join(found.lines())
    print(text)
    assert found.report.problems == [], text
    assert found.report.ends["delayed"] > found.report.offered // 20, text  # a good part was parked


@pytest.mark.timeout(300)  # on a busy machine; 25 s on an idle one
async def test_many_services_move_with_all_that_is_parked_however_often_the_command_is_killed(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL, "aiokafka")
    found = await resharding_large.run(tmp_path, services=100, parked=20)
    assert found.problems == [], found.commands
