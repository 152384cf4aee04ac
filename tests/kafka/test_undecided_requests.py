"""How much is undecided and since when, by looks at a log that is only numbers here."""

import asyncio
import struct

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from gate.kafka import undecided_requests
from gate.kafka.aio.batch_header import BatchHeader, header_at
from gate.kafka.aio.reader import EARLIEST
from gate.kafka.undecided_requests import (
    DATES,
    MARKS_EVERY,
    OPEN_AFTER,
    SAMPLES,
    STANDS_AFTER,
    Arrivals,
    Undecided,
    Watch,
    options,
)
from gate.shard.owner_views import OwnedService
from gate.shard.records import CommittedOffset, Partition
from gate.shard.stalled_partitions import SECOND

AT = 1_764_025_123_456_000_000
PAY, CALM = Partition("gate.requests.pay", 0), Partition("gate.requests.calm", 0)


# The head of a batch


def batch(base, count, *, producer=-1, transactional=0, at=1_764_025_123_456, codec=0):
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=codec, is_transactional=transactional, producer_id=producer, producer_epoch=3,
        base_sequence=0, batch_size=1 << 20,
    )  # fmt: skip
    for index in range(count):
        builder.append(index, timestamp=at + index, key=None, value=b"x" * 100, headers=[])
    raw = bytes(builder.build())
    return struct.pack(">q", base) + raw[8:]


def test_the_head_of_the_batch_that_holds_an_offset_is_found():
    raw = batch(5, 3) + batch(8, 2, producer=77, transactional=1, at=1_764_025_125_000, codec=1) + batch(20, 1)
    assert header_at(raw, 7) == BatchHeader(5, 1_764_025_123_456, -1, 3, False)
    assert header_at(raw, 8) == header_at(raw, 9) == BatchHeader(8, 1_764_025_125_000, 77, 3, True)
    assert header_at(raw, 12) == BatchHeader(20, 1_764_025_123_456, -1, 3, False), "compaction left gaps"
    assert header_at(raw, 21) is None


@pytest.mark.parametrize("raw", [b"", batch(0, 1)[:60], batch(0, 1)[:16] + b"\1" + batch(0, 1)[17:], bytes(100)])
def test_what_is_no_batch_has_none(raw):
    assert header_at(raw, 0) is None


# Since when


def test_what_came_is_as_old_as_the_look_that_saw_it():
    came = Arrivals()
    came.see(1, 10)
    came.see(2, 10)
    came.see(3, 15)
    came.see(4, 20)
    assert came.since(10) == 3
    assert came.since(14) == 3
    assert came.since(15) == 4
    assert not came.is_old(15)


def test_what_was_there_before_is_as_old_as_it_says():
    came = Arrivals()
    came.see(100, 10)
    assert came.is_old(3)
    assert came.since(3) == 100
    came.date(40)
    assert came.since(3) == 40
    came.date(4_000)
    assert came.since(5) == 100, "it was there: a timestamp ahead of time is not believed"
    came.see(101, 11)
    assert came.since(10) == 101
    came.date(40)
    assert came.since(10) == 101, "what is dated is gone"


def test_a_topic_made_anew_begins_anew():
    came = Arrivals()
    came.see(1, 10)
    came.see(2, 4)
    assert came.since(0) == 2


def test_the_memory_of_it_is_bounded_and_errs_to_the_late_side():
    came = Arrivals()
    for moment in range(10_000):
        came.see(moment, moment + 1)
    assert len(came._samples) <= SAMPLES
    for position in range(0, 10_000, 97):
        assert position <= came.since(position)


# Looks


