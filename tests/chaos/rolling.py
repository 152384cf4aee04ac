"""A run on three brokers: each is restarted cleanly, one is killed and comes back, one stands still for a while.

Requests are offered all the time, a good part of them parked; afterwards everything is read and judged as in `run`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import monotonic, time
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from gate.kafka.local import LocalCluster
from gate.policy import parse_policy
from gate.protocol.headers import decided_at
from tests.chaos import faults, load, topics
from tests.chaos.load import NAMES, PARTITIONS, PREFIX, SHARES
from tests.chaos.members import Incident, Members
from tests.chaos.run import BROKER_PROPERTIES, Report, drain, errors_of, judge_topics
from tests.system.gates import create

CALM = "no fault"  # to compare with
AT_MOST = 300.0  # seconds of offering
# Of the limits that `load.policy` sets for a rate. `left` and `right`, which have the least to spare, get a fifth more
# than is offered: all are parked after each fault for some times its length, and little is left to wait for at the end.
ALLOWED = 0.6
STEADY = ("calm", "busy", "quick", "lanes", "costly")  # have something to decide at any time
AWAY = 1.0  # that a node is gone
ASLEEP = 7.0  # that a node stands still: longer than its session of 4 s
RECOVERY = 60.0  # that it may take until all nodes have all again
POLL = 0.3
RESTARTS = "shard restarts"


@dataclass
class Phase:
    """What one fault came to. Times are unix ms."""

    name: str
    begun: int
    ended: int
    restarts: int  # of shards
    pauses: dict[str, int] = field(default_factory=dict)  # the longest by service, ms

    def line(self) -> str:
        pauses = ", ".join(f"{service} {self.pauses[service]} ms" for service in STEADY)
        seconds = (self.ended - self.begun) / 1000
        return f"{self.name} ({seconds:.1f} s): longest pauses {pauses}; shards started anew {self.restarts} times"


@dataclass
class Rolling:
    """What a run came to."""

    report: Report
    phases: list[Phase]

    def lines(self) -> Iterator[str]:
        """Yield it for a terminal."""
        yield from self.report.lines()
        yield from (f"  {phase.line()}" for phase in self.phases)


async def run(
    folder: Path, *, seed: int, rate: float, gates: int = 2, properties: Mapping[str, str] | None = None
) -> Rolling:
    """Offer `rate` requests a second while nodes go and come back; then judge what is there."""
    report, phases = Report(seed), list[Phase]()
    text = load.policy(ALLOWED * rate)
    cluster = await asyncio.to_thread(
        LocalCluster.start, folder / "cluster", properties={**BROKER_PROPERTIES, **(properties or {})}
    )
    members = Members(folder, cluster.bootstrap, PREFIX, text, faults.Plan(seed, (), ()))
    try:
        await create(cluster.bootstrap, *(NAMES.requests(s) for s in SHARES), partitions=PARTITIONS, copies=3)
        offering = load.Offering(cluster.bootstrap, round(rate * AT_MOST), AT_MOST)
        watch = Watch()
        async with asyncio.TaskGroup() as group:
            group.create_task(offering.run())
            await members.run(gates)
            watching = group.create_task(watch.run(cluster.bootstrap))
            await _faults(cluster, members, phases, watch)
            offering.enough = True
            watching.cancel()
        report.offered = sum(offering.sent.values())
        await drain(cluster.bootstrap, report)
        await asyncio.to_thread(members.stop)
        report.incidents = members.incidents
        report.gate_errors = errors_of(members.logs)
        # how well limits are used is not for a machine that three brokers share with it
        await judge_topics(report, parse_policy(f"prefix: {PREFIX}\n{text}"), cluster.bootstrap, idle=False)
    finally:
        members.close()
        await asyncio.to_thread(cluster.stop)
    for phase in phases:
        phase.pauses = {s: longest(moments, phase.begun, phase.ended) for s, moments in report.moments.items()}
    return Rolling(report, phases)


class Watch:
    """Looks which services have requests admitted."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}  # ms of the newest decision, by topic

    async def run(self, bootstrap: str) -> None:
        names = [NAMES.admitted(service) for service in STEADY]
        while not set(names) <= set(await topics.topics(bootstrap)):
            await asyncio.sleep(POLL)
        async for record in topics.follow(bootstrap, names):
            self.seen[record.topic] = max(self.seen.get(record.topic, 0), decided_at(record.headers) or 0)

    async def all_since(self, moment: int, patience: float = RECOVERY) -> None:
        """Wait until each service has had a request admitted after a moment, ms."""
        end = monotonic() + patience
        while silent := [s for s in STEADY if self.seen.get(NAMES.admitted(s), 0) <= moment]:
            assert monotonic() < end, f"nothing of {silent} was admitted for {patience:g} s"
            await asyncio.sleep(POLL)


