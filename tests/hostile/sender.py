"""Sends hostile records, as a process of its own: `python -m tests.hostile.sender --bootstrap HOST:PORT --seed 1`.

Writes what the broker took and what it refused as lines of JSON, twice a second, and a last one with `"done": true`.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from time import monotonic, time
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, NotLeaderForPartitionError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.structs import TopicPartition

from tests.hostile import kinds
from tests.hostile.kinds import Shot
from tests.hostile.transactions import transactions

TIMEOUT_MS: Final = 30_000
ATTEMPTS: Final = 20
BACKOFF: Final = 0.2
UNDER_WAY: Final = 4  # requests at a time
TELL: Final = 0.5


class Sender:
    """Raw produce requests over aiokafka's client."""

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client
        self.taken: Counter[str] = Counter()  # records by kind
        self.refused: Counter[str] = Counter()  # batches by kind and error

    async def send(self, shot: Shot) -> int:
        """Send one batch; return the broker's error code."""
        raw = shot.batch.encode()
        for _ in range(ATTEMPTS):
            node = self._client.cluster.leader_for_partition(TopicPartition(shot.topic, shot.partition))
            if node is None or node == -1:
                await self._client.force_metadata_update()
                await asyncio.sleep(BACKOFF)
                continue
            request = ProduceRequest(None, -1, TIMEOUT_MS, [(shot.topic, [(shot.partition, raw)])])
            answer: Any = await self._client.send(node, request)
            ((_, ((_, code, *_),)),) = answer.topics
            if for_code(code) not in {NotLeaderForPartitionError, UnknownTopicOrPartitionError}:
                break
            await asyncio.sleep(BACKOFF)
        else:
            raise KafkaError(f"{shot.topic}-{shot.partition} has no leader")
        if code:
            self.refused[f"{shot.kind}: {for_code(code).__name__}"] += 1
        else:
            self.taken[shot.kind] += len(shot.batch)
        return int(code)

    async def run(self, shots: Iterable[Shot], total: int, seconds: float) -> None:
        """Send all of them, spread over about `seconds`."""
        begun, given = monotonic(), 0
        waiting: set[asyncio.Task[int]] = set()
        for shot in shots:
            given += len(shot.batch)
            await asyncio.sleep(max(0.0, begun + seconds * min(1.0, given / total) - monotonic()))
            waiting.add(asyncio.create_task(self.send(shot)))
            if len(waiting) >= UNDER_WAY:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        await asyncio.gather(*waiting)

    def tell(self, *, done: bool = False) -> None:
        print(json.dumps({"taken": self.taken, "refused": self.refused, "done": done}), flush=True)


async def _tell(sender: Sender) -> None:
    while True:
        await asyncio.sleep(TELL)
        sender.tell()


async def run(given: argparse.Namespace) -> None:
    now_ms = given.now or round(time() * 1000)
    shots: Iterable[Shot]
    total = given.tenants or given.records
    if given.tenants:
        shots = kinds.many_tenants(given.seed, given.tenants, now_ms)
    else:
        shots = kinds.shots(given.seed, given.records, now_ms, given.only, given.each)
        if given.each:
            total = given.each * len(kinds.SHARES)
    client = AIOKafkaClient(bootstrap_servers=given.bootstrap, request_timeout_ms=2 * TIMEOUT_MS)
    await client.bootstrap()
    try:
        sender = Sender(client)
        telling = asyncio.create_task(_tell(sender))
        try:
            if not given.tenants and (not given.only or "transactions" in given.only):
                number = max(20, given.records // 500)
                opened = transactions(given.bootstrap, given.seed, now_ms, number, sender.taken, given.seconds)
            else:
                opened = asyncio.sleep(0)
            await asyncio.gather(sender.run(shots, total, given.seconds), opened)
        finally:
            telling.cancel()
        sender.tell(done=True)
    finally:
        await client.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--records", type=int, default=0)
    parser.add_argument("--each", type=int, default=0, help="so many records of each kind")
    parser.add_argument("--tenants", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--now", type=int, help="unix ms, from which dates count")
    asyncio.run(run(parser.parse_args(arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
