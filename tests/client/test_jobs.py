"""Jobs on a real broker, through a real gate, to real workers."""

import asyncio
import json
import socket
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from gate.client import (
    JobClient,
    JobFailedError,
    JobRejectedError,
    NoAnswerError,
    SyncJobClient,
    TooLargeError,
    UnknownServiceError,
    Verdict,
)
from gate.client._retry import Retry
from gate.errors import GateError
from gate.kafka.connect import BrokerUnreachableError
from gate.protocol.topics import TopicNameError

QUICK = Retry(attempts=3, first=0.05, longest=0.1)


async def test_a_job_is_submitted_admitted_done_and_answered(gated, start):
    service = await gated.service()
    worker, jobs = gated.worker(service, results=True), []

    @worker.handler(service)
    async def handle(job):
        jobs.append(job)
        return {"echo": job.value.decode()}

    start(worker)
    async with gated.client() as client:
        options = {"key": "k", "tenant": "acme", "priority": "batch", "cost": 2, "id": "mine"}
        ticket = await client.submit(service, "hello", deadline=60, headers={"traceparent": "00-1"}, **options)
        decision = await ticket.decision(20)
        assert decision.verdict is Verdict.ADMITTED
        assert decision.is_final
        assert abs(datetime.now(UTC) - decision.at) < timedelta(seconds=20)
        assert [d async for d in ticket] == [decision]
        assert json.loads(await ticket.result(20)) == {"echo": "hello"}
    (job,) = jobs
    assert ticket.id == job.id
    assert ticket.id.startswith(f"{gated.names.requests(service)}-")
    given = {name: value.decode() for name, value in job.headers}
    assert 0 < int(given.pop("gate-deadline")) / 1000 - time.time() < 60
    del given["gate"]
    assert given == {
        "traceparent": "00-1", "gate-priority": "batch", "gate-tenant": "acme", "gate-id": "mine", "gate-cost": "2",
    }  # fmt: skip
    (answer,) = [r for p in (0, 1) for r in await gated.log.read(gated.names.results(service), p)]
    assert (answer.key, dict(answer.headers)) == (ticket.id.encode(), {"traceparent": b"00-1", "gate-id": b"mine"})


async def test_a_rejected_job_is_told_why(gated):
    service = await gated.service("strict")
    async with gated.client() as client:
        # together: one after the other, on a slow machine, both might be in time
        tickets = await asyncio.gather(*(client.submit(service, b"%d" % n) for n in range(2)))
        decisions = [await ticket.decision(20) for ticket in tickets]
        number = next(n for n, decision in enumerate(decisions) if decision.verdict is not Verdict.ADMITTED)
        rejected = decisions[number]
        assert (rejected.verdict, rejected.reason, rejected.retry_after) == (Verdict.REJECTED, "rate", 1)
        with pytest.raises(JobRejectedError, match=rf"was rejected by {service}.rate; try again after 1 s") as raised:
            await tickets[number].result(20)
        assert raised.value.decision == rejected
        never = await client.submit(service, b"", cost=2)
        assert (await never.decision(20)).reason == "never"
        assert (await never.decision()).retry_after is None
        late = await client.submit(service, b"", deadline=datetime(2001, 1, 1, tzinfo=UTC))
        assert (await late.decision(20)).reason == "deadline"


async def test_a_job_does_not_go_before_its_time(gated):
    service = await gated.service()
    now = datetime.now(UTC)
    async with gated.client() as client:
        later = now.replace(microsecond=0) + timedelta(days=400)
        far, near = await asyncio.gather(
            client.submit(service, b"", start=later), client.submit(service, b"", start=now + timedelta(seconds=1))
        )
        waits = await far.decision(20)
        assert (waits.verdict, waits.reason, waits.limit) == (Verdict.DELAYED, "scheduled", None)
        assert waits.not_before == later
        async with asyncio.timeout(20):
            *_, last = [decision async for decision in near]
        assert last.verdict is Verdict.ADMITTED
        assert last.at >= (now + timedelta(seconds=1)).replace(microsecond=0)


