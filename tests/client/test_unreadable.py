"""Records that no consumer of aiokafka can read: each program passes over them, and loses none of those around."""

import asyncio
import json
import sys

import pytest
from aiokafka import AIOKafkaConsumer

from gate.client import JobClient
from gate.client._alerts import Alerts
from gate.client._worker import Worker
from gate.kafka.connect import running
from gate.protocol.headers import Stamp
from tests.kafka.raw import Rec, batch

BAD = [(b"\xff\xfe", b"x")]


def poisoned(*records: Rec, codec: int = 0) -> bytes:
    """Return a batch with a record in the midst whose header has no name that can be read."""
    half = len(records) // 2
    return batch([*records[:half], Rec(b"bad", b"bad", BAD), *records[half:]], codec=codec)


@pytest.mark.parametrize("codec", [0, 1, 4])
async def test_a_consumer_reads_all_that_can_be_read(bootstrap, log, prefix, codec):
    topic = f"{prefix}.any"
    await log.create(topic)
    await log.write(topic, b"0")
    await log.write_raw(topic, poisoned(*(Rec(b"k", b"%d" % n, [(b"h", b"1")]) for n in range(1, 5)), codec=codec))
    await log.write_raw(topic, poisoned(codec=codec))
    await log.write(topic, b"5")
    seen = []
    async with running(AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")) as consumer:
        consumer.subscribe([topic])
        async with asyncio.timeout(20):
            while len(seen) < 6:
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    seen += records
    assert [record.value for record in seen] == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert [record.offset for record in seen] == [0, 1, 2, 4, 5, 7]
    assert seen[3].headers == (("h", b"1"),)


async def test_a_worker_does_all_others(bootstrap, log, names, prefix, start, until):
    topic, done = names.admitted("payments"), []
    await log.create(topic)
    await log.write_raw(topic, poisoned(*(Rec(None, b"%d" % n) for n in range(4))))
    pay = Worker(bootstrap, group_id=f"{prefix}-workers", prefix=names.prefix)
    pay.handler("payments")(lambda job: done.append(job.value))
    start(pay)

    async def committed():
        return await log.committed(f"{prefix}-workers", topic) == 5

    await until(committed)
    assert sorted(done) == [b"0", b"1", b"2", b"3"]


async def test_an_alert_consumer_carries_all_others(bootstrap, log, names, prefix, start, until):
    event = [
        (b"ce_id", b"1"), (b"ce_type", b"gate.near_limit"), (b"ce_source", b"/gate"), (b"ce_specversion", b"1.0"),
        (b"ce_time", b"2026-01-31T18:30:00Z"), (b"content-type", b"application/json"),
    ]  # fmt: skip
    await log.create(names.alerts)
    await log.write_raw(names.alerts, poisoned(*[Rec(b"pay", b'{"service": "pay"}', event)] * 2))
    seen = []
    alerts = Alerts(bootstrap, prefix=names.prefix, group_id=prefix)
    alerts.on(name="all")(seen.append)
    start(alerts)
    await until(lambda: len(seen) == 2)


async def test_a_job_client_hears_of_its_jobs(bootstrap, log, names):
    await log.create(names.requests("s"), names.admitted("s"))
    async with JobClient(bootstrap, prefix=names.prefix) as client:
        ticket = await client.submit("s", b"")
        stamp = Stamp("admitted", ticket.id, 1, 1, "9f2c01").encode()
        await log.write_raw(names.admitted("s"), poisoned(Rec(), Rec(None, b"", [(b"gate", stamp)])))
        assert (await ticket.decision(20)).verdict == "admitted"


async def test_tail_shows_all_others(bootstrap, log, names, prefix):
    await log.create(names.admitted("s"))
    stamp = Stamp("admitted", f"{names.requests('s')}-0@0", 1, 1, "9f2c01").encode()
    await log.write_raw(names.admitted("s"), poisoned(*[Rec(None, b"v", [(b"gate", stamp)])] * 2))
    command = [
        sys.executable, "-m", "gate", "tail", "admitted", "s", "--json", "--from-beginning", "--max", "2",
        "--bootstrap", bootstrap, "--prefix", prefix,
    ]  # fmt: skip
    tail = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await asyncio.wait_for(tail.communicate(), 30)
    assert tail.returncode == 0
    assert [json.loads(line)["offset"] for line in out.splitlines()] == [0, 2]
