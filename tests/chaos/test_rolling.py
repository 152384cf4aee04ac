"""Three brokers, of which each is gone for a while: the short version of what `make chaos` does to a cluster."""

import logging

import pytest

from tests.chaos import rolling

pytestmark = pytest.mark.slow

RATE = 150.0  # requests a second


@pytest.mark.timeout(420)  # on a busy machine; 80 s on an idle one
async def test_nothing_is_lost_or_doubled_when_brokers_restart_die_and_freeze(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL, "aiokafka")  # producers complain while a node is down
    found = await rolling.run(tmp_path, seed=1, rate=RATE)
    text = "\n".join(found.lines())
    print(text)
    assert found.report.problems == [], text
    assert found.report.ends["delayed"] > found.report.offered // 10, text  # a good part was parked
    assert len(found.phases) == 6
