import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from gate.client import ArgumentError
from gate.client._offsets import Commits
from gate.client._retry import Backoff, Retry
from gate.client._worker import Worker
from gate.errors import GateError
from gate.kafka.connect import BrokerUnreachableError
from gate.protocol.headers import Stamp
from gate.protocol.topics import TopicNameError

STAMP = Stamp("admitted", "gate.requests.payments-0@5", 1, 1, "9f2c01").encode()


@pytest.fixture
async def admitted(log):
    """The admitted topic of the service `payments`."""
    topic = log.names.admitted("payments")
    await log.create(topic, log.names.feedback("payments"))
    return topic


@pytest.fixture
def told(log, until):
    """What workers tell of `payments`, when it is so much: (what it is about, what it is)."""

    async def told(count: int = 1):
        async def all_told():
            records = await log.read(log.names.feedback("payments"))
            return records if len(records) >= count else None

        return [(record.key.decode(), json.loads(record.value)) for record in await until(all_told)]

    return told


@pytest.fixture
def worker(bootstrap, prefix):
    def make(**options) -> Worker:
        return Worker(
            bootstrap, group_id=f"{prefix}-workers", prefix=prefix, **({"retry": Retry(attempts=1)} | options)
        )

    return make


async def test_each_request_is_handed_over_as_it_was_written(admitted, log, worker, start, until):
    jobs = []
    written = int(time.time() * 1000)
    dated = STAMP + b";created=1764025123456"
    pay = worker()
    pay.handler("payments")(jobs.append)
    start(pay)
    await log.write(admitted, b"1", key=b"k", headers=[("gate", dated), ("n", b"")], timestamp_ms=written)
    await log.write(admitted, b"", None, key=b"k")
    await until(lambda: len(jobs) == 3)
    jobs.sort(key=lambda job: job.offset)
    assert [(job.offset, job.value) for job in jobs] == [(0, b"1"), (1, b""), (2, None)]
    first = jobs[0]
    assert (first.service, first.key, first.id, first.attempt) == ("payments", b"k", "gate.requests.payments-0@5", 1)
    assert first.headers == (("gate", dated), ("n", b""))
    assert (first.timestamp_ms, first.created_ms, jobs[1].created_ms) == (written, 1_764_025_123_456, None)


async def test_a_topic_may_come_later(log, worker, start, until):
    jobs = []
    pay = worker()
    pay.handler("payments")(jobs.append)
    start(pay)
    await log.create(log.names.admitted("payments"))
    await log.write(log.names.admitted("payments"), b"1")
    await until(lambda: jobs)


async def test_only_what_is_done_is_committed(admitted, log, worker, start, until, prefix):
    held, done = asyncio.Event(), set()
    pay = worker(concurrency=3)

    @pay.handler("payments")
    async def handle(job):
        if job.offset == 2:
            await held.wait()
        done.add(job.offset)

    await log.write(admitted, *[b"x"] * 8)
    start(pay)
    await until(lambda: done == {0, 1, 3, 4, 5, 6, 7})  # one that hangs does not hold up the others
    await until(lambda: log.committed(f"{prefix}-workers", admitted))
    assert await log.committed(f"{prefix}-workers", admitted) == 2
    held.set()
    pay.stop()
    await until(lambda: not pay._jobs)
    assert done == set(range(8))

    async def all_committed():
        return await log.committed(f"{prefix}-workers", admitted) == 8

    await until(all_committed)


async def test_no_more_jobs_run_at_a_time_than_allowed(admitted, log, worker, start, until):
    running, most, done = 0, 0, 0
    pay = worker(concurrency=4)

    @pay.handler("payments")
    async def handle(job):
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        done += 1

    await log.write(admitted, *[b"x"] * 200)
    start(pay)
    await until(lambda: done == 200)
    assert 1 < most <= 4


async def test_the_gate_is_told_of_a_job_that_failed_for_good(admitted, log, worker, start, until, prefix, told):
    pay = worker()

    @pay.handler("payments")
    async def handle(job):
        if job.header("bad"):
            sys.exit("no\n\ud800" + "x" * 1000)

    await log.write(admitted, b"poison", key=b"k", headers=[("gate", STAMP), ("bad", b"1")])
    await log.write(admitted, b"good")
    start(pay)

    async def committed():
        return await log.committed(f"{prefix}-workers", admitted) == 2

    await until(committed)
    ((about, outcome),) = await told()
    assert about == f"{admitted}-0@0"
    error = outcome.pop("error")
    assert error.startswith("SystemExit: no\n\\ud800xxx")
    assert len(error) <= 310
    assert outcome == {"outcome": "failed", "group": f"{prefix}-workers", "attempt": 1}