class World:
    """Partitions with their ends; what is asked of it is counted."""

    def __init__(self):
        self.end, self.stable, self.begin, self.heads, self.marks = {}, {}, {}, {}, {}
        self.decided = {PAY: 0, CALM: 0}
        self.now = AT
        self.asked = []
        self.told, self.waits = {}, {}
        self.watch = Watch(self, self.committed, self.owned, self, options("here:9092", "gate"))

    async def learn(self, topics):
        pass

    async def ends(self, partitions, which, *, committed):
        self.asked.append((which, committed, len(partitions)))
        known = self.begin if which == EARLIEST else ({**self.end, **self.stable} if committed else self.end)
        return {partition: known[partition] for partition in partitions if partition in known}

    async def head(self, partition, offset):
        self.asked.append((partition, offset))
        return self.heads.get((partition, offset))

    async def committed(self, partitions):
        self.asked.append("marks")
        return {
            partition: CommittedOffset(self.marks[partition]) for partition in partitions if partition in self.marks
        }

    def owned(self):
        by_service = {}
        for partition, at in self.decided.items():
            by_service.setdefault(partition.topic.rpartition(".")[2], {})[partition] = at
        return [OwnedService(1, service, positions) for service, positions in by_service.items()]

    def undecided(self, service, undecided):
        self.told[service] = undecided

    def waiting(self, shard, waiting, source):
        self.waits[shard] = list(waiting)

    async def look(self, seconds=0):
        self.now += seconds * SECOND
        self.asked.clear()
        return await self.watch.look(lambda: self.now)


@pytest.fixture
def world():
    return World()


async def test_undecided_is_what_lies_between_the_decided_position_and_the_end(world):
    world.end = {PAY: 0, CALM: 0}
    await world.look()
    assert world.told == {"pay": Undecided(0, None), "calm": Undecided(0, None)}
    assert len(world.asked) == 1, "where nothing waits one question is enough"
    world.end[PAY] = 8
    await world.look(1)
    assert world.told == {"pay": Undecided(8, AT + SECOND), "calm": Undecided(0, None)}
    world.decided[PAY] = 3
    world.end[PAY] = 12
    await world.look(1)
    assert world.told["pay"] == Undecided(9, AT + SECOND)
    world.decided[PAY] = 8
    await world.look(1)
    assert world.told["pay"] == Undecided(4, AT + 2 * SECOND)
    world.decided[PAY] = 12
    await world.look(1)
    assert world.told["pay"] == Undecided(0, None)


