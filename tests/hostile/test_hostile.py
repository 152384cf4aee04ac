"""The short version of `make hostile`: something of each kind, real gates, a real broker, one kill.

The bounds of time are those of the long version, on a machine of its own.
"""

import logging

import pytest

from tests.hostile.kinds import KINDS
from tests.hostile.report import SHORT
from tests.hostile.run import Attack, run

pytestmark = pytest.mark.slow

EACH = 150


@pytest.fixture(autouse=True)
def _quiet(caplog):
    """aiokafka complains of what a killed gate leaves."""
    caplog.set_level(logging.CRITICAL, "aiokafka")


@pytest.mark.timeout(300)  # on a busy machine; 45 s on an idle one
async def test_whatever_a_stranger_sends_ends_once_and_innocents_go_on(tmp_path):
    attack = Attack(seed=1, each=EACH, seconds=10, calm=2, kills=1)
    report = await run(tmp_path, attack, SHORT)
    text = "\n".join(report.lines())
    print(text)
    assert report.problems == [], text
    assert {*KINDS, "transactions"} <= report.taken.keys(), text
    assert {"admitted", "rejected, malformed", "rejected, unforwardable"} <= report.verdicts.keys(), text
    assert all(after is not None for taken in report.take_overs for after in taken.values()), text
