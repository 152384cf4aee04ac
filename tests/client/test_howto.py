"""The how-to pages on pacing and alerts: every example is run as it stands, against a real gate."""

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gate.cli import main
from tests.client.receivers import breach
from tests.system.gates import create, gate, read_count, until

ROOT = Path(__file__).parents[2]
POLICY = "services:\n  payments: {requests_per_second: 400, burst_size: 40, window_size: null}\n"


def snippets(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / "howto" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def environment(bootstrap, prefix):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"GATE_BOOTSTRAP": bootstrap, "GATE_PREFIX": prefix, "PATH": path, "PYTHONUNBUFFERED": "1"}


async def test_batches(bootstrap, prefix, tmp_path, environment):
    await create(bootstrap, f"{prefix}.requests.payments")
    asynchronous, synchronous = snippets("batches.md", "python")
    (command,) = snippets("batches.md", "sh")
    options = {"env": environment, "cwd": ROOT, "capture_output": True, "text": True, "timeout": 40}
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as running:
        until(running.is_ready, explain=running.text)
        first = subprocess.run([sys.executable, "-c", asynchronous], check=False, **options)
        assert (first.returncode, first.stdout, first.stderr) == (0, "", "")
        second = subprocess.run([sys.executable, "-c", synchronous], check=False, **options)
        assert (second.returncode, second.stdout.splitlines()) == (0, [f"sending {n}" for n in range(20)]), second
        third = subprocess.run(["sh", "-c", command], check=False, **options)
        assert third.stdout.startswith("submitted 200 requests"), third
        out = await read_count(bootstrap, [f"{prefix}.admitted.payments"], 700)
    assert sorted(r.value for r in out) == sorted(
        [b"invoice %d" % n for n in range(500)] + [b"%d" % n for n in range(1, 201)]
    )


async def test_commands_on_what_waits(bootstrap, prefix, tmp_path, monkeypatch, capsys):
    """Each is taken by a gate, which says how many it means: nothing that the page names waits here."""
    for name, value in {"GATE_BOOTSTRAP": bootstrap, "GATE_PREFIX": prefix}.items():
        monkeypatch.setenv(name, value)
    (block,) = snippets("backlog.md", "sh")
    commands = [shlex.split(line)[1:] for line in block.splitlines()]
    await create(bootstrap, f"{prefix}.requests.payments")
    await create(bootstrap, "orders.archive")
    policy = "services: {payments: {requests_per_second: 10, priorities: {default: 3, batch: 1}}}\n"
    with gate(tmp_path, bootstrap, prefix, policy, "--http", "0") as running:
        until(running.is_ready, explain=running.text)
        for command in commands:
            looks = [] if command[0] == "audit" or "--dry-run" in command else ["--dry-run"]
            assert await asyncio.to_thread(main, [*command, *looks]) == 0, (command, capsys.readouterr().err)
            said = capsys.readouterr().out
            assert said == ("" if command[0] == "audit" else "0 requests of payments fit; nothing was changed\n")
    assert {command[0] for command in commands} == {"cancel", "move", "expedite", "redrive", "audit"}


async def test_alerts(log, names, tmp_path, environment):
    handlers, verifying = snippets("alerts.md", "python")
    exec(verifying, {})
    await log.create(names.alerts)
    out = tmp_path / "out"
    with out.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", handlers], env=environment, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        record = breach()
        await log.write(names.alerts, record.value, key=record.key, headers=list(record.headers))
        wanted = [
            "page somebody: payments hits payments.window.60s, 12 wait",
            "count gate.breach.opened",
            '"specversion"',
        ]
        until(lambda: all(text in out.read_text() for text in wanted), explain=out.read_text)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, out.read_text()
    finally:
        process.kill()
        process.wait(10)


def test_the_command_of_the_page_is_one(environment):
    (command,) = snippets("alerts.md", "sh")
    nowhere = environment | {"GATE_BOOTSTRAP": "127.0.0.1:1", "GATE_CONNECT_TIMEOUT": "0.1"}
    done = subprocess.run(["sh", "-c", command], env=nowhere, capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr.startswith("gate: no Kafka broker answers at 127.0.0.1:1")  # not: bad usage


def test_limits(bootstrap, prefix, tmp_path, monkeypatch, capsys):
    asyncio.run(create(bootstrap, f"{prefix}.requests.payments"))
    (script,) = snippets("limits.md", "python")
    commands, many = snippets("limits.md", "sh")
    (tmp_path / "tenants.csv").write_text("tenant,requests_per_second\nacme,5\nzoe,10/min\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATE_BOOTSTRAP", bootstrap)
    monkeypatch.setenv("GATE_PREFIX", prefix)
    policy = f"{POLICY}groups: {{bank-api: {{requests_per_second: 50}}}}\n"
    with gate(tmp_path, bootstrap, prefix, policy, "--http", "0") as running:
        until(running.is_ready, explain=running.text)
        said = []
        for line in (commands + many).splitlines():  # in this process: starting one for each takes the most time of all
            assert main(shlex.split(line)[1:]) == 0, (line, capsys.readouterr())
            said.append(capsys.readouterr().out)
        assert said[0] == "limits of payments are set; version 1\n"
        assert "as agreed" in said[2]
        assert re.search(r"^requests_per_second +50 +live until ", said[3], re.MULTILINE)
        assert said[9] == "limits of payments are as the policy file says; version 8\n"
        assert said[10] == "limits of group bank-api are set; version 1\n"
        assert "the bank asks for less" in said[11]
        assert said[12] == "limits of group bank-api are as the policy file says; version 2\n"
        assert said[13].count("bank-api") == 2
        assert said[15:] == [
            "limits of 2 tenants of payments are set; version 9\n",
            (
                "service,tenant,requests_per_second,burst_size,window_size,window_limit,max_running,quotas,windows\n"
                "payments,acme,5,,,,,,\npayments,zoe,10/min,,,,,,\n"
            ),
        ]
        exec(script.replace("localhost:9092", bootstrap).replace("who=", f'prefix="{prefix}", who='), {})
        assert capsys.readouterr().out == "10\n"
