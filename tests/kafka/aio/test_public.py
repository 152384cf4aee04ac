"""The public path hears what is asked and answered, ends what it began, and keeps what a broker says of a partition."""

import asyncio
import struct
from types import SimpleNamespace

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from gate.kafka.access import access
from gate.kafka.aio import public_skip_unreadable, session
from gate.kafka.aio.checksums import is_sound
from gate.kafka.aio.public_client import Client, adopt
from gate.kafka.aio.public_sending import MOST_LACKING, PublicSending
from gate.kafka.aio.session import KafkaSession
from gate.kafka.aio.unknown_outcomes import Torn
from gate.shard.records import CommittedOffset, Outgoing, Partition
from gate.shard.refusals import NO_TOPIC, OutputError
from tests.kafka.raw import Rec, batch
from tests.system.gates import create, read

BAD = [(b"\xff\xfe", b"x")]


async def test_what_was_closed_ends_whoever_still_asks(bootstrap):
    client = Client(**access(bootstrap))
    await client.bootstrap()
    node = client.get_random_node()
    assert await client.send(node, MetadataRequest([]))
    assert not client.asked.unanswered
    await client.close()
    asking = asyncio.ensure_future(client.send(node, MetadataRequest([])))
    await asyncio.wait([asking], timeout=30)
    assert asking.cancelled()


async def test_errors_name_the_broker_and_the_request_which_may_still_arrive(bootstrap):
    client = Client(**access(bootstrap))
    await client.bootstrap()
    node = client.get_random_node()
    with pytest.raises(NodeNotReadyError, match="broker 77 can't be connected to"):
        await client.send(77, MetadataRequest([]))
    assert not client.asked.unanswered, "nothing was sent"

    async def breaks(*_, **__):
        raise KafkaConnectionError("it broke")

    client._send = breaks
    with pytest.raises(KafkaConnectionError, match=f"connection to broker {node} ended before it answered Metadata"):
        await client.send(node, MetadataRequest([]))
    assert client.asked.unanswered == {"Metadata"}
    await client.close()


async def test_a_client_is_listened_to_once(bootstrap):
    producer = AIOKafkaProducer(**access(bootstrap))
    assert adopt(producer) is adopt(producer)
    await producer.stop()


