"""Retries of a shard in memory: each waits for its own time, and comes back once, for its group, whatever fails."""

from contextlib import asynccontextmanager

import pytest

from gate.protocol.feedback import BackOff, Failed, encode
from gate.protocol.headers import JOB_BACKOFFS, JOB_GROUP, JOB_ID, STAMP, START, attempt, last, parse_stamp
from gate.shard.changelog_records import META_KEY, Meta, encode_meta
from gate.shard.records import Fetched, Outgoing, Partition
from gate.units import MS
from tests.shard.memory import NOW, SHARDS, Kafka, Source, running, stored, until

AT = NOW // MS
REQUESTS, ADMITTED = Partition("gate.requests.pay", 0), Partition("gate.admitted.pay", 0)
FEEDBACK, RETRIES = Partition("gate.feedback.pay", 0), Partition("gate.retries.pay", 0)
DELAYED, REJECTED = Partition("gate.delayed.pay", 0), Partition("gate.rejected.pay", 0)
OPEN = "services: {pay: {requests_per_second: 1000, burst_size: 1000, max_delay: 30d}}"


class Tailed(Source):
    """Gives what is committed to whoever follows it, and what a worker names."""

    def __init__(self, kafka):
        super().__init__(kafka)
        self.buffers = {}

    def follow(self, partition, offset, buffer):
        super().follow(partition, offset, buffer)
        self.buffers[partition] = buffer

    def drop(self, partition):
        self.buffers.pop(partition, None)

    def unfollow(self, buffer):
        self.buffers = {p: other for p, other in self.buffers.items() if other is not buffer}

    async def look(self, partition, offset):
        return next(iter(await self.read(partition, [offset])), None)

    def pump(self):
        """Hand over what has come."""
        for partition, buffer in list(self.buffers.items()):
            log, begin = self._kafka.logs.get(partition, []), self.followed[partition] or 0
            if begin < len(log):
                records = [stored(offset, log[offset]) for offset in range(begin, len(log))]
                self.followed[partition] = len(log)
                buffer.put(partition, Fetched(records, len(log), 100 * len(records)))


class World:
    def __init__(self, kafka, shard, around):
        self.kafka, self.shard, self.around = kafka, shard, around

    def log(self, partition):
        return self.kafka.logs.get(partition, [])

    def pass_time(self, seconds):
        self.around._local += int(seconds * 1e9)
        self.shard.heed()

    def submit(self, *values):
        self.kafka.logs.setdefault(REQUESTS, []).extend(Outgoing(b"k", value, AT, []) for value in values)

    def tell(self, offset, outcome):
        place = f"gate.admitted.pay-0@{offset}".encode()
        now = self.shard._now() // MS
        self.kafka.logs.setdefault(FEEDBACK, []).append(Outgoing(place, encode(outcome), now, []))

    async def until(self, condition):
        def look():
            self.around.source.pump()
            return condition()

        await until(look)

    def admitted(self):
        return [(record[1], attempt(record[3])) for record in self.log(ADMITTED)]


@asynccontextmanager
async def world(kafka=None, policy=OPEN):
    kafka = kafka or Kafka()
    async with running(kafka, policy) as (shard, around):
        around.source = around.hearing = Tailed(kafka)

        async def widen(service, partitions):
            around.partitions = partitions
            return partitions

        async def retries(services):
            there = sum(partition.topic == RETRIES.topic for partition in kafka.logs)
            return dict.fromkeys(services, there) if there else {}

        async def handed_over(partitions):
            return {}

        around.widen, around.retries, around.handed_over = widen, retries, handed_over
        here = World(kafka, shard, around)
        await here.until(lambda: shard.ready)
        yield here


def failed(seconds, group="g", attempt=1):
    return Failed(group=group, attempt=attempt, error="no", retry_after=seconds)


async def test_what_waits_for_a_time_of_its_own_is_written_in_batches_that_are_read_one_by_one():
    async with world() as here:
        here.submit(b"job")
        await here.until(lambda: len(here.admitted()) == 1)
        assert here.kafka.scattered == set()
        here.tell(0, failed(60.0))
        await here.until(lambda: len(here.log(DELAYED)) == 1)
        assert here.kafka.scattered == {DELAYED.topic}


async def test_each_failed_job_waits_for_its_own_time_and_not_behind_others():
    async with world() as here:
        here.submit(b"long", b"short")
        await here.until(lambda: len(here.admitted()) == 2)
        here.tell(0, failed(60.0))
        await here.until(lambda: len(here.log(RETRIES)) == 1)
        here.tell(1, failed(33.0))
        await here.until(lambda: len(here.log(DELAYED)) == 2)
        waiting = [parse_stamp(last(record[3], STAMP)) for record in here.log(DELAYED)]
        assert {(stamp.reason, stamp.limit) for stamp in waiting} == {("scheduled", None)}
        assert here.around.partitions == 1  # nothing waits there
        here.pass_time(34.0)
        await here.until(lambda: len(here.admitted()) == 3)
        assert here.admitted()[2] == (b"short", 2)
        here.pass_time(27.0)
        await here.until(lambda: len(here.admitted()) == 4)
        assert here.admitted()[3] == (b"long", 2)
        for first, record in ((1, here.log(ADMITTED)[2]), (0, here.log(ADMITTED)[3])):
            stamp = parse_stamp(last(record[3], STAMP))
            assert stamp.origin == f"gate.requests.pay-0@{first}"
            assert stamp.at_ms >= int(last(record[3], START))


