"""Parked requests that somebody deletes lose their turns: who comes next is told a time without them."""

import asyncio
import json

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from gate.kafka.connect import running as running_client
from gate.protocol.headers import not_before
from tests.system.gates import create, gate, read_count, stamp, until

POLICY = "shards: 2\nservices: {slow: {requests_per_second: 1/h, burst_size: 1, window_size: null, max_delay: null}}\n"


def told(running):
    return next(iter(json.loads(running.get("/v1/usage"))["services"]), {})


async def submit(bootstrap, topic, count):
    async with running_client(AIOKafkaProducer(bootstrap_servers=bootstrap)) as producer:
        for _ in range(count):
            await producer.send_and_wait(topic, b"x", partition=0)


async def test_what_was_deleted_keeps_no_turn(bootstrap, prefix, tmp_path):
    topic, delayed = f"{prefix}.requests.slow", f"{prefix}.delayed.slow"
    await create(bootstrap, topic)
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "127.0.0.1:0") as running:
        await submit(bootstrap, topic, 6)
        await asyncio.to_thread(until, lambda: told(running).get("backlog") == 5)
        running.stop()
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(delayed, 0): RecordsToDelete(before_offset=4)})
    finally:
        await admin.close()
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "127.0.0.1:0") as running:
        await asyncio.to_thread(until, lambda: told(running).get("gone", 0) > 0)
        usage = told(running)
        assert usage["backlog"] + usage["gone"] == 5
        metrics = running.get("/metrics")
        assert f'gate_gone_requests_total{{service="slow"}} {usage["gone"]}' in metrics
        assert "parked requests were deleted" in running.text()
        await submit(bootstrap, topic, 1)
        await asyncio.to_thread(until, lambda: told(running)["backlog"] == usage["backlog"] + 1)
    last = (await read_count(bootstrap, [delayed], usage["backlog"] + 1))[-1]
    wait = (not_before(last.headers) - stamp(last).at_ms) / 3_600_000
    assert usage["backlog"] < wait < usage["backlog"] + 1