async def test_a_job_with_more_headers_than_any_record_may_add_to_is_told_of_and_holds_up_nothing(
    admitted, log, worker, start, until, told
):
    done = []
    pay = worker()

    @pay.handler("payments")
    async def handle(job):
        if len(job.headers) > 1_000:
            raise ValueError("too many")
        done.append(job)

    await log.configure(admitted, **{"max.message.bytes": "3000000"})
    await log.write(admitted, b"x", headers=[(f"h{number}", b"0123456789") for number in range(60_000)])
    await log.write(admitted, b"next")
    start(pay)
    ((about, outcome),) = await told()
    assert (about, outcome["error"]) == (f"{admitted}-0@0", "ValueError: too many")
    await until(lambda: done)


async def test_even_a_record_of_nothing_is_told_of(admitted, log, worker, start, told):
    pay = worker()

    @pay.handler("payments")
    async def handle(job):
        raise ValueError(f"{job.key} {job.value}")

    await log.write_null(admitted)
    start(pay)
    ((_, outcome),) = await told()
    assert outcome["error"] == "ValueError: None None"


async def test_a_failed_job_is_to_be_tried_again_and_holds_up_nothing(
    admitted, log, worker, start, until, prefix, told
):
    go, finished = asyncio.Event(), []
    pay = worker(retry=Retry(first=3600, longest=3600, cost=7))

    @pay.handler("payments")
    async def handle(job):
        if job.value == b"fails":
            raise OSError
        await go.wait()
        finished.append(job)

    retried = [("gate", STAMP), ("gate-job-attempt", b"2"), ("gate-job-group", f"{prefix}-workers".encode())]
    await log.write(admitted, b"slow")
    await log.write(admitted, b"fails", headers=retried)
    run = start(pay)
    assert await told() == [
        (
            f"{admitted}-0@1",
            {
                "outcome": "failed", "group": f"{prefix}-workers", "attempt": 2, "error": "OSError: ",
                "retry_after": 3600.0, "cost": 7,
            },
        )
    ]  # fmt: skip
    pay.stop()
    go.set()
    await asyncio.wait_for(run, 10)
    assert [job.value for job in finished] == [b"slow"]
    assert await log.committed(f"{prefix}-workers", admitted) == 2


async def test_a_job_is_put_off_for_a_bounded_time_and_a_bounded_number_of_times(admitted, log, worker, start, told):
    pay = worker(retry=Retry(backoffs=2, longest_backoff=1.0), concurrency=1)

    @pay.handler("payments")
    async def handle(job):
        raise Backoff(3_600.0, "not now")

    for times in (b"2", b"1"):
        await log.write(admitted, b"job", headers=[("gate", STAMP), ("gate-job-backoffs", times)])
    start(pay)
    (_, given_up), (_, put_off) = await told(2)
    assert (put_off["outcome"], put_off["seconds"]) == ("back-off", 1.0)
    assert given_up["outcome"] == "failed"
    assert "retry_after" not in given_up
    assert given_up["error"].startswith("put off 2 times, as often as Retry(backoffs=...) allows; Backoff: ")


async def test_what_is_told_says_what_is_finished_before_it(admitted, log, worker, start, until, told):
    pay = worker()

    @pay.handler("payments")
    async def handle(job):
        if job.value == b"fails":
            raise OSError

    await log.write(admitted, b"1", b"2")
    run = start(pay)
    await until(lambda: not pay._jobs)
    await log.write(admitted, b"fails")
    ((_, outcome),) = await told()
    assert outcome["settled"] == 2
    pay.stop()
    await asyncio.wait_for(run, 10)


async def test_a_retry_that_another_group_wants_is_done_here(admitted, log, worker, start, until, prefix):
    seen = []
    pay = worker()
    pay.handler("payments")(lambda job: seen.append(job.value))
    for group in ("others", f"{prefix}-workers"):
        await log.write(admitted, group.encode(), headers=[("gate", STAMP), ("gate-job-group", group.encode())])
    start(pay)

    async def committed():
        return await log.committed(f"{prefix}-workers", admitted) == 2

    await until(committed)
    assert seen == [f"{prefix}-workers".encode()]


