"""Requests of services that did nothing: a steady few each second, and the broker notes when each came."""

import asyncio
from typing import Final

from aiokafka import AIOKafkaProducer

from tests.hostile import stage

TICK: Final = 1 / stage.INNOCENT_RATE


async def offer(bootstrap: str, stop: asyncio.Event) -> int:
    """Offer until `stop` is set; return how many the broker has."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, request_timeout_ms=120_000)
    await producer.start()
    sent = 0
    try:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not stop.is_set():
            for service in stage.INNOCENT:
                topic, partition = stage.NAMES.requests(service), sent // len(stage.INNOCENT) % stage.PARTITIONS
                await producer.send(topic, b"%d" % sent, key=b"k%d" % (sent % 7), partition=partition)
                sent += 1
            due = max(due + TICK, loop.time())
            await asyncio.sleep(due - loop.time())
    finally:
        await producer.stop()
    return sent
