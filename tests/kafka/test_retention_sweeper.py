"""What is parked is never deleted, whatever happens between the steps of a sweep, and what was released is."""

import asyncio
import contextlib
import itertools
import random

import pytest
import structlog
from aiokafka import errors
from hypothesis import given
from hypothesis import strategies as st

from gate.kafka.aio.reader import EARLIEST, LATEST
from gate.kafka.retention_sweeper import FIRST, MOST, Sweeper
from gate.shard.owner_views import RetainedOffsets
from gate.shard.records import Partition
from gate.shard.stalled_partitions import SECOND

HOUR, DAY = 3_600 * SECOND, 86_400 * SECOND
DELAYED, RETRIES = Partition("gate.delayed.pay", 0), Partition("gate.retries.pay", 0)


class World:
    """One delayed and one retries partition, their owner, and time; between any two steps something may happen."""

    number = 3

    def __init__(self, seed=None, keep=DAY):
        self.chance = None if seed is None else random.Random(seed)
        self.now, self.since, self.keep = 10 * DAY, 0, keep
        self.dates = {DELAYED: [], RETRIES: []}  # of each record, ms
        self.begins = {DELAYED: 0, RETRIES: 0}
        self.parked = set()
        self.read = 0
        self.owner, self.stale = True, None
        self.refusal = {}
        self.deletions = 0
        self.sweeper = Sweeper(self, lambda: [self], lambda _: self.keep, self.confirm)

    # -- what happens ----------------------------------------------------------------------------------------------

    def add(self, partition):
        self.dates[partition].append(self.now // 1_000_000)
        if partition == DELAYED:
            self.parked.add(len(self.dates[DELAYED]) - 1)

    def happen(self):
        for _ in range(self.chance.randrange(6) if self.chance else 0):
            what = self.chance.randrange(6)
            if what < 2:
                self.add((DELAYED, RETRIES)[what])
            elif what == 2 and self.parked:
                self.parked.discard(self.chance.choice(sorted(self.parked)))  # by lanes: not the oldest first
            elif what == 3:
                self.read = min(self.read + self.chance.randrange(3), len(self.dates[RETRIES]))
            elif what == 4:
                self.now += self.chance.randrange(HOUR)
            elif what == 5 and self.chance.random() < 0.1:  # somebody else takes over: this one does not know yet
                self.stale = None if self.stale else self.kept()
                self.owner = self.stale is None

    def kept(self):
        return RetainedOffsets(self.now, self.since, {DELAYED: min(self.parked, default=None), RETRIES: self.read})

    # -- what the sweeper asks -------------------------------------------------------------------------------------

    def rooms(self):
        return {"pay": [DELAYED, RETRIES]}

    async def settled(self):
        self.happen()
        return self.stale or self.kept()

    async def confirm(self, _):
        self.happen()
        if not self.owner and not (self.chance and self.chance.random() < 0.5):  # it may become so a moment later
            raise errors.IllegalGenerationError

    async def offsets(self, partitions, which, *, committed=True):
        self.happen()
        found = {}
        for partition in partitions:
            dates = self.dates[partition]
            if which == EARLIEST:
                found[partition] = self.begins[partition]
            elif which == LATEST:
                found[partition] = len(dates)
            else:
                young = (n for n, date in enumerate(dates) if date >= which and n >= self.begins[partition])
                found[partition] = next(young, -1)
        return found

    async def delete(self, bounds):
        self.happen()
        for partition, bound in bounds.items():
            if partition in self.refusal:
                continue
            assert self.begins[partition] < bound <= len(self.dates[partition])
            assert all(date < (self.now - self.keep) // 1_000_000 for date in self.dates[partition][:bound])
            if partition == DELAYED:
                assert not any(offset < bound for offset in self.parked)
            else:
                assert bound <= self.read
            self.begins[partition] = bound
            self.deletions += 1
        return self.refusal

    def sweep(self):
        asyncio.run(self.sweeper.sweep(self))


@given(st.integers(0, 2**32))
def test_nothing_that_waits_is_ever_deleted(seed):
    world = World(seed)
    for _ in range(60):
        world.happen()
        world.now += HOUR
        with contextlib.suppress(errors.IllegalGenerationError):
            world.sweep()


def test_what_was_released_is_deleted_up_to_what_waits_or_is_young():
    world = World()
    for _ in range(5):
        world.add(DELAYED)
        world.add(RETRIES)
    world.parked, world.read = {2, 4}, 3
    world.sweep()
    assert world.deletions == 0  # all of it is young
    world.now += DAY + SECOND
    world.sweep()
    assert world.begins == {DELAYED: 2, RETRIES: 3}
    world.parked, world.read = set(), 5
    world.add(DELAYED)
    world.parked = set()
    world.sweep()
    assert world.begins == {DELAYED: 5, RETRIES: 5}  # the sixth is young, although it has left


def test_what_a_reset_has_forgotten_stays_as_long_as_what_was_released():
    world = World()
    world.add(DELAYED)
    world.parked = set()
    world.now += 3 * DAY
    world.since = world.now - DAY + 1
    world.sweep()
    assert world.deletions == 0
    world.now += SECOND
    world.sweep()
    assert world.begins[DELAYED] == 1


def test_who_keeps_for_ever_asks_nothing():
    world = World(keep=None)
    assert world.sweeper.due(0) == world.sweeper.due(10 * MOST) == []


def test_a_refusal_is_said_once_and_harms_no_other_topic():
    world = World()
    world.refusal = {DELAYED: errors.TopicAuthorizationFailedError}
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            world.add(DELAYED)
            world.add(RETRIES)
            world.parked, world.read = set(), len(world.dates[RETRIES])
            world.now += 2 * DAY
            world.sweep()
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [(w["topic"], w["why"]) for w in warnings] == [("gate.delayed.pay", "TopicAuthorizationFailedError")]
    assert "allow Delete on gate.delayed.pay" in warnings[0]["hint"]
    assert world.begins == {DELAYED: 0, RETRIES: 3}


@pytest.mark.parametrize(("keep", "first", "every"), [(DAY, FIRST, MOST), (24 * SECOND, SECOND, SECOND)])
def test_it_sweeps_hourly_or_a_part_of_what_is_kept(keep, first, every):
    world = World(keep=keep)
    assert world.sweeper.due(0) == []
    assert world.sweeper.due(first - 1) == []
    for at in itertools.accumulate([first, every, every]):
        assert world.sweeper.due(at) == [world]
        assert world.sweeper.due(at + every - 1) == []
