"""What happens to a shard that waits: for its turn with a large batch, for the end of the last one with a small."""

import asyncio
from types import SimpleNamespace

import pytest

from gate.policy import parse_policy
from gate.protocol.topics import Names
from gate.shard import owner as shard_module
from gate.shard.buffer import MemoryPool
from gate.shard.owner import Shard, SpentError
from gate.shard.reader import LARGE_BYTES
from gate.shard.records import Fetched, Partition
from gate.units import MS

POLICY = parse_policy("defaults: {requests_per_second: 1}")


class Waiting(Shard):
    """Its batches are counted instead of made."""

    def __init__(self, turns: int) -> None:
        pool = MemoryPool(1 << 30, 1)
        source = SimpleNamespace(unreadable=lambda _: {})
        environment = SimpleNamespace(
            pool=pool,
            large=asyncio.Semaphore(turns),
            local=lambda: 0,
            names=Names(),
            source=source,
            hearing=source,
            observer=None,
        )
        super().__init__(0, POLICY, environment)
        self.large = environment.large
        self.done: list[str] = []
        self.sizes: list[int] = []  # of the buffer, as each batch began
        self.writer = SimpleNamespace(settling=0.0, spent=None, is_settled=self._is_settled)
        self.settled = True
        self.state = SimpleNamespace(
            next_wake=lambda: None,
            mesh=SimpleNamespace(wakes_at=lambda waiting: None),
            live=SimpleNamespace(next_end=lambda: None),
            has_new_limits=lambda now: False,
        )
        self._changed = False

    def fetch(self, size: int) -> None:
        self._reader.buffer.put(Partition("gate.requests.x", 0), Fetched([object()], 1, size))

    async def _is_settled(self) -> bool:
        self.done.append("looked")
        return self.settled

    async def turn(self) -> bool:
        return await self._turn(self.state, self.writer)

    async def _refresh(self, state) -> None:
        self._changed = False
        self.done.append("refresh")

    async def _batch(self, state, writer) -> bool:
        self.done.append("batch")
        self.sizes.append(self._reader.buffer.size)
        return True


async def waiting(shard: Waiting) -> "asyncio.Task[bool]":
    task = asyncio.create_task(shard.turn())
    while not shard.large._waiters:
        await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("what", ["doubt", "pause"])
async def test_who_is_called_off_while_it_waits_begins_no_batch(what):
    """Least of all after a doubt: a further transaction would end what the broker has left half-done of the last."""
    shard = Waiting(0)
    shard.fetch(LARGE_BYTES + 1)
    task = await waiting(shard)
    getattr(shard, what)()
    shard.large.release()
    assert not await task
    assert not shard.done
    assert not shard.large.locked(), "its turn is the next one's"


@pytest.mark.parametrize("settled", [True, False])
async def test_a_doubt_costs_a_session_only_where_a_broker_has_left_something_half_done(settled):
    """A broker that was stopped as it should be has not, and nothing restarts."""
    shard = Waiting(1)
    shard.fetch(100)
    shard.settled = settled
    shard.doubt()
    if settled:
        assert await shard.turn()
        assert shard.done == ["looked", "batch"]
        assert await shard.turn()
        assert shard.done == ["looked", "batch", "batch"], "it is looked into once"
    else:
        with pytest.raises(ConnectionError, match="half-done"):
            await shard.turn()
        assert shard.done == ["looked"]


async def test_a_session_that_has_sent_something_twice_begins_no_further_batch():
    shard = Waiting(1)
    shard.fetch(100)
    shard.writer.spent = "EndTxn was sent again"
    with pytest.raises(SpentError, match="EndTxn was sent again"):
        await shard.turn()
    assert not shard.done


async def test_what_has_changed_while_it_waits_is_taken_in():
    shard = Waiting(0)
    shard.fetch(LARGE_BYTES + 1)
    task = await waiting(shard)
    shard.set_policy(POLICY)
    shard.large.release()
    assert await task
    assert shard.done == ["refresh", "batch"]


async def test_small_batches_wait_for_nobody():
    shard = Waiting(0)
    shard.fetch(LARGE_BYTES)
    assert await shard.turn()


async def test_large_ones_that_hang_stop_no_other_for_ever(monkeypatch):
    monkeypatch.setattr(shard_module, "PATIENCE", 0.01)
    shard = Waiting(0)
    shard.fetch(LARGE_BYTES + 1)
    assert await shard.turn()
    assert shard.large.locked(), "what it did not get it does not give back"


async def settling(shard: Waiting) -> "asyncio.Task[bool]":
    """Let it begin to wait for the end of the last batch."""
    shard.writer.settling = 0.01
    shard.fetch(100)
    task = asyncio.create_task(shard.turn())
    await asyncio.sleep(0)
    return task


async def test_what_comes_while_the_last_batch_is_being_ended_joins_the_next():
    shard = Waiting(1)
    task = await settling(shard)
    shard.fetch(100)
    assert await task
    assert shard.sizes == [200]


async def test_who_is_called_off_meanwhile_begins_no_batch():
    shard = Waiting(1)
    task = await settling(shard)
    shard.doubt()
    assert not await task
    assert not shard.done


async def test_large_batches_wait_for_no_end_of_the_last():
    """It has long been ended when they are decided."""
    shard = Waiting(1)
    shard.writer.settling = 3600.0
    shard.fetch(LARGE_BYTES + 1)
    assert await shard.turn()


@pytest.mark.parametrize("due", [0, 5 * MS])
async def test_what_is_due_waits_for_no_end_of_the_last(due):
    """It is stamped by its own time only if that has not passed when the batch begins."""
    shard = Waiting(1)
    shard.writer.settling = 3600.0
    shard._now = lambda: 0
    shard.state.next_wake = lambda: due
    shard.fetch(100)
    assert await shard.turn()
