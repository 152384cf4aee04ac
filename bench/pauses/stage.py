"""A cluster with both contenders on it: who leads what, and when all is as it was."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from bench.pauses.contenders import LANES, Contender
from gate.kafka.aio.client import Client
from gate.kafka.aio.reader import LATEST, Reader
from gate.kafka.aio.transaction_requests import ListTransactions
from gate.kafka.local import LocalCluster
from gate.shard.records import Partition
from tests.chaos import orders

POLL = 0.2
RECOVERY = 180.0  # seconds, on a machine that others use
ORDER_MS = 20_000
ANSWER_MS = 5_000


async def _nothing() -> None:
    pass


class NotWholeError(Exception):
    """Something did not come back in time."""


@dataclass
class Stage:
    """What faults are made with."""

    cluster: LocalCluster
    contenders: Sequence[Contender]
    say: Callable[[str], None]
    next: Callable[[], Awaitable[None]] = _nothing  # what a kind calls between two faults

    @property
    def bootstrap(self) -> str:
        return self.cluster.bootstrap

    async def _client(self) -> Client:
        client = Client(bootstrap_servers=self.bootstrap, request_timeout_ms=ANSWER_MS, client_id="bench-operator")
        await client.bootstrap()
        return client

    # -- who is who ------------------------------------------------------------------------------------------------

    async def leader(self) -> int:
        """Return the node that leads most of the state of both."""
        led: list[Counter[int]] = []
        for contender in self.contenders:
            led.append(Counter(p["leader"] for p in await self.described([contender.state])))
        return max(
            self.cluster.numbers, key=lambda node: (min(one[node] for one in led), sum(one[node] for one in led))
        )

    async def group_coordinator(self) -> int:
        """Return the coordinator of the groups of both, which is the same."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=ANSWER_MS)
        await admin.start()
        try:
            while True:  # brokers may know of a move at different times
                found = {await admin.find_coordinator(contender.group) for contender in self.contenders}
                if len(found) == 1:
                    return int(found.pop())
                await asyncio.sleep(POLL)
        finally:
            await admin.close()

    async def transaction_coordinator(self) -> int:
        """Return the node that coordinates most transactional ids of each of both."""
        client, found = await self._client(), [Counter[int]() for _ in self.contenders]
        try:
            for node in self.cluster.numbers:
                answer = await client.send(node, ListTransactions([]))
                for name, *_ in answer.transactions:
                    for contender, counted in zip(self.contenders, found, strict=True):
                        counted[node] += name.startswith(f"{contender.group}-")
        finally:
            await client.close()
        return max(
            self.cluster.numbers, key=lambda node: (min(one[node] for one in found), sum(c[node] for c in found))
        )

    async def controller(self) -> int:
        return await orders.controller(self.bootstrap)

    # -- what is done to it ----------------------------------------------------------------------------------------

    async def create(self) -> None:
        """Create what goes in and comes out, so that requests of lane N are led by the same node for both."""
        nodes = self.cluster.numbers
        wanted: dict[str, dict[int, list[int]]] = {}
        for contender in self.contenders:
            for lane in range(LANES):
                at = [nodes[(lane + n) % len(nodes)] for n in range(len(nodes))]
                for partition in (contender.requests[lane], contender.outputs[lane]):
                    wanted.setdefault(partition.topic, {})[partition.number] = at
        stamped = {p.topic for contender in self.contenders for p in contender.outputs}
        delayed = [NewTopic(t.replace("admitted", "delayed"), LANES, 3) for t in stamped if "-" in t]
        topics = [
            NewTopic(
                topic, -1, -1, replica_assignments=at,
                topic_configs={"message.timestamp.type": "LogAppendTime"} if topic in stamped else {},
            )
            for topic, at in wanted.items()
        ]  # fmt: skip
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            answer = await admin.create_topics([*topics, *delayed])
            if failed := [error for error in answer.topic_errors if error[1]]:
                raise RuntimeError(f"topics could not be created: {failed}")
        finally:
            await admin.close()

    async def described(self, topics: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return partitions, of all topics if none are named, as the brokers describe them."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=ANSWER_MS)
        await admin.start()
        try:
            found = await admin.describe_topics(topics or await admin.list_topics())
        finally:
            await admin.close()
        return [{**partition, "topic": topic["topic"]} for topic in found for partition in topic["partitions"]]

    async def stop(self, node: int) -> None:
        self.say(f"   node {node} is stopped")
        await asyncio.to_thread(self.cluster.stop_node, node)

    async def kill(self, node: int) -> None:
        self.say(f"   node {node} is killed")
        await asyncio.to_thread(self.cluster.kill, node)

    async def begin(self, node: int) -> None:
        await asyncio.to_thread(self.cluster.start_nodes, node)

    async def elect(self) -> None:
        """Have the preferred copies lead."""
        everything = [Partition(p["topic"], p["partition"]) for p in await self.described()]
        with suppress(KafkaError):  # where all are led as they should be
            async with orders.connected(self.bootstrap) as client:
                await client.send(client.get_random_node(), orders.Elect(everything, ORDER_MS))

    async def reassign(self, copies: int) -> None:
        """Move the copies of all that is the contenders' own, and wait until they are there."""
        prefixes = tuple(contender.prefix for contender in self.contenders)
        ours = [p for p in await self.described() if p["topic"].startswith(prefixes)]
        wanted = {Partition(p["topic"], p["partition"]): random.sample(self.cluster.numbers, copies) for p in ours}
        async with orders.connected(self.bootstrap) as client:
            answer = await client.send(client.get_random_node(), orders.Reassign(wanted, ORDER_MS))
        if answer.error_code:
            raise RuntimeError(f"the partitions are not moved: {answer}")

        def moved(found: Sequence[Mapping[str, Any]]) -> bool:
            at = {Partition(p["topic"], p["partition"]): p["replicas"] for p in found}
            return all(sorted(at[p]) == sorted(nodes) for p, nodes in wanted.items())

        await self._until(moved, "not moved")

    # -- when it is over -------------------------------------------------------------------------------------------

    async def _until(self, condition: Callable[[list[dict[str, Any]]], bool], what: str) -> None:
        end = monotonic() + RECOVERY
        while True:
            with suppress(KafkaError, OSError, TimeoutError, KeyError):
                if condition(await self.described()):
                    return
            if monotonic() > end:
                raise NotWholeError(f"{what} within {RECOVERY:g} s")
            await asyncio.sleep(POLL)

    async def whole(self) -> None:
        """Wait until each node has everything again."""
        count = len(self.cluster.numbers)
        await self._until(
            lambda found: all(len(p["isr"]) == len(p["replicas"]) == count and p["leader"] > 0 for p in found),
            "not all copies are whole",
        )

    async def flows(self) -> None:
        """Wait until every lane of both has had an output since."""
        client = await self._client()
        try:
            reader = Reader(client)
            outputs = [p for contender in self.contenders for p in contender.outputs]
            await reader.learn({p.topic for p in outputs})
            first: dict[Partition, int] = {}
            silent, end = set(outputs), monotonic() + RECOVERY
            while silent:
                for contender in self.contenders:
                    contender.check()
                for partition, offset in (await reader.ends(silent, LATEST, committed=True)).items():
                    if offset > first.setdefault(partition, offset):
                        silent.discard(partition)
                if monotonic() > end:
                    raise NotWholeError(f"nothing came out of {sorted(silent)} for {RECOVERY:g} s")
                await asyncio.sleep(POLL)
        finally:
            await client.close()