async def _faults(cluster: LocalCluster, members: Members, phases: list[Phase], watch: Watch) -> None:
    """Let nodes go and come back one by one."""

    @asynccontextmanager
    async def phase(name: str) -> AsyncIterator[None]:
        before, begun = count(members.logs, RESTARTS), time()
        yield
        await whole(cluster)
        await watch.all_since(round(1000 * time()))
        phases.append(Phase(name, round(1000 * begun), round(1000 * time()), count(members.logs, RESTARTS) - before))
        if name != CALM:
            members.incidents.append(Incident(begun, name, until=time()))
        await asyncio.sleep(1.0)

    async def leader() -> int:
        return int((await partitions(cluster, [NAMES.state]))[0]["leader"])

    await watch.all_since(round(1000 * time()))
    await asyncio.sleep(1.0)
    async with phase(CALM):
        await asyncio.sleep(3.0)
    for number in cluster.numbers:
        async with phase(f"clean restart of node {number}"):
            await asyncio.to_thread(cluster.stop_node, number)
            await asyncio.sleep(AWAY)
            await asyncio.to_thread(cluster.start_nodes, number)
    node = await leader()
    async with phase(f"SIGKILL of node {node}, which leads {NAMES.state}-0"):
        await asyncio.to_thread(cluster.kill, node)
        await asyncio.sleep(AWAY)
        await asyncio.to_thread(cluster.start_nodes, node)
    node = await leader()
    async with phase(f"SIGSTOP of node {node} for {ASLEEP:g} s, which leads {NAMES.state}-0"):
        await asyncio.to_thread(cluster.pause, node)
        await asyncio.sleep(ASLEEP)
        await asyncio.to_thread(cluster.resume, node)


async def partitions(cluster: LocalCluster, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return the partitions of topics, of all if none are named, as the brokers describe them."""
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap, request_timeout_ms=5_000)
    await admin.start()
    try:
        found = await admin.describe_topics(names or await admin.list_topics())
    finally:
        await admin.close()
    return [partition for topic in found for partition in sorted(topic["partitions"], key=lambda p: p["partition"])]


async def whole(cluster: LocalCluster) -> None:
    """Wait until each node has everything again: who stops the next one sooner stops them all."""
    end = monotonic() + RECOVERY
    while True:
        try:
            found = await partitions(cluster)
            if all(len(partition["isr"]) == len(cluster.numbers) and partition["leader"] > 0 for partition in found):
                return
            missing = [p for p in found if len(p["isr"]) < len(cluster.numbers)]
        except (KafkaError, OSError, TimeoutError) as error:
            missing = [error]
        assert monotonic() < end, f"not whole after {RECOVERY:g} s: {missing[:5]}"
        await asyncio.sleep(POLL)


def longest(moments: Sequence[int], begun: int, ended: int) -> int:
    """Return the longest time without a decision that begins or ends in a span; all in ms."""
    return max((b - a for a, b in pairwise(moments) if a <= ended and b >= begun), default=0)


def count(logs: Sequence[Path], text: str) -> int:
    """Return how often logs say something."""
    return sum(log.read_text(errors="replace").count(text) for log in logs)
