"""A run on three brokers under every kind of fault that a cluster knows: offer, break, wait, read everything, judge.

Faults come one after the other, each kind as often as the others, in an order that the seed says. The next one begins
when every copy is whole again and every service has had a request admitted since.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic, time

from gate.kafka.local import LocalCluster
from gate.policy import Policy, parse_policy
from gate.shard.placement import shard_of
from tests.chaos import faults, load
from tests.chaos.kinds import KINDS
from tests.chaos.load import NAMES, PARTITIONS, PREFIX, SHARDS, SHARES
from tests.chaos.members import Incident, Members
from tests.chaos.readiness import Asking, problems
from tests.chaos.rolling import RESTARTS, STEADY, Watch, count, longest
from tests.chaos.run import BROKER_PROPERTIES, Report, drain, errors_of, judge_topics
from tests.chaos.stage import RECOVERY, Links, Stage
from tests.system.gates import create

GATES = 3
CALM = 3.0  # seconds before the first fault, to compare with
BETWEEN = (0.2, 3.0)  # seconds from the end of one fault to the next one
PROPERTIES = {
    "replica.lag.time.max.ms": "5000",  # a copy that is cut off is given up soon
    "transactional.id.expiration.ms": "10000",
    "transaction.remove.expired.transaction.cleanup.interval.ms": "2000",
}
COMPACTION = {
    "log.cleaner.enable": "true",
    "log.cleaner.backoff.ms": "500",
    "log.cleaner.min.cleanable.ratio": "0.01",
}
TINY = {"segment.bytes": str(1 << 20), "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01"}
ARRIVAL = {"message.timestamp.type": "LogAppendTime"}  # of requests: when each came, whenever it was sent
AS_MADE = {"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime", "max.message.bytes": str(4 << 20)}


@dataclass
class Struck:
    """What one fault came to. Times are unix ms."""

    kind: str
    begun: int
    ended: int
    restarts: int  # of shards
    pauses: dict[str, int] = field(default_factory=dict)  # the longest by service, ms

    @property
    def pause(self) -> int:
        return max((self.pauses[service] for service in STEADY), default=0)


@dataclass
class Outcome:
    """What a run came to."""

    report: Report
    struck: list[Struck]

    def lines(self) -> Iterator[str]:
        """Yield it for a terminal."""
        yield from self.report.lines()
        for kind in dict.fromkeys(one.kind for one in self.struck):
            of_kind = [one for one in self.struck if one.kind == kind]
            pauses = sorted(one.pause / 1000 for one in of_kind)
            yield (
                f"  {kind} x {len(of_kind)}: longest pause of a service {pauses[len(pauses) // 2]:.1f} s (median),"
                f" {pauses[-1]:.1f} s at most; shards started anew {sum(one.restarts for one in of_kind)} times"
            )


def draw(seed: int, number: int, kinds: Sequence[str]) -> list[str]:
    """Draw so many faults, each kind as often as the others."""
    random, drawn = Random(f"nodes {seed}"), list[str]()
    while len(drawn) < number:
        some = list(kinds)
        random.shuffle(some)
        drawn += some
    return drawn[:number]


async def run(
    folder: Path,
    *,
    seed: int,
    number: int,
    requests: int,
    rate: float,
    gates: int = GATES,
    kinds: Sequence[str] = tuple(KINDS),
    compact: bool = False,
    idle: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Offer `requests` at `rate` a second, and more as long as there are faults to come; then judge what is there."""
    report, struck = Report(seed), list[Struck]()
    text = load.policy(rate)  # so that what has come in an outage is gone soon after the end
    drawn = draw(seed, number, kinds)
    links = Links(seed)
    await links.start()
    cluster = await asyncio.to_thread(
        LocalCluster.start,
        folder / "cluster",
        properties={**BROKER_PROPERTIES, **PROPERTIES, **(COMPACTION if compact else {})},
        properties_of=links.properties,
    )
    members = Members(folder, cluster.bootstrap, PREFIX, text, faults.Plan(seed, (), ()), say)
    members.ways, members.options = {0: links.bootstrap}, ("--http", "0")
    stage = Stage(cluster, links, members, Random(f"faults {seed}"), say)
    begun = monotonic()
    try:
        requested = [NAMES.requests(s) for s in SHARES]
        await create(cluster.bootstrap, *requested, partitions=PARTITIONS, copies=3, **ARRIVAL)
        seconds = 100_000.0  # it is told when it is enough
        offering = load.Offering(cluster.bootstrap, round(rate * seconds), seconds)
        watch, asking = Watch(), Asking(members)
        async with asyncio.TaskGroup() as group:
            group.create_task(offering.run())
            await members.run(gates)
            watching = [group.create_task(one) for one in (watch.run(cluster.bootstrap), asking.run())]
            await watch.all_since(round(1000 * time()), RECOVERY)
            if compact:
                await stage.alter(NAMES.state, {**AS_MADE, **TINY})  # it takes all that is not named back
            report.times["start"], begun = monotonic() - begun, monotonic()
            await asyncio.sleep(CALM)
            for kind in drawn:
                struck.append(await _strike(stage, kind, watch))
                await asyncio.sleep(stage.random.uniform(*BETWEEN))
            report.times["faults"], begun = monotonic() - begun, monotonic()
            while sum(offering.sent.values()) < requests:
                await asyncio.sleep(0.2)
            offering.enough = True
            for task in watching:
                task.cancel()
        report.offered = sum(offering.sent.values())
        await drain(cluster.bootstrap, report)
        report.times["drain"], begun = monotonic() - begun, monotonic()
        await asyncio.to_thread(members.stop)
        report.incidents = members.incidents
        report.gate_errors = errors_of(members.logs)
        policy = parse_policy(f"prefix: {PREFIX}\n{text}")
        await judge_topics(report, policy, cluster.bootstrap, idle=idle, whole=not compact)
        report.problems += [f"readiness: {problem}" for problem in _untrue(asking, policy, report)]
        report.times["check"] = monotonic() - begun
    finally:
        members.close()
        await links.stop()
        await asyncio.to_thread(cluster.stop)
    for one in struck:
        one.pauses = {s: longest(moments, one.begun, one.ended) for s, moments in report.moments.items()}
    return Outcome(report, struck)