async def test_a_failed_job_comes_back_through_the_gate_and_is_given_up_in_the_end(gated, start):
    service = await gated.service()
    worker, attempts = gated.worker(service, results=True, retry=QUICK), []

    @worker.handler(service)
    def handle(job):
        attempts.append((job.value, job.attempt, job.id))
        if job.value == b"poison" or job.attempt < 3:
            raise OSError(f"no. {job.attempt}")
        return job.value

    start(worker)
    async with gated.client() as client:
        works, fails = await client.submit(service, b"third time"), await client.submit(service, b"poison")
        assert await works.result(30) == b"third time"
        with pytest.raises(JobFailedError, match="was given up after 3 attempts: OSError: no"):
            await fails.result(30)
        decision = await works.decision()
        assert (decision.verdict, decision.attempt) == (Verdict.ADMITTED, 3)
    assert [a for a in attempts if a[0] == b"poison"] == [(b"poison", n, fails.id) for n in (1, 2, 3)]
    assert [a for a in attempts if a[0] != b"poison"] == [(b"third time", n, works.id) for n in (1, 2, 3)]
    admitted = [r for p in (0, 1) for r in await gated.log.read(gated.names.admitted(service), p)]
    assert len(admitted) == 6  # each attempt was charged
    assert len({(r.value, r.partition) for r in admitted}) == 2  # and stayed in its partition
    dead = [r for p in (0, 1) for r in await gated.log.read(gated.names.rejected(service), p)]
    assert [(r.value, dict(r.headers)["gate-error-attempts"]) for r in dead] == [(b"poison", b"3")]


async def test_a_retry_that_the_gate_rejects_ends_the_job(gated, start):
    service = await gated.service("strict")
    worker = gated.worker(service, retry=QUICK)

    @worker.handler(service)
    def handle(job):
        raise OSError

    start(worker)
    async with gated.client() as client:
        ticket = await client.submit(service, b"")
        with pytest.raises(JobRejectedError, match="rejected by"):
            await ticket.result(30)
        assert (await ticket.decision()).attempt in {2, 3}  # the first retry may have to wait for its topic


async def test_jobs_of_a_key_run_in_order(gated, start):
    service = await gated.service()
    worker, running, seen = gated.worker(service, ordered="key", results=True, concurrency=8), set(), {}

    @worker.handler(service)
    async def handle(job):
        assert job.key not in running
        running.add(job.key)
        await asyncio.sleep(0)
        running.remove(job.key)
        seen.setdefault(job.key, []).append(int(job.value))
        return b""

    async with gated.client() as client:
        tickets = [await client.submit(service, str(n), key=f"k{n % 3}") for n in range(60)]
        start(worker)
        await asyncio.gather(*(ticket.result(30) for ticket in tickets))
    assert {key: sorted(numbers) for key, numbers in seen.items()} == seen
    assert sum(map(len, seen.values())) == 60


async def test_bad_input_is_told_at_once_and_harms_no_other(gated):
    service = await gated.service()
    async with gated.client() as client:
        with pytest.raises(UnknownServiceError, match="there is no service nowhere"):
            await client.submit("nowhere", b"")
        with pytest.raises(TopicNameError):
            await client.submit("no where", b"")
        good = [asyncio.create_task(client.submit(service, b"%d" % n)) for n in range(20)]
        with pytest.raises(TooLargeError, match="is more than the 1048588 that it takes"):
            await client.submit(service, b"x" * 1_048_588)
        for wrong, told in (
            ({"cost": 0}, "cost is 0"),
            ({"cost": 2**63}, "cost is"),
            ({"tenant": "a\nb"}, "gate-tenant holds control characters"),
            ({"priority": "x" * 65}, "gate-priority has 65 bytes"),
            ({"deadline": 0}, "deadline is 0"),
            ({"start": -1}, "start is -1"),
            ({"start": datetime(2097, 1, 1, tzinfo=UTC)}, "gate-start is '4007"),
            ({"deadline": float("nan")}, "deadline is nan"),
            ({"deadline": datetime(2030, 1, 1)}, "has no offset"),  # noqa: DTZ001 - that is the mistake
            ({"headers": {"gate-cost": "3"}}, "the headers gate-cost have a meaning"),
        ):
            with pytest.raises(ValueError, match=told):
                await client.submit(service, b"", **wrong)
        with pytest.raises(TypeError):
            await client.submit(service, object())
        for ticket in await asyncio.gather(*good):
            assert (await ticket.decision(20)).verdict is Verdict.ADMITTED


