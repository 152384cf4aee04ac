"""What nobody can decide about is counted, named and cleared: requests behind a producer's open transaction."""

import asyncio
import json
import subprocess
import sys

from aiokafka import AIOKafkaProducer

from gate.kafka.connect import running as running_client
from tests.system.gates import create, gate, until

POLICY = "shards: 2\ndefaults: {requests_per_second: 1000}\n"


def metric(running, name, service):
    series = f'{name}{{service="{service}"}} '
    return next(
        (float(x.removeprefix(series)) for x in running.get("/metrics").splitlines() if x.startswith(series)), None
    )


async def test_an_open_transaction_is_told_and_ends(bootstrap, prefix, tmp_path):
    topic = f"{prefix}.requests.pay"
    await create(bootstrap, topic, f"{prefix}.requests.calm")
    async with (
        running_client(AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"{prefix}-nightly")) as open_one,
        running_client(AIOKafkaProducer(bootstrap_servers=bootstrap)) as plain,
    ):
        await told_and_ends(open_one, plain, bootstrap, prefix, tmp_path)


async def told_and_ends(open_one, plain, bootstrap, prefix, tmp_path):
    topic = f"{prefix}.requests.pay"
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "127.0.0.1:0") as running:
        await asyncio.to_thread(until, running.is_ready)
        await plain.send_and_wait(topic, b"before", partition=0)
        await open_one.begin_transaction()
        for _ in range(3):
            await open_one.send_and_wait(topic, b"within", partition=0)
        for _ in range(5):
            await plain.send_and_wait(topic, b"behind", partition=0)
        await plain.send_and_wait(topic, b"elsewhere", partition=1)

        await asyncio.to_thread(until, lambda: metric(running, "gate_undecided_requests", "pay") == 8)
        assert metric(running, "gate_undecided_requests", "calm") == 0
        assert metric(running, "gate_undecided_age_seconds", "calm") == 0
        await asyncio.to_thread(until, lambda: "waiting" in running.get("/readyz"))

        ready = json.loads(running.get("/readyz"))
        assert (ready["ready"], ready["status"]) == (True, "degraded")
        (waiting,) = ready["waiting"]
        assert (waiting["topic"], waiting["partition"], waiting["offset"]) == (topic, 0, 1)
        assert "a transaction of producer" in waiting["why"]
        assert f"with the transactional id {prefix}-nightly" in waiting["why"]
        abort = f"abort --topic {topic} --partition 0 --start-offset 1"
        assert abort in waiting["remedy"]
        age = metric(running, "gate_undecided_age_seconds", "pay")
        assert 9 < age < 60, "since the first of them came"
        (line,) = [line for line in running.text().splitlines() if "a partition waits" in line]
        assert "offset=1 partition=0" in line
        assert f"topic={topic}" in line
        assert 'gate_shard_waiting{shard="' in running.get("/metrics")

        def published():
            told = json.loads(command("usage", "pay").stdout)
            return told if told["waiting"] else None

        def command(*args):
            options = ["--bootstrap", bootstrap, "--prefix", prefix, "--json"]
            return subprocess.run([sys.executable, "-m", "gate", *args, *options], capture_output=True, check=False)

        await asyncio.to_thread(until, published)
        told = published()
        assert (told["undecided"], told["waiting"][0]["offset"]) == (8, 1)
        assert told["undecided_age_seconds"] > 9
        shown = next(one for one in json.loads(running.get("/v1/usage"))["services"] if one["service"] == "pay")
        assert (shown["undecided"], shown["waiting"]) == (8, ready["waiting"])

        doctor = await asyncio.to_thread(command, "doctor", "--config", str(running.config))
        (finding,) = [one for one in json.loads(doctor.stdout) if one["check"] == f"{topic}-0"]
        assert (doctor.returncode, finding["health"], finding["fix"]) == (1, "fail", waiting["remedy"])
        assert "8 requests" in finding["text"]

        await open_one.commit_transaction()
        await asyncio.to_thread(until, lambda: metric(running, "gate_undecided_requests", "pay") == 0)
        assert metric(running, "gate_undecided_age_seconds", "pay") == 0
        assert "waiting" not in json.loads(running.get("/readyz"))
        assert "a partition goes on" in running.text()
        await asyncio.to_thread(until, lambda: not published())
