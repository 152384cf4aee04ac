import pytest

from gate.kafka.aio.batch_header import BatchHeader
from gate.kafka.parked_since import DATES, Lowest, ParkedSince
from gate.protocol.topics import Names
from gate.shard.records import Partition

ONE, OTHER = Partition("gate.delayed.pay", 0), Partition("gate.delayed.pay", 1)


class World:
    """Delayed topics whose offset n was written at n seconds, and a shard that has something parked there."""

    def __init__(self):
        self.lowest = {ONE: 50, OTHER: 70}
        self.asked, self.told = [], {}
        self.away = set()
        self.watch = ParkedSince(self, Names(), lambda: [Lowest(3, self.lowest)], self)

    async def learn(self, topics):
        pass

    async def ends(self, partitions, which, *, committed):
        raise AssertionError

    async def head(self, partition, offset):
        self.asked.append(partition)
        return None if partition in self.away else BatchHeader(offset, offset * 1_000, -1, -1, False)

    def parked(self, service, since_ms):
        self.told[service] = since_ms


@pytest.fixture
def world():
    return World()


async def test_the_oldest_of_all_partitions_counts_and_the_service_is_told_of_at_once(world):
    assert await world.watch.look() == {3: ["pay"]}
    assert world.told == {"pay": 50_000}
    assert await world.watch.look() == {}
    assert len(world.asked) == 2, "what has not changed is not read again"


async def test_what_has_left_counts_no_more(world):
    await world.watch.look()
    world.lowest = {ONE: 90, OTHER: 70}
    await world.watch.look()
    assert world.told == {"pay": 70_000}
    world.lowest = {}
    await world.watch.look()
    assert world.told == {"pay": None}
    world.lowest = {ONE: 91}
    assert await world.watch.look() == {3: ["pay"]}


async def test_what_no_broker_tells_is_asked_again(world):
    world.away = {ONE, OTHER}
    assert await world.watch.look() == {}
    assert world.told == {}
    world.away = {ONE}
    await world.watch.look()
    assert world.told == {"pay": 70_000}
    world.away = set()
    await world.watch.look()
    assert world.told == {"pay": 50_000}


async def test_of_many_some_are_read_at_a_time_those_first_that_are_not_known(world):
    world.lowest = {Partition(f"gate.delayed.s{number:02}", 0): 5 for number in range(3 * DATES)}
    for looks in (1, 2, 3):
        await world.watch.look()
        assert len(set(world.asked)) == looks * DATES
    world.lowest = {partition: offset + 1 for partition, offset in world.lowest.items()}
    world.asked.clear()
    for _ in range(6):
        await world.watch.look()
    assert len(set(world.asked)) == 3 * DATES, "each has its turn"
    assert set(world.told.values()) == {6_000}