async def test_a_limit_that_is_lower_than_it_was_harms_no_other(gated):
    service = await gated.service()
    topic = gated.names.requests(service)
    await gated.log.configure(topic, **{"max.message.bytes": "5000"})  # less than is asked about
    async with gated.client() as client:
        sizes = [10, 9_000, 20, 30, 40_000, 40]
        outcomes = await asyncio.gather(*(client.submit(service, b"x" * n) for n in sizes), return_exceptions=True)
        refused = [isinstance(outcome, TooLargeError) for outcome in outcomes]
        assert refused == [n > 5000 for n in sizes], outcomes
        for ticket in outcomes:
            if not isinstance(ticket, Exception):
                await ticket.decision(20)


async def test_what_is_not_told_in_time_is_an_error_and_the_ticket_stays_good(bootstrap, names, log):
    await log.create(names.requests("s"))  # no gate runs here
    async with JobClient(bootstrap, prefix=names.prefix) as client:
        ticket = await client.submit("s", b"")
        with pytest.raises(NoAnswerError, match=r"no gate has decided about request .*requests.s-0@0 within 0.01 s"):
            await ticket.decision(0.01)
        with pytest.raises(TimeoutError, match="no worker has done"):
            await ticket.result(0.01)
        waiting = asyncio.create_task(ticket.decision())
        await asyncio.sleep(0)
        await log.create(names.admitted("s"))
        stamp = f'admitted;id="{ticket.id}";at=1764025123456;attempt=1;policy="9f2c01"'
        await log.write(names.admitted("s"), b"", headers=[("gate", b"junk")])
        await log.write(names.admitted("s"), b"", headers=[("gate", stamp.encode())])
        assert (await asyncio.wait_for(waiting, 20)).verdict is Verdict.ADMITTED  # in a topic that came later
        forever = asyncio.create_task(ticket.result())
        await asyncio.sleep(0)
    with pytest.raises(GateError, match="the client is closed"):
        await forever
    with pytest.raises(GateError, match="the client is closed"):
        await client.submit("s", b"")


async def test_without_a_broker_there_is_one_clear_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(BrokerUnreachableError, match=f"no Kafka broker answers at 127.0.0.1:{port}"):
        async with JobClient(f"127.0.0.1:{port}", connect_timeout=0.3):
            pass
    with pytest.raises(RuntimeError, match="not connected"):
        await JobClient("127.0.0.1:1").submit("s", b"")


async def test_a_program_without_a_loop_can_do_the_same(gated, start):
    service = await gated.service("slow")
    worker = gated.worker(service, results=True)
    worker.handler(service)(lambda job: job.value.upper())
    start(worker)

    def script():
        with SyncJobClient(gated.bootstrap, prefix=gated.names.prefix) as client:
            client.submit(service, "", cost=2).decision(20)  # the gate has found the service, or rejects
            first = client.submit(service, "one")
            assert first.service == service
            assert first.decision(20).verdict is Verdict.ADMITTED
            verdicts = [Verdict.ADMITTED]
            while verdicts == [Verdict.ADMITTED]:  # half a second after the one before, it need not wait
                second = client.submit(service, "two", tenant="acme")
                verdicts = [decision.verdict for decision in second]
            assert verdicts == [Verdict.DELAYED, Verdict.ADMITTED]
            with pytest.raises(NoAnswerError):
                client.submit(service, "three").result(0.01)
            return first.id, first.result(20), second.result(20)

    ticket_id, *results = await asyncio.to_thread(script)
    assert ticket_id.startswith(gated.names.requests(service))
    assert results == [b"ONE", b"TWO"]
    with pytest.raises(RuntimeError, match="not connected"):
        SyncJobClient("127.0.0.1:1").submit("s", "")


async def test_a_command_does_jobs_and_answers(gated):
    service = await gated.service()
    where = ["--bootstrap", gated.bootstrap, "--prefix", gated.names.prefix]
    script = 'test "$GATE_ATTEMPT" = 2 && tr a-z A-Z'
    command = [sys.executable, "-m", "gate", "worker", service, *where, "--results", "--", "sh", "-c", script]
    worker = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with gated.client() as client:
            assert await (await client.submit(service, "loud")).result(30) == b"LOUD"
    finally:
        worker.terminate()
        assert await asyncio.wait_for(worker.wait(), 20) == 0
