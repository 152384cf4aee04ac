"""A hostile run: innocents alone, then strangers beside them, gates killed in the midst; then everything is read."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time
from typing import Any, Final

from aiokafka.client import AIOKafkaClient

from gate.kafka.local import LocalBroker
from gate.shard.placement import shard_of
from tests.chaos.members import owned
from tests.chaos.run import errors_of
from tests.hostile import innocents, prologue, stage
from tests.hostile.decoding import Header
from tests.hostile.judging import Judge, longest, pauses, taken_over
from tests.hostile.report import Bounds, Report
from tests.hostile.scanning import Scanner
from tests.system.gates import GateProcess, create

ROOT: Final = Path(__file__).parents[2]
BROKER: Final = {
    "log.cleaner.backoff.ms": "300",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
}
POLL: Final = 0.1
LOOK: Final = 1.0  # seconds from one scan to the next
START: Final = 90.0  # seconds that gates have to own everything
DRAIN: Final = 1200.0
AWAY: Final = 3.0  # seconds from a kill to the next gate in its place
HALF: Final = 0.5
MB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Attack:
    """What is sent, and how fast."""

    seed: int = 1
    records: int = 0
    each: int = 0  # instead: so many of each kind
    tenants: int = 0  # instead: a request of each
    only: Sequence[str] = ()
    seconds: float = 60.0
    calm: float = 15.0
    kills: int = 2
    patience: float = 60.0  # without one further end, when nothing more comes

    @property
    def total(self) -> int:
        """About how many records there will be."""
        return self.tenants or self.records or self.each * 12

    def arguments(self) -> list[str]:
        """Return it as the sender's arguments."""
        only = [word for kind in self.only for word in ("--only", kind)]
        numbers = {"seed": self.seed, "records": self.records, "each": self.each, "tenants": self.tenants}
        return [*(f"--{name}={value}" for name, value in numbers.items()), f"--seconds={self.seconds}", *only]


@dataclass
class Gates:
    """Gate processes, each with the most memory that it has taken."""

    folder: Path
    bootstrap: str
    policy: str
    living: list[GateProcess] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)
    peaks: dict[str, int] = field(default_factory=dict)  # name -> bytes

    def start(self) -> GateProcess:
        folder = self.folder / f"gate{len(self.logs) + 1}"
        folder.mkdir()
        process = GateProcess(folder, self.bootstrap, stage.PREFIX, self.policy, "--http", "0")
        self.living.append(process)
        self.logs.append(process.log)
        return process

    def kill(self, process: GateProcess) -> frozenset[int]:
        """SIGKILL; return the shards that it owned."""
        shards = owned(process)
        self.sample()
        process.kill()
        process.close()
        self.living.remove(process)
        return shards

    def sample(self) -> list[int]:
        """Note, and return, how much memory each gate takes now. Raises AssertionError if one has ended by itself."""
        found = []
        for process in self.living:
            assert process.process.poll() is None, f"a gate ended by itself:\n{process.text()[-3000:]}"
            status = Path(f"/proc/{process.process.pid}/status").read_text("ascii")
            numbers = {name: int(value.split()[0]) << 10 for name, value in _lines(status) if name.startswith("Vm")}
            name = process.log.parent.name
            self.peaks[name] = max(self.peaks.get(name, 0), numbers["VmHWM"])
            found.append(numbers["VmRSS"])
        return found

    def close(self) -> None:
        for process in self.living:
            process.close()


def _lines(status: str) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (line.partition(":") for line in status.splitlines())]


