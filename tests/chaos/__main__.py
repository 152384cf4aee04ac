"""Chaos runs: `python -m tests.chaos --kills 200 --requests 1000000 --gates 3 --seed 1 --minutes 17`.

With `--late N` it is the network that is bad: N late requests, and half as many lost ones, stolen ids and zombies.
With `--nodes 3 --faults 140` there are three brokers, and it is they that restart, die, freeze and lose each other.
"""

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from tests.chaos import late, nodes
from tests.chaos.faults import POINTS
from tests.chaos.keep import add_keep, kept
from tests.chaos.kinds import KINDS
from tests.chaos.run import Report, run

AROUND = 0.3  # of the time: start, drain, check


def main() -> int:
    """Run once; exit 1 on any anomaly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--broker-kills", type=int, help="a tenth of --kills, unless given")
    parser.add_argument("--late", type=int, help="late requests, instead of kills")
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1, help="brokers")
    parser.add_argument("--faults", type=int, default=len(KINDS), help="of three brokers")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of faults of three brokers: %(default)s")
    parser.add_argument("--rate", type=float, default=150.0, help="requests a second, with three brokers")
    parser.add_argument("--compact", action="store_true", help="compact the state all the time, with three brokers")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--gates", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1.5, help="the whole run ends within about this time")
    add_keep(parser)
    parser.add_argument("--quiet", action="store_true", help="print the report only")
    given = parser.parse_args()
    # producers complain at each attempt while the broker is down
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with kept(parser, given.keep, "chaos-") as folder:
        if given.nodes > 1:
            return asyncio.run(_run_nodes(given, folder))
        report = asyncio.run(_run(given, folder))
    print("\n".join(report.lines()), flush=True)
    short = [] if given.late else [p for p in POINTS if report.kills[p] < max(1, given.kills // 20)]
    if short:
        print(f"these points were not come to often enough: {', '.join(short)}")
    return 1 if report.problems or short else 0


async def _run_nodes(given: argparse.Namespace, folder: Path) -> int:
    outcome = await nodes.run(
        folder,
        seed=given.seed,
        number=given.faults,
        requests=given.requests,
        rate=given.rate,
        gates=given.gates,
        kinds=given.kinds.split(","),
        compact=given.compact,
        say=lambda line: None if given.quiet else print(line, flush=True),
    )
    print("\n".join(outcome.lines()), flush=True)
    return 1 if outcome.report.problems else 0


async def _run(given: argparse.Namespace, folder: Path) -> Report:
    seconds = 60 * given.minutes * (1 - AROUND)

    def say(line: str) -> None:
        if not given.quiet:
            print(line, flush=True)

    if given.late:
        half = given.late // 2
        dose = late.Dose(given.late, half, half, half)
        return await late.run(folder, seed=given.seed, dose=dose, requests=given.requests, seconds=seconds, say=say)
    return await run(
        folder,
        seed=given.seed,
        kills=given.kills,
        requests=given.requests,
        gates=given.gates,
        broker_kills=given.broker_kills,
        seconds=seconds,
        say=say,
    )


if __name__ == "__main__":
    sys.exit(main())