class Broker:
    """Answers AddPartitionsToTxn: one topic is known, the other is not."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self.now = 100.0
        self.sending = PublicSending(producer, "id", lambda: self.now)

    def answers(self, *, there: bool) -> None:
        errors = [("a", [(0, 0 if there else 3)]), ("b", [(0, 0 if there else 55)])]
        self.sending._hear_added(SimpleNamespace(errors=errors))


async def never() -> None:
    await asyncio.get_running_loop().create_future()


async def test_a_topic_that_is_not_there_for_long_fails_what_waits_and_is_named(bootstrap):
    producer = AIOKafkaProducer(**access(bootstrap))
    broker = Broker(producer)
    waiting = asyncio.ensure_future(broker.sending.unless_refused(never()))
    await asyncio.sleep(0)
    for _ in range(3):  # a topic that was just made is waited for each time
        broker.answers(there=False)
        broker.now += 0.9 * MOST_LACKING
        broker.answers(there=True)
    assert not waiting.done()
    broker.answers(there=False)
    broker.now += MOST_LACKING
    broker.answers(there=False)
    with pytest.raises(OutputError) as refused:
        await waiting
    assert (refused.value.partition, refused.value.why) == (Partition("a", 0), NO_TOPIC)
    await producer.stop()


def poisoned(codec: int) -> bytes:
    return batch([Rec(b"k", b"1"), Rec(b"bad", b"bad", BAD), Rec(b"k", b"3")], codec=codec)


def read_all(raw: bytes) -> list[tuple[int, bytes]]:
    view = memoryview(raw)
    found = []
    while view:
        size = 12 + struct.unpack_from(">i", view, 8)[0]
        assert is_sound(view[:size])
        found += [(record.offset, record.value) for record in DefaultRecordBatch(view[:size])]
        view = view[size:]
    return found


@pytest.mark.parametrize("codec", [0, 1, 2, 3, 4])
def test_a_batch_is_given_on_without_the_record_that_cant_be_read(codec):
    sound = batch([Rec(b"k", b"0")])
    answer = SimpleNamespace(topics=[("t", [(0, 0, 9, 9, 0, [], -1, sound + poisoned(codec) + sound[:20])])])
    public_skip_unreadable.readable(FetchRequest(0, 0, 0, 0, []), answer)
    ((_, (partition,)),) = answer.topics
    raw = partition[-1]
    assert raw.endswith(sound[:20]), "what is cut off stays so"
    assert read_all(raw[:-20]) == [(0, b"0"), (0, b"1"), (2, b"3")]


def test_what_can_be_read_is_given_on_as_it_is():
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 1000)
    builder.append(0, 1, b"k", b"v", [])
    raw = bytes(builder.build())
    answer = SimpleNamespace(topics=[("t", [(0, 0, 9, raw), (1, 0, 9, b""), (2, 0, 9, None)])])
    public_skip_unreadable.readable(FetchRequest(0, 0, 0, 0, []), answer)
    ((_, partitions),) = answer.topics
    assert partitions[0][-1] is raw
    assert [partition[-1] for partition in partitions[1:]] == [b"", None]


@pytest.fixture
async def made(bootstrap, prefix, monkeypatch):
    """Makes sessions on the public path."""
    monkeypatch.setattr(session, "ProducerSending", PublicSending)
    state = Partition(f"{prefix}.state", 0)
    await create(bootstrap, state.topic, f"{prefix}.out", partitions=1)
    sessions = []

    async def nothing(*_):
        return None

    def make() -> KafkaSession:
        one = KafkaSession(f"{prefix}-0", prefix, state, nothing, nothing, deadline=30.0, **access(bootstrap))
        sessions.append(one)
        return one

    yield make
    for one in sessions:
        await one.discard()


async def test_a_session_writes_commits_fences_and_ends_what_another_has_left(bootstrap, prefix, made):
    out, source = Partition(f"{prefix}.out", 0), Partition(f"{prefix}.requests.a", 0)
    await create(bootstrap, source.topic, partitions=1)
    first = made()
    await first.fence()
    first.begin()
    written = await first.produce({out: [Outgoing(b"k", b"1", 1, [])]}, {source: CommittedOffset(1)})
    assert list(written[out].offsets) == [0]
    await first.commit()
    assert first._sending.producer_id >= 0
    assert first.spent is None
    first.begin()
    await first.produce({out: [Outgoing(b"k", b"2", 1, [])]})
    second = made()
    await second.fence()
    second.begin()
    await second.produce({out: [Outgoing(b"k", b"3", 1, [])]})
    await second.commit()
    with pytest.raises(Exception, match=r"(?i)fenced|epoch"):
        await first.commit()
    assert [r.value for r in await read(bootstrap, [out.topic], lambda found: len(found) >= 2)] == [b"1", b"3"]


async def test_a_partition_can_be_added_in_which_nothing_is_written(bootstrap, prefix, made):
    """So are transactions ended of which a broker has forgotten a part."""
    one = made()
    await one.fence()
    await one._end(Torn((Partition(f"{prefix}.out", 0),), committed=True))
    one.begin()
    await one.produce({Partition(f"{prefix}.out", 0): [Outgoing(b"k", b"1", 1, [])]})
    await one.commit()


async def test_a_discarded_session_leaves_no_task_that_asks_on(bootstrap, prefix, made):
    before = asyncio.all_tasks()
    one = made()
    await one.fence()
    one.begin()
    await one.produce({Partition(f"{prefix}.out", 0): [Outgoing(b"k", b"1", 1, [])]})
    await one.discard()
    async with asyncio.timeout(60):
        while asyncio.all_tasks() - before:
            await asyncio.sleep(0.02)


async def test_a_consumer_is_given_what_it_can_read(bootstrap):
    consumer = AIOKafkaConsumer(**access(bootstrap))
    assert public_skip_unreadable.readable in adopt(consumer).hears
    await consumer.stop()
