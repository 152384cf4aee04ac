"""Requests as they were recorded, for replay: the request topic is the recording."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka.errors import KafkaError

from gate.admission.replay import Request
from gate.kafka.aio.client import Client
from gate.kafka.aio.reader import BACKOFF, EARLIEST, LATEST, Reader
from gate.protocol.headers import Malformed, read_options
from gate.shard.records import Fetched, Partition

DEADLINE: Final = 30.0
FETCH_BYTES: Final = 4 << 20


@asynccontextmanager
async def reader(**client_options: Any) -> AsyncIterator[Reader]:
    """Connect a reader."""
    client = Client(**client_options)
    try:
        await client.bootstrap()
        yield Reader(client)
    finally:
        await client.close()


async def recorded(
    source: Reader, topic: str, partitions: int, since_ms: int | None, on_progress: Callable[[int, int], None]
) -> tuple[list[Request], int]:
    """Return the requests of a topic since a time, by their time, and how many could not be read.

    `on_progress` gets how many offsets of how many have been read.
    """
    all_ = [Partition(topic, number) for number in range(partitions)]
    async with asyncio.timeout(DEADLINE):
        ends = await source.offsets(all_, LATEST)
        starts = await source.offsets(all_, EARLIEST if since_ms is None else since_ms)
    total = sum(ends[p] - starts[p] for p in all_ if 0 <= starts[p] < ends[p])
    found: list[Request] = []
    malformed = done = 0
    for partition in all_:
        position = starts[partition]
        while 0 <= position < ends[partition]:
            fetched = await fetch(source, partition, position)
            for record in fetched.records:
                options = read_options(record.headers)
                if isinstance(options, Malformed):
                    malformed += 1
                else:
                    found.append(
                        Request(
                            record.timestamp,
                            options.lane,
                            options.tenant,
                            options.cost,
                            options.deadline_ms,
                            options.start_ms,
                        )
                    )
            done += fetched.next_offset - position
            position = fetched.next_offset
            on_progress(done, total)
    found.sort(key=lambda request: request.at_ms)
    return found, malformed


async def fetch(source: Reader, partition: Partition, position: int) -> Fetched:
    """Fetch from one partition, trying again while its leader moves."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                answer = await source.fetch_one(partition, position, wait_ms=500, partition_bytes=FETCH_BYTES)
            except KafkaError as error:
                if not error.retriable:
                    raise
                source.refresh()  # the leader has moved
                await asyncio.sleep(BACKOFF)
                continue
            if answer is not None:
                return answer
