"""A broker whose disk is full: clients are told in time, the gate waits, and nothing that was taken is lost."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gate.client import JobClient
from gate.errors import GateError
from tests.system.gates import create, gate, read, send, stamp, until

MEBIBYTE = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") is not None and not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(disk)], capture_output=True, check=False
    ).returncode  # fmt: skip
    if not mounted:
        pytest.skip("no file system may be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_full_disk_stops_the_queue_and_loses_nothing(own_broker, small_disk, tmp_path):
    broker = await asyncio.to_thread(own_broker, small_disk / "kafka")
    port, bootstrap, filler = int(broker.bootstrap.rpartition(":")[2]), broker.bootstrap, small_disk / "filler"
    await create(bootstrap, "gate.requests.pay", partitions=1)
    policy = "services: {pay: {requests_per_second: 10000, burst_size: 10000}}\n"
    with gate(tmp_path, bootstrap, "gate", policy, "--http", "0") as running:
        until(running.is_ready, explain=running.text)
        taken, refused = [], None
        async with JobClient(bootstrap, submit_timeout=3) as client:
            for number in range(20):
                taken.append((await client.submit("pay", f"before {number}")).id)
            free = shutil.disk_usage(small_disk).free
            with filler.open("wb") as file:
                file.write(b"\0" * (free - 2 * MEBIBYTE))
            try:
                for number in range(100):
                    taken.append((await client.submit("pay", f"{number} " + "x" * 200_000)).id)
            except GateError as error:
                refused = error
        assert refused is not None, "the disk took 20 MB with 2 MB left"
        assert "not" in str(refused)
        until(lambda: not running.is_ready(), explain=running.text)

        filler.unlink()
        await asyncio.to_thread(broker.stop)
        await asyncio.to_thread(own_broker, small_disk / "kafka", port=port)
        until(running.is_ready, explain=running.text)
        await send(bootstrap, "gate.requests.pay", [(None, b"after", [])], partitions=1)
        out = await read(bootstrap, ["gate.admitted.pay"], lambda found: any(r.value == b"after" for r in found))
    admitted = [stamp(record).id for record in out]
    assert len(admitted) == len(set(admitted))
    assert set(taken) <= set(admitted)
