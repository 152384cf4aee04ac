"""What is read of a compacted partition where who is taken for its leader knows less than there is."""

import asyncio

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.errors import NotLeaderForPartitionError, TopicAuthorizationFailedError

from gate.kafka.aio import compacted
from gate.kafka.aio import reader as reading
from gate.kafka.aio.batch_view import RawRecord
from gate.kafka.aio.client import Client
from gate.kafka.aio.compacted import newest, put_barrier, read_all
from gate.kafka.aio.fetch import answers_of
from gate.kafka.aio.reader import EARLIEST, Reader
from gate.kafka.aio.skip_unreadable import _Partition, _Records
from gate.shard.records import Fetched, Partition
from tests.system.gates import create

PLACE = Partition("state", 0)
OLD = [(b"a", b"1"), (b"b", b"1")]
ALL = [*OLD, (b"a", b"2"), (b"b", None), (b"barrier", None)]


class Led(Reader):
    """A reader who takes a broker for the leader that stood still, until it asks again who leads."""

    def __init__(self, *, learns_after=1):
        self.log = OLD
        self.learns_after = learns_after
        self.refuses = []  # errors of the leader, one for each time that it is asked for anything

    async def renew(self):
        self.learns_after -= 1
        if not self.learns_after:
            self.log = ALL

    async def offsets(self, partitions, which, *, committed=True):
        return {PLACE: 0 if which == EARLIEST else len(self.log)}

    async def fetch_one(self, partition, offset, *, wait_ms, partition_bytes, committed=True):
        if self.refuses:
            raise self.refuses.pop()
        records = [RawRecord(at, 0, key, value, []) for at, (key, value) in enumerate(self.log) if at >= offset]
        return Fetched(records, len(self.log), 1, 0, False) if records else None

    async def ask_leader(self, partition, request):
        code = self.refuses.pop().errno if self.refuses else 0
        return type("Answer", (), {"topics": [("state", [(0, code, len(ALL) - 1, -1, 0)])]})


async def test_what_was_acknowledged_before_the_barrier_is_read_whoever_is_asked():
    assert await read_all(Led(), PLACE) == {"a": b"1", "b": b"1"}  # it does not know better
    assert await newest(Led(), PLACE, "a") == b"1"
    for late in (1, 3):
        assert await read_all(Led(learns_after=late), PLACE, len(ALL) - 1) == {"a": b"2"}
        assert await newest(Led(learns_after=late), PLACE, "a", len(ALL) - 1) == b"2"


async def test_who_leads_no_more_is_asked_no_more():
    led = Led(learns_after=2)
    led.refuses = [NotLeaderForPartitionError()]
    assert await put_barrier(led, PLACE) == len(ALL) - 1
    led.refuses = [NotLeaderForPartitionError()]
    assert await read_all(led, PLACE, len(ALL) - 1) == {"a": b"2"}
    led.refuses = [TopicAuthorizationFailedError()]
    with pytest.raises(TopicAuthorizationFailedError, match="state-0"):
        await put_barrier(led, PLACE)


async def test_a_barrier_is_part_of_no_transaction(bootstrap, prefix):
    topic = f"{prefix}.state"
    await create(bootstrap, topic, partitions=1)
    client = Client(bootstrap_servers=bootstrap)
    await client.bootstrap()
    reader, place = Reader(client), Partition(topic, 0)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=prefix) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"1", key=b"a", partition=0)
        barrier = await put_barrier(reader, place)
        assert barrier == 1
        reading = asyncio.create_task(read_all(reader, place, barrier))
        assert await read_all(reader, place) == {}, "what is not committed is not read"
        assert not reading.done()
        await producer.commit_transaction()
        assert await reading == {"a": b"1"}
    await client.close()


@pytest.fixture
async def aborted(bootstrap, prefix):
    """A partition with transactions, some of them aborted, and a reader whose broker tells of no aborted ones."""
    topic = f"{prefix}.state"
    await create(bootstrap, topic, partitions=1)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=prefix) as producer:
        for number, commits in enumerate((True, False, True, False, False)):
            await producer.begin_transaction()
            for key in (b"a", b"b"):
                await producer.send_and_wait(topic, b"%d" % number, key=key, partition=0)
            await (producer.commit_transaction() if commits else producer.abort_transaction())
    client = Client(bootstrap_servers=bootstrap)
    await client.bootstrap()
    yield Reader(client), Partition(topic, 0)
    await client.close()


def forgets(response):
    """Return the answers to a fetch, as a broker gives them whose index of aborted transactions has none."""
    return [answer._replace(aborted=[]) for answer in answers_of(response)]


@pytest.mark.parametrize("size", [1, 300, 1 << 20], ids=["a batch at once", "a few", "all"])
async def test_what_is_aborted_is_left_out_although_the_broker_does_not_tell_of_it(aborted, monkeypatch, size):
    monkeypatch.setattr(reading, "answers_of", forgets)
    monkeypatch.setattr(compacted, "SCAN_BYTES", size)
    assert await read_all(*aborted) == {"a": b"2", "b": b"2"}


async def test_a_consumer_leaves_out_what_is_aborted_although_the_broker_does_not_tell_of_it(aborted, monkeypatch):
    pieces = []
    monkeypatch.setattr(reading, "decode", lambda raw, _aborted, _start, **_: pieces.append(raw))
    reader, place = aborted
    await reader.fetch_one(place, 0, wait_ms=0, partition_bytes=1 << 20)
    records = _Partition(TopicPartition(*place), _Records(pieces[0]), [], 0, None, None, True, READ_COMMITTED)
    assert [record.value for record in records] == [b"0", b"0", b"2", b"2"]
