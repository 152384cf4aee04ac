"""On three brokers topics are as safe as they can be, and the doctor finds those that are not."""

import asyncio
import json
import subprocess
import sys
from contextlib import AsyncExitStack

import pytest
from aiokafka import AIOKafkaProducer

from gate.cli import main
from gate.cli.client import Client
from gate.kafka.cluster import Cluster
from gate.kafka.connect import running as running_client
from gate.protocol.topics import Names
from tests.system.gates import create, gate, read_count, until

POLICY = (
    "shards: 4\nservices: {pay: {requests_per_second: 50, burst_size: 1, max_delay: null, window_size: null,"
    " keep_released: 1s}}\n"
)
# as Kafka comes: nobody has chosen
UNCHOSEN = {"default.replication.factor": "1", "min.insync.replicas": "1"}


def examine(bootstrap, prefix, policy, capsys):
    code = main(["doctor", "--bootstrap", bootstrap, "--prefix", prefix, "--config", str(policy), "--json"])
    return code, {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)}


async def layout(bootstrap):
    async with Client(bootstrap=bootstrap).cluster() as cluster:
        layout = await cluster.layout(["gate.state", "gate.delayed.pay", "gate.admitted.pay"])
        configs = await cluster.configs(*layout, names=["min.insync.replicas"])
    return {topic: ({p.copies for p in parts}, configs[topic]) for topic, parts in layout.items()}


async def settle_thin(bootstrap, prefix):
    cluster = Cluster(Names(prefix), create=True, replication_factor=1, bootstrap_servers=bootstrap)
    await cluster.start()
    try:
        await cluster.ensure(*cluster.common_specs(4))
    finally:
        await cluster.close()


async def leave_open(bootstrap):
    """Open transactions on partitions and with coordinators of several brokers, and have them ended by the command."""
    places = {f"nightly-{number}": number for number in range(3)}
    async with AsyncExitStack() as stack:
        for name, number in places.items():
            producer = AIOKafkaProducer(bootstrap_servers=bootstrap.split(","), transactional_id=name)
            await stack.enter_async_context(running_client(producer))
            await producer.begin_transaction()
            await producer.send_and_wait("gate.requests.pay", b"open", partition=number)
        found = json.loads((await asyncio.to_thread(command, bootstrap, "list", "--json")).stdout)
        assert {one["transactional_id"]: one["partition"] for one in found} == places
        for one in found:
            place = "--topic", one["topic"], "--partition", str(one["partition"])
            offset = str(one["start_offset"])
            ended = await asyncio.to_thread(command, bootstrap, "abort", *place, "--start-offset", offset)
            assert ended.returncode == 0, ended.stderr
        assert json.loads((await asyncio.to_thread(command, bootstrap, "list", "--json")).stdout) == []


def command(bootstrap, *args):
    options = ["--bootstrap", bootstrap]
    return subprocess.run(
        [sys.executable, "-m", "gate", "transactions", *args, *options], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_topics_on_three_brokers(own_cluster, tmp_path, capsys):
    bootstrap = own_cluster(properties=UNCHOSEN).bootstrap
    asyncio.run(create(bootstrap, "gate.requests.pay", partitions=3, **{"min.insync.replicas": "1"}))

    async def submit():
        async with running_client(AIOKafkaProducer(bootstrap_servers=bootstrap.split(","))) as producer:
            for number in range(60):
                await producer.send_and_wait("gate.requests.pay", b"%d" % number, partition=number % 3)

    with gate(tmp_path, bootstrap, "gate", POLICY, "--http", "0") as running:
        until(running.is_ready, explain=running.text)
        asyncio.run(submit())
        admitted = asyncio.run(read_count(bootstrap, ["gate.admitted.pay"], 60))
        assert sorted(int(record.value) for record in admitted) == list(range(60))
        found = asyncio.run(layout(bootstrap))
        assert set(found) == {"gate.state", "gate.delayed.pay", "gate.admitted.pay"}
        assert all(told == ({3}, {"min.insync.replicas": "2"}) for told in found.values()), found
        running.wait_for("deleted what has been released")
        assert running.stop() == 0

    code, checks = examine(bootstrap, "gate", tmp_path / "policy.yaml", capsys)
    assert (code, checks["replication"]["health"]) == (1, "fail")
    assert checks["replication"]["text"].startswith("gate.requests.pay has fewer than 3 copies"), "the test's own"
    assert checks["in-sync replicas"]["health"] == checks["elections"]["health"] == "ok"

    asyncio.run(leave_open(bootstrap))
    asyncio.run(settle_thin(bootstrap, "thin"))
    code, checks = examine(bootstrap, "thin", tmp_path / "policy.yaml", capsys)
    assert (code, checks["replication"]["health"]) == (1, "fail")
    assert "thin.alerts, thin.answers, thin.audit and 7 more have" in checks["replication"]["text"]
