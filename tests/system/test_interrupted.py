"""Ctrl-C amid a command: it says what stands and how to go on, and that is so."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.gates import create, gate, read_count, send, until

POLICY = """shards: 2
services:
  slow: {requests_per_second: 1/h, burst_size: 1, window_size: null, max_delay: null, max_tenants: 10000}
"""
WAIT = 6


class Command:
    """A command that is under way."""

    def __init__(self, running, folder: Path, *words: str) -> None:
        self.err = folder / "stderr"
        with self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gate", *words, "--config", running.config, "--bootstrap", running.bootstrap],
                stdout=subprocess.DEVNULL, stderr=err,
            )  # fmt: skip

    def interrupt(self) -> str:
        """Press Ctrl-C; return what it says."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(30) == 130, self.err.read_text()
        return self.err.read_text()


def again(running, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gate", *words, "--config", running.config, "--bootstrap", running.bootstrap],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def waiting(bootstrap, prefix, tmp_path):
    """A gate at which requests wait, and that stands still; `go` has it go on."""
    asyncio.run(create(bootstrap, f"{prefix}.requests.slow", partitions=1))
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as running:
        asyncio.run(send(bootstrap, f"{prefix}.requests.slow", [(b"k", b"x", [])] * (WAIT + 1), partitions=1))
        asyncio.run(read_count(bootstrap, [f"{prefix}.delayed.slow"], WAIT))
        until(lambda: backlog(running) == WAIT, explain=running.text)
        yield running


def backlog(running) -> int | None:
    return next((one["backlog"] for one in json.loads(running.get("/v1/usage"))["services"]), None)


def sent(running, command: Command, prefix: str) -> bool:
    found = asyncio.run(read_count(running.bootstrap, [f"{prefix}.control"], 1, deadline=1.0))
    return bool(found) or command.process.poll() is not None


def test_what_gates_carry_out_goes_on_and_that_is_said(waiting, prefix, tmp_path):
    os.kill(waiting.process.pid, signal.SIGSTOP)
    command = Command(waiting, tmp_path, "cancel", "slow", "--all", "--reason", "test")
    until(lambda: sent(waiting, command, prefix))
    said = command.interrupt()
    os.kill(waiting.process.pid, signal.SIGCONT)
    known = re.search(r"command ([0-9a-f]{32}) of slow: ", said)
    assert known, said
    assert f"gate cancel slow --abort {known[1]}" in said
    assert "gate audit slow" in said
    until(lambda: backlog(waiting) == 0, explain=waiting.text)
    assert known[1] in again(waiting, "audit", "slow", "--json")


def test_an_import_that_was_interrupted_is_done_by_the_same_command(waiting, prefix, tmp_path):
    rows = tmp_path / "tenants.csv"
    rows.write_text("tenant,requests_per_second,burst_size\n" + "".join(f"t{n},5,5\n" for n in range(500)))
    os.kill(waiting.process.pid, signal.SIGSTOP)
    command = Command(waiting, tmp_path, "limit", "import", str(rows), "--service", "slow")
    until(lambda: sent(waiting, command, prefix))
    said = command.interrupt()
    os.kill(waiting.process.pid, signal.SIGCONT)
    assert re.search(r"import [0-9a-f]{32} of limits of slow holds as a whole or not at all", said), said
    assert "give the same command again" in said
    assert "limits of 500 tenants of slow are set" in again(waiting, "limit", "import", str(rows), "--service", "slow")
    assert again(waiting, "limit", "export", "slow").count("\n") == 501


def test_a_move_of_the_state_that_was_interrupted_says_how_to_end_it(waiting, tmp_path):
    command = Command(waiting, tmp_path, "reshard", "3")
    until(lambda: "are closed; gates wait" in command.err.read_text() or command.process.poll() is not None)
    said = command.interrupt()
    assert re.search(r"interrupted; (shards of generation 1 are closed|gates wait|generation 2 is in force)", said), (
        said
    )
    assert "the same command again" in said
    assert "3" in again(waiting, "reshard", "3", "--json")
    until(lambda: "starting anew" in waiting.text() and waiting.is_ready(), explain=waiting.text)
