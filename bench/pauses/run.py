"""One run: start both, strike, read what came out, and see how long each lane stood."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.pauses import contenders as who
from bench.pauses.contenders import Contender
from bench.pauses.faults import BEFORE, BETWEEN, KINDS
from bench.pauses.load import Load
from bench.pauses.stage import Stage
from gate.kafka.local import LocalCluster
from gate.shard.records import Partition
from tests.chaos import topics

INSTANCES = 2
WARM_UP = 10.0  # seconds, for the JVM above all
PROPERTIES = {"auto.leader.rebalance.enable": "false"}  # leaders move where a fault moves them, and nowhere else
LOAD = "load"  # what could not be sent at all
DRAIN = 60.0  # seconds


@dataclass(slots=True)
class Struck:
    """What a fault came to. Times are unix ms; `pauses` by contender: seconds of each lane."""

    kind: str
    round: int
    begun: int
    ended: int
    pauses: dict[str, list[float]] = field(default_factory=dict)

    def worst(self, contender: str) -> float:
        return max(self.pauses[contender])

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class Outcome:
    struck: list[Struck]
    wrong: list[str]  # what was lost or doubled


async def run(
    folder: Path,
    kinds: Sequence[str],
    rounds: int,
    rate: float,
    properties: Mapping[str, str],
    say: Callable[[str], None],
) -> Outcome:
    """Strike each kind once a round, in the order of the kinds; `properties` of brokers come on top."""
    cluster = await asyncio.to_thread(LocalCluster.start, folder / "cluster", properties={**PROPERTIES, **properties})
    contenders: list[Contender] = []
    try:
        contenders += [make(cluster.bootstrap, folder) for make in (who.gate, who.kafka_streams)]
        stage = Stage(cluster, contenders, say)
        await stage.create()
        load = Load(cluster.bootstrap, contenders, rate)
        struck: list[Struck] = []
        done = 0
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            for contender in contenders:
                for _ in range(INSTANCES):
                    contender.start()
            await stage.flows()
            await asyncio.sleep(WARM_UP)
            await stage.elect()
            for number in range(rounds):
                for kind in kinds:
                    struck += await _strike(stage, kind, number + 1)
                    done, seconds = done + 1, time.monotonic() - begun
                    say(f"   {done} of {rounds * len(kinds)} faults after {seconds:.0f} s")
            load.enough = True
        outputs = {contender.name: await _read(cluster.bootstrap, contender, load) for contender in contenders}
    finally:
        for contender in contenders:
            contender.stop()
        await asyncio.to_thread(cluster.stop)
    lanes = {name: found for name, (found, _) in outputs.items()}
    lanes[LOAD] = [load.taken[p] for contender in contenders for p in contender.requests]
    for one in struck:
        one.pauses = {
            name: [longest(moments, one.begun, one.ended) / 1000 for moments in found] for name, found in lanes.items()
        }
    return Outcome(struck, [text for _, wrong in outputs.values() for text in wrong])


async def _strike(stage: Stage, kind: str, number: int) -> list[Struck]:
    """Have a kind of fault happen, and wait until nothing of it is left."""
    if kind in BEFORE:
        await BEFORE[kind](stage)
    stage.say(f"-- {kind}")
    struck = [Struck(kind, number, round(1000 * time.time()), 0)]

    async def over() -> None:
        await stage.whole()
        await stage.flows()
        struck[-1].ended = round(1000 * time.time())

    async def another() -> None:
        await over()
        await asyncio.sleep(BETWEEN)
        struck.append(Struck(kind, number, round(1000 * time.time()), 0))

    stage.next = another
    await KINDS[kind](stage)
    await over()
    await stage.elect()
    await asyncio.sleep(BETWEEN)
    await stage.flows()
    return struck


async def _read(bootstrap: str, contender: Contender, load: Load) -> tuple[list[list[int]], list[str]]:
    """Return when each lane had outputs, unix ms, and what is wrong with them."""
    names = sorted({p.topic for p in contender.outputs})
    end = time.monotonic() + DRAIN
    while True:
        moments: dict[Partition, list[int]] = {p: [] for p in contender.outputs}
        seen: dict[Partition, Counter[int]] = {p: Counter() for p in contender.outputs}
        async for record in topics.read(bootstrap, names):
            place = Partition(record.topic, record.partition)
            moments[place].append(record.timestamp)
            seen[place][int(record.value or 0)] += 1
        pairs = list(zip(contender.requests, contender.outputs, strict=True))
        lost = {p: sorted(load.sent[p] - seen[output].keys()) for p, output in pairs}
        if not any(lost.values()) or time.monotonic() > end:
            break
        await asyncio.sleep(BETWEEN)
    twice = {p: sorted(n for n, count in seen[output].items() if count > 1) for p, output in pairs}
    wrong = [
        f"{contender.name}: {len(numbers)} requests of {p.topic}-{p.number} {what}, such as {numbers[:3]}"
        for what, found in (("are lost", lost), ("came out more than once", twice))
        for p, numbers in found.items()
        if numbers
    ]
    return [sorted(moments[p]) for p in contender.outputs], wrong


def longest(moments: Sequence[int], begun: int, ended: int) -> int:
    """Return the longest time without an output that begins or ends in a span; all in ms."""
    return max((b - a for a, b in pairwise(moments) if a <= ended and b >= begun), default=ended - begun)
