"""Fencing, as errors that say who was fenced off, and why; the broker names neither."""

from typing import Final

from aiokafka.errors import InvalidProducerEpoch, InvalidProducerIdMapping, InvalidTxnState, KafkaError, ProducerFenced

TRANSACTION_TIMEOUT_MS: Final = 30_000


class FencedOffError(KafkaError):  # type: ignore[misc]
    """Who writes by a transactional id may do so no more: somebody has begun to since, or its transaction was ended."""

    def __str__(self) -> str:
        return str(self.args[0])


class OtherOwnerError(FencedOffError):
    """Another owner has begun to write by a transactional id, as the group moves shards, or took this one for gone."""


class NotOpenError(KafkaError):  # type: ignore[misc]
    """A broker takes a transaction for ended that its producer has not ended."""

    def __str__(self) -> str:
        return str(self.args[0])


class ForgottenIdError(FencedOffError):
    """The broker does not know a transactional id any more, or by another producer."""


def explained(error: BaseException, transactional_id: str | None, open_seconds: float) -> BaseException:
    """Return what a broker's answer comes to, where it is about fencing; else the error itself.

    `open_seconds` is the age of the transaction.
    """
    found = error if error.__cause__ is None else error.__cause__
    if isinstance(found, ProducerFenced | InvalidProducerEpoch):
        if open_seconds >= TRANSACTION_TIMEOUT_MS / 1000:
            return FencedOffError(
                f"the broker has ended the transaction of {transactional_id}: it was open for {open_seconds:.0f} s"
            )
        return OtherOwnerError(
            f"{transactional_id} is fenced off, as another owner writes by it: this gate was away from the group for "
            "longer than its session, or the group moves the shard"
        )
    if isinstance(found, InvalidProducerIdMapping):
        return ForgottenIdError(
            f"the broker has forgotten {transactional_id}, which was not used for transactional.id.expiration.ms, or "
            "another owner writes by it"
        )
    if isinstance(found, InvalidTxnState):
        return NotOpenError(
            f"the transaction of {transactional_id} is not open where it was to write: somebody else has ended it, as "
            "`kafka-transactions abort` does; what it had written there may count as aborted"
        )
    return error
