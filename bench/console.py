"""What the console costs: 10,000 services whose usage comes as from gates, and 50 who look.

`python -m bench.console [--services N] [--viewers N] [--seconds S]`: prints the share of a core that `gate console`
takes while nobody looks, while all look at the list, and while they look at services with their plots.
"""

import argparse
import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

from aiokafka import AIOKafkaProducer

from bench.history import Service
from bench.memory import use_memory
from gate.kafka.cluster import Cluster
from gate.kafka.local import LocalBroker
from gate.observe.usage import encode, to_json
from gate.protocol.topics import Names
from gate.shard.usage_schedule import USAGE_SLOTS

PREFIX: Final = "many"
NAMES: Final = Names(PREFIX)
_READS: Final = 12  # a minute


def main() -> None:
    """Measure, and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--services", type=int, default=10_000)
    arguments.add_argument("--viewers", type=int, default=50)
    arguments.add_argument("--active", type=float, default=1.0, help="which part of the services anything comes for")
    arguments.add_argument("--seconds", type=float, default=20.0)
    given = arguments.parse_args()
    use_memory()
    with LocalBroker.start(heap="1g", optimize=True) as broker:
        services = [Service(f"service-{number:05}", number) for number in range(given.services)]
        asyncio.run(_fill(broker.bootstrap, services))
        command = [sys.executable, "-m", "gate", "console", "--bootstrap", broker.bootstrap, "--prefix", PREFIX]
        with subprocess.Popen([*command, "--http", "0"], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            asyncio.run(_measure(broker.bootstrap, services, given, process.pid, url))
            process.send_signal(signal.SIGTERM)


async def _fill(bootstrap: str, services: list[Service]) -> None:
    cluster = Cluster(NAMES, create=True, replication_factor=1, bootstrap_servers=bootstrap)
    await cluster.start()
    await cluster.ensure(*cluster.common_specs(64))
    await cluster.close()
    async with _producing(bootstrap) as producer:
        for service in services:
            await _tell(producer, service)


@asynccontextmanager
async def _producing(bootstrap: str) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=20)
    await producer.start()
    yield producer
    await producer.stop()


async def _measure(bootstrap: str, services: list[Service], given: argparse.Namespace, process: int, url: str) -> None:
    place = urlsplit(url)
    host, port, viewers = str(place.hostname), int(place.port or 0), given.viewers
    active = services[: max(1, int(given.services * given.active))]
    async with _producing(bootstrap) as producer, asyncio.TaskGroup() as group:
        telling = group.create_task(_go_on(producer, active))
        await _get(host, port, "/v1/pressure?size=1")
        print(f"{given.services:,} services, {len(active):,} of them told of every {USAGE_SLOTS} s")
        await _share(process, "the topics are read, nobody looks", given.seconds)
        looking = [group.create_task(_look(host, port, "/live/pressure")) for _ in range(viewers)]
        await asyncio.sleep(3)
        await _share(process, f"{viewers} look at the list", given.seconds)
        for task in looking:
            task.cancel()
        names = [f"service-{number % 5:05}" for number in range(viewers)]
        looking = [group.create_task(_look(host, port, f"/live/service/{name}")) for name in names]
        looking += [group.create_task(_plot(host, port, f"/v1/history/{name}")) for name in names]
        await asyncio.sleep(3)
        await _share(process, f"{viewers} look at five services with their plots", given.seconds)
        for task in (*looking, telling):
            task.cancel()


async def _tell(producer: AIOKafkaProducer, service: Service) -> None:
    shown = to_json(service.usage(USAGE_SLOTS)) | {"undecided": 0, "undecided_age_seconds": 0.0, "waiting": []}
    told = {**shown, "at_ms": time.time_ns() // 1_000_000, "shard": 3, "generation": 1, "owner": "host-a:4711"}
    await producer.send(NAMES.usage, encode(told), key=service.name.encode())


async def _go_on(producer: AIOKafkaProducer, services: list[Service]) -> None:
    each = max(1, len(services) // (USAGE_SLOTS * 10))
    while True:
        for first in range(0, len(services), each):
            began = time.monotonic()
            for service in services[first : first + each]:
                await _tell(producer, service)
            await asyncio.sleep(max(0.0, 0.1 - (time.monotonic() - began)))


async def _share(process: int, what: str, seconds: float) -> None:
    before, began = _spent(process), time.monotonic()
    await asyncio.sleep(seconds)
    print(f"  {what}: {100 * (_spent(process) - before) / (time.monotonic() - began):.2f} % of a core", flush=True)


def _spent(process: int) -> float:
    with open(f"/proc/{process}/stat") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _get(host: str, port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    said = f"GET {path} HTTP/1.1", f"Host: {host}:{port}", "Accept-Encoding: gzip", "Connection: close"
    writer.write("\r\n".join([*said, "", ""]).encode())
    answer = await reader.read()
    writer.close()
    assert b" 200 " in answer[:20], answer[:200]
    return answer


async def _look(host: str, port: int, path: str) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    try:
        while await reader.read(1 << 16):
            pass
    finally:
        writer.close()


async def _plot(host: str, port: int, path: str) -> None:
    """Read as the page does: all once a minute, else the end."""
    for read in itertools.count():
        await _get(host, port, f"{path}?since={'2m' if read % _READS else '15m'}&step=1")
        await asyncio.sleep(5)


if __name__ == "__main__":
    main()
