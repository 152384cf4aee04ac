"""Who is believed to lead, and what is asked by the epoch that is known."""

import asyncio
from types import SimpleNamespace

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import NotLeaderForPartitionError

from gate.kafka.aio.client import Client
from gate.kafka.aio.compat import CHOICE
from gate.kafka.aio.leader_epochs import (
    FencedLeaderEpochError,
    Leaders,
    Metadata,
    OffsetNotAvailableError,
    Offsets,
    UnknownLeaderEpochError,
    error_for,
)
from gate.kafka.aio.reader import LATEST, Reader
from gate.shard.records import Partition
from tests.system.gates import create

PLACE = "state", 0
BROKERS = [(number, "host", 9092, None, {}) for number in (1, 2, 3)]


def told(leader, epoch, topic=(7, 7)):
    partitions = [(0, 0, leader, epoch, [1, 2, 3], [leader], [], {})]
    topics = [(0, "state", *topic, False, partitions, 0, {})]
    return SimpleNamespace(API_VERSION=10, brokers=BROKERS, controller_id=1, topics=topics)


def leads(leaders, answer):
    (topic,) = leaders.believed(answer).topics
    (partition,) = topic[3]
    return partition[2]


def test_who_leads_by_an_earlier_epoch_is_not_believed():
    leaders = Leaders()
    assert leads(leaders, told(1, 4)) == 1
    assert leads(leaders, told(2, 5)) == 2
    assert leads(leaders, told(1, 4)) == 2, "it stood still, and does not know better"
    assert leaders.epochs == {PLACE: 5}
    assert leads(leaders, told(3, 5)) == 3  # of the same epoch: whoever says so last
    assert leads(leaders, told(-1, 6)) == -1  # nobody does
    assert leads(leaders, told(1, 5)) == -1


def test_the_epochs_of_a_topic_that_was_made_anew_begin_again():
    leaders = Leaders()
    assert leads(leaders, told(1, 4)) == 1
    assert leads(leaders, told(2, 0, topic=(7, 8))) == 2
    assert leaders.epochs == {PLACE: 0}


def test_brokers_are_told_as_aiokafka_takes_them():
    answer = Leaders().believed(told(1, 4))
    assert answer.brokers == [(1, "host", 9092, None), (2, "host", 9092, None), (3, "host", 9092, None)]
    assert answer.topics == [(0, "state", False, [(0, 0, 1, [1, 2, 3], [1])])]
    older = SimpleNamespace(API_VERSION=5)
    assert Leaders().believed(older) is older


def test_an_older_broker_is_asked_as_aiokafka_does():
    assert Metadata(["a"]).prepare({3: (0, 13)}).API_VERSION == 10
    assert Metadata(None).prepare({3: (0, 9)}).API_VERSION <= 5
    topics = [("a", [(0, LATEST)])]
    assert Offsets(0, topics, {("a", 0): 3}).prepare({2: (0, 9)}).topics == [("a", [(0, 3, LATEST)])]
    assert Offsets(0, topics, {}).prepare({2: (0, 9)}).topics == [("a", [(0, -1, LATEST)])]
    assert Offsets(0, topics, {}).prepare({2: (0, 3)}).topics == topics


@pytest.fixture
async def client(bootstrap):
    client = Client(bootstrap_servers=bootstrap)
    await client.bootstrap()
    yield client
    await client.close()


@pytest.mark.skipif(not CHOICE.fast, reason="the metadata of aiokafka's own client has no epochs")
async def test_a_broker_that_does_not_know_the_epoch_answers_nothing_that_it_knew(bootstrap, prefix, client):
    topic = f"{prefix}.state"
    await create(bootstrap, topic, partitions=1)
    reader, place = Reader(client), Partition(topic, 0)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(topic, b"1", partition=0)

    async def ask():
        return [r.value for r in (await reader.fetch_one(place, 0, wait_ms=0, partition_bytes=1 << 20)).records]

    assert await ask() == [b"1"]
    known = client.epochs[place]
    client.epochs[place] = known + 1  # others lead, as somebody was told; this one stood still
    with pytest.raises(UnknownLeaderEpochError, match=f"{topic}-0 at offset 0"):
        await ask()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await reader.offsets([place], LATEST)
    client.epochs[place] = known
    assert await reader.offsets([place], LATEST) == {place: 1}
    assert await ask() == [b"1"]


def test_who_leads_by_a_later_epoch_is_looked_for_again():
    assert {error_for(code) for code in (74, 75, 78)} == {
        FencedLeaderEpochError, UnknownLeaderEpochError, OffsetNotAvailableError,
    }  # fmt: skip
    assert all(error_for(code).retriable for code in (74, 75, 78))
    assert error_for(6) is NotLeaderForPartitionError
