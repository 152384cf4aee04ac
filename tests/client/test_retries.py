"""Retries of failed jobs on a real broker: two groups of workers on one service, and kills of worker and gate."""

import asyncio
import json
import subprocess
import sys
from collections import Counter

import pytest

from gate.client import JobClient, JobFailedError, Retry, Verdict, Worker
from tests.system.gates import GateProcess, create, stamp

JOBS = 12
POLICY = "services:\n  pay: {requests_per_second: 5000, burst_size: 5000, overflow: reject}\n"
FAILS_TWICE = """
import os, sys
from gate.client import Retry, Worker

bootstrap, prefix, diary = sys.argv[1:]
out = os.open(diary, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
# each job waits for a time of its own: none may wait behind another
worker = Worker(bootstrap, group_id="a", prefix=prefix, session_timeout=2, retry=Retry(attempts=5, first=1.5))

@worker.handler("pay")
async def pay(job):
    os.write(out, f"{job.value.decode()} {job.attempt}\\n".encode())
    if job.attempt < 3:
        raise OSError("not yet")

worker.main()
"""


def counted(records):
    """Return of (job, attempt, group) how often it was admitted."""
    found = Counter()
    for record in records:
        headers = dict(record.headers)
        found[record.value, int(headers.get("gate-job-attempt", b"1")), headers.get("gate-job-group")] += 1
    return found


async def test_each_group_has_its_own_retries_and_each_comes_once_whatever_is_killed(
    bootstrap, prefix, names, log, tmp_path, start, until
):
    await create(bootstrap, names.requests("pay"), partitions=2)
    diary, running = tmp_path / "diary", []

    def gate():
        running.append(GateProcess(tmp_path, bootstrap, prefix, POLICY, "--http", "0"))
        return running[-1]

    def failing():
        process = subprocess.Popen([sys.executable, "-c", FAILS_TWICE, bootstrap, prefix, str(diary)])
        running.append(process)
        return process

    def written():
        return Counter(diary.read_text().split("\n")[:-1]) if diary.exists() else Counter()

    async def read(topic):
        return [record for number in range(2) for record in await log.read(topic, number)]

    async def waiting():
        return len(await read(names.delayed("pay"))) >= JOBS

    try:
        owner, worker = gate(), failing()
        await until(owner.is_ready, 60)
        seen = []
        others = Worker(bootstrap, group_id="b", prefix=prefix)
        others.handler("pay")(lambda job: seen.append((job.value, job.attempt)))
        start(others)
        async with JobClient(bootstrap, prefix=prefix) as client:
            for n in range(JOBS):
                await client.submit("pay", f"{n}")
            await until(waiting, 60)
            owner.kill()  # all of them wait, and nobody else knows of it
            worker.kill()
            owner, worker = gate(), failing()
            await until(lambda: sum(f"{n} 2" in written() for n in range(JOBS)) > JOBS // 3, 60)
            owner.kill()  # some have come back and failed again, others have not yet
            worker.kill()
            owner, worker = gate(), failing()
            await until(lambda: all(f"{n} 3" in written() for n in range(JOBS)), 60)
        jobs = [b"%d" % n for n in range(JOBS)]
        first = {(job, 1, None): 1 for job in jobs}
        again = {(job, attempt, b"a"): 1 for job in jobs for attempt in (2, 3)}
        assert counted(await read(names.admitted("pay"))) == first | again
        assert not await read(names.rejected("pay"))
        assert sorted(seen) == sorted((job, 1) for job in jobs)
    finally:
        for process in running:
            process.kill()
            await asyncio.to_thread(process.wait if isinstance(process, subprocess.Popen) else process.close)


async def test_a_ticket_that_is_opened_later_knows_the_result_and_who_gave_up(gated, start):
    service = await gated.service()
    worker = gated.worker(service, results=True, retry=Retry(attempts=2, first=0.05))

    @worker.handler(service)
    async def handle(job):
        if job.value == b"fails":
            raise OSError("always")
        return b"did " + job.value

    start(worker)
    async with gated.client() as client:
        done, dead = await client.submit(service, b"works", id="mine"), await client.submit(service, b"fails")
        assert await done.result(60) == b"did works"
        with pytest.raises(JobFailedError, match="after 2 attempts"):
            await dead.result(60)
    async with gated.client() as other:
        for known in (done.id, "mine"):
            assert await (await other.ticket(known, service=service)).result(30) == b"did works"
        later = await other.ticket(dead.id)
        with pytest.raises(JobFailedError, match="after 2 attempts: OSError: always"):
            await later.result(30)
        log, topic = gated.log, gated.names.admitted(service)
        admitted = [record for number in range(2) for record in await log.read(topic, number)]
        (retry,) = [record for record in admitted if stamp(record).origin]
        again = await other.ticket(stamp(retry).id)
        assert again.id == dead.id
        with pytest.raises(JobFailedError):
            await again.result(30)


async def test_a_retry_that_waits_is_found_by_the_id_of_its_first_request(gated, start, until):
    service = await gated.service()
    worker = gated.worker(service, retry=Retry(attempts=2, first=3600, longest=3600))

    @worker.handler(service)
    async def handle(_job):
        raise OSError("not today")

    async def standing():
        return json.loads(await asyncio.to_thread(gated.process.get, f"/v1/requests/{job.id}"))

    start(worker)
    async with gated.client() as client:
        job = await client.submit(service, b"fails")

        async def waits():
            return (await standing())["standing"] == "waiting"

        await until(waits, 60)
    told, home = await standing(), int(job.id.rpartition("@")[0].rpartition("-")[2])
    (parked,) = await gated.log.read(gated.names.delayed(service), home)
    assert (told["reason"], told["origin"]) == ("scheduled", job.id)
    assert told["id"] == stamp(parked).id != job.id
    async with gated.client() as other:
        ticket = await other.ticket(job.id)
        assert ticket.id == job.id
        assert (await ticket.decision(30)).verdict is Verdict.DELAYED
