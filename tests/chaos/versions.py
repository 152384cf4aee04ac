"""From one version to the next, back, and forth again under load, mixed for a while each time; judged as in `run`.

`python -m tests.chaos.versions --seconds 60` runs each stage for so long. The version before is built from the last
commit whose code wrote the old format.
"""

import argparse
import asyncio
import io
import logging
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from gate.kafka.local import LocalBroker
from gate.policy import parse_policy
from gate.shard.changelog_records import FORMAT, META_KEY
from tests.chaos import load, topics
from tests.chaos.load import NAMES, PARTITIONS, PREFIX, SHARES
from tests.chaos.run import BROKER_PROPERTIES, Report, drain, errors_of, judge_topics
from tests.system.gates import GateProcess, create

REPOSITORY = Path(__file__).parents[2]
WROTE_IT = "VERSION: Final = 1"  # in this file, as long as the old format was the newest
STATE = "gate/admission/state.py"
POLL = 0.1
DEADLINE = 60.0
WHOLE = 2.0  # seconds a stage; shorter runs leave some out
AT_MOST = 1_800.0  # seconds of offering
ALLOWED = 0.6  # of the limits that `load.policy` sets for a rate
NEW = ("-m", "gate")
NEWER = f"the state was written by a newer gate (format {FORMAT}"


def last_old_commit() -> str | None:
    """Return the last commit that wrote the old format; None: the history is not here."""
    found = _git("log", "-1", "--format=%H^", "-S", WROTE_IT, "--", STATE)
    if not found.strip():
        return None
    commit = _git("rev-parse", "--verify", "--quiet", found.strip()).strip()
    return commit if commit and WROTE_IT in _git("show", f"{commit}:{STATE}") else None


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", REPOSITORY, *arguments], capture_output=True, text=True, check=False).stdout


def unpack(commit: str, folder: Path) -> Path:
    """Put the code of a commit into a folder."""
    packed = subprocess.run(["git", "-C", REPOSITORY, "archive", commit], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as files:
        files.extractall(folder, filter="data")
    return folder


@dataclass
class Found:
    """What a run came to."""

    report: Report
    stages: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)  # of `gate upgrade finish`, while old gates ran
    finished: str = ""
    shown: str = ""  # by `gate upgrade status`, while old and new gates ran

    def lines(self) -> Iterator[str]:
        """Yield it for a terminal."""
        yield from self.report.lines()
        yield from (f"  {stage}" for stage in self.stages)


