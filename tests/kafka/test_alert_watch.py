"""Who owns a shard ends what was alerted about it, once that is over."""

import asyncio
from types import SimpleNamespace

import pytest
from aiokafka.errors import OffsetOutOfRangeError

from gate.kafka.alert_watch import ANEW, ENDS_AT_ONCE, SEARCHED, SETTLED, AlertWatch
from gate.observe import alerts
from gate.shard.records import Fetched
from tests.shard.memory import stored

AT = 1_764_025_123_456_000_000
WHERE = {"service": "pay", "topic": "gate.requests.pay", "partition": 3, "offset": 7, "shard": 1, "since": AT}


class Log:
    """One partition; `begin` is where it begins."""

    def __init__(self) -> None:
        self.records = []
        self.begin = 0
        self.asked = []

    def write(self, *records) -> None:
        self.records += records

    async def fetch_one(self, partition, offset, *, wait_ms, partition_bytes):
        self.asked.append(offset)
        if not self.begin <= offset <= len(self.records):
            raise OffsetOutOfRangeError(offset)
        found = [stored(n, (*self.records[n][:2], None, self.records[n][2])) for n in range(offset, len(self.records))]
        return Fetched(found, len(self.records), 100) if found else None

    async def offsets(self, partitions, which):
        return dict.fromkeys(partitions, self.begin)


class Owned:
    def __init__(self, number, alerts_begin=None) -> None:
        self.number, self.alerts_begin = number, alerts_begin
        self.is_sound = True
        self.ended = {}

    def end_alerts(self, ends, still_open, begins):
        self.ended = {at: dict(end.headers)["ce_type"].decode() for at, end in ends.items()}
        self.alerts_begin = begins


@pytest.fixture
def gate():
    here = SimpleNamespace(name="here:1", has_refused_policy=False, is_waiting=lambda _: False)
    made = SimpleNamespace(log=Log(), here=here, shards=[Owned(0), Owned(1)], running={"here:1", "b:1"})

    async def members():
        return made.running

    made.watch = AlertWatch(made.log, "gate.alerts", lambda: made.shards, 2, here, members, lambda: AT, "gate")
    made.look = lambda now: asyncio.run(made.watch.look(now))
    return made


def test_what_a_shard_was_alerted_for_ends_once_it_has_been_sound_for_a_while(gate):
    gate.log.write(alerts.shard_failed(1, "no", 3, AT, gate="a:1"), alerts.shard_failed(7, "no", 3, AT, gate="a:1"))
    gate.look(0)
    assert [shard.ended for shard in gate.shards] == [{}, {}]
    gate.shards[1].is_sound = False
    gate.look(SETTLED)
    assert [shard.ended for shard in gate.shards] == [{1: "gate.shard.recovered"}, {}], "there is no shard 7 any more"
    gate.shards[1].is_sound = True
    gate.look(SETTLED + 1)
    assert gate.shards[1].ended == {}
    gate.look(2 * SETTLED + 1)
    assert gate.shards[1].ended == {0: "gate.shard.recovered"}


def test_a_partition_goes_on_when_nobody_finds_it_waiting(gate):
    gate.log.write(alerts.partition_waiting(**WHERE, at=AT, reason="no", remedy="go", gate="a:1"))
    gate.look(0)
    gate.here.is_waiting = lambda place: place == ("gate.requests.pay", 3, 7)
    gate.look(SEARCHED)
    assert gate.shards[1].ended == {}
    gate.here.is_waiting = lambda _: False
    gate.look(SEARCHED + 1)
    assert gate.shards[1].ended == {0: "gate.partition.resumed"}


def test_a_policy_that_was_refused_ends_with_its_gate(gate):
    gate.log.write(*(alerts.policy_refused("p", "1", "x", AT, gate=name) for name in ("a:1", "b:1", "here:1", "")))
    gate.here.has_refused_policy = True
    gate.look(0)
    assert gate.shards[0].ended == {0: "gate.policy.accepted"}, "b runs, here tells it itself, '' is unknown"
    gate.here.has_refused_policy = False
    gate.running = None
    gate.look(ANEW)
    assert gate.shards[0].ended == {2: "gate.policy.accepted"}, "one that ran before had this name; b may be too old"


def test_it_reads_from_where_any_shard_knows_that_nothing_is_open_before(gate):
    gate.log.write(*[alerts.clock_skewed("a", 3.0, AT)] * 9)
    gate.shards[0].alerts_begin, gate.shards[1].alerts_begin = 4, 7
    gate.look(0)
    assert gate.log.asked[0] == 7
    assert [shard.alerts_begin for shard in gate.shards] == [9, 9]
    gate.log.write(alerts.shard_failed(1, "no", 3, AT, gate="a:1"), alerts.clock_skewed("a", 3.0, AT))
    gate.look(1)
    assert [shard.alerts_begin for shard in gate.shards] == [9, 9]
    gate.log.begin, gate.log.records = 5, gate.log.records[:6]
    gate.look(2)
    gate.look(2 + SETTLED)
    assert [shard.ended for shard in gate.shards] == [{}, {}], "the topic was made anew"


def test_a_forged_alert_keeps_no_other_from_ending_and_of_many_some_end_at_a_time(gate):
    forged = b'{"shard": 1, "topic": "t", "since": "2025-11-24T22:58:43"}'
    gate.log.write(alerts.partition_waiting(**WHERE, at=AT, reason="no", remedy="go")._replace(value=forged))
    for offset in range(ENDS_AT_ONCE + 1):
        gate.log.write(alerts.partition_waiting(**WHERE | {"offset": offset}, at=AT, reason="no", remedy="go"))
    gate.look(0)
    gate.look(SEARCHED)
    assert list(gate.shards[1].ended) == list(range(1, ENDS_AT_ONCE + 1))
