"""Jobs through gates and workers that are killed at random: `python -m tests.client.jobs_long --jobs 100000`.

Clients submit, gates decide, workers work and fail now and then, and a killer ends one gate or worker after another by
SIGKILL and starts a new one. In the end every job must have been done at least once and every result be known; jobs
that were done twice are counted, and each must have been under way, or just ended, when its worker died.
"""

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from gate.client import JobClient
from gate.kafka.local import LocalBroker
from gate.protocol.topics import Names
from tests.system.gates import GateProcess, create, until

SERVICE = "pay"
POLICY = "delivery: exactly_once\nservices:\n  pay: {requests_per_second: 20000, burst_size: 20000}\n"
CONCURRENCY = 8
SESSION_SECONDS = 2
# What a worker did so long before its own death may be done again: it had not committed it yet, which it can't while
# the group rebalances for another one. A failed job may be submitted again twice when any worker died, as the one that
# submits what has waited.
LOSES_SECONDS = SESSION_SECONDS + 2.0

WORKER = """
import os, random, sys, time
from gate.client._retry import Retry
from gate.client._worker import Worker
from gate.protocol.topics import Names

bootstrap, prefix, diary, concurrency, fails = sys.argv[1:]
out = os.open(diary, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
worker = Worker(
    bootstrap, group_id=f"{prefix}-workers", prefix=prefix, concurrency=int(concurrency), results=True,
    session_timeout=2, retry=Retry(attempts=50, first=0.05, longest=0.4),
)

@worker.handler("pay")
async def pay(job):
    fails_now = random.random() < float(fails)
    # one write: whole lines, whenever the process is killed
    os.write(out, f"{job.value.decode()} {'failed' if fails_now else 'done'} {time.time()}\\n".encode())
    if fails_now:
        raise OSError("now and then")
    return b"done " + job.value

worker.main()
"""


@dataclass
class Outcome:
    jobs: int
    kills: dict[int, float]  # when workers were killed
    diary: dict[str, list[tuple[str, float, int]]]  # of each job: done or failed, when, and by which worker
    expelled: int = 0  # workers that were thought dead: the machine was too busy for their heartbeats
    results: dict[str, bytes] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def again(self) -> list[str]:
        """Jobs that were done more than once."""
        return [job for job, events in self.diary.items() if sum(what == "done" for what, _, _ in events) > 1]

    def unexplained(self) -> list[str]:
        """Jobs done more than once although no worker died while it was at them."""
        return [job for job in self.again if not any(self._lost(*event) for event in self.diary[job])]

    def _lost(self, what: str, at: float, worker: int) -> bool:
        kills = self.kills.values() if what == "failed" else [self.kills.get(worker, 0.0)]
        return any(-0.05 <= kill - at <= LOSES_SECONDS for kill in kills)

    def check(self) -> None:
        missing = self.jobs - sum(any(what == "done" for what, _, _ in events) for events in self.diary.values())
        assert not missing, f"{missing} of {self.jobs} jobs were lost"
        wrong = {job: result for job, result in self.results.items() if result != b"done " + job.encode()}
        assert len(self.results) == self.jobs, f"{self.jobs - len(self.results)} results are not known"
        assert not wrong, f"wrong results: {list(wrong.items())[:3]}"
        excess = len(self.unexplained()) - self.expelled * CONCURRENCY
        assert excess <= 0, f"{len(self.unexplained())} of {len(self.again)} done twice for no reason"

    def __str__(self) -> str:
        return (
            f"{self.jobs} jobs, {len(self.kills)} workers killed, {len(self.again)} jobs done more than once, "
            f"{len(self.results)} results known, {self.seconds:.1f} s"
        )


