"""Processes that share limits, under real faults: `python -m tests.chaos.mesh [--seconds 60] [--processes 8]`.

They hammer two services, one with a bucket and a window of a second, one with a window of 20 s, beside a queue of the
first. Some are killed and replaced, one forks, one is stopped for longer than its lease, and owners are killed. "Over"
means that no choice of times within [call, answer] fits the limit.
"""

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Final

from aiokafka import AIOKafkaProducer

from gate.cli.demo.intervals import Use, excess
from gate.kafka.local import LocalBroker
from gate.limits import Spec, Window
from gate.protocol.topics import Names
from tests.system.gates import GateProcess, create, read, stamp, until

SECOND: Final = 10**9
READING: Final = 4.0  # seconds to read what the queue was given
STOPPED: Final = 11.0  # seconds, more than a lease
CLOCKS: Final = 30_000_000  # ns by which the broker's clock and ours, of one machine, may be read apart
POLICY: Final = """
shards: 4
services:
  fast: {requests_per_second: 200, burst_size: 100, window_size: 1, window_limit: 220}
  slow: {requests_per_second: 60, burst_size: 60, window_size: 20, window_limit: 1000}
"""
QUEUE: Final = "fast"  # the service that has requests in a topic, too


@dataclass(frozen=True)
class Limit:
    rate: int
    burst: int
    limit: int
    window: int  # ns

    @property
    def spec(self) -> Spec:
        """The same as the gate has it."""
        return Spec(Fraction(self.rate), self.burst, (Window(self.limit, self.window),))

    @property
    def flow(self) -> float:
        """Units per second in the long run."""
        return min(self.rate, self.limit * SECOND / self.window)


LIMITS: Final = {"fast": Limit(200, 100, 220, SECOND), "slow": Limit(60, 60, 1000, 20 * SECOND)}
Call = Use  # unix ns before and after


@dataclass
class Worker:
    """A process that hammers."""

    path: Path
    process: subprocess.Popen[bytes]
    forked: bool = False

    def calls(self) -> Iterator[tuple[str, Call]]:
        for path in (self.path, Path(f"{self.path}.child")):
            for line in path.read_text().splitlines(keepends=True) if path.exists() else ():
                if line.endswith("\n"):  # else it was killed while it wrote
                    service, before, after = line.split()
                    yield service, (int(before), int(after))


@dataclass
class Result:
    """What came of it: `over` must be empty."""

    over: list[str] = field(default_factory=list)
    used: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    by_queue: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        shares = ", ".join(f"{name} {share:.1%} of {self.calls[name]:,} calls" for name, share in self.used.items())
        return (
            f"over: {len(self.over)} ({'; '.join(self.over) or 'none'})\nused: {shares}\n"
            f"of them by the queue: {self.by_queue:,}\nfaults: {', '.join(self.faults)}"
        )


class Stage:
    """Gates, processes and a producer on one broker."""

    def __init__(self, folder: Path, bootstrap: str, seed: int) -> None:
        self.folder = folder
        self.bootstrap = bootstrap
        self.prefix = f"mesh-{uuid.uuid4().hex[:8]}"
        self.chance = random.Random(seed)
        self.workers: list[Worker] = []
        self.gates: list[GateProcess] = []
        self.faults: list[str] = []
        self.began = time.monotonic()

    @contextmanager
    def running(self) -> Iterator[None]:
        try:
            yield
        finally:
            for worker in self.workers:
                _end_group(worker.process)
            for gate in self.gates:
                gate.close()

    def start_gate(self) -> GateProcess:
        gate = GateProcess(self.folder, self.bootstrap, self.prefix, POLICY)
        self.gates.append(gate)
        return gate

    def start_worker(self, mode: str) -> Worker:
        path = self.folder / f"calls-{len(self.workers)}"
        command = [sys.executable, "-m", "tests.chaos.mesh_worker", self.bootstrap, self.prefix, str(path), mode]
        command += [str(self.chance.random()), *LIMITS]
        process = subprocess.Popen(command, start_new_session=True)
        self.workers.append(worker := Worker(path, process))
        return worker

    def note(self, what: str) -> None:
        self.faults.append(f"{what} at {time.monotonic() - self.began:.1f} s")

    async def offer(self, until_: float) -> None:
        """Bring requests of the queue, about half as many as the limit lets go."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap)
        await producer.start()
        try:
            while time.monotonic() < until_:
                await producer.send(Names(self.prefix).requests(QUEUE), b"x")
                await asyncio.sleep(0.01)
        finally:
            await producer.stop()

    async def admitted(self) -> list[Call]:
        """Return when the queue's requests were let go, as intervals."""
        topic = Names(self.prefix).admitted(QUEUE)
        records = await read(self.bootstrap, [topic], lambda _: False, READING)
        times = [stamp(record).at_ms * 1_000_000 for record in records]
        return [(at - CLOCKS, at + CLOCKS) for at in times]


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a worker with its children; all are of a session of their own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


