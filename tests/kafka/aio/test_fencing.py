"""Errors about fencing say who was fenced off, and why."""

import pytest
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTxnState,
    KafkaError,
    NotEnoughReplicasError,
    ProducerFenced,
)

from gate.errors import reason_of
from gate.kafka.aio.fencing import TRANSACTION_TIMEOUT_MS, FencedOffError, ForgottenIdError, NotOpenError, explained


def caused(error):
    """As aiokafka's sender ends."""
    ended = KafkaError("Unexpected error during batch delivery")
    ended.__cause__ = error
    return ended


@pytest.mark.parametrize("error", [ProducerFenced(), InvalidProducerEpoch(), caused(InvalidProducerEpoch())])
def test_another_owner_or_the_time_that_a_transaction_may_take(error):
    told = explained(error, "gate-3", 0.0)
    assert isinstance(told, FencedOffError)
    assert reason_of(told) == (
        "gate-3 is fenced off, as another owner writes by it: this gate was away from the group for longer than its "
        "session, or the group moves the shard"
    )
    late = explained(error, "gate-3", 0.001 * TRANSACTION_TIMEOUT_MS)
    assert reason_of(late) == "the broker has ended the transaction of gate-3: it was open for 30 s"


def test_an_id_that_was_forgotten():
    told = explained(caused(InvalidProducerIdMapping()), "gate-3", 60.0)
    assert isinstance(told, ForgottenIdError)
    assert reason_of(told).startswith("the broker has forgotten gate-3, which was not used for transactional.id.expira")


@pytest.mark.parametrize("error", [InvalidTxnState(), caused(InvalidTxnState())])
def test_a_transaction_that_somebody_else_has_ended(error):
    told = explained(error, "gate-3", 1.0)
    assert not isinstance(told, FencedOffError), "nobody writes by the id since"
    assert isinstance(told, NotOpenError)
    assert reason_of(told).startswith("the transaction of gate-3 is not open where it was to write: somebody else has")


@pytest.mark.parametrize("error", [NotEnoughReplicasError(), caused(ValueError("bug")), TimeoutError("slow")])
def test_others_are_what_they_are(error):
    assert explained(error, "gate-3", 60.0) is error
