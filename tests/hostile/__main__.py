"""Hostile runs: `python -m tests.hostile --seed 1 --records 100000`, or `--tenants 1000000`; `--only KIND` for some.

Exit 1 unless each request ended once and all bounds hold. The same seed sends the same records.
"""

import argparse
import asyncio
import logging
import sys

from tests.chaos.keep import add_keep, kept
from tests.hostile.kinds import KINDS
from tests.hostile.report import LONG, MANY_TENANTS
from tests.hostile.run import Attack, run

PER_SECOND = 800
TENANTS_PER_SECOND = 5_000
LEAST = 15.0


def main() -> int:
    """Run once; exit 1 on any problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--tenants", type=int, default=0, help="a request of each, instead of hostile records")
    parser.add_argument("--only", action="append", default=[], choices=[*KINDS, "transactions"], metavar="KIND")
    parser.add_argument("--seconds", type=float, help="of sending")
    parser.add_argument("--calm", type=float, default=15.0, help="seconds without strangers, to compare with")
    parser.add_argument("--kills", type=int)
    parser.add_argument("--patience", type=float, default=60.0, help="seconds without an end, until it is given up")
    add_keep(parser)
    parser.add_argument("--quiet", action="store_true", help="print the report only")
    given = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    pace = given.tenants / TENANTS_PER_SECOND if given.tenants else given.records / PER_SECOND
    attack = Attack(
        seed=given.seed,
        records=0 if given.tenants else given.records,
        tenants=given.tenants,
        only=given.only,
        seconds=given.seconds or max(LEAST, pace),
        calm=given.calm,
        patience=given.patience,
        kills=given.kills if given.kills is not None else 1 if given.tenants else 2,
    )
    with kept(parser, given.keep, "hostile-") as folder:
        bounds = MANY_TENANTS if given.tenants else LONG
        say = (lambda _: None) if given.quiet else lambda line: print(line, flush=True)
        report = asyncio.run(run(folder, attack, bounds, say))
    print("\n".join(report.lines()), flush=True)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
