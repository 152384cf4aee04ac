"""A short form of `make chaos CHAOS="--nodes 3"`: kinds of faults that `test_rolling` has not."""

import logging
from collections import Counter

import pytest

from tests.chaos import nodes
from tests.chaos.kinds import KINDS

RATE = 100.0  # requests a second
SOME = ("isr-lost", "reassignment", "gate-dies-amid-restart")


def test_each_kind_is_drawn_as_often_as_the_others():
    drawn = nodes.draw(1, 10 * len(KINDS), tuple(KINDS))
    assert Counter(drawn) == dict.fromkeys(KINDS, 10)
    assert drawn != nodes.draw(2, 10 * len(KINDS), tuple(KINDS))
    assert drawn == nodes.draw(1, 10 * len(KINDS), tuple(KINDS))


@pytest.mark.slow
@pytest.mark.timeout(600)  # on a busy machine; 90 s on an idle one
async def test_nothing_is_lost_or_doubled_when_brokers_lose_each_other_and_all_copies_move(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL, "aiokafka")  # producers complain while a node is down
    found = await nodes.run(tmp_path, seed=1, number=len(SOME), requests=0, rate=RATE, kinds=SOME)
    text = "\n".join(found.lines())
    print(text)
    assert found.report.problems == [], text
    assert found.report.ends["delayed"] > found.report.offered // 10, text  # a good part was parked
    assert {one.kind for one in found.struck} == set(SOME)
