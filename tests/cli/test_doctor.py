"""`gate doctor` finds what is wrong with a cluster, and says what to do about it."""

import asyncio
import json

import pytest

from gate.cli import main
from gate.kafka.cluster import Cluster
from gate.protocol.topics import Names
from tests.system.gates import create, gate, send


@pytest.fixture
def examine(bootstrap, prefix, capsys):
    def run(*args: str) -> tuple[int, dict[str, dict[str, str]]]:
        code = main(["doctor", "--bootstrap", bootstrap, "--prefix", prefix, "--json", *args])
        return code, {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)}

    return run


def settle(bootstrap: str, prefix: str, shards: int = 4) -> None:
    async def make() -> None:
        cluster = Cluster(Names(prefix), create=True, replication_factor=-1, bootstrap_servers=bootstrap)
        await cluster.start()
        try:
            await cluster.ensure(*cluster.common_specs(shards))
            while len([t for t in await cluster.partitions() if t.startswith(prefix)]) < 4:
                await asyncio.sleep(0.05)
        finally:
            await cluster.close()

    asyncio.run(make())


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("shards: 4\ndefaults: {requests_per_second: 1}\n")
    return str(path)


def test_a_sound_cluster(bootstrap, prefix, policy, examine):
    settle(bootstrap, prefix)
    asyncio.run(create(bootstrap, f"{prefix}.requests.pay"))
    asyncio.run(create(bootstrap, f"{prefix}.delayed.pay", **{"retention.ms": "-1", "max.message.bytes": "2000000"}))
    code, found = examine("--config", policy)
    assert code == 0, [finding for finding in found.values() if finding["health"] == "fail"]
    for check in ("broker", f"{prefix}.state", f"{prefix}.alerts", "pay", "transactions", "clock", "aiokafka"):
        assert found[check]["health"] == "ok", found[check]
    assert found["group"]["health"] == "warn"
    assert found["replication"]["health"] == "warn"  # one broker
    for check in ("in-sync replicas", "min.insync.replicas", "elections", "retention", "broker settings", "sweeping"):
        assert found[check]["health"] == "ok", found[check]


def test_what_is_wrong_is_named_with_its_cure(bootstrap, prefix, policy, examine):
    asyncio.run(create(bootstrap, f"{prefix}.state", partitions=3))
    asyncio.run(create(bootstrap, f"{prefix}.requests.pay", partitions=4))
    asyncio.run(create(bootstrap, f"{prefix}.delayed.pay", partitions=2))
    code, found = examine("--config", policy)
    assert code == 1
    assert found[f"{prefix}.state"]["health"] == "fail"
    assert "--shards 3" in found[f"{prefix}.state"]["fix"]
    assert found["pay"]["health"] == "fail"
    assert f"--topic {prefix}.delayed.pay --partitions 4" in found["pay"]["fix"]
    assert found[f"{prefix}.alerts"]["health"] == "warn"
    assert {found["transactions"]["health"], found["clock"]["health"]} == {"skipped"}


def test_gates_that_run_with_a_number_of_shards_that_only_they_were_told_are_no_failure(
    bootstrap, prefix, policy, examine, tmp_path
):
    (folder := tmp_path / "gate").mkdir()
    with gate(folder, bootstrap, prefix, "shards: 3\ndefaults: {requests_per_second: 1}\n") as running:
        running.wait_for("shard taken over")
        code, found = examine("--config", policy)
        state = found[f"{prefix}.state"]
        assert (code, state["health"], "gates run with 3" in state["text"]) == (0, "warn", True), found
        code, found = examine("--config", policy, "--shards", "3")
        assert (code, found[f"{prefix}.state"]["health"]) == (0, "ok"), found
        assert main(["audit", "nosuch", "--bootstrap", bootstrap, "--prefix", prefix]) == 1


def test_a_state_topic_that_lies_about_time_is_a_failure(bootstrap, prefix, policy, examine):
    asyncio.run(create(bootstrap, f"{prefix}.state", partitions=4))
    code, found = examine("--config", policy)
    assert code == 1
    assert "message.timestamp.type=LogAppendTime" in found[f"{prefix}.state"]["fix"]


