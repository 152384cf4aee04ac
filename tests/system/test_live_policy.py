"""The policy file changes while the gate runs: taken over whole, or refused whole with the old one in force."""

import asyncio
import json
import time

from aiokafka import AIOKafkaProducer

from gate.client import Worker
from gate.protocol.control import PauseUntil, Resume, encode
from tests.system.gates import create, gate, header, read, read_count, send, stamp, until


def head(running) -> str:
    return "".join(line for line in running.config.read_text().splitlines(keepends=True)[:3])


async def test_a_higher_limit_drains_at_once_and_a_broken_file_changes_nothing(bootstrap, prefix, tmp_path):
    topic = f"{prefix}.requests.pay"
    await create(bootstrap, topic)
    with gate(tmp_path, bootstrap, prefix, "services: {pay: {requests_per_second: 1/min}}\n", "--http", "0") as running:
        await send(bootstrap, topic, [(None, b"%d" % i, []) for i in range(300)])
        assert len(await read_count(bootstrap, [f"{prefix}.delayed.pay"], 299)) == 299, running.text()
        top = head(running)
        running.config.write_text(top + "services: {pay: {requests_per_second: 1/min, brust: 3}}\n")
        running.wait_for("policy refused")
        assert "gate_policy_last_reload_successful 0.0" in running.get("/metrics")
        (running.config.parent / "note").write_text("something else changes in the folder")
        running.config.write_text("")
        until(lambda: "is empty" in running.text(), explain=running.text)
        refused = [
            record.value
            for record in await read(
                bootstrap,
                [f"{prefix}.alerts"],
                lambda found: any(b"is empty" in r.value for r in found),
            )
            if header(record, "ce_type") == b"gate.policy.refused"
        ]
        assert [b"brust" in value for value in refused] == [True, False], refused
        assert len(await read_count(bootstrap, [f"{prefix}.admitted.pay"], 2, deadline=1)) == 1
        running.config.write_text(top + "services: {pay: {requests_per_second: 1000}}\n")
        out = await read_count(bootstrap, [f"{prefix}.admitted.pay"], 300)
        assert "gate_policy_last_reload_successful 1.0" in running.get("/metrics")
    assert sorted(r.value for r in out) == sorted(b"%d" % i for i in range(300)), running.text()
    assert len({stamp(r).policy for r in out}) == 2


async def test_a_service_may_not_leave_its_shard(bootstrap, prefix, tmp_path):
    await create(bootstrap, f"{prefix}.requests.pay")
    policy = "groups: {bank: {requests_per_second: 5}}\nservices: {pay: {requests_per_second: 5}}\n"
    with gate(tmp_path, bootstrap, prefix, policy) as running:
        await send(bootstrap, f"{prefix}.requests.pay", [(None, b"x", [])])
        await read_count(bootstrap, [f"{prefix}.usage"], 1)
        running.config.write_text(head(running) + policy.replace("{pay: {", "{pay: {group: bank, "))
        assert "group" in running.wait_for("policy refused")
        running.stop()
    with gate(tmp_path, bootstrap, prefix, policy.replace("{pay: {", "{pay: {group: bank, ")) as running:
        assert running.process.wait(20) == 1
        assert "into another group" in running.text()


async def test_pause_and_resume_from_the_control_topic(bootstrap, prefix, tmp_path):
    topic = f"{prefix}.requests.pay"
    await create(bootstrap, topic)
    with gate(tmp_path, bootstrap, prefix, "defaults: {requests_per_second: 1000}\n", "--http", "0") as running:
        await send(bootstrap, topic, [(None, b"before", [])])
        await read_count(bootstrap, [f"{prefix}.admitted.pay"], 1)
        async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:

            async def tell(value: bytes) -> None:
                await producer.send_and_wait(f"{prefix}.control", value, key=b"pay")

            await tell(b"not a command")
            await tell(encode(PauseUntil(int(time.time() * 1000) + 3_600_000)))
            until(lambda: json.loads(running.get("/v1/usage"))["services"][0]["paused_until_ms"], explain=running.text)
            await send(bootstrap, topic, [(None, b"during", [])])
            (waiting,) = await read_count(bootstrap, [f"{prefix}.delayed.pay"], 1)
            assert stamp(waiting).reason == "paused"
            running.kill()
            with gate(tmp_path, bootstrap, prefix, "defaults: {requests_per_second: 1000}\n") as again:
                again.wait_for("shard taken over")
                assert len(await read_count(bootstrap, [f"{prefix}.admitted.pay"], 2, deadline=2)) == 1, again.text()
                await tell(encode(Resume()))
                out = await read_count(bootstrap, [f"{prefix}.admitted.pay"], 2)
    assert [r.value for r in out] == [b"before", b"during"], running.text() + again.text()
    assert "not a control message" in running.text()


async def test_admission_waits_for_workers(bootstrap, prefix, tmp_path):
    """`max_in_flight`: no more is admitted than the workers' group has room for; it goes on as they work."""
    topic, admitted = f"{prefix}.requests.pay", f"{prefix}.admitted.pay"
    await create(bootstrap, topic)
    policy = f"services: {{pay: {{requests_per_second: 10000, max_in_flight: 20, worker_group: {prefix}-workers}}}}\n"
    from aiokafka import AIOKafkaConsumer

    with gate(tmp_path, bootstrap, prefix, policy) as running:
        running.wait_for("shard taken over")
        await asyncio.sleep(0)
        await send(bootstrap, topic, [(None, b"%d" % i, []) for i in range(100)])
        assert await read_count(bootstrap, [admitted], 1), running.text()
        first = await read_count(bootstrap, [admitted], 21, deadline=3)
        assert {stamp(r).attempt for r in first} == {1}, "nothing waits before the workers' lag is known"
        assert 1 <= len(first) <= 20, running.text()
        consumer = AIOKafkaConsumer(
            admitted, bootstrap_servers=bootstrap, group_id=f"{prefix}-workers", auto_offset_reset="earliest",
            enable_auto_commit=False, isolation_level="read_committed",
        )  # fmt: skip
        await consumer.start()
        done = 0
        try:
            while done < 100:
                for part in (await consumer.getmany(timeout_ms=500)).values():
                    done += len(part)
                await consumer.commit()
        finally:
            await consumer.stop()
    assert done == 100


async def test_workers_that_have_done_all_leave_room_for_one_more(bootstrap, prefix, tmp_path):
    """They commit behind the last request, and the gate's marker of its batch lies behind that."""
    topic, admitted = f"{prefix}.requests.pay", f"{prefix}.admitted.pay"
    await create(bootstrap, topic)
    policy = f"services: {{pay: {{requests_per_second: 10000, max_in_flight: 1, worker_group: {prefix}-workers}}}}\n"
    done: list[bytes] = []

    async def work():
        worker = Worker(bootstrap, group_id=f"{prefix}-workers", prefix=prefix)

        @worker.handler("pay")
        async def pay(job):
            done.append(job.value)
            if len(done) == 6:
                worker.stop()

        await worker.run()

    with gate(tmp_path, bootstrap, prefix, policy) as running:
        running.wait_for("shard taken over")
        await send(bootstrap, topic, [(None, b"%d" % i, []) for i in range(6)])
        assert await read_count(bootstrap, [admitted], 1), running.text()
        async with asyncio.timeout(40):
            await work()
    assert sorted(done) == [b"%d" % i for i in range(6)]
