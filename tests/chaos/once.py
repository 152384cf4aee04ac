"""Ids once only, amid kills: `python -m tests.chaos.once --requests 1000000 --kills 20 --minutes 20`.

A tenth of the requests repeat the id of an earlier one. Gates are killed all the time, in the middle of batches too. In
the end each id was admitted once, no first one was refused, and what was refused names the one that was admitted.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from gate.kafka.local import LocalBroker
from gate.protocol.topics import Names, Templates
from gate.shard.failpoints import POINTS
from tests.system.gates import GateProcess, create, stamp

PREFIX = "once"
PARTITIONS = 4
SERVICE = "pay"
POLICY = (
    "services: {{pay: {{requests_per_second: 1000000, burst_size: 1000000, window_size: null,"
    " deduplicate: {{for: 12h, at_most: {ids}}}}}}}"
)
REPEATS = 0.1
READY_SECONDS = 60.0
NAMES = Names(PREFIX, Templates())


@dataclass(slots=True)
class Found:
    """What is in the topics: admitted ids by the request's id, and refused ones with the request that each repeats."""

    admitted: dict[str, bytes] = field(default_factory=dict)
    refused: dict[str, tuple[bytes, str | None]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def judge(self, offered: dict[bytes, int]) -> None:
        """Note what should not be; `offered` says how often each id was sent."""
        firsts: dict[bytes, list[str]] = {}
        for request, name in self.admitted.items():
            firsts.setdefault(name, []).append(request)
        twice = {name: places for name, places in firsts.items() if len(places) > 1}
        self.problems += [f"admitted {len(places)} times: {name!r} {places}" for name, places in twice.items()]
        self.problems += [f"refused, and never admitted: {name!r}" for name in offered.keys() - firsts.keys()]
        for request, (name, first) in self.refused.items():
            if first is None or self.admitted.get(first) != name:
                self.problems.append(f"{request} ({name!r}) was refused for {first}, which was not admitted as that")
        both = self.admitted.keys() & self.refused.keys()
        self.problems += [f"{request} was admitted and refused" for request in both]
        missing = sum(offered.values()) - len(self.admitted) - len(self.refused)
        if missing:
            self.problems.append(f"{missing} requests have no end")


async def offer(bootstrap: str, requests: int, seconds: float, random: Random) -> dict[bytes, int]:
    """Send requests of new ids, and now and then one of an earlier id; return how often each was sent."""
    offered: dict[bytes, int] = {}
    names: list[bytes] = []
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, linger_ms=20)
    await producer.start()
    begun, pending = monotonic(), []
    try:
        for number in range(requests):
            if names and random.random() < REPEATS:
                name = names[-random.randrange(1, min(len(names), random.choice((5, 2_000, 10**9))) + 1)]
            else:
                name = b"%d-%d" % (number, random.getrandbits(32))
                names.append(name)
            offered[name] = offered.get(name, 0) + 1
            headers = [("gate-id", name)]
            topic = NAMES.requests(SERVICE)
            pending.append(await producer.send(topic, b"{}", headers=headers, partition=random.randrange(PARTITIONS)))
            if number % 1_000 == 999:
                await asyncio.gather(*pending)
                pending.clear()
                await asyncio.sleep(max(0.0, begun + seconds * number / requests - monotonic()))
        await asyncio.gather(*pending)
    finally:
        await producer.stop()
    return offered


async def committed(bootstrap: str, topic: str) -> AsyncIterator[object]:
    """Yield the committed records of a topic."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        parts = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        ends = await consumer.end_offsets(parts)
        while any([await consumer.position(part) < ends[part] for part in parts]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    yield record
    finally:
        await consumer.stop()


async def look(bootstrap: str) -> Found:
    """Read what was admitted and what was refused."""
    found = Found()
    async for record in committed(bootstrap, NAMES.admitted(SERVICE)):
        request, name = stamp(record).id, dict(record.headers)["gate-id"]
        if request in found.admitted:
            found.problems.append(f"{request} is there twice")
        found.admitted[request] = name
    async for record in committed(bootstrap, NAMES.rejected(SERVICE)):
        told = stamp(record)
        if told.reason != "duplicate":
            found.problems.append(f"{told.id} was refused for {told.reason}")
        found.refused[told.id] = dict(record.headers)["gate-id"], told.first
    return found


async def kill_all_the_time(
    folder: Path, bootstrap: str, kills: int, seconds: float, ids: int, random: Random, say: Callable[[str], None]
) -> list[GateProcess]:
    """Keep two gates running, of which one after the other is killed; return those that live in the end."""
    number = 0

    def start(*, last: bool = False) -> GateProcess:
        nonlocal number
        number += 1
        place = folder / f"gate{number}"
        place.mkdir()
        point = f"{random.choice(sorted(POINTS))}:{random.randrange(1, 40)}"
        env = {} if last or random.random() < 0.5 else {"GATE_FAILPOINT": point}
        return GateProcess(place, bootstrap, PREFIX, POLICY.format(ids=ids), env=env)

    gates = [start(), start()]
    for kill in range(kills):
        await asyncio.sleep(seconds / kills)
        victim = kill % 2
        code = gates[victim].process.poll()
        gates[victim].kill()
        gates[victim].close()
        say(f"kill {kill + 1} of {kills}{' (it had come to its point)' if code is not None else ''}")
        gates[victim] = start(last=kill >= kills - 2)
    return gates


async def run(
    folder: Path, *, requests: int, kills: int, seconds: float, seed: int = 1, say: Callable[[str], None] = print
) -> Found:
    """Offer, kill, wait until all is decided, and judge."""
    random = Random(f"once {seed}")
    broker = await asyncio.to_thread(LocalBroker.start)
    gates: list[GateProcess] = []
    try:
        await create(broker.bootstrap, NAMES.requests(SERVICE), partitions=PARTITIONS)
        await create(broker.bootstrap, NAMES.admitted(SERVICE), NAMES.rejected(SERVICE), partitions=PARTITIONS)
        killing = asyncio.create_task(
            kill_all_the_time(folder, broker.bootstrap, kills, seconds, requests, Random(f"kills {seed}"), say)
        )
        offered = await offer(broker.bootstrap, requests, seconds, random)
        gates = await killing
        end = monotonic() + READY_SECONDS + seconds
        found = await look(broker.bootstrap)
        while len(found.admitted) + len(found.refused) < requests and monotonic() < end:
            await asyncio.sleep(2)
            found = await look(broker.bootstrap)
        found.judge(offered)
        for gate in gates:
            with suppress(Exception):
                gate.stop()
    finally:
        for gate in gates:
            gate.close()
        await asyncio.to_thread(broker.stop)
    return found


def main() -> int:
    """Run once; exit 1 on any anomaly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="once-") as folder:
        seconds = 60 * given.minutes
        found = asyncio.run(
            run(Path(folder), requests=given.requests, kills=given.kills, seconds=seconds, seed=given.seed)
        )
    print(f"{len(found.admitted)} admitted, {len(found.refused)} refused as duplicates, {given.kills} kills")
    print("\n".join(found.problems[:20]) or "0 duplicates admitted, 0 first ones refused")
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
