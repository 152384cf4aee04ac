"""At most so many running, amid kills of gates and workers: `python -m tests.chaos.running --kills 20 --minutes 4`.

Workers take what is admitted and tell when each is done; gates and workers are killed in turns. In the end it is
recomputed from the topics alone how many ran at any time: never more than may, and as many as may while gates lived.
"""

import argparse
import asyncio
import logging
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic, time

from aiokafka import AIOKafkaProducer

from gate.client import Worker
from gate.kafka.local import LocalBroker
from gate.policy import Policy, parse_policy
from gate.protocol.headers import is_running, parse_stamp
from gate.protocol.topics import Names
from gate.shard.failpoints import POINTS
from tests.chaos import topics
from tests.sim.running import RunningChecker
from tests.system.gates import GateProcess, create

PREFIX = "running"
SERVICE = "jobs"
NAMES = Names(PREFIX)
PARTITIONS = 4
MOST = 20
TIMEOUT = 30.0  # seconds after which a job is given up of which nobody tells
POLICY = f"services: {{jobs: {{max_running: {MOST}, running_timeout: {TIMEOUT:g}s, max_delay: 10000d}}}}"
JOB = 0.3  # seconds that a job takes
WHOLE = {"log.cleaner.enable": "false"}  # the changelog says what had been heard when
HELD_OFF = 6.0  # seconds after a gate was killed in which another takes over
SPARE = 1.3  # times what can be done in the time
LEAST = 0.99  # of the places are to be taken
MS = 1_000_000


@dataclass(slots=True)
class Found:
    """What a run came to."""

    kills: Counter[str] = field(default_factory=Counter)
    struck: list[float] = field(default_factory=list)  # unix seconds at which gates were killed
    ran: int = 0
    told: int = 0
    used: float = 0.0
    judged: float = 0.0  # seconds of which that is: not those in which another gate takes over
    problems: list[str] = field(default_factory=list)

    def lines(self) -> Sequence[str]:
        """Return the report for a terminal."""
        kills = ", ".join(f"{count} of {what}" for what, count in sorted(self.kills.items()))
        return [
            f"{self.ran} ran and {self.told} were told, at most {MOST} at once; SIGKILLs: {kills}",
            f"{self.used:.2%} of the places were taken in {self.judged:.0f} s",
            *self.problems[:20],
            f"{len(self.problems)} anomalies",
        ]


def work(bootstrap: str) -> None:
    """Do jobs until the process is killed."""
    worker = Worker(bootstrap, prefix=PREFIX, group_id="workers", concurrency=MOST, session_timeout=6.0)

    @worker.handler(SERVICE)
    async def sleep(_job: object) -> None:
        await asyncio.sleep(JOB)

    worker.main()


