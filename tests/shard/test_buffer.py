"""What was fetched is taken in order, once, and what can't go yet is put back in front."""

from dataclasses import replace

import pytest

from gate.shard.buffer import FetchBuffer, MemoryPool
from gate.shard.records import Fetched, Partition

P = Partition("gate.requests.x", 0)


class Rec:
    key = value = None
    headers = ()

    def __init__(self, offset: int) -> None:
        self.offset = offset


def fetched(first: int, stop: int, next_offset: int | None = None, size: int = 10) -> Fetched:
    return Fetched([Rec(i) for i in range(first, stop)], stop if next_offset is None else next_offset, size)


def buffer(limit: int = 25) -> FetchBuffer:
    return FetchBuffer(limit, MemoryPool(1000, 10), lambda: None)


def offsets(records) -> list[int]:
    return [record.offset for record in records]


def test_take_in_parts():
    box = buffer()
    box.put(P, fetched(0, 3))
    box.put(P, fetched(3, 5, next_offset=7))  # two control records behind
    records, end = box.take(P, 2)
    assert (offsets(records), end) == ([0, 1], 2)
    records, end = box.take(P, 3)
    assert (offsets(records), end) == ([2, 3, 4], 7)
    assert box.take(P, 3) is None
    assert box.size == 0
    assert not box.has_work()


def test_no_more_is_taken_apart_than_is_taken():
    seen = []
    box = buffer()
    box.put(P, Fetched((seen.append(i) or Rec(i) for i in range(9)), 9, 10))
    assert seen == []
    for stop in 2, 4, 6, 8:
        records, end = box.take(P, 2)
        assert (offsets(records), end) == ([stop - 2, stop - 1], stop)
        assert seen == list(range(stop + 1)), "and the one behind, which tells whether there is more"
    assert offsets(box.take(P, 2)[0]) == [8]
    assert not box.has_work()


def test_a_piece_without_records_still_moves_the_offset():
    box = buffer()
    box.put(P, fetched(0, 0, next_offset=4))
    assert box.take(P, 10) == ([], 4)


def test_a_full_batch_leaves_the_next_piece_whole():
    box = buffer()
    box.put(P, fetched(0, 2))
    box.put(P, fetched(2, 4))
    records, end = box.take(P, 2)
    assert (offsets(records), end) == ([0, 1], 2)
    records, end = box.take(P, 2)
    assert (offsets(records), end) == ([2, 3], 4)


def test_it_is_full_by_bytes_and_has_room_again():
    box = buffer(limit=20)
    assert box.wants(P)
    box.put(P, fetched(0, 2))
    box.put(P, fetched(2, 4))
    assert not box.wants(P)
    box.take(P, 2)
    assert box.wants(P)


def test_what_is_given_back_comes_first_and_holds_its_partition():
    box = buffer()
    box.put(P, fetched(0, 4))
    box.put(P, fetched(4, 6))
    records, end = box.take(P, 4)
    box.give_back(P, records[1:], end)
    assert not box.wants(P)
    assert not box.has_work()
    box.held.discard(P)
    records, end = box.take(P, 10)
    assert (offsets(records), end) == ([1, 2, 3, 4, 5], 6)
    assert box.size == 0


def test_a_closed_inbox_takes_nothing():
    woken = []
    box = FetchBuffer(10, MemoryPool(1000, 10), lambda: woken.append(1))
    box.put(P, fetched(0, 2))
    woken.clear()
    box.close()
    assert box.size == box.pool.size == 0
    box.put(P, fetched(2, 4))
    assert not box.waiting
    assert not woken
    assert not box.wants(P)


def test_many_inboxes_share_what_there_is_and_none_is_starved():
    pool = MemoryPool(limit=100, least=15)
    greedy, modest = FetchBuffer(1000, pool, lambda: None), FetchBuffer(1000, pool, lambda: None)
    while greedy.wants(P):
        greedy.put(P, fetched(0, 1))
    assert (greedy.size, pool.size) == (100, 100)
    while modest.wants(P):
        modest.put(P, fetched(0, 1))
    assert (modest.size, pool.size) == (20, 120), "what is its own, whatever the others hold"
    greedy.take(P, 5)
    assert (greedy.size, pool.size) == (50, 70)
    assert modest.wants(P)
    greedy.drop(P)
    modest.close()
    assert pool.size == 0


def test_a_dropped_partition_leaves_nothing():
    box = buffer()
    box.put(P, fetched(0, 2))
    box.drop(P)
    assert box.size == 0
    assert box.take(P, 5) is None


def test_what_came_compressed_is_taken_by_what_it_weighs():
    class Heavy(Rec):
        value = bytes(1 << 20)

    box = buffer()
    box.put(P, Fetched([Heavy(i) for i in range(200)], 200, 10, codec=1, packed=True))
    records, end = box.take(P, 4_000, weight=8 << 20)
    assert len(records) == end == 8
    assert box.taken == 8 << 20
    assert len(box.take(P, 4_000, weight=1)[0]) == 1, "one at the least"


def test_a_record_of_many_headers_is_a_large_one():
    class Wide(Rec):
        headers = [("", b"")] * 60_000

    box = buffer()
    box.put(P, fetched(0, 0))
    box.put(P, Fetched([Wide(i) for i in range(128)], 128, 10))
    assert len(box.take(P, 4_000)[0]) == 1


def test_a_partition_that_is_stopped_is_neither_taken_nor_read_on():
    box = buffer()
    box.put(P, fetched(0, 3))
    box.stopped.add(P)
    assert not box.has_work()
    assert not box.wants(P)
    box.stopped.clear()
    assert box.has_work()
    assert box.wants(P)


@pytest.mark.parametrize("why", ["held", "stopped"])
@pytest.mark.parametrize("pool", [MemoryPool(1 << 20, 1 << 10), MemoryPool(70, 40)], ids=["roomy", "full"])
def test_what_may_not_go_for_long_takes_no_room_of_others(why, pool):
    """A service that holds, or whose output takes nothing, would stop all others of its shard."""
    box = FetchBuffer(80, replace(pool), lambda: None)
    waits, other = [Partition("waits", number) for number in range(9)], Partition("other", 0)
    for partition in waits[:8]:
        box.put(partition, fetched(0, 1))
    assert not box.wants(other)
    getattr(box, why).update(waits[:8])
    assert box.wants(other)
    assert not box.wants(waits[8]), "it has its part: what of it may go is not to grow without a bound"
    box.put(other, fetched(0, 2, size=20))
    assert not box.wants(other)
    box.take(other, 9)
    assert box.wants(other)
    getattr(box, why).clear()
    assert not box.wants(other)


def test_however_many_wait_for_long_memory_is_bounded():
    pool = MemoryPool(limit=100, least=40)
    box = FetchBuffer(80, pool, lambda: None)
    for number in range(99):
        partition = Partition(f"topic-{number}", 0)
        if box.wants(partition):
            box.put(partition, fetched(0, 1))
            box.held.add(partition)
    assert pool.size == 200
