"""Cancelling what waits beside the service's ordinary work, on a real broker: how much later others leave meanwhile.

`python -m bench.cancel_beside [--cancelled N] [--rate R]`: of requests that leave one after another at the limit, how
long after the promised time each can be read, before a cancel of what waits behind them and during it.
"""

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaConsumer

from bench.memory import use_memory
from bench.pipeline.contenders import PARTITIONS, UNREACHED, Setting, gate_command
from bench.pipeline.load import Shape, fill
from bench.pipeline.process import Process
from bench.pipeline.topics import Topics, partitions_of
from gate.client import Filter, GateControl
from gate.kafka.local import LocalBroker
from gate.protocol.headers import NOT_BEFORE, STAMP, parse_stamp
from gate.protocol.topics import Names

PREFIX: Final = "beside"
SECONDS: Final = 20.0  # of what goes before the cancel, and is compared with what goes during it
MOST: Final = 2.0
BURST: Final = 5.0  # seconds' worth
PATIENCE: Final = 300.0
KEY: Final = "cancelled"
ROOM: Final = 60.0  # seconds' worth of others: they are not to end before the cancel does


class Cancelled(Shape):
    """Requests of one key, of the same tenant and lane as others: they wait behind them."""

    def requests(self) -> Any:
        for _, value, headers in super().requests():
            yield KEY.encode(), value, headers


class Lags:
    """How long after its promised time each request could be read, with when that was."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.ms: list[float] = []
        self.ready = asyncio.Event()

    async def follow(self, bootstrap: str, delayed: Any, waiting: int, admitted: Any) -> None:
        """Read what was promised to all that wait, and then what is admitted from now on."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap, isolation_level="read_committed", fetch_max_wait_ms=20,
            auto_offset_reset="earliest",
        )  # fmt: skip
        await consumer.start()
        promised: dict[str, int] = {}
        try:
            consumer.assign(delayed)
            async for record in consumer:
                headers = dict(record.headers)
                promised[parse_stamp(headers[STAMP]).id] = int(headers[NOT_BEFORE])
                if len(promised) >= waiting:
                    break
            consumer.assign(admitted)
            await consumer.seek_to_end(*admitted)
            self.ready.set()
            while True:
                for records in (await consumer.getmany(timeout_ms=50)).values():
                    now, clock = 1000 * time.time(), time.monotonic()
                    for record in records:
                        due = promised.get(parse_stamp(dict(record.headers)[STAMP]).id)
                        if due is not None:
                            self.at.append(clock)
                            self.ms.append(now - due)
        finally:
            await consumer.stop()

    def between(self, begin: float, end: float) -> list[float]:
        """Return those of a time."""
        return [late for at, late in zip(self.at, self.ms, strict=True) if begin <= at < end]


async def measure(bootstrap: str, cancelled: int, rate: float) -> bool:
    """Tell whether the bound holds."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    setting = Setting(bootstrap, PREFIX, UNREACHED, folder)
    # a bucket that runs over while the machine is elsewhere would put off all that is promised
    limits = {"requests_per_second": rate, "burst_size": round(BURST * rate), "window_size": None, "max_delay": "10d"}
    (requests,), (admitted,), (delayed,) = (setting.topics(kind) for kind in ("requests", "admitted", "delayed"))
    async with Topics(bootstrap) as topics:
        await topics.create(dict.fromkeys((requests, admitted, delayed), PARTITIONS))
        parts, out, wait = (partitions_of([topic], PARTITIONS) for topic in (requests, admitted, delayed))
        with Process("beside", gate_command(setting, "exactly_once", limits), folder / "log") as process:
            others = round(rate * (SECONDS + ROOM + cancelled / 1_000))
            await fill(bootstrap, parts, others, Shape(100))
            await _reach(topics, parts, others, process)
            await fill(bootstrap, parts, cancelled, Cancelled(100))
            await _reach(topics, parts, others + cancelled, process)
            print(f"{others:,} others and {cancelled:,} that are to be cancelled wait", flush=True)
            lags = Lags()
            following = asyncio.create_task(lags.follow(bootstrap, wait, await topics.count(wait), out))
            async with asyncio.timeout(PATIENCE):
                await lags.ready.wait()
            began = time.monotonic()
            await asyncio.sleep(SECONDS)
            commanded = time.monotonic()
            async with GateControl(bootstrap, prefix=Names(PREFIX).prefix) as control:
                answer = await control.cancel(setting.services[0], Filter(key=KEY), reason="measured")
            ended = time.monotonic()
            await asyncio.sleep(1)
            following.cancel()
            process.check()
    shutil.rmtree(folder, ignore_errors=True)
    assert answer.done == cancelled, answer
    without, during = lags.between(began, commanded), lags.between(commanded, ended)
    print(f"{answer.done:,} cancelled in {ended - commanded:.1f} s; {len(during):,} others left meanwhile", flush=True)
    cuts = [statistics.quantiles(found, n=100) for found in (without, during)]
    for name, cut in zip(("before", "during"), cuts, strict=True):
        print(f"  release lag {name}: p50 {cut[49]:.1f} ms, p99 {cut[98]:.1f} ms", flush=True)
    ratio = cuts[1][98] / cuts[0][98]
    print(f"  p99 during / before: {ratio:.2f} (bound {MOST:g}){'' if ratio <= MOST else ': FAILED'}", flush=True)
    return ratio <= MOST


async def _reach(topics: Topics, partitions: Any, wanted: int, process: Process) -> None:
    end = time.monotonic() + PATIENCE
    while await topics.committed(PREFIX, partitions) < wanted:
        process.check()
        if time.monotonic() > end:
            raise process.failed(f"{wanted:,} were not decided in {PATIENCE:g} s")
        await asyncio.sleep(0.2)


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cancelled", type=int, default=100_000)
    parser.add_argument("--rate", type=int, default=2_000, help="limit of the service, requests a second")
    given = parser.parse_args()
    use_memory()
    with LocalBroker.start(heap="1g", optimize=True) as broker:
        return 0 if asyncio.run(measure(broker.bootstrap, given.cancelled, given.rate)) else 1


if __name__ == "__main__":
    sys.exit(main())
