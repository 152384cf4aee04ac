"""A million tenants that a stranger has invented: memory and take-over stay bounded, and others go on."""

import asyncio
import re
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from tests.system.gates import GateProcess, create, gate, read, send, until

TENANTS = 1_000_000
BATCH = 5_000
SESSION = 2.0  # seconds, see GateProcess
POLICY = """
shards: 1
services:
  crowd: {requests_per_second: RATE, burst_size: RATE, tenants: {default: {requests_per_second: 1}}}
  calm: {requests_per_second: 1000}
"""
WATCHED = ("-m", "tests.system.watched")


def memory(process: GateProcess) -> float:
    """Return the largest resident size of a gate so far, in MB."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1e3


def lateness(process: GateProcess) -> list[float]:
    return [float(late) for late in re.findall(r"loop late: ([0-9.]+)", process.text())]


async def invent(bootstrap: str, topic: str, count: int) -> None:
    """Send a request for each of `count` tenants, in batches as a producer writes them."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, compression_type="gzip", max_batch_size=1_000_000)
    await producer.start()
    try:
        for first in range(0, count, BATCH):
            batch = producer.create_batch()
            for number in range(first, min(first + BATCH, count)):
                headers = [("gate-tenant", f"tenant-{number}".encode())]
                assert batch.append(key=None, value=b"x", timestamp=None, headers=headers) is not None
            batch.close()
            await producer.send_batch(batch, topic, partition=first // BATCH % 2)
        await producer.flush()
    finally:
        await producer.stop()


def decided(process: GateProcess) -> float:
    found = re.findall(
        r'^gate_requests_total\{.*service="crowd".*\} ([0-9.e+]+)$', process.get("/metrics"), re.MULTILINE
    )
    return sum(map(float, found))


async def probe(bootstrap: str, prefix: str, number: int) -> float:
    """Return how long a request of the innocent neighbour takes, in seconds."""
    started = time.monotonic()
    await send(bootstrap, f"{prefix}.requests.calm", [(None, f"{number}".encode(), [])])
    value = f"{number}".encode()
    found = await read(bootstrap, [f"{prefix}.admitted.calm"], lambda got: any(r.value == value for r in got), 60)
    assert any(record.value == value for record in found)
    return time.monotonic() - started


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("rate", [100, 10**6], ids=["that wait", "that pass"])
async def test_a_million_tenants(own_broker, tmp_path, rate):
    broker = await asyncio.to_thread(own_broker, tmp_path / "kafka")
    bootstrap, prefix = broker.bootstrap, "gate"
    await create(bootstrap, f"{prefix}.requests.crowd", f"{prefix}.requests.calm")
    policy = POLICY.replace("RATE", str(rate))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with gate(tmp_path / "a", bootstrap, prefix, policy, "--http", "0", program=WATCHED) as first:
        until(first.is_ready, explain=first.text)
        await probe(bootstrap, prefix, 0)
        with gate(tmp_path / "b", bootstrap, prefix, policy, "--http", "0", program=WATCHED) as second:
            until(second.is_ready, explain=second.text)
            started = time.monotonic()
            await invent(bootstrap, f"{prefix}.requests.crowd", TENANTS)
            sent = time.monotonic() - started
            slowest = 0.0
            while (known := max(decided(each) for each in (first, second))) < TENANTS:
                assert time.monotonic() < started + 600, f"{known} of {TENANTS}"
                slowest = max(slowest, await probe(bootstrap, prefix, int(known) + 1))
            took = time.monotonic() - started
            owner, heir = (first, second) if decided(first) >= TENANTS else (second, first)
            before = memory(owner)
            late = max(lateness(owner), default=0.0)
            owner.kill()
            over = await probe(bootstrap, prefix, TENANTS * 2)
            after = memory(heir)
            print(
                f"\nrate {rate}: sent in {sent:.0f} s, decided in {took:.0f} s; neighbour at most {slowest:.1f} s;"
                f" memory {before:.0f} MB, of the heir {after:.0f} MB; take-over {over:.1f} s;"
                f" loop late by {late:.3f} s at most, {max(lateness(heir), default=0.0):.3f} s in the take-over"
            )
            print(re.findall(r"shard taken over.*", heir.text()))
            assert max(before, after) <= 300
            assert over <= SESSION + 5
