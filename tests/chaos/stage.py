"""What faults of a cluster are made with: its nodes by role, the links between them, and the gates."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from random import Random
from time import monotonic

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from gate.kafka.local import LocalCluster
from gate.kafka.local.config import HOST, Site, free_port
from gate.shard.records import Partition
from tests.chaos import orders
from tests.chaos.load import NAMES, PREFIX, SHARDS
from tests.chaos.members import Members
from tests.chaos.proxy import Delay, Drop, Proxy, Request
from tests.chaos.rolling import POLL, partitions

RECOVERY = 150.0  # seconds that it may take until all nodes have all again, on a machine that others use
ORDER_MS = 20_000
LATE = (0.2, 3.0)  # seconds after a cut in which what it has held is delivered

Judge = Callable[[Request], Delay | Drop | None]


class Links:
    """Proxies on the way from broker to broker, and from one of the gates to each broker."""

    def __init__(self, seed: int, nodes: Collection[int] = (1, 2, 3)) -> None:
        ports: set[int] = set()

        def port() -> int:
            ports.add(found := free_port(taken=ports))
            return found

        self._random = Random(f"links {seed}")
        self._between = {number: Proxy(port(), port()) for number in nodes}  # by the one that is connected to
        self._to_gate = {number: Proxy(port(), port()) for number in nodes}

    @property
    def bootstrap(self) -> str:
        """What the gate behind the proxies is to connect to."""
        return ",".join(proxy.bootstrap for proxy in self._to_gate.values())

    def properties(self, site: Site) -> Mapping[str, str]:
        """Return the listeners that a node has behind the proxies."""
        between, to_gate = self._between[site.number], self._to_gate[site.number]
        return {
            "listeners": f"BETWEEN://{HOST}:{between.upstream},GATE://{HOST}:{to_gate.upstream}",
            "advertised.listeners": (
                f"PLAINTEXT://{site.address},BETWEEN://{between.bootstrap},GATE://{to_gate.bootstrap}"
            ),
            "listener.security.protocol.map": (
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,BETWEEN:PLAINTEXT,GATE:PLAINTEXT"
            ),
            "inter.broker.listener.name": "BETWEEN",
        }

    async def start(self) -> None:
        for proxy in (*self._between.values(), *self._to_gate.values()):
            await proxy.start()

    async def stop(self) -> None:
        for proxy in (*self._between.values(), *self._to_gate.values()):
            await proxy.stop()

    async def cut_gate(self, node: int, seconds: float) -> None:
        """Cut the gate off from a broker: refuse it, or let nothing through until late."""
        await self._cut({self._to_gate[node]: ""}, seconds)

    async def cut(self, one: int, others: Collection[int], seconds: float) -> None:
        """Cut a broker off from others, both ways."""
        cuts = [(self._between[one], other) for other in others] + [(self._between[other], one) for other in others]
        for proxy, _ in cuts:
            await proxy.renew()
        by_proxy: dict[Proxy, tuple[str, ...]] = {}
        for proxy, other in cuts:
            by_proxy[proxy] = (*by_proxy.get(proxy, ()), f"broker-{other}-")
        await self._cut(by_proxy, seconds)

    async def _cut(self, prefixes: "Mapping[Proxy, str | tuple[str, ...]]", seconds: float) -> None:
        end = monotonic() + seconds
        refuses = self._random.random() < 0.5

        def judge_by(prefix: "str | tuple[str, ...]") -> Judge:
            def judge(request: Request) -> Delay | Drop | None:
                if not request.client.startswith(prefix):
                    return None
                return Drop() if refuses else Delay(end - monotonic() + self._random.uniform(*LATE))

            return judge

        for proxy, prefix in prefixes.items():
            proxy.judge = judge_by(prefix)
        await asyncio.sleep(seconds)
        for proxy in prefixes:
            proxy.judge = lambda _: None


@dataclass
class Stage:
    """A cluster under load, and what can be done to it."""

    cluster: LocalCluster
    links: Links
    members: Members
    random: Random
    say: Callable[[str], None]

    # -- who is who ------------------------------------------------------------------------------------------------

    async def leader(self) -> int:
        """Return the node that leads the state of some shard."""
        return int(self.random.choice(await partitions(self.cluster, [NAMES.state]))["leader"])

    async def group_coordinator(self) -> int:
        return await self._coordinator(PREFIX, 0)

    async def transaction_coordinator(self) -> int:
        return await self._coordinator(f"{PREFIX}-{self.random.randrange(SHARDS)}", 1)

    async def controller(self) -> int:
        return await orders.controller(self.cluster.bootstrap)

    async def _coordinator(self, key: str, kind: int) -> int:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.cluster.bootstrap, request_timeout_ms=5_000)
        await admin.start()
        try:
            return int(await admin.find_coordinator(key, kind))
        finally:
            await admin.close()

    # -- what is done to it ----------------------------------------------------------------------------------------

    async def stop(self, node: int) -> None:
        self.say(f"   stop node {node}")
        await asyncio.to_thread(self.cluster.stop_node, node)

    async def kill(self, *nodes: int) -> None:
        self.say(f"   kill {nodes}")
        for node in nodes:
            await asyncio.to_thread(self.cluster.kill, node)

    async def begin(self, *nodes: int) -> None:
        await asyncio.to_thread(self.cluster.start_nodes, *nodes)

    async def alter(self, topic: str, configs: Mapping[str, str]) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.cluster.bootstrap)
        await admin.start()
        try:
            (answer,) = await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, dict(configs))])
            assert not any(code for code, *_ in answer.resources), answer
        finally:
            await admin.close()

    async def ours(self) -> dict[Partition, list[int]]:
        """Return the partitions of all topics of the gate, and where their copies are."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.cluster.bootstrap)
        await admin.start()
        try:
            found = await admin.describe_topics()
        finally:
            await admin.close()
        return {
            Partition(topic["topic"], partition["partition"]): partition["replicas"]
            for topic in found
            if topic["topic"].startswith(f"{PREFIX}.")
            for partition in topic["partitions"]
        }

    async def order(self, request: object) -> None:
        """Have the controller do something."""
        async with orders.connected(self.cluster.bootstrap) as client:
            answer = await client.send(client.get_random_node(), request)
        assert not answer.error_code, answer

    async def whole(self) -> None:
        """Wait until each node has everything again: who stops the next one sooner stops them all."""
        end = monotonic() + RECOVERY
        missing: list[object] = ["nothing is known"]
        while missing:
            assert monotonic() < end, f"not whole after {RECOVERY:g} s: {missing[:5]}"
            try:
                found = await partitions(self.cluster)
                every = set(self.cluster.numbers)
                missing = [p for p in found if set(p["isr"]) != every or p["leader"] <= 0]
            except (KafkaError, OSError, TimeoutError) as error:
                missing = [error]
            await asyncio.sleep(POLL)