class Fleet:
    """The processes that are killed."""

    def __init__(self, folder: Path, bootstrap: str, prefix: str, gates: int, workers: int, fails: float) -> None:
        self._folder, self._bootstrap, self._prefix, self._fails = folder, bootstrap, prefix, fails
        self.diaries: list[Path] = []
        self.gates = [self._gate() for _ in range(gates)]
        self.workers = [self._worker() for _ in range(workers)]
        self._numbers = list(range(workers))
        self.kills: dict[int, float] = {}

    def _gate(self) -> GateProcess:
        return GateProcess(self._folder, self._bootstrap, self._prefix, POLICY, "--http", "0")

    def _worker(self) -> "subprocess.Popen[bytes]":
        diary = self._folder / f"diary-{uuid.uuid4().hex}"
        self.diaries.append(diary)
        arguments = self._bootstrap, self._prefix, str(diary), str(CONCURRENCY), str(self._fails)
        with (self._folder / "workers.log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-c", WORKER, *arguments], stdout=log, stderr=log)

    def kill_one(self, rng: random.Random) -> None:
        if rng.random() < 1 / 3:
            n = rng.randrange(len(self.gates))
            self.gates[n].kill()
            self.gates[n].close()
            self.gates[n] = self._gate()
        else:
            n = rng.randrange(len(self.workers))
            self.kills[self._numbers[n]] = time.time()
            self.workers[n].kill()
            self.workers[n].wait()
            self._numbers[n] = len(self.diaries)
            self.workers[n] = self._worker()

    def close(self) -> None:
        for gate in self.gates:
            gate.close()
        for worker in self.workers:
            worker.kill()
            worker.wait()

    def diary(self) -> dict[str, list[tuple[str, float, int]]]:
        events: dict[str, list[tuple[str, float, int]]] = {}
        for worker, diary in enumerate(self.diaries):
            if diary.exists():
                for line in diary.read_text().splitlines():
                    job, what, at = line.split()
                    events.setdefault(job, []).append((what, float(at), worker))
        return events

    def expelled(self) -> int:
        return (self._folder / "workers.log").read_text().count("member_id was not recognized")


async def play(
    folder: Path, bootstrap: str, *, jobs: int, clients: int = 3, gates: int = 2, workers: int = 4,
    fails: float = 0.01, pause: float = 2.0, seed: int = 0, patience: float = 90.0,
) -> Outcome:  # fmt: skip
    """Let clients submit `jobs` while about every `pause` seconds something is killed."""
    rng, prefix = random.Random(seed), f"t{uuid.uuid4().hex[:8]}"
    names = Names(prefix)
    await create(bootstrap, names.requests(SERVICE), partitions=8)
    started = time.monotonic()
    fleet = await asyncio.to_thread(Fleet, folder, bootstrap, prefix, gates, workers, fails)
    try:
        await asyncio.to_thread(until, fleet.gates[0].is_ready)
        killing = asyncio.create_task(_kill(fleet, rng, pause))
        shares = [range(n, jobs, clients) for n in range(clients)]
        results: dict[str, bytes] = {}
        await asyncio.gather(*(_client(bootstrap, names, share, results, patience) for share in shares))
        killing.cancel()
        await asyncio.wait([killing])
        if not killing.cancelled() and (error := killing.exception()) is not None:
            raise error
    finally:
        await asyncio.to_thread(fleet.close)
    seconds = time.monotonic() - started
    return Outcome(jobs, fleet.kills, fleet.diary(), fleet.expelled(), results, seconds)


async def _kill(fleet: Fleet, rng: random.Random, pause: float) -> None:
    while True:
        await asyncio.sleep(pause * rng.uniform(0.5, 1.5))
        await asyncio.to_thread(fleet.kill_one, rng)


async def _client(bootstrap: str, names: Names, numbers: range, results: dict[str, bytes], patience: float) -> None:
    under_way = asyncio.Semaphore(200)

    async def one(client: JobClient, number: int) -> None:
        async with under_way:
            ticket = await client.submit(SERVICE, str(number), key=str(number % 100))
            results[str(number)] = await ticket.result(patience)

    async with JobClient(bootstrap, prefix=names.prefix) as client, asyncio.TaskGroup() as tasks:
        for number in numbers:
            tasks.create_task(one(client, number))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--pause", type=float, default=5.0, help="seconds between kills, on average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bootstrap", help="a broker that runs; by default one is started")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.bootstrap:
            outcome = _play(folder, options.bootstrap, options)
        else:
            with LocalBroker.start() as broker:
                outcome = _play(folder, broker.bootstrap, options)
    print(outcome)
    outcome.check()


def _play(folder: str, bootstrap: str, options: argparse.Namespace) -> Outcome:
    return asyncio.run(
        play(Path(folder), bootstrap, jobs=options.jobs, pause=options.pause, seed=options.seed, patience=300.0)
    )


if __name__ == "__main__":
    main()
