"""Processes without an owner, which is killed or stopped, with no other gate: what they do, and that it is told."""

import asyncio
import json
import os
import re
import signal
import threading
import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import pytest

from gate import SyncDistributedRateLimiter
from gate.protocol.topics import Names
from tests.system.gates import GateProcess, header, read, until

POLICY = """shards: 1
services:
  pay: {requests_per_second: 100, burst_size: 100, window_size: 1}
"""
Away = Literal["closed", "open", "floor"]
MODES: tuple[Away, ...] = ("closed", "open", "floor")
LEASE = 10.0  # seconds


class Caller(threading.Thread):
    """Calls every 20 ms until it is stopped."""

    def __init__(self, limiter: SyncDistributedRateLimiter) -> None:
        super().__init__(daemon=True)
        self.limiter = limiter
        self.calls = self.went = 0
        self.longest = 0.0  # call, of those since it was last set to 0, s
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.wait(0.02):
            before = time.monotonic()
            allowed = self.limiter.check_rate_limit("pay")[0]
            self.longest = max(self.longest, time.monotonic() - before)
            self.calls, self.went = self.calls + 1, self.went + allowed


def told(gate: GateProcess, outcome: str) -> float:
    found = re.search(rf'gate_owner_away_units_total{{outcome="{outcome}",service="pay"}} (\S+)', gate.get("/metrics"))
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize("fault", ["killed", "stopped"])
@pytest.mark.timeout(240)
def test_without_an_owner_each_process_does_as_it_was_told_and_it_comes_out(
    bootstrap: str, tmp_path: Path, fault: str
) -> None:
    prefix = f"away-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        gate = GateProcess(tmp_path, bootstrap, prefix, POLICY, "--http", "127.0.0.1:0")
        stack.callback(gate.close)
        gate.wait_for("shard taken over")
        limiters = {
            mode: stack.enter_context(
                SyncDistributedRateLimiter(bootstrap, prefix=prefix, on_owner_away=mode, patience=1.0)
            )
            for mode in MODES
        }
        callers = {mode: Caller(limiter) for mode, limiter in limiters.items()}
        for caller in callers.values():
            stack.callback(caller.ended.set)
        # until each has a part by what it wants: before that its last part may be nothing
        until(lambda: all(caller.went > 150 for caller in callers.values()))
        if fault == "killed":
            gate.kill()
        else:
            os.killpg(gate.process.pid, signal.SIGSTOP)
            stack.callback(os.killpg, gate.process.pid, signal.SIGCONT)
        until(lambda: limiters["closed"].owner_away > LEASE + 1)
        before = {mode: (caller.calls, caller.went) for mode, caller in callers.items()}
        for caller in callers.values():
            caller.longest = 0.0
        until(lambda: all(caller.calls > before[mode][0] + 50 for mode, caller in callers.items()))
        until(lambda: callers["floor"].went > before["floor"][1])  # its last part may have been small
        after = {mode: (caller.calls, caller.went) for mode, caller in callers.items()}
        gone = {mode: (calls - before[mode][0], went - before[mode][1]) for mode, (calls, went) in after.items()}
        assert gone["closed"][1] == 0, gone
        assert gone["open"][0] - gone["open"][1] <= 1, gone  # one may be under way
        assert limiters["closed"].let_go == 0
        if fault == "killed":
            gate = GateProcess(tmp_path, bootstrap, prefix, POLICY, "--http", "127.0.0.1:0")
            stack.callback(gate.close)
            gate.wait_for("shard taken over")
        else:
            os.killpg(gate.process.pid, signal.SIGCONT)
        went = callers["closed"].went
        until(lambda: callers["closed"].went > went + 20 and all(one.owner_away < 1 for one in limiters.values()))

        def let_go() -> int:
            return sum(one.let_go for one in limiters.values())

        until(lambda: told(gate, "let-go") == let_go() > 100, explain=lambda: gate.get("/metrics"))
        assert told(gate, "refused") > 0
        records = asyncio.run(
            read(
                bootstrap,
                [Names(prefix).alerts],
                lambda found: (
                    sum(
                        json.loads(r.value or b"{}")["let_go"]
                        for r in found
                        if header(r, "ce_type") == b"gate.owner.away"
                    )
                    == let_go()
                ),
            )
        )
        alerts = [json.loads(r.value or b"{}") for r in records if header(r, "ce_type") == b"gate.owner.away"]
        assert {alert["service"] for alert in alerts} == {"pay"}
        assert sum(alert["let_go"] for alert in alerts) == let_go()
        assert len(alerts) < 20