async def test_a_worker_waits_for_the_gate_to_make_its_topic(log, worker, start, until, told):
    topic = log.names.admitted("payments")
    await log.create(topic)
    failed = []
    pay = worker()

    @pay.handler("payments")
    async def handle(job):
        failed.append(job)
        raise OSError

    await log.write(topic, b"fails")
    start(pay)
    await until(lambda: failed)
    await log.create(log.names.feedback("payments"))
    assert len(await told()) == len(failed) == 1


async def test_a_second_stop_does_not_wait(admitted, log, worker, start, until, prefix):
    started = []
    pay = worker()

    @pay.handler("payments")
    async def handle(job):
        started.append(job)
        await asyncio.Event().wait()

    await log.write(admitted, b"hangs")
    run = start(pay)
    await until(lambda: started)
    pay.stop()
    pay.stop()
    await asyncio.wait_for(run, 10)
    assert await log.committed(f"{prefix}-workers", admitted) is None


async def test_two_workers_share_and_lose_nothing_when_one_leaves(log, worker, start, until):
    topic = log.names.admitted("payments")
    await log.create(topic, partitions=4)
    done = {}
    pays = [worker(), worker()]
    for pay in pays:

        @pay.handler("payments")
        async def handle(job, pay=pay):
            done.setdefault((job.partition, job.offset), []).append(pay)

    runs = [start(pay) for pay in pays]
    for partition in range(4):
        await log.write(topic, *[b"x"] * 25, partition=partition)
    await until(lambda: len(done) == 100)
    pays[0].stop()
    await asyncio.wait_for(runs[0], 20)
    for partition in range(4):
        await log.write(topic, *[b"x"] * 25, partition=partition)
    await until(lambda: len(done) == 200)
    assert all(who[-1] is pays[1] for (_, offset), who in done.items() if offset >= 25)


PROGRAM = """
import sys, threading
from pathlib import Path
from gate.client._worker import Worker

bootstrap, prefix, folder, hang = sys.argv[1:]
worker = Worker(bootstrap, group_id=f"{prefix}-workers", prefix=prefix, concurrency=4, session_timeout=2)

@worker.handler("payments")
def handle(job):
    if job.value == hang.encode():
        Path(folder, "hangs").touch()
        threading.Event().wait()
    Path(folder, job.value.decode()).touch()

worker.main()
"""


@pytest.fixture
def process(bootstrap, prefix, tmp_path):
    """Start a worker as a process of its own."""
    started = []

    def spawn(hang: str) -> subprocess.Popen:
        started.append(subprocess.Popen([sys.executable, "-c", PROGRAM, bootstrap, prefix, str(tmp_path), hang]))
        return started[-1]

    yield spawn
    for one in started:
        one.kill()
        one.wait()


async def test_nothing_is_lost_when_a_worker_is_killed(admitted, log, process, until, tmp_path):
    values = [f"{number:03}" for number in range(60)]
    await log.write(admitted, *[value.encode() for value in values])
    first = process("005")
    await until(lambda: (tmp_path / "hangs").exists() and len(list(tmp_path.iterdir())) == 60)
    assert not (tmp_path / "005").exists()
    first.kill()
    first.wait()
    process("none")
    await until((tmp_path / "005").exists, 30)
    assert {path.name for path in tmp_path.iterdir()} - {"hangs"} == set(values)


async def test_sigterm_ends_a_worker_in_order(admitted, log, process, until, tmp_path, prefix):
    await log.write(admitted, b"a", b"b")
    program = process("none")
    await until(lambda: len(list(tmp_path.iterdir())) == 2)
    program.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(program.wait, 20) == 0
    assert await log.committed(f"{prefix}-workers", admitted) == 2


async def test_without_a_broker_there_is_one_clear_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    pay = Worker(f"127.0.0.1:{port}", group_id="g", connect_timeout=0.3)
    pay.handler("payments")(print)
    with pytest.raises(BrokerUnreachableError, match=f"no Kafka broker answers at 127.0.0.1:{port}"):
        await pay.run()


