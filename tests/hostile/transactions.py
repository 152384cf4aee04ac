"""Producers' transactions: committed, aborted, and left open by a producer that is no more until they time out."""

import asyncio
from collections import Counter
from random import Random
from typing import Final

from aiokafka import AIOKafkaProducer

from tests.hostile import stage

OPEN_MS: Final = 5_000  # until the coordinator ends what nobody ends
OPEN_EVERY: Final = 20
SERVICES: Final = ("bad-open", "bad-plain", "bad-hold")


async def transactions(
    bootstrap: str, seed: int, now_ms: int, number: int, taken: Counter[str], seconds: float
) -> None:
    """Run `number` transactions one after the other within about `seconds`."""
    some = Random(f"hostile {seed} transactions")
    producer: AIOKafkaProducer | None = None
    try:
        for index in range(number):
            if producer is None:
                producer = AIOKafkaProducer(
                    bootstrap_servers=bootstrap,
                    transactional_id=f"stranger-{seed}-{index}",
                    transaction_timeout_ms=OPEN_MS,
                    linger_ms=0,
                )
                await producer.start()
            await producer.begin_transaction()
            end = "open" if index % OPEN_EVERY == 1 else some.choice(("commit", "abort"))
            sent = []
            for record in range(some.randint(1, 20)):
                topic = stage.NAMES.requests(some.choice(SERVICES))
                value = b"%s %d %d" % (end.encode(), index, record)
                sent.append(await producer.send(topic, value, key=b"k", partition=some.randrange(stage.PARTITIONS)))
            await asyncio.gather(*sent)
            if end == "open":
                await _vanish(producer)
                producer = None
            elif end == "commit":
                await producer.commit_transaction()
                taken["transactions"] += len(sent)
            else:
                await producer.abort_transaction()
            await asyncio.sleep(seconds / number)
    finally:
        if producer is not None:
            await producer.stop()


async def _vanish(producer: AIOKafkaProducer) -> None:
    """Be gone as after a SIGKILL: without a word to the broker."""
    task = producer._sender.sender_task
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
    producer._closed = True
    await producer.client.close()
