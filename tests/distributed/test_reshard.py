"""Another number of shards while processes hold parts of limits: never over, and they go on by themselves."""

import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from gate import SyncDistributedRateLimiter
from tests.chaos.mesh import SECOND, Call, Limit, excess
from tests.system.gates import gate, until

LIMITS = {"fast": Limit(rate=200, burst=100, limit=220, window=SECOND), "slow": Limit(40, 40, 600, 20 * SECOND)}
POLICY = """shards: 2
services:
  fast: {requests_per_second: 200, burst_size: 100, window_size: 1, window_limit: 220}
  slow: {requests_per_second: 40, burst_size: 40, window_size: 20, window_limit: 600}
"""


@pytest.mark.timeout(240)
def test_a_reshard_takes_along_what_processes_hold(bootstrap: str, tmp_path: Path) -> None:
    prefix = f"shards-{uuid.uuid4().hex[:8]}"
    calls: dict[str, list[Call]] = {service: [] for service in LIMITS}
    ended = threading.Event()

    def hammer(limiter: SyncDistributedRateLimiter) -> None:
        while not ended.wait(0.003):
            for service, found in calls.items():
                before = time.time_ns()
                if limiter.check_rate_limit(service)[0]:
                    found.append((before, time.time_ns()))

    def more(count: int) -> None:
        before = {service: len(found) for service, found in calls.items()}
        until(lambda: all(len(calls[service]) > before[service] + count for service in LIMITS), 90.0)

    with gate(tmp_path, bootstrap, prefix, POLICY) as process:
        until(lambda: process.text().count("shard taken over") == 2)
        with (
            SyncDistributedRateLimiter(bootstrap, prefix=prefix, patience=1.0) as first,
            SyncDistributedRateLimiter(bootstrap, prefix=prefix, patience=1.0) as second,
        ):
            threads = [threading.Thread(target=hammer, args=(limiter,)) for limiter in (first, second)]
            for thread in threads:
                thread.start()
            try:
                more(50)
                command = [sys.executable, "-m", "gate", "reshard", "5", "--config", str(process.config)]
                done = subprocess.run(
                    [*command, "--bootstrap", bootstrap], capture_output=True, timeout=120, check=False, text=True
                )
                assert done.returncode == 0, done.stdout + done.stderr
                more(50)
                assert {limiter._shared.holders.shards for limiter in (first, second)} == {5}
                more(50)
            finally:
                ended.set()
                for thread in threads:
                    thread.join()
    for service, limit in LIMITS.items():
        assert excess(limit.spec, calls[service]) == []
