"""How long a sender lets the broker end a transaction before it asks for the next one."""

import asyncio
import gc
import time
from types import SimpleNamespace

import pytest
from aiokafka.client import CoordinationType
from aiokafka.errors import (
    ConcurrentTransactions,
    CoordinatorNotAvailableError,
    KafkaConnectionError,
    MessageSizeTooLargeError,
    NodeNotReadyError,
    NotCoordinatorError,
    NotEnoughReplicasError,
    OperationNotAttempted,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    TransactionalIdAuthorizationFailed,
    UnknownTopicOrPartitionError,
)
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from gate.kafka.aio import sender as senders
from gate.kafka.aio.sender import (
    MOST_LACKING,
    MOST_MARKING,
    MOST_PAUSE,
    PROMPT_BACKOFF,
    TrackedSender,
    _PromptAdd,
    _PromptProduce,
    track,
)
from gate.shard.refusals import NO_TOPIC, OutputError

HERE, INNOCENT = TopicPartition("gate.admitted.x", 0), TopicPartition("gate.admitted.y", 0)


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
    assert handler.sender.asked.why(0) == "gate.admitted.x-0 takes nothing yet: NotEnoughReplicasError"
    assert handler.sender.refused == {HERE: (MessageSizeTooLargeError.errno, ((3, "too large"),), "")}


class Waiting:
    """A batch that waits for its partition to be added to the transaction."""

    def __init__(self):
        self.errors = []

    def failure(self, error):
        self.errors.append(error)


class Deleting:
    """A coordinator that knows one topic and has lost, or does not know yet, the other one."""

    def __init__(self):
        self.batches = {HERE: [Waiting()], INNOCENT: [Waiting()]}
        self.offsets = asyncio.get_running_loop().create_future()
        self.now = 100.0
        sender: TrackedSender = TrackedSender.__new__(TrackedSender)
        sender._retry_backoff = 0.1
        sender._message_accumulator = SimpleNamespace(_batches=self.batches)
        added = SimpleNamespace(txn_partitions=set(), partition_added=lambda _: None)
        sender._txn_manager = SimpleNamespace(**vars(added), _pending_txn_offsets=[("group", {}, self.offsets)])
        self.sender = track(sender)
        self.sender.clock = lambda: self.now

    def answer(self, *, there):
        codes = (0, 0) if there else (UnknownTopicOrPartitionError.errno, OperationNotAttempted.errno)
        given = [(tp.topic, [(tp.partition, code)]) for tp, code in zip((HERE, INNOCENT), codes, strict=True)]
        return _PromptAdd(self.sender, [HERE, INNOCENT]).handle_response(SimpleNamespace(errors=given))

    @property
    def failed(self):
        return [error for batches in self.batches.values() for batch in batches for error in batch.errors]


async def test_a_topic_that_is_not_there_for_long_fails_the_batch_and_is_named():
    broker = Deleting()
    until = broker.now + MOST_LACKING
    while broker.now < until:
        assert broker.answer(there=False), "it is asked again"
        assert not broker.failed
        broker.now += 0.1
    broker.answer(there=False)
    assert len(broker.failed) == 2, "what would go to others is not written without the rest of the transaction"
    for error in (*broker.failed, broker.offsets.exception()):
        assert isinstance(error, OutputError)
        assert (error.partition, error.why) == (HERE, NO_TOPIC)


async def test_a_topic_that_was_just_made_is_waited_for_each_time():
    broker = Deleting()
    for _ in range(5):
        broker.answer(there=False)
        broker.now += 0.9 * MOST_LACKING
        assert broker.answer(there=True) is None
    assert not broker.failed
    assert broker.sender.marking <= PROMPT_BACKOFF, "it was not the markers that took so long"


