"""Where shards read: what one broker, or one partition without a leader, means for all others."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
from aiokafka import errors

from gate.kafka import source
from gate.kafka.source import KafkaSource
from gate.shard.buffer import FetchBuffer, MemoryPool
from gate.shard.records import Fetched, Partition

PARTITIONS = [Partition("t", number) for number in range(20)]
DEADLINE = 30.0
PATIENCE = 8.0  # seconds; less than it took to give up on one of them


class Brokers:
    """Stands for `wire.Reader`: each partition has one record at offset 0, at whoever leads it."""

    def __init__(self, leaders: dict[Partition, int | None]) -> None:
        self.leaders = leaders  # as the brokers see it
        self.known = dict(leaders)  # as the client does
        self.gone: set[int] = set()
        self.renewals = 0
        self.moved = False  # all, and nobody knows where to yet

    def nodes(self) -> list[int]:
        return [1, 2]

    def leader(self, partition: Partition) -> int | None:
        return self.known[partition]

    async def learn(self, topics) -> None:
        pass

    async def renew(self) -> None:
        self.renewals += 1
        await asyncio.sleep(0.001)
        self.known = dict(self.leaders)

    def refresh(self) -> None:
        self.known = dict(self.leaders)

    async def fetch(self, node, wanted, **_):
        await asyncio.sleep(0.005)
        if node in self.gone:
            raise errors.KafkaConnectionError(f"broker {node} closed the connection")
        if self.moved:
            return {partition: errors.NotLeaderForPartitionError(str(partition)) for partition in wanted}
        return {
            partition: Fetched([object()], 1, 100) if self.leaders[partition] == node
            else errors.NotLeaderForPartitionError(str(partition))
            for partition, offset in wanted.items() if offset == 0
        }  # fmt: skip


class Reading:
    """A source that is read from, and what came of it."""

    def __init__(self, brokers: Brokers) -> None:
        self.brokers = brokers
        self.troubles = 0
        self.buffer = FetchBuffer(1 << 20, MemoryPool(1 << 30, 1), lambda: None)
        self.deleted = {}
        self.source = KafkaSource([brokers], None, self._troubled, self.deleted.__setitem__)

    def _troubled(self) -> None:
        self.troubles += 1

    def read(self) -> set[Partition]:
        return set(self.buffer.waiting)

    async def until(self, condition) -> float:
        begun = time.monotonic()
        async with asyncio.timeout(DEADLINE):
            while not condition():
                await asyncio.sleep(0.002)
        return time.monotonic() - begun


@asynccontextmanager
async def reading(leaders):
    found = Reading(Brokers(leaders))
    for partition in PARTITIONS:
        found.source.follow(partition, 0, found.buffer)
    try:
        yield found
    finally:
        await found.source.close()


async def test_partitions_that_a_broker_hands_over_are_read_on_at_once_and_all_together():
    """Each was waited for by itself, 0.2 s long, and what others had sent waited with it."""
    async with reading(dict.fromkeys(PARTITIONS, 1)) as found:
        found.brokers.leaders = dict.fromkeys(PARTITIONS, 2)
        await found.until(lambda: found.read() == set(PARTITIONS))
    assert found.brokers.renewals < len(PARTITIONS) / 2
    assert found.troubles == 0, "a broker that hands over has answered all it was asked"


async def test_whatever_a_look_for_leaders_ends_with_they_are_looked_for_again(monkeypatch):
    """Nobody else looks: what loses its leader then would never be read again, and nobody would say so."""
    faults = [ConnectionResetError("gone"), KeyError("no such topic")]

    async def learn(_brokers, _topics):
        if faults:
            raise faults.pop(0)

    monkeypatch.setattr(Brokers, "learn", learn)
    async with reading(dict.fromkeys(PARTITIONS, None)) as found:
        await found.until(lambda: not faults)
        found.brokers.leaders = dict.fromkeys(PARTITIONS, 2)
        found.brokers.refresh()
        await found.until(lambda: found.read() == set(PARTITIONS))


async def test_a_partition_without_a_leader_keeps_no_other_waiting():
    """They were looked for one after the other, for up to 10 s each."""
    orphan, *others = PARTITIONS
    async with reading({**dict.fromkeys(others, 1), orphan: None}) as found:
        assert await found.until(lambda: found.read() == set(others)) < PATIENCE
        found.brokers.leaders[orphan] = 2
        found.brokers.refresh()
        await found.until(lambda: found.read() == set(PARTITIONS))


async def test_a_broker_that_is_gone_raises_one_doubt_until_it_is_back():
    """Another one that answered all the time made it new trouble at each try: ten restarts of all shards in a kill."""
    half = len(PARTITIONS) // 2
    leaders = dict.fromkeys(PARTITIONS[:half], 1) | dict.fromkeys(PARTITIONS[half:], 2)
    async with reading(leaders) as found:
        found.brokers.gone.add(1)
        await found.until(lambda: found.troubles > 0)
        tries = found.brokers.renewals
        for partition in PARTITIONS[half:]:
            found.source.follow(partition, 0, found.buffer)  # so that broker 2 answers again and again
        await asyncio.sleep(0.7)  # three tries
        assert found.troubles == 1, tries
        found.brokers.leaders = dict.fromkeys(PARTITIONS, 2)
        found.brokers.refresh()
        await found.until(lambda: found.read() == set(PARTITIONS))
        assert found.troubles == 1


@pytest.mark.parametrize("wholly", [True, False])
async def test_who_can_not_read_for_longer_than_a_moment_says_for_which_broker_it_waits(monkeypatch, wholly):
    monkeypatch.setattr(source, "MOMENT", 0.0)
    others = [] if wholly else PARTITIONS[1:]
    async with reading(dict.fromkeys(PARTITIONS, 1) | dict.fromkeys(others, 2)) as found:
        await found.until(lambda: found.read() == set(PARTITIONS))
        assert found.source.blocked(found.buffer) is None
        found.brokers.gone.add(1)
        for partition in PARTITIONS:
            found.source.follow(partition, 0, found.buffer)
        await found.until(lambda: (now := found.source.blocked(found.buffer)) is not None and now.wholly == wholly)
        assert (
            found.source.blocked(found.buffer).why == "broker 1: KafkaConnectionError: broker 1 closed the connection"
        )
        monkeypatch.setattr(source, "MOMENT", 3600.0)
        assert found.source.blocked(found.buffer) is None, "it may be a moment"
        monkeypatch.setattr(source, "MOMENT", 0.0)
        found.brokers.leaders = dict.fromkeys(PARTITIONS, 2)
        found.brokers.refresh()
        await found.until(lambda: found.source.blocked(found.buffer) is None)


async def test_a_partition_that_moved_and_has_nothing_to_read_is_well_again(monkeypatch):
    """Until something came it was told of as one that can't be read, with an alert after a minute."""
    monkeypatch.setattr(source, "SETTLED", 0.0)
    async with reading(dict.fromkeys(PARTITIONS, 1)) as found:
        await found.until(lambda: found.read() == set(PARTITIONS))
        found.brokers.moved = True
        await found.until(lambda: found.source.unreadable(found.buffer))
        found.brokers.leaders, found.brokers.moved = dict.fromkeys(PARTITIONS, 2), False
        await found.until(lambda: not found.source.unreadable(found.buffer))


async def test_what_was_deleted_before_it_was_read_is_told_by_how_many_offsets(monkeypatch):
    first, second = PARTITIONS[:2]

    async def fetch(_brokers, _node, wanted, **_):
        await asyncio.sleep(0.005)
        return {
            partition: errors.OffsetOutOfRangeError() if offset < 7 else Fetched([object()], 8, 100)
            for partition, offset in wanted.items() if offset < 8
        }  # fmt: skip

    async def offsets(_brokers, partitions, _which):
        return dict.fromkeys(partitions, 7)

    monkeypatch.setattr(Brokers, "fetch", fetch)
    monkeypatch.setattr(Brokers, "offsets", offsets, raising=False)
    async with reading(dict.fromkeys(PARTITIONS, 1)) as found:
        found.source.follow(second, 3, found.buffer)
        await found.until(lambda: found.read() == set(PARTITIONS))
    assert (found.deleted[first], found.deleted[second]) == (7, 4)
