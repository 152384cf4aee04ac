"""The short versions of `make chaos`: real gates, a real broker, real kills."""

import logging

import pytest

from gate.shard.failpoints import POINTS
from tests.chaos import late
from tests.chaos.run import run

pytestmark = pytest.mark.slow

KILLS = 20
REQUESTS = 100_000
SECONDS = 48.0  # of offering; draining and checking come on top


@pytest.fixture(autouse=True)
def _quiet(caplog):
    """Producers complain at each attempt while the broker is down."""
    caplog.set_level(logging.CRITICAL, "aiokafka")


@pytest.mark.timeout(240)  # on a busy machine; 100 s on an idle one
async def test_nothing_is_lost_doubled_over_or_idle_in_twenty_kills(tmp_path):
    report = await run(tmp_path, seed=20, kills=KILLS, requests=REQUESTS, seconds=SECONDS)
    text = "\n".join(report.lines())
    print(text)
    assert report.problems == [], text
    assert report.offered == REQUESTS
    assert sum(report.kills.values()) >= KILLS, text
    assert all(report.kills[point] for point in POINTS), text
    assert report.ends["delayed"] > REQUESTS // 10, text  # a good part was parked


async def test_late_requests_and_hijacked_ids_tear_nothing(tmp_path):
    dose = late.Dose(late=8, lost=4, hijacks=4, pauses=2)
    report = await late.run(tmp_path, seed=1, dose=dose, requests=4_000, seconds=8)
    text = "\n".join(report.lines())
    print(text)
    assert report.problems == [], text
    assert report.offered == 4_000