class _Run:
    def __init__(self, folder: Path, old: Path, bootstrap: str, policy: str, seconds: float, found: Found) -> None:
        self.whole = seconds >= WHOLE
        self.folder, self.old, self.bootstrap, self.policy = folder, old, bootstrap, policy
        self.seconds, self.found = seconds, found
        self.gates: list[GateProcess] = []
        self.logs: list[Path] = []
        self._begun = monotonic()

    def start(self, *, old: bool) -> GateProcess:
        place = self.folder / f"gate{len(self.logs)}-{'old' if old else 'new'}"
        place.mkdir()
        env = {"PYTHONPATH": str(self.old)} if old else {}
        program = ("-P", *NEW) if old else NEW
        process = GateProcess(place, self.bootstrap, PREFIX, self.policy, env=env, program=program)
        self.gates.append(process)
        self.logs.append(process.log)
        return process

    async def stage(self, name: str) -> None:
        """Go on so for a while, with something decided by whoever owns each service now."""
        self.found.stages.append(f"{monotonic() - self._begun:6.1f} s  {name}")
        await asyncio.sleep(self.seconds)

    async def replace(self, number: int, *, old: bool, kill: bool = False) -> None:
        """Put another gate into the place of one; it leaves, or is killed, once the other has been given shards."""
        before, process = self.gates[number], self.start(old=old)
        self.gates[number] = self.gates.pop()
        await until(lambda: "shard taken over" in process.text(), process.text)
        if kill:
            before.kill()
        else:
            code = await asyncio.to_thread(before.stop)
            assert code == 0, before.text()
        before.close()

    async def command(self, *arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gate", *arguments, "--bootstrap", self.bootstrap, "--prefix", PREFIX,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode()

    async def go(self) -> None:
        for _ in range(2):
            self.start(old=True)
        await until(lambda: all("shard taken over" in gate.text() for gate in self.gates), self.gates[0].text)
        await self.stage("two old gates")
        await self.replace(0, old=False)
        await self.stage("one old, one new")
        _, self.found.shown = await self.command("upgrade", "status")
        code, said = await self.command("upgrade", "finish")
        if code:
            self.found.refusals.append(said)
        await self.replace(1, old=False, kill=True)
        await self.stage("two new gates, which write the old format")
        await self.replace(0, old=True, kill=True)
        await self.stage("one new, one old: a step back")
        if self.whole:
            await self.replace(1, old=True)
            await self.stage("two old gates again")
            await self.replace(1, old=False)
            await self.stage("one old, one new, again")
        await self.replace(0, old=False)
        code, self.found.finished = await self.command("upgrade", "finish")
        assert code == 0, self.found.finished
        await self.stage("two new gates, which write the new format")
        late = self.start(old=True)
        await until(lambda: NEWER in late.text(), late.text)
        await asyncio.to_thread(late.stop)
        self.gates.remove(late)
        late.close()
        await self.stage("an old gate came, and stopped at what it could not read")


async def until(condition: Callable[[], object], explain: Callable[[], str]) -> None:
    """Wait for something that a gate does."""
    end = monotonic() + DEADLINE
    while not condition():
        assert monotonic() < end, f"not within {DEADLINE:g} s\n{explain()}"
        await asyncio.sleep(POLL)


async def run(folder: Path, commit: str, *, seconds: float, rate: float) -> Found:
    """Offer `rate` requests a second through all stages, each of so many seconds; then judge what is there."""
    found = Found(Report(0))
    report, text = found.report, load.policy(ALLOWED * rate)
    old = unpack(commit, folder / "old")
    broker = await asyncio.to_thread(LocalBroker.start, folder / "broker", properties=BROKER_PROPERTIES)
    stages = _Run(folder, old, broker.bootstrap, text, seconds, found)
    try:
        await create(broker.bootstrap, *(NAMES.requests(s) for s in SHARES), partitions=PARTITIONS)
        offering = load.Offering(broker.bootstrap, round(rate * AT_MOST), AT_MOST)
        async with asyncio.TaskGroup() as group:
            group.create_task(offering.run())
            await stages.go()
            offering.enough = True
        report.offered = sum(offering.sent.values())
        await drain(broker.bootstrap, report)
        for gate in stages.gates:
            await asyncio.to_thread(gate.stop)
        report.gate_errors = errors_of(stages.logs)
        await judge_topics(report, parse_policy(f"prefix: {PREFIX}\n{text}"), broker.bootstrap, idle=False)
        await _formats(found, broker.bootstrap)
    finally:
        for gate in stages.gates:
            gate.close()
        await asyncio.to_thread(broker.stop)
    return found


async def _formats(found: Found, bootstrap: str) -> None:
    """Note what was written in which format, and where the old one comes after the new one."""
    counts: dict[int, int] = {}
    switched: set[int] = set()
    async for record in topics.read(bootstrap, [NAMES.state]):
        if record.value is None or record.key in {META_KEY.encode(), b"leaving"}:
            continue
        version = record.value[0]
        counts[version] = counts.get(version, 0) + 1
        if version == FORMAT:
            switched.add(record.partition)
        elif record.partition in switched:
            found.report.problems.append(f"format: {record.key!r} in version {version} after the switch")
    found.stages.append(f"records by version: {counts}")
    if set(counts) != {1, FORMAT}:
        found.report.problems.append(f"format: written were {counts}")


def main() -> int:
    """Run once; exit 1 on any anomaly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=400.0)
    given = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    commit = last_old_commit()
    if commit is None:
        print("the history of the repository is not here")
        return 1
    with tempfile.TemporaryDirectory(prefix="versions-") as folder:
        found = asyncio.run(run(Path(folder), commit, seconds=given.seconds, rate=given.rate))
    print("\n".join(found.lines()), *found.refusals, found.finished, sep="\n")
    return 1 if found.report.problems or not found.refusals else 0


if __name__ == "__main__":
    sys.exit(main())
