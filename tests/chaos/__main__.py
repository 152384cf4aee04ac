"""Chaos runs: `python -m tests.chaos --kills 200 --requests 1000000 --gates 3 --seed 1 --minutes 17`.

With `--late N` it is the network that is bad: N late requests, and half as many lost ones, stolen ids and zombies.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from tests.chaos import late
from tests.chaos.faults import POINTS
from tests.chaos.run import Report, run

AROUND = 0.3  # of the time: start, drain, check


def main() -> int:
    """Run once; exit 1 on any anomaly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--broker-kills", type=int, help="a tenth of --kills, unless given")
    parser.add_argument("--late", type=int, help="late requests, instead of kills")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--gates", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1.5, help="the whole run ends within about this time")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the gates' logs and the broker's data there")
    parser.add_argument("--quiet", action="store_true", help="print the report only")
    given = parser.parse_args()
    # producers complain at each attempt while the broker is down
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    if given.keep:
        given.keep.mkdir(parents=True)
    with nullcontext(given.keep) if given.keep else tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        report = asyncio.run(_run(given, Path(folder)))
    print("\n".join(report.lines()), flush=True)
    short = [] if given.late else [p for p in POINTS if report.kills[p] < max(1, given.kills // 20)]
    if short:
        print(f"these points were not come to often enough: {', '.join(short)}")
    return 1 if report.problems or short else 0


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