async def test_an_error_that_nobody_waits_for_any_more_is_nothing_to_complain_about():
    """asyncio said that its exception was never retrieved, for each session that ended amid a batch."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    sender = TrackedSender.__new__(TrackedSender)
    sender._txn_manager = transactions = TransactionManager("id", 1000)
    sender._message_accumulator = accumulator = SimpleNamespace(_pending_batches=set())
    track(sender)
    transactions.set_pid_and_epoch(1, 0)
    transactions.begin_transaction()
    transactions.add_offsets_to_txn({HERE: 1}, "group")
    transactions.fatal_error(ProducerFenced())
    with pytest.raises(ProducerFenced):
        await transactions.wait_for_transaction_end()
    accumulator._pending_batches.remove("one that is to be sent again")
    del transactions, sender
    gc.collect()
    await asyncio.sleep(0)
    assert not complaints


class Moving:
    """A client whose coordinators move: it gives these answers, one after the other, and then is ready."""

    _client_id = "gate"

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked_of: list[int] = []
        self.paused: list[float] = []
        sender = TrackedSender.__new__(TrackedSender)
        sender._txn_manager = SimpleNamespace(
            transactional_id="gate-3", transaction_timeout_ms=1, producer_id=7, producer_epoch=0, txn_partitions=set(),
            set_pid_and_epoch=lambda *_: None, partition_added=lambda _: None, consumer_group_added=lambda _: None,
            offset_committed=lambda *_: None, complete_transaction=lambda: None,
        )  # fmt: skip
        sender._retry_backoff, sender._coordinators, sender.client = 0.1, dict.fromkeys(CoordinationType, 1), self
        self.sender = track(sender)

    def _answer(self):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def send(self, node, _request, *, group):
        assert group == senders.COORDINATION or isinstance(_request, InitProducerIdRequest)
        self.asked_of.append(node)
        return self._answer()

    async def coordinator_lookup(self, _kind, _key):
        return self._answer()

    async def ready(self, node, *, group):
        assert group == senders.COORDINATION
        return node != 1  # which is gone

    def force_metadata_update(self):
        pass

    async def pause(self, seconds):
        self.paused.append(seconds)


def refusal(code):
    return SimpleNamespace(error_code=code, errors=[(HERE.topic, [(HERE.partition, code)])], producer_id=7,
                           producer_epoch=0)  # fmt: skip


REQUESTS = {
    "InitProducerId": lambda sender: sender.init_producer(),
    "AddPartitionsToTxn": lambda sender: sender.add_partitions([HERE]),
    "AddOffsetsToTxn": lambda sender: sender.add_offsets("group"),
    "TxnOffsetCommit": lambda sender: sender.commit_offsets({HERE: OffsetAndMetadata(1, "")}, "group"),
    "EndTxn": lambda sender: sender.end_transaction(True),
}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize(
    "answer",
    [refusal(NotCoordinatorError.errno), KafkaConnectionError("it ended"), NodeNotReadyError("it is gone")],
    ids=["moved", "ended", "gone"],
)
async def test_a_coordinator_that_moved_is_looked_for_at_once_whatever_was_asked_of_it(name, answer, monkeypatch):
    """aiokafka believes in who has ended a connection, and waits for 100 ms each time."""
    client = Moving(*[answer] * 9, SimpleNamespace(error_code=0, errors=[(HERE.topic, [(HERE.partition, 0)])],
                                                   producer_id=7, producer_epoch=0))  # fmt: skip
    monkeypatch.setattr(asyncio, "sleep", client.pause)
    kind = CoordinationType.GROUP if name == "TxnOffsetCommit" else CoordinationType.TRANSACTION
    for _ in range(9):
        client.sender._coordinators[kind] = 1
        assert not await REQUESTS[name](client.sender).do(1)
        assert kind not in client.sender._coordinators
    assert client.paused[:3] == [PROMPT_BACKOFF, 2 * PROMPT_BACKOFF, 4 * PROMPT_BACKOFF]
    assert client.paused[-1] == 0.1, "and no more often than aiokafka where that lasts"
    if isinstance(answer, SimpleNamespace):
        assert client.sender.asked.why(0) == f"a coordinator does not take {name} yet: {NotCoordinatorError.__name__}"
    assert await REQUESTS[name](client.sender).do(2)
    assert client.sender.refusals == 0


async def test_a_transaction_that_does_not_end_for_long_is_told_and_its_brokers_are_given_time(monkeypatch):
    client = Moving(*[refusal(ConcurrentTransactions.errno)] * 7)
    monkeypatch.setattr(asyncio, "sleep", client.pause)
    began = time.monotonic()
    for answered in range(7):
        assert client.sender.asked.was_away(began) == (answered > 6)
        await client.sender.add_partitions([HERE]).do(2)
    assert client.sender.asked.was_away(began), "whom its coordinator waits for"
    assert client.sender.asked.why(began) == (
        "a coordinator does not take AddPartitionsToTxn yet: ConcurrentTransactions, it is still ending the "
        "transaction before"
    )


async def test_who_coordinates_is_asked_again_soon_and_again_where_it_is_not_reached(monkeypatch):
    client = Moving(CoordinatorNotAvailableError(), NodeNotReadyError("broker 1 can't be connected to"), 1, 3)
    client.sender._coordinators = {}
    monkeypatch.setattr(asyncio, "sleep", client.pause)
    assert await client.sender._find_coordinator(CoordinationType.TRANSACTION, "gate-3") == 3
    assert sum(client.paused) < MOST_PAUSE
    why = "no broker coordinates gate-3 yet: NodeNotReadyError: broker 1 can't be connected to"
    assert client.sender.asked.why(0) == why
    assert await client.sender._find_coordinator(CoordinationType.TRANSACTION, "gate-3") == 3, "it is remembered"


async def test_an_id_that_may_not_be_used_is_named():
    client = Moving(TransactionalIdAuthorizationFailed())
    client.sender._coordinators = {}
    with pytest.raises(TransactionalIdAuthorizationFailed, match="gate-3"):
        await client.sender._find_coordinator(CoordinationType.TRANSACTION, "gate-3")
