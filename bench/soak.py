"""Does memory stay flat? `python -m bench.soak [--minutes 10]`: the gate under full load, its resident memory sampled.

One gate with 16 shards, 32 services, half of the load over its limit. The load is what the gate gets through: a new
portion is written when the last one is through, and topics keep two minutes. Exit code 1 if memory, over the second
half of the time, grows by more than 1 MB a minute, or reaches 150 MB.
"""

import argparse
import asyncio
import logging
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from bench.memory import use_memory
from bench.pipeline.contenders import Setting, gate_command
from bench.pipeline.load import Shape, fill
from bench.pipeline.process import FailedError, Process
from bench.pipeline.topics import Topics, partitions_of
from gate.kafka.local import LocalBroker

SERVICES = 32
PORTION = 64_000
SAMPLE = 1.0  # seconds
MOST = 150.0  # MB
STEEPEST = 1.0  # MB a minute
STUCK = 60.0  # seconds in which a portion must be through
# Some 2,000 a second are admitted, all else is turned away: a backlog that grows forever would not be flat anywhere.
LIMITS = {"requests_per_second": 60, "burst_size": 1000, "window_size": 60, "overflow": "delay", "max_delay": 30}


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Return by how much the second half of (seconds, MB) rises, MB a minute."""
    later = samples[len(samples) // 2 :]
    return statistics.linear_regression(*zip(*later, strict=True)).slope * 60


async def soak(bootstrap: str, minutes: float) -> list[tuple[float, float]]:
    """Return (seconds, MB resident). Raises FailedError if the gate ends or stands still."""
    prefix, folder = f"soak-{uuid.uuid4().hex[:8]}", Path(tempfile.mkdtemp(prefix="soak-"))
    setting = Setting(bootstrap, prefix, 0, folder, [f"service{number:02}" for number in range(SERVICES)])
    samples: list[tuple[float, float]] = []
    try:
        async with Topics(bootstrap) as topics:
            names = [topic for kind in ("requests", "admitted", "delayed") for topic in setting.topics(kind)]
            await topics.create(dict.fromkeys(names, 2))
            requests = partitions_of(setting.topics("requests"), 2)
            with Process("gate", gate_command(setting, "exactly_once", LIMITS), folder / "log") as process:
                started = progress = time.monotonic()
                sent = seen = 0
                while (now := time.monotonic()) - started < minutes * 60:
                    process.check()
                    through = await topics.committed(prefix, requests)
                    if through > seen:
                        seen, progress = through, now
                    if through >= sent:
                        await fill(bootstrap, requests, PORTION, Shape())
                        sent += PORTION
                    elif now - progress > STUCK:
                        raise process.failed(f"got through {through:,} of {sent:,} requests, then nothing")
                    if seen:
                        samples.append((now - started, process.memory()[0] / 1e6))
                        if len(samples) % 30 == 1:
                            print(f"  {now - started:5.0f} s  {samples[-1][1]:6.1f} MB  {seen:12,} through", flush=True)
                    await asyncio.sleep(max(0.0, SAMPLE - (time.monotonic() - now)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return samples


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    minutes = parser.parse_args().minutes
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    use_memory()
    keep = {
        "log.retention.ms": "120000",
        "log.segment.bytes": str(16 << 20),
        "log.retention.check.interval.ms": "10000",
    }
    with LocalBroker.start(heap="1g", properties=keep, optimize=True, on_progress=print) as broker:
        try:
            samples = asyncio.run(soak(broker.bootstrap, minutes))
        except FailedError as error:
            print(f"FAILED {error}", file=sys.stderr)
            return 1
    most, steepness = max(memory for _, memory in samples), slope(samples)
    print(
        f"memory: {most:.1f} MB at the most, {MOST:g} allowed; slope {steepness:+.3f} MB a minute, {STEEPEST:g} allowed"
    )
    return 0 if most < MOST and steepness < STEEPEST else 1


if __name__ == "__main__":
    sys.exit(main())