class Run:
    """One run."""

    def __init__(self, folder: Path, broker: LocalBroker, attack: Attack, say: Callable[[str], None]) -> None:
        self.attack = attack
        self.report = Report(attack.seed)
        self.judge = Judge(plainly=bool(attack.tenants))
        self._broker = broker
        self._say = say
        self._begun = monotonic()
        offered = attack.total / attack.seconds
        if attack.tenants:  # all to one service, which may admit half of them as they come
            offered *= len(stage.FOES) * HALF / stage.FOES[stage.TENANTS].rate
        self._gates = Gates(folder, broker.bootstrap, stage.policy(offered))
        self._sent: dict[str, Any] = {"taken": {}, "refused": {}, "done": False}
        self._stop_offering = asyncio.Event()
        self._offering: asyncio.Task[int] | None = None
        self._kinds: dict[str, tuple[str, str]] = {}
        for name in (*stage.INNOCENT, *stage.STRANGE):
            for kind in ("requests", "retries", "admitted", "rejected"):
                self._kinds[getattr(stage.NAMES, kind)(name)] = kind, name

    def _show(self, topic: str, partition: int, batch: Header, start: int) -> None:
        kind, service = self._kinds[topic]
        innocent = service in stage.INNOCENT
        if kind in {"requests", "retries"}:
            self.judge.request(topic, partition, batch, start, innocent=innocent and kind == "requests")
        else:
            self.judge.end(topic, partition, batch, admitted=kind == "admitted", innocent=innocent)

    async def go(self) -> None:
        """Do all of it."""
        await create(self._broker.bootstrap)
        for topic, config in stage.topics().items():
            await create(self._broker.bootstrap, topic, partitions=stage.PARTITIONS, **config)
        await create(self._broker.bootstrap, stage.NAMES.control, partitions=1)
        await create(self._broker.bootstrap, *stage.poisoned()[1:], partitions=stage.PARTITIONS)
        await prologue.leave_holes(self._broker.bootstrap)
        try:
            async with self._scanner() as scanner:
                await self._live(scanner)
                await self._drain(scanner)
        finally:
            self._stop_offering.set()
            if self._offering is not None:
                self.report.innocent = await self._offering
            self._gates.close()
            self._judge()

    @asynccontextmanager
    async def _scanner(self) -> AsyncIterator[Scanner]:
        client = AIOKafkaClient(bootstrap_servers=self._broker.bootstrap, request_timeout_ms=60_000)
        await client.bootstrap()
        try:
            yield Scanner(client, self._kinds, self._show)
        finally:
            await client.close()

    async def _live(self, scanner: Scanner) -> None:
        for _ in range(2):
            self._gates.start()
        await self._owned()
        self._offering = asyncio.create_task(innocents.offer(self._broker.bootstrap, self._stop_offering))
        self.report.calm_from = 1000 * time()
        await self._watch(scanner, lambda: time() * 1000 - self.report.calm_from >= 1000 * self.attack.calm)
        self.report.hostile_from = 1000 * time()
        command = [sys.executable, "-m", "tests.hostile.sender", "--bootstrap", self._broker.bootstrap]
        process = await asyncio.create_subprocess_exec(
            *command, *self.attack.arguments(), cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        hearing = asyncio.create_task(self._hear(process))
        try:
            for number in range(self.attack.kills):
                part = 1.0 if self.attack.tenants else (number + 1) / (self.attack.kills + 1)
                await self._watch(scanner, lambda part=part: self._progress() >= part)  # type: ignore[misc]
                await self._kill(scanner)
            await self._watch(scanner, lambda: self._sent["done"])
            await hearing
            assert await process.wait() == 0
        finally:
            hearing.cancel()
            if process.returncode is None:
                process.kill()
            self.report.taken, self.report.refused = self._sent["taken"], self._sent["refused"]

    async def _hear(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self._sent = json.loads(line)
        assert self._sent["done"], f"the sender ended with {await process.wait()}"

    def _progress(self) -> float:
        return 1.0 if self._sent["done"] else sum(self._sent["taken"].values()) / (1.02 * self.attack.total)

    async def _owned(self) -> None:
        """Wait until each shard has been taken over by whom it was given to."""
        end = monotonic() + START
        while True:
            owners = [owned(process) for process in self._gates.living]
            ready = [
                p.text().count("shard taken over") >= len(o) for p, o in zip(self._gates.living, owners, strict=True)
            ]
            if sum(map(len, owners)) == stage.SHARDS and all(owners) and all(ready):
                return
            assert monotonic() < end, "\n".join(process.text()[-2000:] for process in self._gates.living)
            await asyncio.sleep(POLL)

    async def _kill(self, scanner: Scanner) -> None:
        # where it has most to take over; else each in turn
        shard = shard_of(stage.TENANTS, stage.SHARDS) if self.attack.tenants else None
        victim = next((p for p in self._gates.living if shard in owned(p)), self._gates.living[0])
        at = 1000 * time()
        shards = self._gates.kill(victim)
        self.report.kills.append((at, shards))
        self._say(f"{monotonic() - self._begun:7.1f} s  SIGKILL of {victim.log.parent.name}, owner of {sorted(shards)}")
        await self._watch(scanner, lambda: 1000 * time() - at >= 1000 * AWAY)
        self._gates.start()
        await self._watch(scanner, lambda: 1000 * time() - at >= 2000 * (stage.SESSION + AWAY))

    async def _watch(self, scanner: Scanner, until: Callable[[], object]) -> None:
        """Read, sample and tell until a condition holds."""
        looked = 0.0
        while not until():
            if monotonic() - looked > LOOK:
                await scanner.advance()
                self._tell(self._gates.sample())
                looked = monotonic()
            await asyncio.sleep(POLL)

    def _tell(self, memory: Sequence[int]) -> None:
        last = max(self.judge.decided.values(), default=0)
        taken, refused = (sum(self._sent[name].values()) for name in ("taken", "refused"))
        self._say(
            f"{monotonic() - self._begun:7.1f} s  hostile: {taken:,} taken, {refused:,} batches refused;"
            f" {len(self.judge.requests):,} requests, {len(self.judge.ends):,} ended;"
            f" last decision {(1000 * time() - last) / 1000 if last else 0:.1f} s ago;"
            f" gates {', '.join(f'{size / MB:.0f}' for size in memory)} MB"
        )

    async def _drain(self, scanner: Scanner) -> None:
        """Wait until everything has ended, or nothing does any more."""
        ended, moved, begun = -1, monotonic(), monotonic()

        def is_over() -> bool:
            nonlocal ended, moved
            strangers = [place for place in self.judge.unended() if place not in self.judge.arrived]
            if len(strangers) != ended:
                ended, moved = len(strangers), monotonic()
            return not strangers or monotonic() - moved > self.attack.patience or monotonic() - begun > DRAIN

        await scanner.advance()
        await self._watch(scanner, is_over)
        self.report.hostile_until = 1000 * time()
        self._stop_offering.set()
        end = monotonic() + self.attack.patience
        await scanner.advance()
        await self._watch(scanner, lambda: not self.judge.unended() or monotonic() > end)
        self._gates.sample()

    def _judge(self) -> None:
        report, judge = self.report, self.judge
        report.until = 1000 * time()
        report.problems += judge.problems()
        report.verdicts, report.requests = judge.verdicts, len(judge.requests)
        report.memory = self._gates.peaks
        report.complaints = errors_of(self._gates.logs)
        shards = {name: shard_of(name, stage.SHARDS) for name in stage.INNOCENT}
        by_shard: dict[int, list[tuple[int, int]]] = {shard: [] for shard in range(stage.SHARDS)}
        for place, came in judge.arrived.items():
            service = place.decode().removeprefix(stage.NAMES.requests("")).rpartition("-")[0]
            by_shard[shards[service]].append((came, judge.decided.get(place, int(report.until))))
        moments = {shard: sorted(at for _, at in decisions) for shard, decisions in by_shard.items()}
        for at, owned_ in report.kills:
            report.take_overs.append(taken_over(moments, round(at), owned_))
        for shard, decisions in by_shard.items():
            # who is killed is away for as long as its successor takes: that has a bound of its own
            away = [
                (at, at + (taken[shard] or 0))
                for (at, _), taken in zip(report.kills, report.take_overs, strict=True)
                if shard in taken
            ]
            found = pauses(decisions)
            report.calm[shard] = longest(found, report.calm_from, report.hostile_from)
            report.hostile[shard] = longest(found, report.hostile_from, report.until, away)
        data = self._broker.folder / "data"
        report.bytes = {
            kind: sum(f.stat().st_size for f in data.glob(f"{stage.PREFIX}.{kind}.bad-*/*.log"))
            for kind in ("requests", "admitted", "delayed", "rejected")
        }


async def run(folder: Path, attack: Attack, bounds: Bounds, say: Callable[[str], None] = lambda _: None) -> Report:
    """Run once; what is wrong stands in the report."""
    broker = await asyncio.to_thread(LocalBroker.start, folder / "broker", properties=BROKER)
    try:
        one = Run(folder, broker, attack, say)
        try:
            await one.go()
        except (AssertionError, TimeoutError) as error:
            one.report.problems.insert(0, f"the run broke off: {error}")
        one.report.apply(bounds)
        return one.report
    finally:
        await asyncio.to_thread(broker.stop)