def test_brokers_that_lose_what_they_acknowledged_are_a_failure(own_broker, tmp_path, capsys):
    properties = {"unclean.leader.election.enable": "true", "transaction.max.timeout.ms": "10000"}
    bootstrap = own_broker(properties=properties).bootstrap
    settle(bootstrap, "gate")
    asyncio.run(create(bootstrap, "gate.requests.pay", **{"retention.ms": "3600000"}))
    asyncio.run(create(bootstrap, "gate.delayed.pay"))
    assert main(["doctor", "--bootstrap", bootstrap, "--json"]) == 1
    found = {}
    for finding in json.loads(capsys.readouterr().out):
        found.setdefault(finding["check"], []).append(finding)
    assert [f["health"] for f in found["elections"]] == ["fail"]
    assert [f["health"] for f in found["broker settings"]] == ["fail"]
    assert sorted(f["health"] for f in found["retention"]) == ["fail", "warn"]
    assert any("--topic gate.delayed.pay --add-config retention.ms=-1" in f["fix"] for f in found["retention"])


def test_a_provider_that_lets_nobody_set_a_wish_is_not_blamed_for_it(bootstrap, prefix, policy, examine):
    config = {"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime", "max.message.bytes": "4194304"}
    asyncio.run(create(bootstrap, f"{prefix}.state", partitions=4, **config))
    settle(bootstrap, prefix)
    _, found = examine("--config", policy)
    assert found[f"{prefix}.state"]["health"] == "warn"
    assert "segment.ms=600000,min.cleanable.dirty.ratio=0.1" in found[f"{prefix}.state"]["fix"]
    code, found = examine("--config", policy, "--profile", "msk-serverless")
    assert (code, found[f"{prefix}.state"]["health"]) == (0, "ok")


def test_without_json_it_is_lines_for_people(bootstrap, prefix, capsys):
    main(["doctor", "--bootstrap", bootstrap, "--prefix", prefix])
    out = capsys.readouterr().out
    assert "ok      broker: " in out
    assert "        -> " in out


def test_it_looks_where_the_file_says(bootstrap, prefix, tmp_path, capsys):
    """At its broker, under its prefix, for its topics; what an option says comes first."""
    path = tmp_path / "policy.yaml"
    path.write_text(
        f"shards: 4\nbootstrap: {bootstrap}\nprefix: {prefix}\n"
        "topics: {requests: 'in.{prefix}.{service}', state: '{prefix}.limits'}\ndefaults: {requests_per_second: 1}\n"
    )
    settle(bootstrap, prefix)
    asyncio.run(create(bootstrap, f"in.{prefix}.pay"))
    asyncio.run(create(bootstrap, f"{prefix}.limits", partitions=3))
    assert main(["doctor", "--config", str(path), "--json"]) == 1
    found = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert found["broker"]["text"].startswith(f"{bootstrap} answers")
    assert found["pay"]["health"] == "ok"
    assert f"{prefix}.alerts" in found
    assert (found[f"{prefix}.limits"]["health"], found["group"]["text"]) == (
        "fail", f"{prefix} has no gate running",
    )  # fmt: skip
    main(["doctor", "--config", str(path), "--prefix", f"{prefix}x", "--json"])
    assert f"{prefix}x.alerts" in {finding["check"] for finding in json.loads(capsys.readouterr().out)}


def test_pauses_that_old_workers_write_are_named(bootstrap, prefix, policy, examine):
    settle(bootstrap, prefix)
    pause = b'{"command": "pause-until", "until": 1}'
    operator, worker = (b"other", pause, [("gate-by", b"operator")]), (b"pay", pause, [])
    asyncio.run(send(bootstrap, f"{prefix}.control", [operator], partitions=1))
    _, found = examine("--config", policy)
    assert found["control"]["health"] == "ok"
    asyncio.run(send(bootstrap, f"{prefix}.control", [worker, operator], partitions=1))
    code, found = examine("--config", policy)
    assert (code, found["control"]["health"]) == (0, "warn")
    assert "the newest at offset 1 for pay" in found["control"]["text"]
    assert f"which then tell {prefix}.feedback.SERVICE instead" in found["control"]["fix"]
