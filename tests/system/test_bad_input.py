"""Whatever comes in: a clear line, the right exit code, and nothing lost."""

import subprocess
import sys
import time

from aiokafka.admin import AIOKafkaAdminClient

from gate.kafka.local.config import free_port
from tests.system.gates import create, gate, header, read, read_count, send, stamp, until

PLAIN = "defaults: {requests_per_second: 1000}\n"


def run_gate(*args: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gate", "run", *args], capture_output=True, text=True, timeout=timeout, check=False
    )


async def test_malformed_requests_go_to_rejected_and_the_partition_goes_on(bootstrap, prefix, tmp_path):
    topic = f"{prefix}.requests.pay"
    await create(bootstrap, topic, partitions=1)
    absurd = [
        ("gate-cost", b"0"), ("gate-cost", b"-1"), ("gate-cost", b"9223372036854775808"), ("gate-cost", b"NaN"),
        ("gate-cost", None), ("gate-deadline", b"soon"), ("gate-priority", b"\xff\xfe"), ("gate-tenant", b"x" * 10_000),
    ]  # fmt: skip
    requests = [(b"k", b"bad-%d" % i, [pair, ("trace", b"t")]) for i, pair in enumerate(absurd)]
    requests += [(b"k", None, []), (None, b"no key", []), (b"k", b"good", [("gate-priority", b"no such lane")])]
    with gate(tmp_path, bootstrap, prefix, PLAIN) as running:
        await send(bootstrap, topic, requests, partitions=1)
        admitted = await read_count(bootstrap, [f"{prefix}.admitted.pay"], 3)
        rejected = await read_count(bootstrap, [f"{prefix}.rejected.pay"], len(absurd))
    assert [(r.key, r.value) for r in admitted] == [(b"k", None), (None, b"no key"), (b"k", b"good")], running.text()
    assert [r.value for r in rejected] == [b"bad-%d" % i for i in range(len(absurd))]
    for record, (name, _) in zip(rejected, absurd, strict=True):
        assert stamp(record).reason == "malformed"
        assert name.encode() in header(record, "gate-error")
        assert header(record, "trace") == b"t"


async def test_a_cost_that_can_never_be_admitted_is_rejected_at_once(bootstrap, prefix, tmp_path):
    topic = f"{prefix}.requests.pay"
    await create(bootstrap, topic, partitions=1)
    policy = "services: {pay: {requests_per_second: 10, burst_size: 5}}\n"
    with gate(tmp_path, bootstrap, prefix, policy) as running:
        await send(bootstrap, topic, [(b"k", b"big", [("gate-cost", b"6")]), (b"k", b"fits", [])], partitions=1)
        (rejected,) = await read_count(bootstrap, [f"{prefix}.rejected.pay"], 1)
        (admitted,) = await read_count(bootstrap, [f"{prefix}.admitted.pay"], 1)
    assert (stamp(rejected).reason, stamp(rejected).limit) == ("never", "pay.rate"), running.text()
    assert header(rejected, "retry-after") is None
    assert header(rejected, "gate-not-before") is None
    assert admitted.value == b"fits"


def test_an_empty_policy_is_refused(tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text("")
    done = run_gate("--config", str(policy))
    assert (done.returncode, done.stdout) == (1, "")
    assert "policy.yaml" in done.stderr
    assert "empty" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_field_is_named_with_file_and_line(tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text("services:\n  pay:\n    requests_per_second: 5\n    brust_size: 7\n")
    done = run_gate("--config", str(policy))
    assert done.returncode == 1
    assert "policy.yaml:4:5" in done.stderr
    assert "brust_size" in done.stderr
    assert "burst_size" in done.stderr


def test_a_broker_that_does_not_answer_is_said_once_and_given_up_in_time(tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text(PLAIN)
    started = time.monotonic()
    done = run_gate("--config", str(policy), "--bootstrap", f"127.0.0.1:{free_port()}", "--connect-timeout", "1.5")
    assert done.returncode == 1
    assert 1.0 < time.monotonic() - started < 10
    errors = [line for line in done.stderr.splitlines() if line.startswith("gate:")]
    assert len(errors) == 1
    assert "no Kafka broker answers" in errors[0]


def test_bad_usage_ends_with_2(tmp_path):
    assert run_gate().returncode == 2
    assert run_gate("--config", str(tmp_path / "x.yaml"), "--nonsense").returncode == 2
    missing = run_gate("--config", str(tmp_path / "none.yaml"))
    assert missing.returncode == 1
    assert "none.yaml" in missing.stderr


def test_two_gates_on_one_port(bootstrap, prefix, tmp_path):
    port = str(free_port())
    with gate(tmp_path, bootstrap, prefix, PLAIN, "--http", port) as first:
        first.wait_for("serving http")
        second = run_gate("--config", str(first.config), "--bootstrap", bootstrap, "--http", port)
    assert second.returncode == 1
    assert port in second.stderr
    assert "--http" in second.stderr


async def test_missing_topics_are_listed_where_the_gate_may_not_create_them(bootstrap, prefix, tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"prefix: {prefix}\ncreate_topics: false\n{PLAIN}")
    done = run_gate("--config", str(policy), "--bootstrap", bootstrap)
    assert done.returncode == 1
    for topic in ("state", "alerts", "usage", "control"):
        assert f"--create --topic {prefix}.{topic}" in done.stderr
    assert "message.timestamp.type=LogAppendTime" in done.stderr


async def test_another_number_of_shards_is_refused(bootstrap, prefix, tmp_path):
    with gate(tmp_path, bootstrap, prefix, PLAIN, "--shards", "4") as first:
        first.wait_for("shard taken over")
        second = run_gate("--config", str(first.config), "--bootstrap", bootstrap, "--shards", "8")
    assert second.returncode == 1
    assert "--shards 4" in second.stderr


async def test_a_request_topic_that_is_deleted_takes_no_other_service_with_it(bootstrap, prefix, tmp_path):
    gone, stays = f"{prefix}.requests.gone", f"{prefix}.requests.stays"
    await create(bootstrap, gone, stays)
    with gate(tmp_path, bootstrap, prefix, PLAIN, "--shards", "1", "--http", "0") as running:
        await send(bootstrap, gone, [(None, b"%d" % i, []) for i in range(20)])
        await read_count(bootstrap, [f"{prefix}.admitted.gone"], 20)
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        await admin.delete_topics([gone])
        await admin.close()
        until(lambda: running.text().count("services=1") >= 1 and running.is_ready(), explain=running.text)
        await send(bootstrap, stays, [(None, b"%d" % i, []) for i in range(50)])
        out = await read_count(bootstrap, [f"{prefix}.admitted.stays"], 50)
        assert len(out) == 50, running.text()
        await create(bootstrap, gone)
        await send(bootstrap, gone, [(None, b"again-%d" % i, []) for i in range(30)])
        again = await read(
            bootstrap, [f"{prefix}.admitted.gone"], lambda found: sum(r.value.startswith(b"again") for r in found) >= 30
        )
    assert sum(r.value.startswith(b"again") for r in again) == 30, running.text()
