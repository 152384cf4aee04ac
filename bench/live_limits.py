"""Limits of a million tenants, on a real broker: how long an import, a restart and a change take.

`python -m bench.live_limits [--tenants N]`: prints each figure, beside the bound that it is to hold.
"""

import argparse
import asyncio
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Final

from bench.memory import use_memory
from gate.client import GateControl, LiveLimit
from gate.kafka.local import LocalBroker
from tests.system.gates import GateProcess, create, gate, read_count, send, until

POLICY: Final = "shards: 4\nservices: {pay: {requests_per_second: 5000, burst_size: 5000}}"
PREFIX: Final = "many"
PATIENCE: Final = 300.0


def main() -> None:
    """Measure, and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--tenants", type=int, default=1_000_000)
    count = arguments.parse_args().tenants
    use_memory()
    with LocalBroker.start(heap="1g", optimize=True) as broker, tempfile.TemporaryDirectory() as folder:
        asyncio.run(_measure(broker.bootstrap, Path(folder), count))


async def _measure(bootstrap: str, folder: Path, count: int) -> None:
    await create(bootstrap, f"{PREFIX}.requests.pay")
    with gate(folder, bootstrap, PREFIX, POLICY, "--http", "0") as first:
        until(first.is_ready, PATIENCE, first.text)
        async with GateControl(bootstrap, prefix=PREFIX) as control:
            print("1 of 3: import", flush=True)
            limits = {f"tenant-{number}": LiveLimit(str(1 + number % 50), 100) for number in range(count)}
            began, spent, before = time.monotonic(), time.process_time(), _spent(first)
            answer = await control.import_limits("pay", limits)
            _tell("imported and published", time.monotonic() - began, 60)
            print(
                f"  of processor: client {time.process_time() - spent:.1f} s, gate {_spent(first) - before:.1f} s",
                flush=True,
            )
            assert (answer.state, answer.of) == ("done", count)
            print("2 of 3: a change", flush=True)
            await _change(control, bootstrap)
        print(f"  memory of the gate {_memory(first):.0f} MB", flush=True)
        first.kill()
    print("3 of 3: restart", flush=True)
    with gate(folder, bootstrap, PREFIX, POLICY, "--http", "0") as second:
        began = time.monotonic()
        until(second.is_ready, PATIENCE, second.text)
        _tell("from the start of the process until it is ready", time.monotonic() - began, 10)
        print(f"  of processor: {_spent(second):.1f} s", flush=True)
        print("  " + max(re.findall(r"shard taken over.*", second.text()), key=len), flush=True)
        async with GateControl(bootstrap, prefix=PREFIX) as control:
            await _change(control, bootstrap)
        print(f"  memory of the gate {_memory(second):.0f} MB", flush=True)


async def _change(control: GateControl, bootstrap: str) -> None:
    """Block a tenant; its next request is refused."""
    began = time.monotonic()
    await control.set_limit("pay", requests_per_second=0, tenant="tenant-7")
    _tell("a change of one tenant, until it is answered", time.monotonic() - began, 1)
    name = f"late-{began}".encode()
    await send(bootstrap, f"{PREFIX}.requests.pay", [(None, name, [("gate-tenant", b"tenant-7")])])
    await read_count(bootstrap, [f"{PREFIX}.rejected.pay"], 1)
    await control.set_limit("pay", requests_per_second=3, tenant="tenant-7")


def _tell(what: str, seconds: float, bound: float) -> None:
    print(f"  {what}: {seconds:.2f} s (bound {bound} s)", flush=True)


def _spent(process: GateProcess) -> float:
    """Return the seconds of processor that a gate has used: what it would take on a machine of its own."""
    fields = Path(f"/proc/{process.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(process: GateProcess) -> float:
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


if __name__ == "__main__":
    main()
