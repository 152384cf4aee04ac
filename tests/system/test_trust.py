"""Four kinds of people are told apart by the topics that they write: what each of them can do to others, and can't."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import TopicAuthorizationFailedError

from gate.kafka.local import config
from gate.protocol.topics import Names
from tests.client.log import Log
from tests.kafka.raw import Rec, batch
from tests.system.gates import create, gate, guarded_by_password, header, read, read_count, send, stamp, until

POLICY = """
services:
  pay: {requests_per_second: 1000, burst_size: 1000}
  other: {requests_per_second: 1000, burst_size: 1000}
"""


def told(names: Names, place: str, **outcome) -> tuple[bytes, bytes, list]:
    value = {"outcome": "failed", "group": "g", "attempt": 1, "error": "no", "retry_after": 0.01} | outcome
    return place.encode(), json.dumps(value).encode(), []


async def admit(bootstrap, names, count=1, headers=()):
    """Let the gate admit some requests, and return the places of the admitted ones."""
    await send(bootstrap, names.requests("pay"), [(None, b"%d" % n, headers) for n in range(count)], partitions=1)
    admitted = await read_count(bootstrap, [names.admitted("pay")], count)
    assert len(admitted) == count
    return [f"{r.topic}-{r.partition}@{r.offset}" for r in sorted(admitted, key=lambda r: r.offset)]


def counts(running, service="pay"):
    """Return what became of feedback, as far as there was any: the counters begin at zero."""
    lines = [line for line in running.get("/metrics").splitlines() if line.startswith("gate_feedback_total")]
    found = {line.split('outcome="')[1].split('"')[0]: float(line.split()[-1]) for line in lines if service in line}
    return {outcome: count for outcome, count in found.items() if count}


@pytest.fixture
def names(prefix, bootstrap):
    names = Names(prefix)
    asyncio.run(create(bootstrap, names.requests("pay"), names.requests("other"), partitions=1))
    return names


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_a_failure_that_is_told_twice_has_one_retry_through_a_take_over(bootstrap, prefix, names, tmp_path, delivery):
    policy = f"delivery: {delivery}\n{POLICY}"
    with gate(tmp_path, bootstrap, prefix, policy, "--http", "0") as first:
        until(first.is_ready, explain=first.text)
        (place,) = asyncio.run(admit(bootstrap, names))
        feedback = names.feedback("pay")
        asyncio.run(send(bootstrap, feedback, [told(names, place)] * 3, partitions=1))
        again = asyncio.run(read_count(bootstrap, [names.admitted("pay")], 2))
        until(lambda: counts(first) == {"retry": 1, "repeated": 2}, explain=first.text)
        first.kill()
    with gate(tmp_path, bootstrap, prefix, policy, "--http", "0") as second:
        until(second.is_ready, explain=second.text)
        asyncio.run(send(bootstrap, feedback, [told(names, place)], partitions=1))
        until(lambda: counts(second) == {"repeated": 1}, explain=second.text)
        assert len(again) == 2
        retry = again[1]
        assert (header(retry, "gate-job-id"), header(retry, "gate-job-attempt")) == (
            stamp(again[0]).id.encode(), b"2",
        )  # fmt: skip
        assert header(retry, "gate-job-group") == b"g"
        assert stamp(retry).id == f"{names.retries('pay')}-0@0"
        admitted = asyncio.run(read_count(bootstrap, [names.admitted("pay")], 4, 2))
        # without transactions a kill may have the retry admitted again, under the same id
        once = admitted if delivery == "exactly_once" else {stamp(record).id for record in admitted}
        assert len(once) == 2
        assert second.stop() == 0


def test_what_no_worker_can_have_told_is_counted_and_holds_up_nobody(bootstrap, prefix, names, tmp_path):
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as running:
        until(running.is_ready, explain=running.text)
        (place,) = asyncio.run(admit(bootstrap, names))
        forged = [
            (b"", None, []),
            (b"\xff" * 300, b"\0" * 20_000, []),
            (place.encode(), b"{" * 10_000, []),
            (place.encode(), b" " * 100_000, []),
            told(names, place.replace("pay", "other")),
            told(names, place.replace("-0@", "-1@")),
            told(names, place.split("@")[0] + "@1"),  # the marker of its transaction
            told(names, place.split("@")[0] + "@999999999"),
            told(names, place, attempt=2),
            told(names, place, retry_after=-1),
            told(names, place),
        ]
        asyncio.run(send(bootstrap, names.feedback("pay"), forged, partitions=1))
        asyncio.run(send(bootstrap, names.requests("other"), [(None, b"x", [])], partitions=1))
        assert asyncio.run(read_count(bootstrap, [names.admitted("other")], 1, 5))
        expected = {"place": 4, "unreadable": 2, "oversize": 1, "missing": 2, "attempt": 1, "retry": 1}
        until(lambda: counts(running) == expected, explain=lambda: f"{counts(running)}\n{running.text()}")
        log = running.text()
        assert log.count("no worker of this service can have told that") == 5
        assert "is no place of a record" in log
        assert running.is_ready()
        assert running.stop() == 0


def test_a_worker_pauses_its_own_service_for_an_hour_at_the_most(bootstrap, prefix, names, tmp_path):
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as running:
        until(running.is_ready, explain=running.text)
        (place,) = asyncio.run(admit(bootstrap, names))
        asyncio.run(
            send(
                bootstrap, names.feedback("pay"),
                [told(names, place, outcome="back-off", seconds=10**9)], partitions=1,
            )
        )  # fmt: skip

        def pauses():
            shown = {usage["service"]: usage for usage in json.loads(running.get("/v1/usage"))["services"]}
            return [shown.get(service, {}).get("paused_until_ms") for service in ("pay", "other")]

        until(lambda: pauses()[0], explain=running.text)
        pay, other = pauses()
        assert other is None
        assert 3_590 < pay / 1000 - time.time() <= 3_600.5
        assert running.stop() == 0


def test_a_producer_can_not_speak_for_the_jobs_of_others(bootstrap, prefix, names, tmp_path):
    forged = [
        ("gate-job-id", f"{names.requests('pay')}-0@0".encode()),
        ("gate-job-attempt", b"5"),
        ("gate-job-group", b"nobody"),
        ("gate-job-not-before", b"99999999999999"),
        ("x", b"kept"),
    ]
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as running:
        until(running.is_ready, explain=running.text)
        asyncio.run(admit(bootstrap, names, 2, forged))
        admitted = asyncio.run(read_count(bootstrap, [names.admitted("pay")], 2))
        assert len(admitted) == 2
        for record in admitted:
            assert [name for name, _ in record.headers] == ["x", "gate"]
        assert running.stop() == 0


def test_two_groups_do_not_multiply_each_others_retries(bootstrap, prefix, names, tmp_path):
    """Each fails at everything, and tells so: each has a chain of its own, one retry after the other."""
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as running:
        until(running.is_ready, explain=running.text)
        asyncio.run(admit(bootstrap, names))

        async def fail(rounds):
            seen = set()
            for attempt in range(1, rounds + 1):
                count = 2 * attempt - 1
                records = await read(
                    bootstrap, [names.admitted("pay")], lambda found, count=count: len(found) >= count, 20
                )
                assert len(records) == count
                for record in records:
                    place = f"{record.topic}-{record.partition}@{record.offset}"
                    if place in seen:
                        continue
                    seen.add(place)
                    which = int(header(record, "gate-job-attempt") or 1)
                    told_ = [told(names, place, group=group, attempt=which) for group in ("a", "b")]
                    await send(bootstrap, names.feedback("pay"), told_, partitions=1)

        asyncio.run(fail(4))
        until(lambda: counts(running).get("retry") == 8, explain=lambda: f"{counts(running)}\n{running.text()}")
        assert len(asyncio.run(read_count(bootstrap, [names.admitted("pay")], 10, 3))) == 9
        assert counts(running) == {"retry": 8, "group": 6}
        assert running.stop() == 0


def test_a_bad_header_name_on_the_control_topic_makes_no_gate_deaf(bootstrap, prefix, names, tmp_path):
    client = ["--bootstrap", bootstrap, "--prefix", prefix]

    def command(*words):
        subprocess.run([sys.executable, "-m", "gate", *words, *client], check=True, timeout=60, capture_output=True)

    def paused(running):
        shown = {usage["service"]: usage for usage in json.loads(running.get("/v1/usage"))["services"]}
        return shown.get("pay", {}).get("paused_until_ms")

    bad = batch([Rec(b"pay", b"{}", [(b"\xff\xfe", b"x")]), Rec(b"pay", b"{" * 100_000)])
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as first:
        until(first.is_ready, explain=first.text)
        asyncio.run(admit(bootstrap, names))
        asyncio.run(Log(bootstrap, names).write_raw(names.control, bad))
        command("pause", "pay")
        until(lambda: paused(first), explain=first.text)
        with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as second:
            until(second.is_ready, explain=second.text)
            command("resume", "pay")
            until(lambda: not (paused(first) or paused(second)), explain=second.text)
            assert second.stop() == 0
        assert first.stop() == 0


async def test_who_does_not_say_to_be_an_operator_pauses_for_an_hour_at_the_most(bootstrap, prefix, names, tmp_path):
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as running:
        await asyncio.to_thread(until, running.is_ready)
        await admit(bootstrap, names)
        command = b'{"command": "pause-until", "until": 9007199254740991}'
        await send(bootstrap, names.control, [(b"pay", command, [])], partitions=1)

        def paused():
            shown = {usage["service"]: usage for usage in json.loads(running.get("/v1/usage"))["services"]}
            return shown.get("pay", {}).get("paused_until_ms")

        await asyncio.to_thread(until, paused)
        assert 3_590 < paused() / 1000 - time.time() <= 3_600.5
        assert running.stop() == 0


@contextlib.asynccontextmanager
async def producer_as(user, bootstrap):
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN",
        sasl_plain_username=user, sasl_plain_password="secret",
    )  # fmt: skip
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def test_each_may_do_what_operators_are_told_to_allow_and_nothing_to_others(own_broker, tmp_path, monkeypatch):
    from gate.client._worker import Retry, Worker
    from tests.system.test_pages import allow, told_acls

    users = "gate", "shop", "payments-worker", "operator"
    port = config.free_port()
    broker = await asyncio.to_thread(
        own_broker,
        properties=guarded_by_password(port, users),
    )
    guarded = f"{config.HOST}:{port}"
    await create(broker.bootstrap, "gate.requests.payments", partitions=1)
    for user in users:
        await allow(broker.bootstrap, told_acls(f"User:{user}"))
    credentials = {"GATE_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "GATE_SASL_PASSWORD": "secret"}
    policy = "shards: 2\nservices: {payments: {requests_per_second: 1000, burst_size: 1000}}\n"
    with gate(
        tmp_path, guarded, "gate", policy, "--http", "0", env={**credentials, "GATE_SASL_USERNAME": "gate"}
    ) as running:
        await asyncio.to_thread(until, running.is_ready)
        for user, mine, others in (
            ("shop", ["requests.payments"], ["feedback.payments", "retries.payments", "admitted.payments", "control"]),
            ("payments-worker", [], ["requests.payments", "retries.payments", "rejected.payments", "control"]),
            ("operator", [], ["requests.payments", "feedback.payments"]),
        ):
            async with producer_as(user, guarded) as producer:
                for topic in mine:
                    await producer.send_and_wait(f"gate.{topic}", b"poison")
                for topic in others:
                    with pytest.raises(TopicAuthorizationFailedError):
                        await asyncio.wait_for(producer.send_and_wait(f"gate.{topic}", b"x"), 10)
        for name, value in {**credentials, "GATE_SASL_USERNAME": "payments-worker"}.items():
            monkeypatch.setenv(name, value)
        pay, attempts = Worker(guarded, group_id="payments-workers", retry=Retry(attempts=2, first=0.01)), []

        @pay.handler("payments")
        async def handle(job):
            attempts.append(job.attempt)
            raise OSError

        working = asyncio.create_task(pay.run())
        try:
            (dead,) = await read_count(broker.bootstrap, ["gate.rejected.payments"], 1)
        finally:
            pay.stop()
            await asyncio.wait_for(working, 30)
        assert (attempts, header(dead, "gate-error-attempts")) == ([1, 2], b"2")
        assert "Authorization" not in running.text()
        assert running.stop() == 0


def test_a_retry_waits_as_long_as_it_was_told_and_holds_up_no_other(bootstrap, prefix, names, tmp_path):
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as running:
        until(running.is_ready, explain=running.text)
        places = asyncio.run(admit(bootstrap, names, 4))
        waits = [5.0, 0.3, 5.0, 1.2]
        feedback = [told(names, place, retry_after=wait) for place, wait in zip(places, waits, strict=True)]
        asyncio.run(send(bootstrap, names.feedback("pay"), feedback, partitions=1))
        since = [record.timestamp for record in asyncio.run(read_count(bootstrap, [names.feedback("pay")], 4))]
        admitted = asyncio.run(read_count(bootstrap, [names.admitted("pay")], 8))
        back = {header(r, "gate-job-id"): stamp(r).at_ms for r in admitted if header(r, "gate-job-id")}
        first = {f"{r.topic}-{r.partition}@{r.offset}": stamp(r).id.encode() for r in admitted}
        took = [(back[first[place]] - told_at) / 1000 for place, told_at in zip(places, sorted(since), strict=True)]
        assert all(wait <= late <= wait + 1.5 for wait, late in zip(waits, took, strict=True)), took
        assert running.stop() == 0


async def test_jobs_that_old_workers_had_waiting_are_taken_over_where_they_were(bootstrap, prefix, names, tmp_path):
    retries = names.retries("pay")
    await create(bootstrap, retries, partitions=1)
    jobs = [
        (b"k", b"%d" % n, [("gate-job-id", f"{names.requests('pay')}-0@{n}".encode()), ("gate-job-attempt", b"3"),
                           ("gate-job-not-before", b"1")])
        for n in range(5)
    ]  # fmt: skip
    await send(bootstrap, retries, jobs, partitions=1)
    for group, done in (("a.retries", 2), ("b.retries", 3), ("c", 5)):
        consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=f"{prefix}-{group}", enable_auto_commit=False)
        await consumer.start()
        try:
            consumer.assign([TopicPartition(retries, 0)])
            await consumer.commit({TopicPartition(retries, 0): done})
        finally:
            await consumer.stop()
    for starts in range(2):
        with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as running:
            await asyncio.to_thread(until, running.is_ready)
            admitted = await read_count(bootstrap, [names.admitted("pay")], 2 + starts, 40 if not starts else 3)
            assert [(r.value, header(r, "gate-job-attempt")) for r in admitted] == [(b"3", b"3"), (b"4", b"3")]
            assert running.stop() == 0


async def test_each_failure_has_its_consequence_once_whoever_is_killed(bootstrap, prefix, names, tmp_path):
    """Every job fails three times, while gates and workers die: three admissions and one dead letter of each."""
    from gate.client._worker import Retry, Worker

    jobs, attempts = 200, 3
    await send(bootstrap, names.requests("pay"), [(None, b"%d" % n, []) for n in range(jobs)], partitions=1)

    def new_worker():
        retry = Retry(attempts=attempts, first=0.2)
        pay = Worker(bootstrap, group_id=f"{prefix}-workers", prefix=names.prefix, retry=retry, concurrency=40)

        @pay.handler("pay")
        async def handle(job):
            await asyncio.sleep(0.02)
            raise OSError(job.attempt)

        return pay, asyncio.create_task(pay.run())

    async def dead(deadline):
        return await read_count(bootstrap, [names.rejected("pay")], jobs, deadline)

    for life in range(4):
        with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as running:
            await asyncio.to_thread(until, running.is_ready, explain=running.text)
            pay, working = new_worker()
            letters = await dead(1.5 if life < 3 else 40)
            pay.stop()
            pay.stop()  # as if killed: nothing of what is under way is committed
            await asyncio.wait_for(working, 30)
            running.kill()
    admitted = await read_count(bootstrap, [names.admitted("pay")], jobs * attempts, 2)
    by_job = Counter(header(r, "gate-job-id") or stamp(r).id.encode() for r in admitted)
    assert Counter(by_job.values()) == {attempts: jobs}
    assert len(letters) == jobs
    assert len({header(r, "gate-job-id") for r in letters}) == jobs
    assert {header(r, "gate-error-attempts") for r in letters} == {b"3"}
