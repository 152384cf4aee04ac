"""A redrive of a shard in memory: bounded batches, each record once whatever fails, and what is left where it is."""

from contextlib import asynccontextmanager

import pytest

from gate.errors import GateError
from gate.protocol.answers import AnswerState, decode_answer, decode_audit
from gate.protocol.control import Abort, Redrive, Selection
from gate.protocol.headers import Stamp, job_id
from gate.shard.operator_commands import AT_ONCE
from gate.shard.owner_views import Received
from gate.shard.ports import UnavailableError
from gate.shard.records import Fetched, Outgoing, Partition
from gate.units import MS
from tests.shard.memory import NOW, Kafka, running, stored, until

REJECTED, RETRIES = Partition("gate.rejected.pay", 0), Partition("gate.retries.pay", 0)
ANSWERS, AUDIT = Partition("gate.answers", 0), Partition("gate.audit", 0)
COUNT, SCANNED = 1_300, 700


def rejections(count=COUNT, tenant=b"acme"):
    return [
        Outgoing(b"k", b"%d" % n, NOW // MS + n, [
            ("gate-tenant", tenant),
            ("gate", Stamp("rejected", f"gate.requests.pay-0@{n}", NOW // MS, 1, "1").encode()),
        ])
        for n in range(count)
    ]  # fmt: skip


@asynccontextmanager
async def redriving(kafka, *commands, ids=()):
    """Run a shard to which these were given, as c0, c1, ... unless `ids` are."""
    async with running(kafka) as (shard, around):

        async def extents(topic, since_ms):
            if topic not in {partition.topic for partition in kafka.logs}:
                raise GateError(f"there is no topic {topic}")
            return {p.number: (0, len(log)) for p, log in kafka.logs.items() if p.topic == topic}

        async def scan(partition, offset):
            kafka.call("scan")
            there = kafka.logs[partition][offset : offset + SCANNED]
            return Fetched([stored(offset + n, record) for n, record in enumerate(there)], offset + len(there), 100)

        async def widen(service, partitions):
            return partitions

        async def retries(services):
            return dict.fromkeys(services, 1)

        async def handed_over(partitions):
            return {}

        around.extents, around.scan, around.widen = extents, scan, widen
        around.retries, around.handed_over = retries, handed_over
        given = [
            Received(n, "pay", command, True, ids[n] if ids else f"c{n}", "ann", "because", NOW // MS)
            for n, command in enumerate(commands)
        ]
        around.feedback.since = lambda offset: given[offset:]
        await until(lambda: shard.ready)
        shard.heed()
        yield shard, around


def ends(kafka, known="c0"):
    told = [decode_answer(record[1]) for record in kafka.logs.get(ANSWERS, ()) if record[0] == known.encode()]
    return [answer for answer in told if answer.state not in {AnswerState.TAKEN, AnswerState.WORKING}]


def back(kafka):
    return [record[1] for record in kafka.logs.get(RETRIES, ())]


@pytest.mark.parametrize("fails", ["commit", "scan"])
async def test_each_goes_back_once_whatever_fails(fails, monkeypatch):
    monkeypatch.setattr("gate.shard.source_reader.PAUSE", 0.001)
    monkeypatch.setattr("gate.shard.owner.FIRST_BACKOFF", 0.001)
    kafka = Kafka(logs={REJECTED: rejections()})
    async with redriving(kafka, Redrive("pay", Selection(tenant="acme"))) as (_, around):
        for done in (0, AT_ONCE, SCANNED):  # amid the count, and twice amid the work
            await until(lambda done=done: len(back(kafka)) >= done)
            kafka.fail[fails] = 1
            await until(lambda: not kafka.fail.get(fails))
        await until(lambda: ends(kafka))
        if fails != "scan":  # which holds up nothing else
            assert around.observer.failures
    (last,) = ends(kafka)
    assert (last.state, last.done, last.of, last.skipped) == (AnswerState.DONE, COUNT, COUNT, 0)
    assert back(kafka) == [b"%d" % n for n in range(COUNT)]
    assert [job_id(record[3]) for record in kafka.logs[RETRIES][:2]] == [
        "gate.requests.pay-0@0",
        "gate.requests.pay-0@1",
    ]
    (noted,) = [decode_audit(record[1]) for record in kafka.logs[AUDIT]]
    assert (noted.what, noted.after["done"], noted.who) == ("redrive", COUNT, "ann")


async def test_it_goes_on_in_bounded_batches():
    kafka = Kafka(logs={REJECTED: rejections()})
    sizes, write = [], kafka.write

    def note(partition, records):
        if partition == RETRIES:
            sizes.append(len(records))
        return write(partition, records)

    kafka.write = note
    async with redriving(kafka, Redrive("pay", Selection(all=True))):
        await until(lambda: ends(kafka))
    assert (sum(sizes), max(sizes)) == (COUNT, AT_ONCE)


async def test_the_newest_and_what_was_cut_short_stay():
    cut = Outgoing(b"k", None, NOW // MS, [("gate-error", b"large; its value is left out here (9 bytes)")])
    kafka = Kafka(logs={REJECTED: [cut, *rejections(20)]})
    async with redriving(kafka, Redrive("pay", Selection(all=True, keep_newest=5))):
        await until(lambda: ends(kafka))
    (last,) = ends(kafka)
    assert (last.done, last.of, last.skipped) == (15, 16, 1)
    assert back(kafka) == [b"%d" % n for n in range(15)]


async def test_what_can_t_be_is_refused_and_a_dry_run_changes_nothing():
    kafka = Kafka(logs={REJECTED: rejections(3)})
    commands = (
        Redrive("pay", Selection(all=True), dry_run=True),
        Redrive("pay", Selection(key="nobody's")),
        Redrive("pay", Selection(all=True), source="elsewhere"),
        Redrive("pay", Selection(all=True), source="gate.delayed.pay"),
        Redrive("pay", Selection()),
    )
    async with redriving(kafka, *commands):
        await until(lambda: all(ends(kafka, f"c{n}") for n in range(5)))
    told = [ends(kafka, f"c{n}")[0] for n in range(5)]
    assert (told[0].state, told[0].of, told[0].done) == (AnswerState.DONE, 3, 0)
    assert {answer.state for answer in told[1:]} == {AnswerState.FAILED}
    assert [answer.why for answer in told[1:]] == [
        "nothing in gate.rejected.pay fits the filter", "there is no topic elsewhere",
        "what is in gate.delayed.pay waits yet", "the command does not say which requests it means",
    ]  # fmt: skip
    assert back(kafka) == []


async def test_it_can_be_ended_while_its_topic_can_t_be_read():
    """Nothing else waits for that topic meanwhile."""
    kafka = Kafka(logs={REJECTED: rejections(3)})
    async with redriving(kafka, Redrive("pay", Selection(all=True)), Abort("pay", "c0")) as (shard, around):

        async def away(_partition, _offset):
            raise UnavailableError("no leader")

        around.scan = away
        await until(lambda: ends(kafka))
        assert shard.failures == 0
    assert (ends(kafka)[0].state, ends(kafka)[0].done, back(kafka)) == (AnswerState.ABORTED, 0, [])


async def test_answers_say_who_and_why_and_an_abort_that_is_sent_again_is_one():
    kafka = Kafka(logs={REJECTED: rejections(3)})
    again = Abort("pay", "c0")
    async with redriving(
        kafka, Redrive("pay", Selection(all=True)), again, again, Abort("pay", "c0"), ids=["c0", "a", "a", "b"]
    ) as (_, around):

        async def away(_partition, _offset):
            raise UnavailableError("no leader")

        around.scan = away
        await until(lambda: ends(kafka, "b"))
    told = [decode_answer(record[1]) for record in kafka.logs[ANSWERS]]
    assert {(one.what, one.who, one.because) for one in told if one.command == "c0"} == {("redrive", "ann", "because")}
    assert [(one.state, one.what) for one in ends(kafka, "a")] == [(AnswerState.DONE, "abort")] * 2
    assert [one.state for one in ends(kafka, "b")] == [AnswerState.FAILED], "another command comes too late"
    noted = [decode_audit(record[1]) for record in kafka.logs[AUDIT]]
    assert [(one.what, one.command, one.result) for one in noted if one.what == "abort"] == [
        ("abort", "a", "done"), ("abort", "b", "failed"),
    ]  # fmt: skip
