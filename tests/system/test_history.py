"""History as gates write it to a real broker, over the death of one of two, and as `gate usage --since` shows it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from gate.config import Connection
from gate.kafka.history import read_history
from gate.observe.track import Track
from tests.system.gates import create, gate, send, until

POLICY = """
shards: 4
services: {"s*": {requests_per_second: 1000, burst_size: 1000}}
"""
SERVICES = [f"s{number}" for number in range(6)]
# as `gate run`, but that history is written sooner
SOON = "from gate.kafka.history import HistoryWriter; HistoryWriter.EVERY = 0.3; from gate.cli import main; main()"


def test_all_that_was_granted_is_in_the_history_although_a_gate_is_killed(bootstrap, prefix, tmp_path):
    connection = Connection(bootstrap, prefix=prefix)
    names = connection.names

    def track(service: str) -> Track:
        since = time.time_ns() // 1_000_000 - 600_000
        return asyncio.run(read_history(names.history, service, since, since, **connection.access()))

    def granted(service: str) -> float:
        now = time.time_ns() // 1_000_000_000 * 1_000 + 60_000  # the same steps each time
        return sum(rate or 0 for rate in track(service).steps(now - 600_000, now, 1_000).granted)

    with ExitStack() as stack:
        gates = [stack.enter_context(gate(tmp_path, bootstrap, prefix, POLICY, program=("-c", SOON))) for _ in range(2)]
        for one in gates:
            one.wait_for("gate runs")
        asyncio.run(create(bootstrap, *map(names.requests, SERVICES)))

        def ask(count: int) -> None:
            for service in SERVICES:
                asyncio.run(send(bootstrap, names.requests(service), [(None, b"x", [])] * count))

        ask(1)
        until(lambda: all(len(track(service)) for service in SERVICES), explain=gates[0].text)
        known = time.monotonic()  # of the step in which the first point is only what follows it
        until(lambda: time.monotonic() - known > 1.1)
        first = {service: granted(service) for service in SERVICES}
        ask(1)
        until(lambda: all(granted(service) > first[service] + 0.9 for service in SERVICES), explain=gates[0].text)
        before = {service: granted(service) for service in SERVICES}
        ask(100)
        until(
            lambda: all(granted(s) == pytest.approx(before[s] + 100, abs=0.1) for s in SERVICES),
            explain=lambda: str((before, {service: granted(service) for service in SERVICES})),
        )
        os.kill(gates[0].process.pid, signal.SIGKILL)
        ask(50)
        until(
            lambda: all(granted(s) == pytest.approx(before[s] + 150, abs=0.1) for s in SERVICES), explain=gates[1].text
        )
        owners = {service: [(one.now, one.before) for one in track(service).changes] for service in SERVICES}
        killed, heir = (one.process.pid for one in gates)
        moved = [changes for changes in owners.values() if changes]
        assert moved, "the one that was killed had some"
        assert all(changes[-1][0].endswith(f":{heir}") for changes in moved)
        assert any(changes[-1][1].endswith(f":{killed}") for changes in moved)

        def usage(*options: str) -> str:
            command = [sys.executable, "-m", "gate", "usage", "s0", "--bootstrap", bootstrap, "--prefix", prefix]
            return subprocess.run([*command, *options], capture_output=True, text=True, check=True, timeout=60).stdout

        shown = json.loads(usage("--since", "10m", "--json"))
        total = sum(step["granted_per_second"] or 0 for step in shown["steps"])
        assert total == pytest.approx(before["s0"] + 150, abs=1.1), "of the first step a part is not known"
        assert (shown["step_ms"], len(shown["steps"])) == (1_000, 600)
        text = usage("--since", "10m")
        assert max(map(len, text.splitlines())) <= 80
        assert "granted" in text