async def test_a_worker_that_waits_for_its_broker_can_be_stopped(until):
    pay = Worker("127.0.0.1:1", group_id="g", connect_timeout=3600)
    pay.handler("payments")(print)
    run = asyncio.create_task(pay.run())
    await asyncio.sleep(0)
    pay.stop()
    await asyncio.wait_for(run, 5)


async def test_mistakes_are_told_at_once():
    pay = Worker("127.0.0.1:1", group_id="g")
    with pytest.raises(ArgumentError, match="nothing to do") as idle:
        await pay.run()
    assert "register a callable" in idle.value.hint
    with pytest.raises(TopicNameError):
        pay.handler("pay ments")


async def test_handlers_that_hang_do_not_hold_up_others_and_are_given_up(admitted, log, worker, start, until, told):
    done = []
    pay = worker(concurrency=2, timeout=0.2)

    @pay.handler("payments")
    async def handle(job):
        if job.value == b"hangs":
            await asyncio.Event().wait()
        done.append(job.value)

    await log.write(admitted, b"hangs", b"hangs", b"1", b"2")
    start(pay)
    await until(lambda: len(done) == 2)
    assert {outcome["error"] for _, outcome in await told(2)} == {"HandlerTimeoutError: took longer than 0.2 s"}


async def test_a_worker_whose_threads_all_hang_ends_with_a_clear_error(admitted, log, worker):
    forever = threading.Event()
    pay = worker(concurrency=2, timeout=0.1)
    pay.handler("payments")(lambda job: forever.wait())
    await log.write(admitted, b"1", b"2")
    with pytest.raises(ExceptionGroup) as raised:
        await asyncio.wait_for(pay.run(), 30)
    forever.set()
    error = raised.value.exceptions[0]  # both may notice
    assert isinstance(error, GateError)
    assert str(error).startswith("2 handlers took too long and still run in their threads")


async def test_a_result_too_large_is_a_failure_that_is_told(admitted, log, worker, start, until, told):
    pay = worker(results=True)
    pay.handler("payments")(lambda job: b"x" * int(job.value))
    await log.write(admitted, b"2000000", b"7", headers=[("gate", STAMP)])
    start(pay)
    ((about, outcome),) = await told()
    assert about == f"{admitted}-0@0"
    assert "is more than the 1048588 that it takes" in outcome["error"]
    assert "retry_after" not in outcome
    (answer,) = await until(partial(log.read, log.names.results("payments")))
    assert (answer.key, answer.value) == (b"gate.requests.payments-0@5", b"x" * 7)


async def test_what_was_done_behind_a_slow_job_is_not_done_again(admitted, log, worker, start, until, prefix):
    held, seen = asyncio.Event(), []
    first = worker(concurrency=2)

    @first.handler("payments")
    async def handle(job):
        if job.value == b"slow":
            await held.wait()
        seen.append(job.value)

    await log.write(admitted, b"slow", *[b"%d" % n for n in range(20)])
    run = start(first)
    await until(lambda: len(seen) == 20)

    async def noted():
        return await log.metadata(f"{prefix}-workers", admitted) == "done:1+20"

    await until(noted)
    first.stop()
    first.stop()  # as if killed: the slow one is not done
    await asyncio.wait_for(run, 20)
    again = []
    second = worker()
    second.handler("payments")(lambda job: again.append(job.value))
    start(second)
    await log.write(admitted, b"last")
    await until(lambda: b"last" in again)
    assert again == [b"slow", b"last"]


async def two_workers_at_long_jobs(log, worker, start, until, held):
    """Let the first of two workers begin a job of each of two partitions, which last until `held`.

    Returns the workers, and a list that grows by (worker, partition, value) with each job that is started.
    """
    topic, started = log.names.admitted("payments"), []
    await log.create(topic, partitions=2)
    pays = [worker(session_timeout=3), worker(session_timeout=3)]
    for pay in pays:

        @pay.handler("payments")
        async def handle(job, pay=pay):
            started.append((pay, job.partition, job.value))
            if job.value == b"long":
                await held.wait()

    start(pays[0])
    for partition in range(2):
        await log.write(topic, b"long", partition=partition)
    await until(lambda: len(started) == 2)
    return pays, started


