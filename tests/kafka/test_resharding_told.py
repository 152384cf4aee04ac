"""A move of the state that is under way is told as such, and one that nobody carries on is a fault."""

from types import SimpleNamespace

import pytest

from gate.kafka import instance
from gate.kafka.generations import Generation, Moving
from gate.kafka.instance import MOVE_SILENT, Gate
from gate.protocol.control import NewGeneration
from gate.protocol.topics import Names
from gate.shard.changelog_records import ClosedGeneration
from gate.shard.records import Blocked

MOVING = Moving(Generation(1, 3), ClosedGeneration(2, 5, at=1_764_025_123_456))


@pytest.fixture
def gate(monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(instance.time, "monotonic", lambda: now.seconds)
    made = Gate.__new__(Gate)
    made.names = Names()
    made._generations = SimpleNamespace(moving=MOVING)
    made.feedback = SimpleNamespace(move=NewGeneration(2, 1200, 5000), move_heard=100.0)
    made._owned, made._taken = {3: SimpleNamespace(ready=False, failures=1, serves=True, stopping=False)}, {3}
    made._owned[3].hindered = lambda: Blocked("gives way", wholly=True)
    made._membership = SimpleNamespace(rebalances=1, state_lost=False)
    return SimpleNamespace(made=made, now=now)


def test_it_is_said_since_when_and_how_far_and_no_fault(gate):
    said = gate.made.resharding()
    assert said is not None
    assert said.startswith("resharding to generation 2 (5 shards) since 2025-11-24T22:58:43Z: 1,200 of 5,000 records")
    assert gate.made.health() == ({}, {"all shards": said})


@pytest.mark.parametrize("told", [None, NewGeneration(1)])
def test_what_was_taken_back_or_never_told_is_no_move(gate, told):
    gate.made.feedback.move = told
    assert gate.made.resharding() is None


def test_who_is_not_heard_for_long_is_gone_and_that_is_a_fault(gate):
    gate.now.seconds += MOVE_SILENT + 0.1
    assert gate.made.resharding() is None
    assert gate.made.health().faults == {"shard 3": "gives way"}
