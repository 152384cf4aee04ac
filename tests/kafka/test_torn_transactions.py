"""Whether something of a producer is open, as brokers tell it: what a shard asks when one of them was away."""

import asyncio

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import NotLeaderForPartitionError

from gate.errors import GateError
from gate.kafka.aio.compacted import put_barrier
from gate.kafka.aio.fencing import FencedOffError
from gate.kafka.aio.pending_requests import PendingRequests
from gate.kafka.aio.reader import Reader
from gate.kafka.aio.session import KafkaSession
from gate.kafka.aio.unknown_outcomes import ProducerIdentity
from gate.kafka.torn_transactions import Places, is_open, look
from gate.shard.records import Outgoing, Partition
from tests.system.gates import create


@pytest.fixture
async def reader(bootstrap):
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    yield Reader(client)
    await client.close()


async def test_a_transaction_is_open_until_its_markers_are_there_and_that_of_another_is_none_of_ours(
    bootstrap, prefix, reader
):
    state, output, report = (f"{prefix}.{name}" for name in ("state", "admitted.a", "usage"))
    await create(bootstrap, state, output, report, partitions=1)
    places = Places(Partition(state, 0), (Partition(output, 0),), (Partition(report, 0),))
    ours, other = (AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"{prefix}-{i}") for i in range(2))
    async with ours, other:
        ids = [producer._txn_manager.producer_id for producer in (ours, other)]
        await other.begin_transaction()
        await other.send_and_wait(report, b"1", partition=0)
        assert [await is_open(reader, places, one) for one in ids] == [False, True]
        await ours.begin_transaction()
        await ours.send_and_wait(output, b"1", partition=0)
        assert [await is_open(reader, places, one) for one in ids] == [True, True]
        await ours.commit_transaction()
        async with asyncio.timeout(10):
            while await is_open(reader, places, ids[0]):
                await asyncio.sleep(0.02)
        assert await is_open(reader, places, ids[1])
        await other.abort_transaction()


class Session(KafkaSession):
    """Asks nobody but whoever made it."""

    def __init__(self, answers):
        self.atomic = True
        self._deadline = 0.5
        self._answers = answers
        self._client = type("Asking", (), {"asked": PendingRequests()})
        self._sending = type("Sending", (), {"producer_id": 7})

    async def _is_open(self, producer_id):
        assert producer_id == 7
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_markers_on_their_way_are_waited_for_and_a_broker_that_moves_is_asked_again():
    assert await Session(iter([NotLeaderForPartitionError(), True, ConnectionError(), True, False])).is_settled()


async def test_what_stays_open_is_half_done(monkeypatch):
    monkeypatch.setattr("gate.kafka.aio.unknown_outcomes.MARKING_DEADLINE", 0.2)
    assert not await Session(iter(lambda: True, None)).is_settled()


async def test_who_can_tell_nothing_in_time_says_so():
    """To go on would be to guess."""
    with pytest.raises(TimeoutError):
        await Session(iter(ConnectionError, None)).is_settled()


async def _nothing(*_):
    return {}


class Amid(Reader):
    """Reads while another owner of the same transactional id writes; the transaction it sees begin may end at once."""

    def __init__(self, client, owner, state, *, ends):
        super().__init__(client)
        self._owner, self._state, self._ends, self._is_open = owner, state, ends, False

    async def offsets(self, partitions, which, *, committed=True):
        if committed and not self._is_open:
            self._is_open = True
            self._owner.begin()
            await self._owner.produce({self._state: [Outgoing(b"key", b"value", None, [])]})
        elif not committed and self._is_open and self._ends:
            await self._owner.commit()
            async with asyncio.timeout(20):
                while await Reader(self._client).unstable([self._state]):
                    await asyncio.sleep(0.02)
            self._is_open = False
        return await super().offsets(partitions, which, committed=committed)


@pytest.mark.parametrize("ends", [True, False])
async def test_what_another_owner_writes_who_came_after_the_fence_is_neither_left_open_nor_a_stranger_s(
    bootstrap, prefix, reader, ends
):
    """It has fenced this one off in turn: who looks must give way, and ask again whether it is the owner."""
    state = Partition(f"{prefix}.state", 0)
    await create(bootstrap, state.topic, partitions=1)

    async def look_amid(producer):
        await newer.fence()
        amid = Amid(reader._client, newer, state, ends=ends)
        return await look(amid, Places(state, (), ()), producer, _nothing, 1, await put_barrier(reader, state))

    newer, older = (
        KafkaSession(
            prefix, prefix, state, _nothing, _nothing, deadline=20, look_behind=behind, bootstrap_servers=bootstrap
        )
        for behind in (None, look_amid)
    )
    try:
        with pytest.raises(FencedOffError, match=f"another owner writes to {state.topic}-0"):
            await older.fence()
    finally:
        await older.discard()
        await newer.discard()


async def test_a_stranger_s_open_transaction_is_named(bootstrap, prefix, reader, monkeypatch):
    monkeypatch.setattr("gate.kafka.torn_transactions.PATIENCE", 0.2)
    state = Partition(f"{prefix}.state", 0)
    await create(bootstrap, state.topic, partitions=1)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"{prefix}-stranger") as stranger:
        await stranger.begin_transaction()
        written = await stranger.send_and_wait(state.topic, b"1", partition=0)
        producer = ProducerIdentity(1 + stranger._txn_manager.producer_id, 0)
        said = f"transaction open in {state.topic}-0, producer {producer.id - 1} from offset {written.offset} on"
        with pytest.raises(GateError, match=said):
            await look(reader, Places(state, (), ()), producer, _nothing, 1, await put_barrier(reader, state))
        await stranger.abort_transaction()
