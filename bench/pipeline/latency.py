"""How long a request takes at light load, and how late a parked one leaves; medians and 99th percentiles in ms.

Load generator and reader are this process, by one monotonic clock: 100 requests a second, one by one, without linger.
Beside the gate, the same over a single topic: a plain produce and fetch, the broker's and the clients' own share. The
gate's way is twice that (request topic, admitted topic) and its own work; exactly once adds the transaction.
"""

import asyncio
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.pipeline.contenders import PARTITIONS, UNREACHED, Setting, gate_command
from bench.pipeline.plan import figure
from bench.pipeline.process import Process
from bench.pipeline.topics import Topics, partitions_of
from bench.results import Result
from gate.protocol.headers import NOT_BEFORE, STAMP, parse_stamp

RATE = 100  # requests per second
WARM_UP = 100  # requests that are sent before those that count
DEADLINE = 60.0  # seconds beyond the time that a load takes
FREE = {"requests_per_second": UNREACHED, "window_size": None}
TIGHT_RATE, TIGHT_COUNT = 50, 400  # a burst of 8 seconds' worth: what does not fit is parked
TIGHT = {"requests_per_second": TIGHT_RATE, "burst_size": TIGHT_RATE, "window_size": None}


async def measure(bootstrap: str, *, quick: bool) -> list[Result]:
    """Raises FailedError if the gate ends or records do not come."""
    rounds, seconds = (1, 5) if quick else (3, 20)
    samples: dict[str, list[list[float]]] = {"plain": [], "at_least_once": [], "exactly_once": []}
    lags = []
    for _ in range(rounds):  # side by side: what slows the machine for a while slows all of them
        for name, found in samples.items():
            found.append(await _light_load(bootstrap, name, seconds))
        lags.append(await _release(bootstrap))
    results = []
    for name, found in samples.items():
        results += _percentiles(f"latency/{name}", found, "ms from produce to fetch at light load")
    return results + _percentiles("release-lag", lags, "ms from the promised time to fetch, exactly once")


def _percentiles(name: str, samples: list[list[float]], unit: str) -> list[Result]:
    cuts = [statistics.quantiles(sample, n=100) for sample in samples]
    return [figure(f"{name}/p{percent}", [cut[percent - 1] for cut in cuts], unit) for percent in (50, 99)]


async def _light_load(bootstrap: str, name: str, seconds: int) -> list[float]:
    limits = None if name == "plain" else FREE
    async with _stage(bootstrap, name, limits) as (setting, process):
        requests = setting.topics("requests")[0]
        answers = requests if limits is None else setting.topics("admitted")[0]
        sent: list[float] = []
        async with _clients(bootstrap, answers) as (producer, consumer):

            async def send(count: int) -> None:
                start = time.monotonic()
                for number in range(count):
                    await asyncio.sleep(start + number / RATE - time.monotonic())
                    sent.append(time.monotonic())
                    value = b"%d" % (len(sent) - 1)
                    await producer.send(requests, value, partition=number % PARTITIONS)

            async def receive(count: int) -> list[float]:
                lags = []
                while len(lags) < count:
                    record = await consumer.getone()
                    lags.append((time.monotonic() - sent[int(record.value)]) * 1e3)
                return lags

            try:
                async with asyncio.timeout(seconds + WARM_UP / RATE + DEADLINE):
                    await asyncio.gather(send(WARM_UP), receive(WARM_UP))
                    _, lags = await asyncio.gather(send(seconds * RATE), receive(seconds * RATE))
            except TimeoutError:
                raise process.failed("requests at light load did not come out") from None
            return lags


async def _release(bootstrap: str) -> list[float]:
    async with _stage(bootstrap, "exactly_once", TIGHT) as (setting, process):
        (requests,), (admitted,), (delayed,) = (setting.topics(kind) for kind in ("requests", "admitted", "delayed"))
        promised: dict[str, int] = {}
        arrived: dict[str, float] = {}
        async with _clients(bootstrap, admitted, delayed) as (producer, consumer):
            sends = [await producer.send(requests, b"x", partition=i % PARTITIONS) for i in range(TIGHT_COUNT)]
            await asyncio.gather(*sends)
            try:
                async with asyncio.timeout(TIGHT_COUNT / TIGHT_RATE + DEADLINE):
                    while len(arrived) < TIGHT_COUNT:
                        record = await consumer.getone()
                        headers = dict(record.headers)
                        request = parse_stamp(headers[STAMP]).id
                        if record.topic == delayed:
                            promised[request] = int(headers[NOT_BEFORE])
                        else:
                            arrived[request] = time.time() * 1e3
            except TimeoutError:
                raise process.failed(f"{len(arrived)} of {TIGHT_COUNT} requests came out") from None
        return [arrived[request] - promised[request] for request in promised]


@asynccontextmanager
async def _stage(
    bootstrap: str, delivery: str, limits: dict[str, Any] | None
) -> AsyncIterator[tuple[Setting, Process]]:
    """Make topics, and run a gate unless there are no limits."""
    prefix, folder = f"bench-{uuid.uuid4().hex[:8]}", Path(tempfile.mkdtemp(prefix="bench-"))
    setting = Setting(bootstrap, prefix, UNREACHED, folder)
    command = ["/bin/sleep", "infinity"] if limits is None else gate_command(setting, delivery, limits)
    async with Topics(bootstrap) as topics:
        try:
            kinds = ("requests", "admitted", "delayed")
            await topics.create({setting.topics(kind)[0]: PARTITIONS for kind in kinds})
            with Process(f"latency, {delivery}", command, folder / "log") as process:
                yield setting, process
        finally:
            await topics.drop(prefix)
            shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def _clients(bootstrap: str, *topics: str) -> AsyncIterator[tuple[Any, Any]]:
    async with AsyncExitStack() as stack:
        producer = await stack.enter_async_context(AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all"))
        consumer = await stack.enter_async_context(
            AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed")
        )
        partitions = partitions_of(topics, PARTITIONS)
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        yield producer, consumer