async def play(
    folder: Path, bootstrap: str, *, seconds: float, processes: int, kills: int, owners: int, seed: int
) -> Result:
    """Run it all, and judge."""
    stage = Stage(folder, bootstrap, seed)
    with stage.running():
        names = Names(stage.prefix)
        await create(bootstrap, names.requests(QUEUE), partitions=1)
        gates = [stage.start_gate(), stage.start_gate()]
        for gate in gates:
            await asyncio.to_thread(gate.wait_for, "gate runs")
        crew = [stage.start_worker("hoarder" if n % 4 == 3 else "steady") for n in range(processes)]
        await asyncio.to_thread(until, lambda: all(w.path.exists() and w.path.stat().st_size for w in crew[:3]))
        stage.began = began = time.monotonic()
        began_ns = time.time_ns()
        end = began + seconds
        offering = asyncio.create_task(stage.offer(end))
        await _strike(stage, crew, kills, owners, seconds)
        await asyncio.sleep(max(0.0, end - time.monotonic()))
        ended_ns = time.time_ns()
        for worker in stage.workers:
            _end_group(worker.process)
        await offering
        by_queue = await stage.admitted()
        return _judge(stage, by_queue, began_ns, ended_ns)


async def _strike(stage: Stage, crew: Sequence[Worker], kills: int, owners: int, seconds: float) -> None:
    """Do it all, spread over the time: a process is stopped first, since that takes longest."""
    asleep = crew[0]
    os.killpg(asleep.process.pid, signal.SIGSTOP)
    stage.note("SIGSTOP")
    waking = asyncio.create_task(_wake(stage, asleep))
    crew[1].process.send_signal(signal.SIGUSR1)
    stage.note("fork")
    pause = max(1.0, (seconds - 6) / (kills + owners + 1))
    for number in range(max(kills, owners)):
        await asyncio.sleep(pause)
        if number < owners:
            gate = next(gate for gate in stage.gates if gate.process.poll() is None)
            gate.kill()
            stage.note("owner killed")
            stage.start_gate()
        if number < kills:
            await asyncio.sleep(pause)
            victim = crew[2 + number % (len(crew) - 2)]
            _end_group(victim.process)
            stage.note("process killed")
            stage.start_worker("steady")
    await waking


async def _wake(stage: Stage, worker: Worker) -> None:
    await asyncio.sleep(STOPPED)
    os.killpg(worker.process.pid, signal.SIGCONT)
    stage.note("SIGCONT")


def _judge(stage: Stage, by_queue: Sequence[Call], began: int, ended: int) -> Result:
    result = Result(by_queue=len(by_queue), faults=stage.faults)
    calls: dict[str, list[Call]] = {name: [] for name in LIMITS}
    calls[QUEUE] += by_queue
    for worker in stage.workers:
        for service, call in worker.calls():
            calls[service].append(call)
    for name, limit in LIMITS.items():
        result.over += [f"{name}: {what}" for what in excess(limit.spec, calls[name])]
        inside = [call for call in calls[name] if began <= call[1] < ended]
        result.calls[name] = len(inside)
        result.used[name] = len(inside) / (limit.flow * (ended - began) / SECOND)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.mesh", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--owners", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bootstrap = os.environ.get("GATE_BOOTSTRAP") or stack.enter_context(LocalBroker.start()).bootstrap
        result = asyncio.run(play(folder, bootstrap, **vars(given)))
    print(result)
    return 1 if result.over else 0


if __name__ == "__main__":
    sys.exit(main())
