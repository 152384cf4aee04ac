"""`python -m tests.chaos --kills 200 --requests 1000000 --gates 3 --seed 1 --minutes 20`."""

import argparse
import asyncio
import logging
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from tests.chaos.faults import POINTS
from tests.chaos.run import run

AROUND = 0.3  # of the time: start, drain, check


def main() -> int:
    """Run once; exit 1 on any anomaly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--gates", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1.5, help="the whole run ends within about this time")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the gates' logs there")
    parser.add_argument("--quiet", action="store_true", help="print the report only")
    given = parser.parse_args()
    seconds = 60 * given.minutes * (1 - AROUND)
    logging.getLogger("aiokafka").setLevel(
        logging.CRITICAL
    )  # producers complain at each attempt while the broker is down
    with nullcontext(given.keep) if given.keep else tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        report = asyncio.run(
            run(
                Path(folder), seed=given.seed, kills=given.kills, requests=given.requests, gates=given.gates,
                seconds=seconds, say=(lambda _: None) if given.quiet else lambda line: print(line, flush=True),
            )
        )  # fmt: skip
    print("\n".join(report.lines()), flush=True)
    short = [point for point in POINTS if report.kills[point] < max(1, given.kills // 20)]
    if short:
        print(f"these points were not come to often enough: {', '.join(short)}")
    return 1 if report.problems or short else 0


if __name__ == "__main__":
    sys.exit(main())
