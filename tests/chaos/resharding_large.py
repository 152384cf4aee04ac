"""How long a thousand services with a hundred thousand parked requests take to move, killed at each point on the way.

`python -m tests.chaos.resharding_large`; the state is written by the engines that write it in a gate. Afterwards every
record is in its place, as it was, and engines made from them have all that is parked.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from gate.admission.engine import Engine
from gate.admission.limits.budget import Budgets
from gate.admission.model import SECOND
from gate.kafka.aio.client import Client
from gate.kafka.aio.compacted import read_all
from gate.kafka.aio.reader import Reader
from gate.kafka.local import LocalBroker
from gate.policy import Policy, parse_policy
from gate.protocol.topics import Names
from gate.shard.changelog_records import FORMAT, META_KEY, Meta, encode_meta, read_meta
from gate.shard.failpoints import RESHARD_POINTS
from gate.shard.placement import shard_of
from gate.shard.positions import Positions
from gate.shard.records import Partition
from tests.admission.simulation import Simulation
from tests.system.gates import create

NAMES = Names("large")
START = 1_764_000_000 * SECOND
BEFORE, BETWEEN, AFTER = 16, 24, 32
TEXT = f"prefix: {NAMES.prefix}\nshards: {BEFORE}\ndefaults: {{requests_per_second: 1, burst_size: 1}}\n"


@dataclass
class Found:
    """What a run came to."""

    commands: list[tuple[str, float]] = field(default_factory=list)  # and the seconds that each took
    problems: list[str] = field(default_factory=list)


def state_of(policy: Policy, services: int, parked: int) -> dict[str, dict[str, bytes]]:
    """Return what engines write of services with so many parked requests each."""
    states = {}
    for number in range(services):
        service = f"service-{number}"
        sim = Simulation(replace(policy.effective(service), name=service), now=START, budgets=Budgets(START, {}))
        sim.offer(1 + parked)
        sim.save()
        positions = Positions(NAMES, {}, 0)
        positions.advance(service, 0, [], 1 + parked)
        states[service] = {**sim.state, f"offsets/{service}": positions.record(service)}
    return states


async def fill(bootstrap: str, states: Mapping[str, Mapping[str, bytes]], parked: int) -> None:
    """Write the state as the owners of its shards would have, and the group's offsets."""
    await create(
        bootstrap, NAMES.state, partitions=BEFORE,
        **{"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"},
    )  # fmt: skip
    await create(bootstrap, NAMES.control, NAMES.alerts, NAMES.usage, partitions=1)
    topics = [NAMES.requests(service) for service in states]
    for first in range(0, len(topics), 200):
        await create(bootstrap, *topics[first : first + 200], partitions=1)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    try:
        for service, records in states.items():
            shard = shard_of(service, BEFORE)
            for key, value in records.items():
                await producer.send(NAMES.state, value, key=key.encode(), partition=shard)
        for shard in range(BEFORE):
            meta = encode_meta(Meta(FORMAT, BEFORE, START, START - SECOND))
            await producer.send(NAMES.state, meta, key=META_KEY.encode(), partition=shard)
    finally:
        await producer.stop()
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=NAMES.prefix, enable_auto_commit=False)
    await consumer.start()
    try:
        places = [TopicPartition(topic, 0) for topic in topics]
        consumer.assign(places)
        await consumer.commit(dict.fromkeys(places, 1 + parked))
    finally:
        await consumer.stop()


def command(config: Path, bootstrap: str, shards: int, point: str = "") -> tuple[int, float, str]:
    begun = monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "gate", "reshard", str(shards), "--config", config, "--bootstrap", bootstrap],
        capture_output=True, text=True, check=False,
        env={**os.environ, **({"GATE_FAILPOINT": point} if point else {})},
    )  # fmt: skip
    return done.returncode, monotonic() - begun, done.stdout + done.stderr


async def judge(bootstrap: str, states: Mapping[str, Mapping[str, bytes]], policy: Policy, found: Found) -> int:
    """Compare what is in force with what was written; return how many parked requests engines find there."""
    client = Client(bootstrap_servers=bootstrap)
    await client.bootstrap()
    parked = 0
    try:
        for shard in range(AFTER):
            kept = await read_all(Reader(client), Partition(f"{NAMES.state}.3", shard))
            mine = {s: records for s, records in states.items() if shard_of(s, AFTER) == shard}
            wanted = {key: value for records in mine.values() for key, value in records.items()}
            if {key: value for key, value in kept.items() if "/" in key} != wanted:
                found.problems.append(f"shard {shard} does not hold what it should")
            if read_meta(kept.get(META_KEY), AFTER).closed is not None:
                found.problems.append(f"shard {shard} is closed")
            for service, records in mine.items():
                own = {key: kept[key] for key in records if not key.startswith("offsets/") and key in kept}
                engine = Engine.restore(
                    service, policy.effective(service), Budgets(START, {}), START, policy.version, own
                )  # fmt: skip
                parked += engine.waiting
    finally:
        await client.close()
    return parked


async def run(folder: Path, *, services: int, parked: int) -> Found:
    """Fill, move with a kill at each point, and compare."""
    found, policy = Found(), parse_policy(TEXT)
    config = folder / "policy.yaml"
    config.write_text(TEXT)
    broker = await asyncio.to_thread(LocalBroker.start, folder / "broker")
    try:
        states = state_of(policy, services, parked)
        await fill(broker.bootstrap, states, parked)
        for point in RESHARD_POINTS:
            shards = AFTER if point == RESHARD_POINTS[-1] else BETWEEN  # the one before it may have come to its end
            code, seconds, said = await asyncio.to_thread(command, config, broker.bootstrap, shards, point)
            found.commands.append((f"to {shards} shards, killed at {point}", seconds))
            if code != -signal.SIGKILL:
                found.problems.append(f"not killed at {point}: {code} {said}")
            if point == "in-flip" or shards == AFTER:
                code, seconds, said = await asyncio.to_thread(command, config, broker.bootstrap, shards)
                found.commands.append((f"to {shards} shards: {' '.join(said.split())}", seconds))
                if code:
                    found.problems.append(f"to {shards} shards: {code} {said}")
        waiting = await judge(broker.bootstrap, states, policy, found)
        if waiting != services * parked:
            found.problems.append(f"{waiting} are parked, not {services * parked}")
    finally:
        await asyncio.to_thread(broker.stop)
    return found


def main() -> int:
    """Run once; exit 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=1_000)
    parser.add_argument("--parked", type=int, default=100, help="requests of each service")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="large-") as folder:
        found = asyncio.run(run(Path(folder), services=given.services, parked=given.parked))
    for what, seconds in found.commands:
        print(f"{seconds:5.1f} s  {what}")
    print(f"{sum(seconds for _, seconds in found.commands):5.1f} s  all of them", *found.problems, sep="\n")
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
