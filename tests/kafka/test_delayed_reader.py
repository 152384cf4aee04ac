"""Reading parked requests out of order: what comes back, what it costs, how much is kept."""

import asyncio
import random
import tracemalloc
from itertools import chain, zip_longest

import pytest
from aiokafka import errors
from aiokafka.producer.message_accumulator import BatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from gate.admission.model import Pull, Verdict
from gate.kafka import delayed_reader as parked
from gate.kafka.aio.decoding import decode
from gate.kafka.aio.reader import EARLIEST
from gate.kafka.delayed_reader import ParkedReader
from gate.policy import parse_policy
from gate.protocol.topics import Names
from gate.shard.changelog_records import FORMAT, Meta
from gate.shard.ports import PulledTooMuchError
from gate.shard.records import Fetched, Partition
from gate.shard.state import ShardState
from tests.kafka import raw
from tests.shard.test_buffer import Rec

HERE, OTHER = Partition("gate.delayed.pay", 0), Partition("gate.delayed.pay", 1)
RECORD_BYTES = 100


class Log:
    """A partition as a broker answers for it: whole batches, none of it beyond its end, holes where nothing is."""

    def __init__(self, end, *, gone=(), batch=10):
        self.end, self.gone, self.batch = end, set(gone), batch
        self.fetches = []
        self.first = 0  # what lies before it was deleted
        self.refreshed = 0
        self.fails, self.error = 0, errors.NotLeaderForPartitionError
        self.lags = 0  # answers of a new leader that does not know yet what is committed
        self.clock = 0.0  # seconds: one passes at each look at its bounds

    async def offsets(self, partitions, which, *, committed=True):
        assert not committed or which == EARLIEST
        self.clock += 0.5
        return dict.fromkeys(partitions, self.first if which == EARLIEST else 0 if self.lags else self.end)

    async def fetch_one(self, partition, offset, *, wait_ms, partition_bytes, committed):
        assert (wait_ms, committed) == (0, False), "who knows what is committed waits for nothing"
        await asyncio.sleep(0)
        if self.fails:
            self.fails -= 1
            raise self.error
        self.fetches.append((partition, offset))
        if self.lags:
            self.lags -= 1
            return None
        if offset > self.end or offset < self.first:
            raise errors.OffsetOutOfRangeError
        if offset == self.end:
            return None
        count = max(self.batch, partition_bytes // RECORD_BYTES // self.batch * self.batch)
        end = min(self.end, (offset // self.batch) * self.batch + count)
        records = [Rec(at) for at in range(offset, end) if at not in self.gone]
        return Fetched(records, end, RECORD_BYTES * (end - offset))

    def refresh(self):
        self.refreshed += 1


def batch(first, count, codec=0):
    """Return the bytes of a batch of a topic: records from offset `first` on."""
    builder = BatchBuilder(1 << 20, codec, is_transactional=False)
    for number in range(first, first + count):
        builder.append(key=None, value=b"%d" % number, timestamp=1)
    return first.to_bytes(8, "big") + bytes(builder._build())[8:]  # a broker fills in the offset


class Wire:
    """A reader that answers with bytes."""

    def __init__(self, *batches):
        self.raw = b"".join(batches)
        self.fetches = []

    async def fetch_one(self, partition, offset, **_):
        self.fetches.append(offset)
        return decode(self.raw, (), offset)


def read(reader, *offsets, partition=HERE):
    return [record.offset for record in asyncio.run(reader.read(partition, offsets))]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(parked, "BACKOFF", 0)


@given(
    st.lists(st.lists(st.integers(0, 1500), min_size=1, max_size=30), min_size=1, max_size=30),
    st.sets(st.integers(0, 1200), max_size=200),
    st.integers(1, 40),
)
def test_whatever_is_asked_for_comes_if_it_is_there(asked, gone, batch):
    log = Log(1200, gone=gone, batch=batch)
    reader = ParkedReader(log, lambda: log.clock)
    for offsets in asked:
        wanted = sorted(set(offsets))
        assert read(reader, *wanted) == [offset for offset in wanted if offset < 1200 and offset not in gone]


def test_lanes_that_take_turns_are_read_as_cheaply_as_one():
    """Each lane has its own place in the log. With one place per partition, every change of lanes was a fetch."""
    one, lanes = Log(30_000), Log(30_000)
    alone, together = ParkedReader(one), ParkedReader(lanes)
    interleaved = chain.from_iterable(zip_longest(range(10_000), range(10_000, 20_000), range(20_000, 30_000)))
    assert len(read(alone, *range(30_000))) == len(read(together, *interleaved)) == 30_000
    assert len(lanes.fetches) <= len(one.fetches) + 2 * 4, "each lane starts small and grows"
    assert len(one.fetches) < 20


def test_a_lane_of_every_fifth_request_is_read_ahead_too():
    log = Log(30_000)
    reader = ParkedReader(log)
    assert len(read(reader, *range(0, 30_000, 5))) == 6_000
    assert len(log.fetches) < 20


def test_what_is_kept_is_bounded_and_what_was_used_longest_ago_goes_first(monkeypatch):
    monkeypatch.setattr(parked, "CACHE_BYTES", 10 * parked.FIRST_BYTES)
    log = Log(1_000_000)
    reader = ParkedReader(log)
    places = [7_919 * n for n in range(1, 100)]
    for turn, place in enumerate(places):
        read(reader, turn, place)
        assert reader._size <= parked.CACHE_BYTES
    assert log.fetches.count((HERE, 0)) == 1, "used all the time"
    before = len(log.fetches)
    assert before == 1 + len(places)
    read(reader, *(place + 1 for place in places[-5:]))
    assert len(log.fetches) == before
    read(reader, places[1] + 1)
    assert len(log.fetches) == before + 1


def test_what_is_passed_over_is_kept_for_who_comes_to_it_and_counts(monkeypatch):
    log = Log(1_000_000)
    reader = ParkedReader(log)
    read(reader, 0)
    small = reader._size
    assert read(reader, *range(0, 300, 3)) == list(range(0, 300, 3))
    assert reader._size == small + 198 * parked.RECORD_BYTES, "Rec has neither key nor value"
    assert read(reader, *range(1, 300, 3)) == list(range(1, 300, 3))
    assert reader._size == small + 99 * parked.RECORD_BYTES
    assert len(log.fetches) == 2
    monkeypatch.setattr(parked, "CACHE_BYTES", 2 * parked.FIRST_BYTES)
    read(reader, 500_000, 600_000)
    assert reader._size <= parked.CACHE_BYTES


def test_what_has_left_can_be_read_again_after_an_error():
    log = Log(100)
    reader = ParkedReader(log)
    assert read(reader, *range(50)) == read(reader, *range(50)) == list(range(50))
    assert len(log.fetches) <= 2 + 1


def test_partitions_are_kept_apart():
    log = Log(100)
    reader = ParkedReader(log)
    assert read(reader, 5) == read(reader, 5, partition=OTHER) == [5]
    assert log.fetches == [(HERE, 5), (OTHER, 5)]


def test_a_request_that_is_gone_is_left_out_once_the_log_goes_on_without_it():
    log = Log(100, gone={50})
    reader = ParkedReader(log)
    assert read(reader, 49, 50, 51) == [49, 51]
    assert log.fetches.count((HERE, 50)) == 1, "what comes behind it in the same answer is proof"


def test_what_lies_before_the_beginning_of_the_log_is_gone():
    log = Log(100)
    log.first = 60
    assert read(ParkedReader(log, lambda: log.clock), 49, 50, 61) == [61]


@pytest.mark.parametrize("answers", [1, 3, 7])
def test_a_leader_that_shows_less_than_there_is_loses_nothing(answers):
    """After an election a new leader's high watermark lags, and it answers with nothing for a while."""
    log = Log(100)
    log.lags = answers
    assert read(ParkedReader(log, lambda: log.clock), 49, 50) == [49, 50]


def test_what_lies_beyond_the_end_is_gone_if_that_stays_so():
    """A paused leader that wakes believes for a while to be one, and its log ends where it slept."""
    log = Log(100)
    reader = ParkedReader(log, lambda: log.clock)
    assert read(reader, 99, 100, 1_000) == [99]
    assert log.clock >= parked.SETTLED
    assert log.refreshed >= 2, "whoever leads now was looked for"
    assert [offset for _, offset in log.fetches].count(1_000) == 0, "one proof serves for all behind it"


def test_no_answer_in_time_is_an_error_that_names_the_request(monkeypatch):
    monkeypatch.setattr(parked, "DEADLINE", 0.05)
    log = Log(100)
    log.lags = 10**9
    with pytest.raises(TimeoutError, match=r"gate\.delayed\.pay-0@50"):
        read(ParkedReader(log, lambda: 0.0), 50)


def test_a_partition_that_moves_is_asked_for_until_it_is_led_again():
    log = Log(40)
    log.fails = 3
    assert read(ParkedReader(log), 3) == [3]
    assert log.refreshed == 3


def test_what_is_led_by_nobody_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr(parked, "DEADLINE", 0.05)
    log = Log(40)
    log.fails = 10**9
    with pytest.raises(TimeoutError, match=r"pay-0@7 is there \(.*NotLeaderForPartitionError\); it is asked again"):
        read(ParkedReader(log), 7)


@pytest.mark.parametrize("lasting", [errors.UnknownTopicOrPartitionError, errors.TopicAuthorizationFailedError])
def test_what_does_not_pass_is_not_waited_for(lasting):
    log = Log(40)
    log.fails, log.error = 1, lasting
    with pytest.raises(lasting):
        read(ParkedReader(log), 7)


@pytest.mark.parametrize("codec", [0, 1, 4])
def test_bytes_are_taken_apart_as_they_are_come_to(codec):
    wire = Wire(batch(10, 10, codec), batch(20, 10), batch(35, 5, codec))
    reader = ParkedReader(wire)
    found = asyncio.run(reader.read(HERE, [15, 18, 22, 16, 29, 35, 39, 36]))
    assert [(r.offset, r.value) for r in found] == [(n, b"%d" % n) for n in (15, 18, 22, 16, 29, 35, 39, 36)]
    assert wire.fetches == [15], "from the middle of a batch"


@pytest.mark.parametrize("codec", [0, 4])
def test_what_is_wanted_in_no_order_costs_a_fetch_per_batch_and_no_objects_of_others(codec):
    """Who was scheduled leaves by time. Each read took its batch apart, and what came of that filled the cache."""
    batches = [batch(first, 1_000, codec) for first in range(0, 50_000, 1_000)]

    class OneBatch:
        fetches = 0

        async def fetch_one(self, _, offset, **__):
            self.fetches += 1
            return decode(batches[offset // 1_000], (), offset)

    wire = OneBatch()
    reader = ParkedReader(wire)
    offsets = random.Random(5).sample(range(50_000), 2_000)

    async def read_all():
        return [(record.offset, record.value) for at in offsets for record in await reader.read(HERE, [at])]

    assert asyncio.run(read_all()) == [(offset, b"%d" % offset) for offset in offsets]
    assert wire.fetches < 1.5 * len(batches)
    assert reader._size < 4 << 20


def test_a_record_that_can_be_told_by_its_batch_alone_is_not_gone():
    """It has a header whose name is no text; what was asked for first lies behind it."""
    records = [raw.Rec() for _ in range(10)]
    records[3] = raw.Rec(headers=[(b"\xff\xfe", b"2")])
    reader = ParkedReader(Wire(raw.batch(records, base=100)))
    assert read(reader, 107) == [107]
    assert read(reader, 103) == [103]
    assert read(reader, 102, 103, 109) == [102, 103, 109]


@pytest.mark.parametrize("codec", [0, 1])
def test_what_was_fetched_begins_where_it_was_asked_for(codec):
    records = decode(batch(10, 10, codec) + batch(20, 3), (), 15).records
    assert [record.offset for record in records] == list(range(15, 23))


LARGE = {
    "value": {"value": bytes(1 << 20)},
    "key": {"key": bytes(1 << 20)},
    "header": {"headers": (("a", bytes(1 << 20)),)},
    "headers": {"headers": (("", None),) * 20_000},
}


class Large(Rec):
    def __init__(self, offset, **parts):
        super().__init__(offset)
        self.__dict__.update(parts)


@pytest.mark.parametrize("part", LARGE)
def test_no_more_is_read_at_once_than_there_is_room_for_whatever_part_of_it_is_large(part):
    class Heavy(Log):
        async def fetch_one(self, *given, **more):
            answer = await super().fetch_one(*given, **more)
            return Fetched([Large(r.offset, **LARGE[part]) for r in answer.records], answer.next_offset, answer.size)

    with pytest.raises(PulledTooMuchError) as told:
        read(ParkedReader(Heavy(end=100)), *range(100))
    assert told.value.count <= 40


@pytest.mark.parametrize("part", LARGE)
def test_who_releases_large_requests_releases_few_at_a_time(part):
    state = ShardState(Names(), parse_policy("services: {pay: {requests_per_second: 1}}"), Meta(FORMAT, 16), {}, 10**18)
    served = state.serve("pay", 10**18)
    for _ in range(9):
        served.weigh([(Pull(0, 0, 8, Verdict.ADMITTED, None, None), [Large(i, **LARGE[part]) for i in range(8)])])
    assert served.pulls <= 2
    assert served.pulls_large


@pytest.mark.parametrize("headers", [30_000, 2])
def test_what_was_taken_is_held_by_nobody(headers):
    """A suspended reader held all that it had taken apart last, which is large where there are many headers."""
    builder = BatchBuilder(1 << 20, 0, is_transactional=False)
    builder.append(key=None, value=b"", timestamp=1, headers=[("", None)] * headers)
    raw = bytes(builder._build())[8:]

    class OneByOne:
        async def fetch_one(self, _, offset, **__):
            return decode(offset.to_bytes(8, "big") + raw, (), offset)

    reader = ParkedReader(OneByOne())
    tracemalloc.start()
    try:
        for at in range(0, 20, 2):  # a transaction's marker stands between
            asyncio.run(reader.read(HERE, [at]))
        assert tracemalloc.get_traced_memory()[0] < 4 << 20
    finally:
        tracemalloc.stop()


async def prefetched(reader, *offsets):
    reader.prefetch(HERE, offsets)
    while reader._prefetches:
        await asyncio.sleep(0)


async def test_what_was_prefetched_is_read_without_a_fetch():
    log = Log(5_000, batch=300)
    reader = ParkedReader(log)
    offsets = [10, 400, 3_000, 11]
    await prefetched(reader, *offsets)
    assert [offset for _, offset in log.fetches] == [10, 400, 3_000]
    assert [record.offset for record in await reader.read(HERE, sorted(offsets))] == sorted(offsets)
    assert len(log.fetches) == 3


async def test_who_reads_what_is_being_prefetched_waits_for_that_alone():
    log = Log(5_000, batch=300)
    reader = ParkedReader(log)
    reader.prefetch(HERE, [10, 4_000])
    while not log.fetches:
        await asyncio.sleep(0)
    assert [record.offset for record in await reader.read(HERE, [20])] == [20]
    assert [offset for _, offset in log.fetches if offset < 300] == [10]


async def test_of_what_is_prefetched_no_more_is_kept_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(parked, "AHEAD_BYTES", 5 * 300 * RECORD_BYTES)
    log = Log(300_000, batch=300)
    reader = ParkedReader(log)
    offsets = list(range(0, 90_000, 3_000))
    await prefetched(reader, *offsets)
    loaded = len(log.fetches)
    assert 1 <= loaded <= 6
    await prefetched(reader, *offsets)
    assert len(log.fetches) == loaded, "nothing was used of it"
    assert [record.offset for record in await reader.read(HERE, offsets[:loaded])] == offsets[:loaded]
    assert len(log.fetches) == loaded
    await prefetched(reader, *offsets)
    assert len(log.fetches) > loaded, "what was used leaves room"


async def test_what_was_prefetched_in_vain_makes_room(monkeypatch):
    """As where all that was due soon has been cancelled."""
    monkeypatch.setattr(parked, "AHEAD_BYTES", 1)
    now = 0.0
    log = Log(30_000, batch=300)
    reader = ParkedReader(log, lambda: now)
    await prefetched(reader, 0)
    await prefetched(reader, 3_000)
    assert len(log.fetches) == 1
    now = parked.AHEAD_LIFETIME + 1
    await prefetched(reader, 6_000)
    assert len(log.fetches) == 2
    await reader.read(HERE, [6_000])
    assert len(log.fetches) == 2
    assert len(reader._chunks) == 1, "the first is kept no more"


async def test_what_was_prefetched_and_not_used_is_not_dropped_for_what_goes_on_behind_it():
    log = Log(5_000, batch=300)
    reader = ParkedReader(log)
    await prefetched(reader, 10)
    end = next(iter(reader._chunks.values())).end
    await reader.read(HERE, [end])
    fetches = len(log.fetches)
    await reader.read(HERE, [10])
    assert len(log.fetches) == fetches


@pytest.mark.parametrize("error", [errors.NotLeaderForPartitionError, errors.TopicAuthorizationFailedError])
async def test_what_can_not_be_prefetched_is_told_by_who_reads_it(error):
    log = Log(5_000)
    log.fails, log.error = 1, error
    reader = ParkedReader(log)
    await prefetched(reader, 10)
    assert not log.fetches
    log.fails = 1
    if error.retriable:
        assert [record.offset for record in await reader.read(HERE, [10])] == [10]
    else:
        with pytest.raises(error):
            await reader.read(HERE, [10])


async def test_nothing_is_prefetched_after_the_end():
    log = Log(5_000)
    reader = ParkedReader(log)
    reader.prefetch(HERE, [10, 1_000])
    reader.close()
    await prefetched(reader)
    assert not log.fetches
