"""Alerts that a dead gate has left open are ended by who owns the shard now: once, whoever is killed amid it."""

import json
import time

from aiokafka import AIOKafkaProducer

from gate.observe import alerts
from tests.system.gates import create, gate, read

POLICY = "shards: 2\ndefaults: {requests_per_second: 1000}\n"
ENDS = {"gate.shard.recovered", "gate.partition.resumed", "gate.policy.accepted"}


async def leave_open(bootstrap: str, prefix: str, *records: alerts.AlertRecord) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for record in records:
            await producer.send_and_wait(
                f"{prefix}.alerts", record.value, key=record.key, partition=0, headers=list(record.headers)
            )


async def ended(bootstrap: str, prefix: str, count: int) -> list[tuple[str, str, dict]]:
    """Return type, id and data of the ends of alerts, once there are so many."""

    def ends(records):
        told = [(dict(record.headers), record.value) for record in records]
        return [
            (headers["ce_type"].decode(), headers["ce_id"].decode(), json.loads(value))
            for headers, value in told
            if headers["ce_type"].decode() in ENDS
        ]

    return ends(await read(bootstrap, [f"{prefix}.alerts"], lambda found: len(ends(found)) >= count))


async def test_what_a_dead_gate_has_left_open_is_ended_once_whoever_is_killed_amid_it(bootstrap, prefix, tmp_path):
    await create(bootstrap, f"{prefix}.requests.pay")
    await create(bootstrap, f"{prefix}.alerts", partitions=1, **{"message.timestamp.type": "LogAppendTime"})
    at = time.time_ns()
    await leave_open(
        bootstrap, prefix,
        *(alerts.shard_failed(shard, "no", 3, at + i, prefix, "dead:1") for i, shard in enumerate((0, 1, 1, 9))),
        alerts.policy_refused("policy.yaml", "1", "line 1", at, prefix, "dead:1"),
    )  # fmt: skip
    for point in ("alerts-ended", "in-alerts-commit"):
        with gate(tmp_path, bootstrap, prefix, POLICY, env={"GATE_FAILPOINT": point}) as dies:
            assert dies.process.wait(60) == -9, dies.text()
    with gate(tmp_path, bootstrap, prefix, POLICY) as first:
        first.wait_for("shard taken over")
        found = await ended(bootstrap, prefix, 4)
        assert len(found) == 4, first.text()
        assert sorted((kind, told.get("shard", -1)) for kind, _, told in found) == [
            ("gate.policy.accepted", -1), ("gate.shard.recovered", 0), ("gate.shard.recovered", 1),
            ("gate.shard.recovered", 9),
        ]  # fmt: skip
        by = {told["gate"] for kind, _, told in found if kind == "gate.shard.recovered"}
        assert by - {"dead:1"} == by, "who ends it is named"
        first.kill()
    with gate(tmp_path, bootstrap, prefix, POLICY) as second:
        second.wait_for("shard taken over")
        await leave_open(bootstrap, prefix, alerts.shard_failed(0, "no", 3, at + 9, prefix, "dead:3"))
        found = await ended(bootstrap, prefix, 5)
        assert len(found) == len({identity for _, identity, _ in found}) == 5, second.text()
        assert found[-1][2]["gate"].endswith(f":{second.process.pid}")
        assert second.stop() == 0
