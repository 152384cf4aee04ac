"""How long a sender lets the broker end a transaction before it asks for the next one."""

from types import SimpleNamespace

import pytest
from aiokafka.errors import (
    ConcurrentTransactions,
    MessageSizeTooLargeError,
    NotEnoughReplicasError,
    OutOfOrderSequenceNumber,
)
from aiokafka.structs import TopicPartition

from gate.kafka.sender import MOST_MARKING, PROMPT_BACKOFF, TrackedSender, _PromptAdd, _PromptProduce, track

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


def test_what_is_out_of_order_behind_a_refused_batch_does_not_hide_why_that_one_was_refused():
    """Of several batches to one partition the first was too large: the others then lack a predecessor."""
    sender: TrackedSender = TrackedSender.__new__(TrackedSender)
    sender._retry_backoff, sender.client = 0.1, None
    handler = _PromptProduce(track(sender), {HERE: SimpleNamespace(retry_count=0)})
    handler._batches = {}  # aiokafka fails none here
    for error in (NotEnoughReplicasError, MessageSizeTooLargeError, OutOfOrderSequenceNumber):
        answer = (HERE.partition, error.errno, -1, -1, 0, [(3, "too large")], None)
        handler.handle_response(SimpleNamespace(API_VERSION=8, topics=[(HERE.topic, [answer])]))
    assert handler._sender.refused == {HERE: (MessageSizeTooLargeError.errno, ((3, "too large"),), "")}
