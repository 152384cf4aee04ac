"""What is held back waits and counts once: a pacer in front of it stops, and usage says how much there is."""

import asyncio
import json

from aiokafka import AIOKafkaProducer

from gate.client._pacing import Pacer
from gate.kafka.connect import running as running_client
from tests.system.gates import create, gate, until

POLICY = """
shards: 1
services:
  imports: {requests_per_second: 1000, burst_size: 1000, overflow: hold, max_in_flight: 5, worker_group: nobody}
"""
PUSHED = 3_000


def told(running):
    return next(iter(json.loads(running.get("/v1/usage"))["services"]), {"totals": ()})


def totals(usage, verdict):
    return sum(total["requests"] for total in usage["totals"] if total["verdict"] == verdict)


async def test_counters_are_there_before_anything_comes(bootstrap, prefix, tmp_path):
    """Of a service whose topic is there, and of one that the policy names and that has no topic yet."""
    await create(bootstrap, f"{prefix}.requests.pay")
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "127.0.0.1:0") as running:
        series = 'gate_requests_total{decision="%s",priority="default",reason="%s",service="%s"} 0.0'
        wanted = {series % ("admitted", "", "pay"), series % ("held", "in-flight", "imports")}
        await asyncio.to_thread(until, lambda: wanted <= set(running.get("/metrics").splitlines()))


async def test_a_pacer_waits_where_workers_hold_everything_back(bootstrap, prefix, tmp_path):
    topic = f"{prefix}.requests.imports"
    await create(bootstrap, topic)
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "127.0.0.1:0") as running:
        await asyncio.to_thread(until, running.is_ready)
        async with (
            running_client(AIOKafkaProducer(bootstrap_servers=bootstrap)) as producer,
            Pacer(bootstrap, "imports", prefix=prefix, max_wait=2.0) as pacer,
        ):

            async def push():
                while True:
                    await pacer.acquire()
                    await producer.send(topic, b"x")

            pushing = asyncio.create_task(push())
            await asyncio.to_thread(until, lambda: totals(told(running), "held") > 0)
            await asyncio.to_thread(until, lambda: (at := told(running)).get("eta_seconds", 0) is None and at["held"])
            before = pacer.released
            await asyncio.to_thread(until, lambda: told(running)["held"] == pacer.released - 5)
            assert pacer.released - before <= 20
            assert pacer.released <= 2.0 * 1000  # what the target allows before the gate says that nothing goes
            pushing.cancel()
            sent = pacer.released
            await asyncio.gather(*[await producer.send(topic, b"x") for _ in range(PUSHED)])  # nobody asks a pacer

        await asyncio.to_thread(until, lambda: told(running)["backlog"] == sent + PUSHED - 5)
        usage = told(running)
        assert usage["binding"] == {"reason": "in-flight", "limit": "imports.in-flight"}
        assert totals(usage, "admitted") == 5
        assert totals(usage, "held") <= sent + PUSHED - 5
        assert usage["offered_per_second"] <= (sent + PUSHED) / 10
