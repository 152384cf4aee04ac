"""Producers: they send the requests of a scenario as their time comes."""

import asyncio
import json
from asyncio import Future
from typing import Any, Final

from aiokafka import AIOKafkaProducer

from gate.cli.demo.scenario import Part
from gate.kafka.access import access
from gate.kafka.connect import running
from gate.protocol.headers import ID

CUSTOMERS: Final = 50  # different keys
_FLUSH_SECONDS: Final = 15.0


async def offer(bootstrap: str, topic: str, part: Part, seconds: float) -> set[str]:
    """Send the requests of a part for `seconds`; return `topic-partition@offset` of each, as the broker confirmed it.

    Raises KafkaError or TimeoutError if a request could not be sent: then nobody can say what was submitted.
    """
    loop = asyncio.get_running_loop()
    sent: list[Future[Any]] = []
    async with running(AIOKafkaProducer(**access(bootstrap), enable_idempotence=True)) as producer:
        start = loop.time()
        for number, moment in enumerate(part.arrivals(seconds)):
            if (pause := start + moment - loop.time()) > 0:
                await asyncio.sleep(pause)
            key, value, headers = _request(part, number)
            sent.append(await producer.send(topic, value, key=key, headers=headers))
        async with asyncio.timeout(_FLUSH_SECONDS):
            confirmed = await asyncio.gather(*sent)
    return {f"{at.topic}-{at.partition}@{at.offset}" for at in confirmed}


def _request(part: Part, number: int) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    customer = f"customer-{number * 7 % CUSTOMERS}"
    headers = [(ID, f"{part.service}-{number}".encode()), ("content-type", b"application/json")]
    return customer.encode(), json.dumps({"number": number, "customer": customer}).encode(), headers