def _untrue(asking: Asking, policy: Policy, report: Report) -> list[str]:
    """Return what `/readyz` has said of itself that was not so."""
    arrived: dict[int, list[int]] = {}
    decided: dict[int, list[int]] = {}
    for service in SHARES:
        shard = shard_of(policy.shard_key(service), SHARDS)
        decided.setdefault(shard, []).extend(report.moments[service])  # green is who decides anything
        if service in STEADY:  # others may have reasons to wait
            arrived.setdefault(shard, []).extend(report.arrived[service])
    answers = asking.found()
    said = [ready for one in answers for _, ready in one.said]
    report.notes.append(
        f"readyz: green {said.count(True)}, red {said.count(False)}, no answer {said.count(None)} times"
    )
    return problems(answers, arrived, decided)


async def _strike(stage: Stage, kind: str, watch: Watch) -> Struck:
    """Have one fault happen, and wait until nothing of it is left."""
    logs = stage.members.logs
    before, begun = count(logs, RESTARTS), time()
    stage.say(f"-- {kind}")
    await KINDS[kind](stage)
    await stage.whole()
    await watch.all_since(round(1000 * time()), RECOVERY)
    struck = Struck(kind, round(1000 * begun), round(1000 * time()), count(logs, RESTARTS) - before)
    everything = frozenset(range(SHARDS))
    stage.members.incidents.append(Incident(begun, f"fault: {kind}", shards=everything, until=time()))
    stage.say(f"   over after {time() - begun:.1f} s, {struck.restarts} shards started anew")
    return struck
