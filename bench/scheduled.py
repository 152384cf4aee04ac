"""Requests that wait for a time of their own, on a real broker: what a million of them take, and how late each goes.

`python -m bench.scheduled [--requests N] [--rate R] [--mixed M]`: prints each figure, beside the bound it is to hold.
"""

import argparse
import asyncio
import itertools
import random
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
from gate.kafka.local import LocalBroker
from gate.protocol.headers import STAMP, START, parse_stamp

LIMITS: Final = {"requests_per_second": UNREACHED, "burst_size": UNREACHED, "window_size": None}
PREFIX: Final = "scheduled"
WARM_UP: Final = 100_000  # requests that wait for nothing: what any load takes is there by then
BEFORE: Final = 60.0  # seconds that may pass until all wait: the first is due then
PER_REQUEST: Final = 80e-6  # seconds that it takes to have one wait, on top of that
MOST_MB: Final = 40.0
LATEST_MS: Final = 150
PATIENCE: Final = 600.0


class Later(Shape):
    """Requests of which each has a time, those that are sent together in no order within so many."""

    def __init__(self, count: int, first_ms: int, rate: float, mixed: int) -> None:
        super().__init__(100)
        starts = [first_ms + round(1000 * number / rate) for number in range(count)]
        for first in range(0, count, mixed):
            part = starts[first : first + mixed]
            random.Random(first).shuffle(part)
            starts[first : first + mixed] = part
        object.__setattr__(self, "starts", starts)

    def requests(self) -> Any:
        for request, start in zip(super().requests(), itertools.cycle(self.starts), strict=False):  # type: ignore[attr-defined]
            key, value, headers = request  # one that no batch has room for is left out
            yield key, value, [*headers, (START, b"%d" % start)]


async def measure(bootstrap: str, count: int, rate: float, mixed: int) -> bool:
    """Have so many wait, and follow them as they go; tell whether all bounds hold."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    setting = Setting(bootstrap, PREFIX, UNREACHED, folder)
    (requests,), (admitted,), (delayed,) = (setting.topics(kind) for kind in ("requests", "admitted", "delayed"))
    async with Topics(bootstrap) as topics:
        await topics.create(dict.fromkeys((requests, admitted, delayed), PARTITIONS))
        parts, out, wait = (partitions_of([topic], PARTITIONS) for topic in (requests, admitted, delayed))
        with Process("scheduled", gate_command(setting, "exactly_once", LIMITS), folder / "log") as process:
            await fill(bootstrap, parts, WARM_UP, Shape(100))
            await _reach(lambda: topics.committed(PREFIX, parts), WARM_UP, process)
            await asyncio.sleep(2)
            before, _ = process.memory()
            began = time.monotonic()
            first = round(1000 * (time.time() + BEFORE + PER_REQUEST * count))
            await fill(bootstrap, parts, count, Later(count, first, rate, mixed))
            await _reach(lambda: topics.committed(PREFIX, parts), WARM_UP + count, process)
            print(f"{count:,} wait after {time.monotonic() - began:.0f} s", flush=True)
            await asyncio.sleep(2)
            waiting = await topics.count(wait)
            assert waiting == count, f"{waiting} wait"
            assert time.time() * 1000 < first, "they were not there before the first was due: raise PER_REQUEST"
            more = (process.memory()[0] - before) / 1e6
            stamped, seen = await _follow(bootstrap, out, count)
            process.check()
    shutil.rmtree(folder, ignore_errors=True)
    return all(
        [
            _tell("memory for them, MB", more, MOST_MB),
            _told("decided after its time", stamped),
            _told("to be read after its time", seen),
            _tell("decided before its time", sum(late < 0 for late in stamped), 0),
        ]
    )


async def _follow(bootstrap: str, partitions: Any, count: int) -> tuple[list[int], list[int]]:
    """Return how many ms after its time each was decided, and read."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed", fetch_max_wait_ms=20)
    stamped: list[int] = []
    seen: list[int] = []
    await consumer.start()
    try:
        consumer.assign(partitions)
        await consumer.seek_to_end(*partitions)
        async with asyncio.timeout(PATIENCE + BEFORE + PER_REQUEST * count + count / 500):
            while len(stamped) < count:
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    now = round(1000 * time.time())
                    for record in records:
                        headers = dict(record.headers)
                        start = int(headers[START])
                        stamped.append(record.timestamp - start)
                        seen.append(now - start)
                    assert parse_stamp(headers[STAMP]).verdict == "admitted"
    finally:
        await consumer.stop()
    return stamped, seen


async def _reach(passed: Any, wanted: int, process: Process) -> None:
    end = time.monotonic() + PATIENCE
    while await passed() < wanted:
        process.check()
        if time.monotonic() > end:
            raise process.failed(f"{wanted:,} were not decided in {PATIENCE:g} s")
        await asyncio.sleep(0.2)


def _told(what: str, lates: list[int]) -> bool:
    cuts = statistics.quantiles(lates, n=1000)
    print(f"  {what}, ms: p50 {cuts[499]:.0f}, p99 {cuts[989]:.0f}, p99.9 {cuts[998]:.0f}", flush=True)
    return _tell(f"{what} at the most, ms", max(lates), LATEST_MS)


def _tell(what: str, found: float, bound: float) -> bool:
    print(f"  {what}: {found:.1f} (bound {bound:g}){'' if found <= bound else ': FAILED'}", flush=True)
    return found <= bound


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=2_000.0, help="of those that are due, a second")
    parser.add_argument("--mixed", type=int, default=1_000, help="requests that are sent in no order; 0: all of them")
    given = parser.parse_args()
    use_memory()
    with LocalBroker.start(heap="1g", optimize=True) as broker:
        return (
            0
            if asyncio.run(measure(broker.bootstrap, given.requests, given.rate, given.mixed or given.requests))
            else 1
        )


if __name__ == "__main__":
    sys.exit(main())
