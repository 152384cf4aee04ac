"""A gate by public calls of aiokafka alone: as exact as on the fast path, and refused where it could not be."""

import os
import subprocess
import sys

import pytest

from tests.system.gates import create, gate, read, send, stamp

PUBLIC = {"GATE_AIOKAFKA": "public"}
POLICY = """
shards: 2
services:
  busy: {requests_per_second: 100, burst_size: 20}
"""
REQUESTS = 200


async def test_nothing_is_lost_or_doubled_by_a_gate_that_is_killed(bootstrap, prefix, tmp_path):
    requests, admitted = f"{prefix}.requests.busy", f"{prefix}.admitted.busy"
    await create(bootstrap, requests)
    with gate(tmp_path, bootstrap, prefix, POLICY, env=PUBLIC) as first:
        await send(bootstrap, requests, [(None, b"%d" % i, []) for i in range(REQUESTS)])
        await read(bootstrap, [admitted], lambda found: len(found) >= 30)
        first.kill()
    with gate(tmp_path, bootstrap, prefix, POLICY, env=PUBLIC) as second:
        out = await read(bootstrap, [admitted], lambda found: len(found) >= REQUESTS)
        assert second.stop() == 0, second.text()
    assert sorted(int(record.value) for record in out) == list(range(REQUESTS)), second.text()
    assert len({stamp(record).id for record in out}) == REQUESTS
    assert "restarts" not in second.text(), second.text()


def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gate", *args]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=100)


def test_doctor_says_which_path_runs(bootstrap, prefix, tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"prefix: {prefix}\n{POLICY}")
    done = run("doctor", "--config", str(policy), "--bootstrap", bootstrap, **PUBLIC)
    assert "the public path runs, which is as exact, and slower: GATE_AIOKAFKA=public" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"GATE_AIOKAFKA": "quick"}, "GATE_AIOKAFKA=quick is neither auto, fast nor public"),
        (
            {
                **PUBLIC,
                "GATE_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
                "GATE_SASL_USERNAME": "u",
                "GATE_SASL_PASSWORD": "p",
            },
            "which needs aiokafka's private parts; the public path runs: GATE_AIOKAFKA=public",
        ),
    ],
)
def test_what_cant_be_promised_is_refused_in_one_line(bootstrap, more, says):
    done = run("doctor", "--bootstrap", bootstrap, **more)
    assert done.returncode == 1
    assert says in " ".join(done.stderr.split()), done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_a_gate_that_compresses_does_not_start(bootstrap, prefix, tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"prefix: {prefix}\ncompression: keep\n{POLICY}")
    done = run("run", "--config", str(policy), "--bootstrap", bootstrap, **PUBLIC)
    assert done.returncode == 1
    assert "`compression: keep`" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