async def test_what_was_there_before_is_dated_by_its_batch(world):
    world.end = {PAY: 8, CALM: 0}
    world.heads[PAY, 0] = BatchHeader(0, AT // 10**6 - 60_000, -1, -1, False)
    await world.look()
    assert world.told["pay"] == Undecided(8, AT - 60 * SECOND)
    world.decided[PAY] = 8
    world.end[PAY] = 9
    await world.look(1)
    assert world.told["pay"] == Undecided(1, AT + SECOND)
    assert (PAY, 8) not in world.asked


async def test_few_are_dated_at_a_time_and_each_in_its_turn(world):
    many = [Partition(f"gate.requests.s{n}", 0) for n in range(10)]
    world.decided = dict.fromkeys(many, 0)
    world.end = dict.fromkeys(many, 5)
    dated = []
    for _ in range(5):
        await world.look(1)
        heads = [asked for asked in world.asked if asked[0] in world.end]
        assert len(heads) == DATES
        dated += heads
    assert {partition for partition, _ in dated} == set(many)


async def test_where_no_owner_knows_the_groups_offsets_do_and_else_the_beginning(world):
    world.decided = {PAY: None, CALM: None}
    world.end, world.begin, world.marks = {PAY: 8, CALM: 9}, {CALM: 4}, {PAY: 5}
    await world.look()
    assert [world.told[s].requests for s in ("pay", "calm")] == [3, 5]
    await world.look(1)
    assert "marks" not in world.asked
    await world.look(MARKS_EVERY // SECOND)
    assert "marks" in world.asked


async def test_nothing_is_said_where_something_is_not_known(world):
    other = Partition("gate.requests.pay", 1)
    world.decided[other] = 0
    world.end = {PAY: 8, CALM: 3, other: 2}
    await world.look()
    assert world.told["pay"].requests == 10
    del world.end[other]
    await world.look(1)
    assert world.told["pay"] is None
    assert world.told["calm"].requests == 3
    del world.decided[CALM]
    await world.look(1)
    assert world.told["calm"] is None, "it is another gate's"


async def test_an_open_transaction_is_told_after_a_while_until_it_ends(world):
    world.end, world.stable = {PAY: 8, CALM: 0}, {PAY: 3}
    world.decided[PAY] = 3
    world.heads[PAY, 3] = BatchHeader(3, AT // 10**6 - 2_000, 77, 5, True)
    await world.look()
    await world.look(OPEN_AFTER // SECOND - 1)
    assert world.waits == {1: []}
    await world.look(1)
    (waiting,) = world.waits[1]
    assert (waiting.place, waiting.service, waiting.since_ns) == ((*PAY, 3), "pay", AT - 2 * SECOND)
    assert "producer 77 (epoch 5)" in waiting.why
    assert waiting.remedy.endswith(
        "gate transactions abort --topic gate.requests.pay --partition 0 --start-offset 3 --bootstrap here:9092"
    )
    world.stable[PAY] = 6  # the next one is open
    await world.look(1)
    assert world.waits == {1: []}
    world.stable[PAY] = 8
    await world.look(OPEN_AFTER // SECOND)
    assert world.waits == {1: []}


async def test_a_clock_that_is_set_back_keeps_nothing_from_being_told(world):
    world.end, world.stable, world.begin, world.marks = {PAY: 8, CALM: 1}, {PAY: 3}, {CALM: 0}, {}
    world.decided = {PAY: 3, CALM: None}
    await world.look()
    await world.look(-3_600)
    assert "marks" in world.asked
    await world.look(OPEN_AFTER // SECOND)
    assert [waiting.place for waiting in world.waits[1]] == [(*PAY, 3)]
    assert world.told["pay"].since_ns == world.now - OPEN_AFTER
    assert await world.look() == {1: {"pay": 5, "calm": 1}}


async def test_what_is_in_front_of_an_open_transaction_is_no_reason_to_forget_it(world):
    world.end, world.stable = {PAY: 8, CALM: 0}, {PAY: 3}
    await world.look()
    ends = world.ends

    async def some(partitions, which, *, committed):
        return {} if committed else await ends(partitions, which, committed=committed)

    world.ends = some
    await world.look(5)
    world.ends = ends
    await world.look(OPEN_AFTER // SECOND - 5)
    assert [one.offset for one in world.waits[1]] == [3]


async def test_those_that_stand_are_published_and_once_more_when_they_go_on(world):
    world.end = {PAY: 0, CALM: 0}
    assert await world.look() == {}
    world.end[PAY] = 8
    assert await world.look(1) == {}
    assert await world.look(STANDS_AFTER // SECOND) == {1: {"pay": 8}}
    world.decided[PAY] = 8
    assert await world.look(1) == {1: {"pay": 0}}
    assert await world.look(1) == {}


async def test_a_look_that_fails_says_nothing_rather_than_the_old_and_the_next_says_it_again(world, monkeypatch):
    monkeypatch.setattr(undecided_requests, "EVERY", 0.001)
    world.end = {PAY: 8, CALM: 0}
    seen = []

    async def learn(topics):
        seen.append(dict(world.told))
        if len(seen) == 2:
            raise TimeoutError
        if len(seen) == 4:
            done.set()
        await asyncio.sleep(0)

    done, world.learn = asyncio.Event(), learn
    task = asyncio.create_task(world.watch.run(lambda: world.now, lambda news: None))
    async with asyncio.timeout(5):
        await done.wait()
    task.cancel()
    assert [told["pay"] and told["pay"].requests for told in seen[1:]] == [8, None, 8]
