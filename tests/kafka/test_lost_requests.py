"""What was deleted from a delayed topic is found by where its log begins: soon after a take-over, then now and then."""

import pytest

from gate.kafka.aio.reader import EARLIEST
from gate.kafka.lost_requests import ANEW, Losses
from gate.shard.owner_views import Parking
from gate.shard.records import Partition

ONE, OTHER = Partition("gate.delayed.pay", 0), Partition("gate.delayed.pay", 1)


class World:
    """Logs that begin somewhere, and a shard that takes something for parked in them."""

    def __init__(self):
        self.begins = {ONE: 0, OTHER: 0}
        self.parking = Parking(3, 1, {ONE: 5, OTHER: 7}, frozenset())
        self.asked, self.told = [], []
        self.losses = Losses(self, lambda: [self.parking], lambda shard, begins: self.told.append((shard, begins)))

    async def learn(self, topics):
        assert topics == {"gate.delayed.pay"}

    async def ends(self, partitions, which, *, committed):
        assert (which, committed) == (EARLIEST, False)
        self.asked.append(set(partitions))
        return {partition: self.begins[partition] for partition in partitions if partition in self.begins}


@pytest.fixture
def world():
    return World()


async def test_a_take_over_looks_at_once_and_then_once_a_minute(world):
    world.begins[ONE] = 9
    await world.losses.look(100.0)
    assert world.told == [(3, {ONE: 9})]
    await world.losses.look(100.0 + ANEW - 1)
    assert len(world.asked) == 1
    world.parking = world.parking._replace(lowest={ONE: 9, OTHER: 7})
    await world.losses.look(100.0 + ANEW)
    assert (len(world.asked), len(world.told)) == (2, 1)
    world.parking = world.parking._replace(session=2)
    await world.losses.look(101.0 + ANEW)
    assert world.asked[2:] == [{ONE, OTHER}]


async def test_a_request_that_was_missed_is_looked_after_at_once(world):
    await world.losses.look(100.0)
    world.begins[OTHER] = 8
    world.parking = world.parking._replace(missed=frozenset({OTHER}))
    await world.losses.look(101.0)
    assert world.asked[1:] == [{OTHER}]
    assert world.told == [(3, {OTHER: 8})]


async def test_what_no_broker_tells_is_asked_again(world):
    del world.begins[ONE]
    await world.losses.look(100.0)
    await world.losses.look(101.0)
    assert world.asked == [{ONE, OTHER}, {ONE}]
    assert world.told == []
