"""The requests: 10 B keys, three headers as producers send them, values of a given size."""

import asyncio
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer

from bench.pipeline.topics import Partition

BATCH_BYTES = 1 << 20
IN_FLIGHT = 8  # batches that wait for the broker, so that a load of any size fits into memory
HEADERS = [("source", b"checkout"), ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-01"), ("schema", b"7")]


@dataclass(frozen=True, slots=True)
class Shape:
    """What each request looks like. `tenants`: how many share the load; 0: no header names one. `ids`: each has one."""

    value_size: int = 100
    tenants: int = 0
    ids: bool = False

    def requests(self) -> Iterator[tuple[bytes, bytes, list[tuple[str, bytes]]]]:
        value = bytes(itertools.islice(itertools.cycle(b"admission "), self.value_size))
        own = os.urandom(4).hex().encode()  # warm-up and load come apart
        for number in itertools.count():
            headers = HEADERS
            if self.tenants:
                headers = [*HEADERS, ("gate-tenant", b"t%06d" % (number % self.tenants))]
            if self.ids:
                headers = [*headers, ("gate-id", b"%b-%012d" % (own, number))]
            yield b"k%09d" % (number % 1000), value, headers


async def fill(bootstrap: str, partitions: Sequence[Partition], count: int, shape: Shape) -> None:
    """Write `count` requests, dealt out evenly, in batches as large as the broker takes them."""
    producer: Any = AIOKafkaProducer(bootstrap_servers=bootstrap, acks=1, max_batch_size=BATCH_BYTES)
    await producer.start()
    try:
        requests, pending = shape.requests(), []
        for index, partition in enumerate(partitions):
            left = count // len(partitions) + (index < count % len(partitions))
            while left:
                batch = producer.create_batch()
                while left:
                    key, value, headers = next(requests)
                    if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                        break
                    left -= 1
                batch.close()
                pending.append(await producer.send_batch(batch, partition.topic, partition=partition.partition))
                if len(pending) >= IN_FLIGHT:
                    await pending.pop(0)
        await asyncio.gather(*pending)
    finally:
        await producer.stop()
