"""How long a sender lets the broker end a transaction before it asks for the next one."""

from types import SimpleNamespace

import pytest
from aiokafka.errors import ConcurrentTransactions
from aiokafka.structs import TopicPartition

from gate.kafka.sender import MOST_MARKING, PROMPT_BACKOFF, TrackedSender, _PromptAdd, track

HERE = TopicPartition("gate.admitted.x", 0)


class Coordinator:
    """Refuses who asks sooner than `marking` seconds after the end of a transaction."""

    def __init__(self, marking: float) -> None:
        self.marking = marking
        self.refused = 0
        self.sender: TrackedSender = TrackedSender.__new__(TrackedSender)
        self.sender._txn_manager = SimpleNamespace(txn_partitions=set(), partition_added=lambda _: None)
        self.sender._retry_backoff = 0.1
        self.sender = track(self.sender)

    def begin(self) -> float:
        """Ask until it says yes; return how long after the end of the last transaction that was."""
        handler = _PromptAdd(self.sender, [HERE])
        at = self.sender.marking
        while (backoff := handler.handle_response(self._answer(at))) is not None:
            self.refused += 1
            at += backoff
        return at

    def _answer(self, at: float) -> SimpleNamespace:
        code = 0 if at >= self.marking else ConcurrentTransactions.errno
        return SimpleNamespace(errors=[(HERE.topic, [(HERE.partition, code)])])


@pytest.mark.parametrize("marking", [0.0015, 0.003, 0.006])
def test_it_learns_how_long_the_broker_takes(marking):
    coordinator = Coordinator(marking)
    for _ in range(200):
        coordinator.begin()
    coordinator.refused, waited = 0, 0.0
    for _ in range(200):
        waited += coordinator.begin() - marking
    assert coordinator.refused < 0.2 * 200, "few ask in vain"
    assert waited / 200 < 0.3 * marking + PROMPT_BACKOFF / 4, "and none waits for long"


def test_it_waits_no_longer_than_it_may_and_no_shorter_than_pays():
    slow, quick = Coordinator(0.05), Coordinator(0.0)
    for _ in range(500):
        slow.begin()
        quick.begin()
    assert slow.sender.marking == MOST_MARKING
    assert quick.sender.marking == PROMPT_BACKOFF / 2
    assert quick.refused == 0