@pytest.mark.parametrize("fails", ["commit", "produce"])
async def test_each_comes_back_once_for_its_group_alone_whatever_fails(fails, monkeypatch):
    """Each batch of the way fails once: the one that hears, the one that parks, the one that releases."""
    monkeypatch.setattr("gate.shard.owner.FIRST_BACKOFF", 0.001)
    async with world() as here:
        kafka = here.kafka

        def fail():
            if fails == "commit":
                kafka.fail["commit"] = 1
                return
            call = kafka.call

            def once(name):
                if name.startswith("produce"):
                    kafka.call = call
                    raise ConnectionError("gone")
                call(name)

            kafka.call = once

        def failures():
            return len(here.around.observer.failures)

        here.submit(b"job")
        await here.until(lambda: len(here.admitted()) == 1)
        for group in ("a", "b"):
            here.tell(0, failed(20.0, group))
        fail()
        await here.until(lambda: failures() == 1 and len(here.log(DELAYED)) == 2)
        fail()
        here.pass_time(21.0)
        await here.until(lambda: failures() == 2 and here.shard.ready)
        here.pass_time(21.0)  # the broker's clock, from which a successor begins, stands still here
        await here.until(lambda: len(here.admitted()) == 3)
        back = here.log(ADMITTED)[1:]
        assert [(last(r[3], JOB_GROUP), attempt(r[3]), last(r[3], JOB_ID)) for r in back] == [
            (b"a", 2, b"gate.requests.pay-0@0"),
            (b"b", 2, b"gate.requests.pay-0@0"),
        ]
        here.tell(1, failed(5.0, "a", 2))  # b's goes well
        await here.until(lambda: len(here.log(DELAYED)) == 3)
        here.tell(1, failed(5.0, "a", 2))  # told again by who took over from a worker that was killed
        here.pass_time(6.0)
        await here.until(lambda: len(here.admitted()) == 4)
        assert last(here.log(ADMITTED)[3][3], JOB_GROUP) == b"a"
        assert here.admitted()[3] == (b"job", 3)
        await here.until(lambda: here.shard._state.feedback.start(FEEDBACK) == 4)
        assert (len(here.log(RETRIES)), len(here.log(ADMITTED))) == (3, 4)


async def test_what_waits_is_known_to_a_successor():
    kafka = Kafka()
    async with world(kafka) as here:
        here.submit(b"job")
        await here.until(here.admitted)
        here.tell(0, failed(3600.0))
        await here.until(lambda: len(here.log(DELAYED)) == 1)
    async with world(kafka) as here:
        await here.until(lambda: here.shard._state.services)
        assert here.shard._state.lowest() == {DELAYED: 0}
        here.pass_time(3_601.0)
        await here.until(lambda: len(here.admitted()) == 2)


async def test_a_job_that_is_put_off_counts_that_and_no_attempt():
    async with world() as here:
        here.submit(b"job")
        await here.until(here.admitted)
        here.tell(0, BackOff(group="g", attempt=1, seconds=10.0))
        await here.until(lambda: len(here.log(DELAYED)) == 1)  # as all others of the service
        here.pass_time(11.0)
        await here.until(lambda: len(here.admitted()) == 2)
        assert here.admitted()[1] == (b"job", 1)
        assert last(here.log(ADMITTED)[1][3], JOB_BACKOFFS) == b"1"
        here.tell(1, failed(1.0))
        here.pass_time(2.0)
        await here.until(lambda: len(here.log(RETRIES)) == 2)
        here.pass_time(2.0)
        await here.until(lambda: len(here.admitted()) == 3)
        assert here.admitted()[2] == (b"job", 2)
        assert last(here.log(ADMITTED)[2][3], JOB_BACKOFFS) == b"1"


async def test_a_deadline_before_its_next_attempt_ends_a_job_at_once():
    async with world() as here:
        deadline = ("gate-deadline", b"%d" % (AT + 5_000))
        here.kafka.logs[REQUESTS] = [Outgoing(b"k", b"job", AT, [deadline])]
        await here.until(here.admitted)
        here.tell(0, failed(60.0))
        await here.until(lambda: here.log(REJECTED))
        stamp = parse_stamp(last(here.log(REJECTED)[0][3], STAMP))
        assert (stamp.reason, stamp.origin) == ("deadline", "gate.requests.pay-0@0")


async def test_an_earlier_format_has_them_wait_in_the_retries_topic_until_it_is_switched():
    """Gates that do not know of `gate-start` may have to go on with them."""
    kafka = Kafka(state={META_KEY: encode_meta(Meta(1, SHARDS, at=NOW, since=1))})
    async with world(kafka) as here:
        here.submit(b"job")
        await here.until(here.admitted)
        here.tell(0, failed(3.0))
        await here.until(lambda: len(here.log(Partition(RETRIES.topic, 3))) == 1)
        assert here.around.partitions == 4
        assert not last(here.log(Partition(RETRIES.topic, 3))[0][3], START)
        here.pass_time(4.0)
        await here.until(lambda: len(here.admitted()) == 2)
        assert not here.log(DELAYED)


async def test_what_waited_in_the_retries_topic_is_parked_by_who_keeps_it():
    waits = Outgoing(b"k", b"old", AT, [(JOB_ID, b"gate.requests.pay-0@0"), ("gate-job-attempt", b"2"),
                                        (JOB_GROUP, b"g"), ("gate-job-not-before", b"%d" % (AT + 60_000))])  # fmt: skip
    kafka = Kafka(logs={RETRIES: [waits], ADMITTED: []})
    async with world(kafka) as here:
        await here.until(lambda: len(here.log(DELAYED)) == 1)
        (parked,) = here.log(DELAYED)
        assert int(last(parked[3], "gate-not-before")) == AT + 60_000
        here.pass_time(61.0)
        await here.until(lambda: here.admitted() == [(b"old", 2)])
