"""The load: one request a lane and tick to each contender, for as long as the faults last."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic, time
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from bench.pauses.contenders import LANES, Contender, key_of
from gate.kafka.aio.client import adopt
from gate.shard.records import Partition

GIVEN_UP_MS = 1_000  # a broker that does not answer for so long: what it leads is led by another soon
MOST_WAITING = 400  # requests of a lane that are not acknowledged yet; no more are sent then


class Load:
    """Requests with numbers. `sent` holds what was acknowledged, `doubtful` what nobody knows of."""

    def __init__(self, bootstrap: str, contenders: Sequence[Contender], rate: float) -> None:
        self._bootstrap = bootstrap
        self._contenders = contenders
        self._tick = 1 / rate
        self._number = 0
        self._waiting: Counter[Partition] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self.taken: dict[Partition, list[int]] = {p: [] for c in contenders for p in c.requests}  # when, unix ms
        self.sent: dict[Partition, set[int]] = {p: set() for c in contenders for p in c.requests}
        self.doubtful = 0
        self.enough = False

    async def run(self) -> None:
        """Offer requests until it is enough."""
        producer: Any = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap, acks="all", enable_idempotence=True, linger_ms=0,
            request_timeout_ms=GIVEN_UP_MS, retry_backoff_ms=50, metadata_max_age_ms=5_000,
        )  # fmt: skip
        adopt(producer)  # it asks brokers that answer for others
        await producer.start()
        try:
            begun, ticks = monotonic(), 0
            while not self.enough:
                ticks += 1
                await asyncio.sleep(begun + ticks * self._tick - monotonic())
                self._number += 1
                for lane in range(LANES):
                    for contender in self._contenders:
                        await self._offer(producer, contender.requests[lane], lane, self._number)
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=60)
        finally:
            with suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(10):
                    await producer.stop()

    async def _offer(self, producer: Any, partition: Partition, lane: int, number: int) -> None:
        if self._waiting[partition] >= MOST_WAITING:
            return
        batch = producer.create_batch()
        batch.append(key=key_of_lane[lane], value=b"%d" % number, timestamp=None, headers=[])
        batch.close()
        self._waiting[partition] += 1
        task = asyncio.create_task(self._send(producer, batch, partition, number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, producer: Any, batch: Any, partition: Partition, number: int) -> None:
        try:
            future = await producer.send_batch(batch, partition.topic, partition=partition.number)
            written = await future
        except (KafkaError, TimeoutError):
            self.doubtful += 1
        else:
            if written.offset >= 0:
                self.sent[partition].add(number)
                self.taken[partition].append(round(1000 * time()))
            else:  # the broker saw it twice
                self.doubtful += 1
        finally:
            self._waiting[partition] -= 1


key_of_lane = [key_of(lane) for lane in range(LANES)]
