"""The state moves to other shards under load, and the command is killed at each of its points; judged as in `run`.

`python -m tests.chaos.resharding --rate 500 --seconds 3`; with `--nodes 3` on three brokers.
"""

import argparse
import asyncio
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic

from gate.kafka.local import LocalBroker, LocalCluster
from gate.policy import parse_policy
from gate.shard.failpoints import RESHARD_POINTS
from tests.chaos import load
from tests.chaos.load import NAMES, PARTITIONS, PREFIX, SHARDS, SHARES
from tests.chaos.run import BROKER_PROPERTIES, Report, drain, errors_of, judge_topics
from tests.chaos.versions import until
from tests.system.gates import GateProcess, create

AT_MOST = 600.0  # seconds of offering
ALLOWED = 0.6  # of the limits that `load.policy` sets for a rate
COUNTS = (4, 9, 2, 7, 5)  # shards, one after the other
GONE = -signal.SIGKILL


@dataclass
class Found:
    """What a run came to."""

    report: Report
    steps: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yield it for a terminal."""
        yield from self.report.lines()
        yield from (f"  {step}" for step in self.steps)


class _Run:
    def __init__(self, folder: Path, bootstrap: str, policy: str, found: Found) -> None:
        self.bootstrap, self.found = bootstrap, found
        self.gates = []
        for number in range(2):
            place = folder / f"gate{number}"
            place.mkdir()
            self.gates.append(GateProcess(place, bootstrap, PREFIX, policy))
        self.config = self.gates[0].config
        self._begun = monotonic()

    def note(self, text: str) -> None:
        self.found.steps.append(f"{monotonic() - self._begun:6.1f} s  {text}")

    async def reshard(self, *arguments: str, point: str = "") -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gate", "reshard", *arguments, "--config", self.config, "--bootstrap", self.bootstrap,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, **({"GATE_FAILPOINT": point} if point else {})},
        )  # fmt: skip
        out, _ = await process.communicate()
        said = " | ".join(out.decode().splitlines())
        self.note(
            f"reshard {' '.join(arguments)}{f', killed at {point}' if point else ''}: {process.returncode} {said}"
        )
        return process.returncode or 0, out.decode()

    async def taken_over(self, generation: int) -> None:
        """Wait until both gates run with a generation and its shards are taken over."""
        sign = f"another generation of the state is in force; starting anew generation={generation}"
        for gate in self.gates:
            await until(
                lambda gate=gate: sign in _plain(gate) and "taken over" in _plain(gate).split(sign)[1], gate.text
            )


def _plain(gate: GateProcess) -> str:
    return " ".join(gate.text().split())


async def run(
    folder: Path, *, seconds: float, rate: float, points: Sequence[str] = RESHARD_POINTS, nodes: int = 1
) -> Found:
    """Offer `rate` requests a second while the state moves; then judge what is there."""
    found = Found(Report(0))
    report, text = found.report, load.policy(ALLOWED * rate)
    policy = parse_policy(f"prefix: {PREFIX}\n{text}")
    start = LocalBroker.start if nodes == 1 else LocalCluster.start
    broker = await asyncio.to_thread(start, folder / "broker", properties=BROKER_PROPERTIES)
    stages = _Run(folder, broker.bootstrap, text, found)
    shards = SHARDS
    try:
        await create(broker.bootstrap, *(NAMES.requests(s) for s in SHARES), partitions=PARTITIONS, copies=nodes)
        offering = load.Offering(broker.bootstrap, round(rate * AT_MOST), AT_MOST)
        async with asyncio.TaskGroup() as group:
            group.create_task(offering.run())
            for gate in stages.gates:
                await until(lambda gate=gate: "taken over" in gate.text(), gate.text)
            await asyncio.sleep(seconds)
            for generation, (point, shards) in enumerate(zip(points, COUNTS, strict=False), start=2):
                code, said = await stages.reshard(str(shards), point=point)
                assert code == GONE, said
                code, said = await stages.reshard(str(shards))
                assert code == 0, said
                await stages.taken_over(generation)
                await asyncio.sleep(seconds)
            code, said = await stages.reshard("3", point="reshard-copying")
            assert code == GONE, said
            code, said = await stages.reshard("8")
            assert (code, "another one was begun" in said) == (1, True), said
            code, said = await stages.reshard("--abort")
            assert (code, f"with {shards} shards is in force again" in said) == (0, True), said
            moved = len(points) + 2
            code, said = await stages.reshard("--move", "calm", "--group", "pair", "--dry-run")
            assert (code, "nothing was changed" in said) == (0, True), said
            code, said = await stages.reshard("--move", "calm", "--group", "pair")
            assert code == 0, said
            # the topic that was left by what was taken back has another number of shards, so it is passed over
            await stages.taken_over(moved + 1)
            await asyncio.sleep(seconds)
            offering.enough = True
        report.offered = sum(offering.sent.values())
        await drain(broker.bootstrap, report)
        for gate in stages.gates:
            assert await asyncio.to_thread(gate.stop) == 0, gate.text()
        report.gate_errors = errors_of([gate.log for gate in stages.gates])
        await judge_topics(
            report, policy.placed({"calm": "pair"}), broker.bootstrap, idle=False,
            names=replace(NAMES, generation=moved + 1), shards=shards, earlier=[policy],
        )  # fmt: skip
    finally:
        for gate in stages.gates:
            gate.close()
        await asyncio.to_thread(broker.stop)
    return found


def main() -> int:
    """Run once; exit 1 on any anomaly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1, help="brokers")
    given = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="resharding-") as folder:
        found = asyncio.run(run(Path(folder), seconds=given.seconds, rate=given.rate, nodes=given.nodes))
    print("\n".join(found.lines()))
    return 1 if found.report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