async def test_a_job_that_runs_through_a_rebalance_is_not_started_twice(log, worker, start, until):
    topic, held = log.names.admitted("payments"), asyncio.Event()
    pays, started = await two_workers_at_long_jobs(log, worker, start, until, held)
    start(pays[1])  # takes one of the partitions over

    async def shared():
        for partition in range(2):
            await log.write(topic, b"short", partition=partition)
        return any(pay is pays[1] for pay, _, value in started if value == b"short")

    await until(shared)
    kept = [(pay, partition) for pay, partition, value in started if value == b"long" and pay is pays[0]]
    assert len(kept) == 2  # one of each partition, although the first worker has read one of them anew
    held.set()


async def test_a_job_that_ends_between_two_owners_is_not_done_again_here(log, worker, start, until, monkeypatch):
    topic, gone = log.names.admitted("payments"), asyncio.Event()
    forget = Commits._forget

    def forget_and_tell(commits):
        had = len(commits._offsets)
        forget(commits)
        if had == 2:
            gone.set()

    monkeypatch.setattr(Commits, "_forget", forget_and_tell)
    pays, started = await two_workers_at_long_jobs(log, worker, start, until, gone)
    start(pays[1])

    await asyncio.wait_for(gone.wait(), 20)
    for partition in range(2):
        await log.write(topic, b"last", partition=partition)
    await until(lambda: {partition for _, partition, value in started if value == b"last"} == {0, 1})
    kept = [partition for pay, partition, value in started if value == b"long" and pay is pays[0]]
    assert sorted(kept) == [0, 1]


async def test_a_job_that_ends_after_its_worker_was_told_to_stop_amid_a_rebalance_is_not_done_again(
    log, worker, start, until, monkeypatch
):
    topic, held, placed = log.names.admitted("payments"), asyncio.Event(), []
    pays, started = await two_workers_at_long_jobs(log, worker, start, until, held)
    revoked, assigned = Commits.on_partitions_revoked, Commits.on_partitions_assigned

    async def stop_and_give_away(commits, partitions):
        if commits._drain == pays[0]._yield_all:
            pays[0].stop()
        await revoked(commits, partitions)

    async def note_what_is_kept(commits, partitions):
        await assigned(commits, partitions)
        if commits._drain == pays[0]._yield_all:
            placed.append({partition.partition for partition in partitions})
            held.set()

    monkeypatch.setattr(Commits, "on_partitions_revoked", stop_and_give_away)
    monkeypatch.setattr(Commits, "on_partitions_assigned", note_what_is_kept)
    start(pays[1])
    await asyncio.wait_for(held.wait(), 20)
    for partition in range(2):
        await log.write(topic, b"last", partition=partition)
    await until(lambda: {p for pay, p, value in started if pay is pays[1] and value == b"last"} == {0, 1}, 40)
    (kept,) = placed
    assert len(kept) == 1  # the other one moved amid its job, which is then done again
    assert not [p for pay, p, value in started if pay is pays[1] and value == b"long" and p in kept]


async def test_a_failed_job_that_is_being_told_of_is_not_done_by_the_next_owner(log, worker, start, until):
    topic, feedback = log.names.admitted("payments"), log.names.feedback("payments")
    await log.create(topic, feedback, partitions=2)
    drained, writing, started = asyncio.Event(), 0, []
    retry = Retry(attempts=5, first=0.05)
    pays = [worker(session_timeout=3, retry=retry), worker(session_timeout=3, retry=retry)]
    yield_all, tell = pays[0]._yield_all, pays[0]._outcomes.tell

    async def yield_and_tell():
        await yield_all()
        drained.set()

    async def tell_late(job, outcome):
        nonlocal writing
        writing += 1
        await drained.wait()
        await tell(job, outcome)

    pays[0]._yield_all, pays[0]._outcomes.tell = yield_and_tell, tell_late
    for pay in pays:

        @pay.handler("payments")
        async def handle(job, pay=pay):
            started.append((pay, job.partition, job.value))
            if job.value == b"fails":
                raise OSError("now and then")

    start(pays[0])
    for partition in range(2):
        await log.write(topic, b"fails", partition=partition)
    await until(lambda: writing == 2)
    start(pays[1])

    async def shared():
        for partition in range(2):
            await log.write(topic, b"short", partition=partition)
        return {pay for pay, _, value in started if value == b"short"} == set(pays)

    await until(shared)
    assert sum(value == b"fails" for _, _, value in started) == 2
    assert [len(await log.read(feedback, partition)) for partition in range(2)] == [1, 1]
