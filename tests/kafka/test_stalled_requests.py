"""What `gate doctor` finds standing: what two looks agree about, and what says itself that it is old."""

import pytest

from gate.kafka import stalled_requests as module
from gate.kafka.aio.batch_header import BatchHeader
from gate.kafka.aio.reader import EARLIEST
from gate.kafka.stalled_requests import LONG, stalled_requests, undecided_now
from gate.kafka.undecided_requests import OPEN_AFTER, Undecided
from gate.shard.records import CommittedOffset, Partition

AT = 1_764_025_123_456_000_000
PAY, CALM = Partition("gate.requests.pay", 0), Partition("gate.requests.calm", 0)
SERVICES = {PAY: "pay", CALM: "calm"}


class World:
    """Partitions as a broker knows them; `then` happens between the looks."""

    def __init__(self):
        self.end, self.stable, self.begin, self.marks, self.heads = {PAY: 0, CALM: 0}, {}, {}, {}, {}
        self.then = lambda: None
        self.looks = 0

    async def learn(self, topics):
        pass

    async def ends(self, partitions, which, *, committed):
        known = self.begin if which == EARLIEST else ({**self.end, **self.stable} if committed else self.end)
        return {partition: known[partition] for partition in partitions if partition in known}

    async def head(self, partition, offset):
        return self.heads.get((partition, offset))

    async def committed(self, partitions):
        self.looks += 1
        if self.looks == 2:
            self.then()
        return {
            partition: CommittedOffset(self.marks[partition]) for partition in partitions if partition in self.marks
        }

    async def find(self):
        return await stalled_requests(self, self.committed, SERVICES, "--bootstrap here:9092", lambda: AT)


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setattr(module, "BETWEEN", 0)
    return World()


def aged(offset, age):
    return BatchHeader(offset, (AT - age) // 10**6, 77, 5, False)


async def test_where_all_is_decided_nothing_stands(world):
    world.end, world.marks, world.begin = {PAY: 8, CALM: 5}, {PAY: 8}, {CALM: 5}
    assert await world.find() == []
    assert world.looks == 1


async def test_old_requests_that_do_not_move_stand(world):
    world.end, world.marks = {PAY: 8, CALM: 0}, {PAY: 3, CALM: 0}
    world.heads[PAY, 3] = aged(3, LONG)
    (found,) = await world.find()
    assert (found.waiting.place, found.waiting.service, found.waiting.since_ns) == ((*PAY, 3), "pay", AT - LONG)
    assert (found.requests, found.blocked) == (5, False)


async def test_what_was_never_read_stands_too(world):
    world.end, world.begin = {PAY: 8, CALM: 0}, {PAY: 2, CALM: 0}
    world.heads[PAY, 2] = aged(2, LONG)
    assert [one.requests for one in await world.find()] == [6]


async def test_new_ones_and_those_that_move_do_not_stand(world):
    world.end, world.marks = {PAY: 8, CALM: 9}, {PAY: 3, CALM: 4}
    world.heads[PAY, 3], world.heads[CALM, 4] = aged(3, LONG - 10**9), aged(4, 2 * LONG)
    world.then = lambda: world.marks.update({CALM: 6})
    assert await world.find() == []
    assert world.looks == 2


async def test_an_open_transaction_stands_sooner_and_says_whose_it_is(world):
    world.end, world.marks, world.stable = {PAY: 8, CALM: 0}, {PAY: 3, CALM: 0}, {PAY: 4}
    world.heads[PAY, 4] = aged(4, OPEN_AFTER)
    (found,) = await world.find()
    assert (found.waiting.place, found.requests, found.blocked) == ((*PAY, 4), 5, True)
    assert "producer 77 (epoch 5)" in found.waiting.why
    world.looks, world.then = 0, lambda: world.stable.update({PAY: 6})
    assert await world.find() == [], "another one is open by now"


async def test_what_can_not_be_read_is_not_said_to_stand(world):
    world.end, world.marks = {PAY: 8}, {PAY: 3}
    assert await world.find() == []


async def test_whoever_asks_is_told_what_is_undecided_where_the_group_has_offsets(world):
    other = Partition("gate.requests.pay", 1)
    world.end, world.begin, world.marks = {PAY: 8, other: 5, CALM: 9}, {other: 1, CALM: 0}, {PAY: 3}
    world.heads[PAY, 3], world.heads[other, 1] = aged(3, LONG), aged(1, 2 * LONG)
    found = await undecided_now(world, world.committed, {"pay": [PAY, other], "calm": [CALM]})
    assert found == {"pay": Undecided(9, AT - 2 * LONG)}, "of calm the group knows nothing: it may be another's"
    world.marks |= {CALM: 9}
    assert (await undecided_now(world, world.committed, {"calm": [CALM]})) == {"calm": Undecided(0, None)}
    del world.end[other]
    assert await undecided_now(world, world.committed, {"pay": [PAY, other]}) == {}