async def offer(bootstrap: str, count: int) -> None:
    """Send so many jobs at once."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=20) as producer:
        for first in range(0, count, 1_000):
            sends = [
                await producer.send(NAMES.requests(SERVICE), b"%d" % n, partition=n % PARTITIONS)
                for n in range(first, min(count, first + 1_000))
            ]
            await asyncio.gather(*sends)


class Processes:
    """Two gates and two workers, each replaced when it is killed."""

    def __init__(self, folder: Path, bootstrap: str, random: Random) -> None:
        self._folder, self._bootstrap, self._random = folder, bootstrap, random
        self._number = 0
        self.gates = [self._gate(), self._gate()]
        self.workers = [self._worker(), self._worker()]

    def _gate(self, *, last: bool = False) -> GateProcess:
        self._number += 1
        place = self._folder / f"gate{self._number}"
        place.mkdir()
        point = f"{self._random.choice(sorted(POINTS))}:{self._random.randrange(50, 1_000)}"
        env = {} if last or self._random.random() < 0.5 else {"GATE_FAILPOINT": point}
        return GateProcess(place, self._bootstrap, PREFIX, POLICY, env=env)

    def _worker(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "tests.chaos.running", "--work", self._bootstrap]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def kill_gate(self, which: int, *, last: bool) -> None:
        self.gates[which].kill()
        self.gates[which].close()
        self.gates[which] = self._gate(last=last)

    def kill_worker(self, which: int) -> None:
        self.workers[which].kill()
        self.workers[which].wait(10)
        self.workers[which] = self._worker()

    def fallen(self) -> list[int]:
        """Return which gates have come to their point."""
        return [which for which, process in enumerate(self.gates) if process.process.poll() is not None]

    def close(self) -> None:
        """End all."""
        for process in self.gates:
            process.close()
        for worker in self.workers:
            worker.kill()
            worker.wait(10)


async def strike(processes: Processes, kills: int, seconds: float, found: Found, say: Callable[[str], None]) -> None:
    """Kill gates and workers in turns for so long."""
    begun, number = monotonic(), 0
    while number < kills:
        due = begun + seconds * (number + 1) / (kills + 1)
        fallen = processes.fallen()
        if monotonic() < due and not fallen:
            await asyncio.sleep(0.05)
            continue
        last = number >= kills - 4
        if fallen or number % 2 == 0:
            which = fallen[0] if fallen else number // 2 % 2
            found.struck.append(time())
            found.kills["gates"] += 1
            processes.kill_gate(which, last=last)
        else:
            found.kills["workers"] += 1
            processes.kill_worker(number // 2 % 2)
        number += 1
        say(f"kill {number} of {kills}")
    await asyncio.sleep(max(0.0, begun + seconds - monotonic()))


async def judge(bootstrap: str, policy: Policy, begin: float, end: float, found: Found) -> None:
    """Recompute what ran at any time; `begin` and `end`, unix seconds, are when there was work."""
    checker = RunningChecker(NAMES, {policy.version: policy})
    admitted: Counter[str] = Counter()
    async for record in topics.read(bootstrap, [NAMES.state]):
        checker.write(record.partition, (record.key or b"").decode(), record.value)
    async for record in topics.read(bootstrap, [NAMES.feedback(SERVICE)]):
        found.told += checker.tell(record.topic, record.partition, record.offset, record.value)
    async for record in topics.read(bootstrap, [NAMES.admitted(SERVICE)]):
        stamp = parse_stamp(dict(record.headers)["gate"] or b"")
        admitted[stamp.id] += 1
        if not is_running(record.headers):
            found.problems.append(f"{stamp.id} was admitted and does not count as running")
        checker.admit(SERVICE, stamp.id, record.timestamp * MS, "", policy.version)
    found.ran = len(admitted)
    found.problems += [f"{request} was admitted {n} times" for request, n in admitted.items() if n > 1]
    found.problems += checker.problems()
    spans, start = [], begin
    for at in [*found.struck, end]:
        if at > start:
            spans.append((start, at))
        start = max(start, at + HELD_OFF)
    found.judged = sum(b - a for a, b in spans)
    taken = sum((b - a) * checker.used(SERVICE, MOST, round(a * 1e9), round(b * 1e9)) for a, b in spans)
    found.used = taken / found.judged
    if found.used < LEAST:
        found.problems.append(f"only {found.used:.2%} of the places were taken while something waited")


async def run(folder: Path, *, kills: int, seconds: float, seed: int, say: Callable[[str], None] = print) -> Found:
    """Offer, kill, and judge."""
    found, policy = Found(), parse_policy(f"prefix: {PREFIX}\nsession_timeout: 2\ndiscovery_interval: 0.5\n{POLICY}")
    broker = await asyncio.to_thread(LocalBroker.start, properties=WHOLE)
    processes: Processes | None = None
    try:
        await create(broker.bootstrap, NAMES.requests(SERVICE), NAMES.admitted(SERVICE), partitions=PARTITIONS)
        count = round(SPARE * MOST / JOB * (seconds + 30))
        await offer(broker.bootstrap, count)
        processes = Processes(folder, broker.bootstrap, Random(f"running {seed}"))
        async with asyncio.timeout(60):
            seen = 0
            async for _ in topics.follow(broker.bootstrap, [NAMES.admitted(SERVICE)]):
                seen += 1
                if seen > 5 * MOST:  # workers are there
                    break
        begin = time()
        await strike(processes, kills, seconds, found, say)
        end = time()
        processes.close()
        await judge(broker.bootstrap, policy, begin, end, found)
        if found.ran >= count:
            found.problems.append("nothing waited any more in the end")
    finally:
        if processes is not None:
            processes.close()
        await asyncio.to_thread(broker.stop)
    return found


def main() -> int:
    """Run once; exit 1 on any anomaly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", metavar="BOOTSTRAP", help=argparse.SUPPRESS)
    given = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    if given.work:
        work(given.work)
        return 0
    with tempfile.TemporaryDirectory(prefix="running-") as folder:
        found = asyncio.run(run(Path(folder), kills=given.kills, seconds=60 * given.minutes, seed=given.seed))
    print("\n".join(found.lines()))
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
