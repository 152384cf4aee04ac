"""At most so many jobs run, on a real broker, whoever is killed; and every place is used again."""

import asyncio
import json

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import ConsumerRecord

from gate.client import Worker
from gate.kafka.connect import running as running_client
from gate.policy import parse_policy
from gate.protocol.feedback import Finished, encode
from gate.protocol.topics import Names
from gate.units import MS
from tests.sim.running import RunningChecker
from tests.system.gates import create, gate, header, read_count, stamp, until

MOST, JOBS = 4, 40
POLICY = f"""
shards: 1
services:
  jobs:
    max_running: {MOST}
    running_timeout: 1h
    tenants: {{default: {{max_running: 3}}}}
"""


async def test_no_more_run_than_may_whoever_is_killed(bootstrap, prefix, tmp_path):
    """A gate and a worker are killed; the places of the worker's jobs go to whoever does them again."""
    names = Names(prefix)
    await create(bootstrap, names.requests("jobs"))
    doing: set[str] = set()
    done: list[str] = []
    peaks: list[int] = []

    def worker() -> Worker:
        made = Worker(bootstrap, group_id=f"{prefix}-workers", prefix=prefix, concurrency=10, session_timeout=6.0)

        @made.handler("jobs")
        async def work(job):
            if job.id not in done:  # what the killed worker had told and not committed is done again
                doing.add(job.id)
            peaks.append(len(doing))
            try:
                await asyncio.sleep(0.05)
                done.append(job.id)
            finally:
                doing.discard(job.id)

        return made

    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "127.0.0.1:0") as first:
        async with running_client(AIOKafkaProducer(bootstrap_servers=bootstrap)) as producer:
            sends = [
                await producer.send(
                    names.requests("jobs"), b"%d" % n, partition=n % 2, headers=[("gate-tenant", b"ab"[n % 2 :][:1])]
                )
                for n in range(JOBS)
            ]
            await asyncio.gather(*sends)
        await read_count(bootstrap, [names.admitted("jobs")], MOST)
        killed = asyncio.create_task(worker().run())
        await asyncio.to_thread(until, lambda: len(done) >= JOBS // 4)
        first.kill()
        killed.cancel()
        await asyncio.gather(killed, return_exceptions=True)
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "127.0.0.1:0") as second:
        last = worker()
        working = asyncio.create_task(last.run())
        await asyncio.to_thread(until, lambda: len(set(done)) == JOBS, 90)
        await asyncio.to_thread(until, lambda: shown(second).get("running") == 0)
        assert 'gate_running_requests{service="jobs"} 0.0' in second.get("/metrics")
        last.stop()
        await working
    assert max(peaks) <= MOST
    assert await recomputed(bootstrap, names, JOBS) == []


async def test_one_record_tells_that_requests_have_ended(bootstrap, prefix, tmp_path):
    """Whoever does the work: told twice, or of others, it changes nothing."""
    names = Names(prefix)
    await create(bootstrap, names.requests("jobs"))
    with gate(tmp_path, bootstrap, prefix, POLICY) as running:
        async with running_client(AIOKafkaProducer(bootstrap_servers=bootstrap)) as producer:
            for n in range(5):
                await producer.send_and_wait(names.requests("jobs"), b"%d" % n, partition=0)
            first = await read_count(bootstrap, [names.admitted("jobs")], 3)
            running.wait_for("shard taken over")
            told = encode(Finished([stamp(first[0]).id, stamp(first[0]).id, "gate.requests.others-0@17"]))
            for _ in range(2):
                await producer.send_and_wait(names.feedback("jobs"), told)
            await read_count(bootstrap, [names.admitted("jobs")], 4)
            await producer.send_and_wait(names.feedback("jobs"), encode(Finished([stamp(first[1]).id])))
            await read_count(bootstrap, [names.admitted("jobs")], 5)
    delayed = await read_count(bootstrap, [names.delayed("jobs")], 2)
    assert {stamp(record).reason for record in delayed} == {"running"}
    assert {header(record, "gate-not-before") for record in delayed} == {None}
    assert await recomputed(bootstrap, names, 5) == []


def shown(running) -> dict:
    return next(iter(json.loads(running.get("/v1/usage"))["services"]), {})


async def everything(bootstrap: str, *topics: str) -> list[ConsumerRecord]:
    """Return all that is committed in topics to which nobody writes any more."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed")
    async with running_client(consumer):
        cluster = await consumer._client.fetch_all_metadata()
        there = [TopicPartition(t, number) for t in topics for number in cluster.partitions_for_topic(t)]
        consumer.assign(there)
        await consumer.seek_to_beginning()
        ends, records = await consumer.end_offsets(there), []
        while [part for part in there if await consumer.position(part) < ends[part]]:
            for part in (await consumer.getmany(timeout_ms=100)).values():
                records += part
    return records


async def recomputed(bootstrap: str, names: Names, count: int) -> list[str]:
    """Return what is wrong with what ran, by the topics alone."""
    policy = parse_policy(POLICY)
    records = await everything(bootstrap, names.state, names.feedback("jobs"), names.admitted("jobs"))
    stamps = [stamp(record) for record in records if record.topic == names.admitted("jobs")]
    assert len({told.id for told in stamps}) == len(stamps) == count
    checker = RunningChecker(names, dict.fromkeys((told.policy for told in stamps), policy))
    for record in sorted(records, key=lambda record: (record.topic, record.partition, record.offset)):
        if record.topic == names.state:
            checker.write(record.partition, record.key.decode(), record.value)
        elif not checker.tell(record.topic, record.partition, record.offset, record.value):
            told = stamp(record)
            assert told.running
            tenant = (header(record, "gate-tenant") or b"").decode()
            checker.admit("jobs", told.id, told.at_ms * MS, tenant, told.policy)
    return list(checker.problems())
