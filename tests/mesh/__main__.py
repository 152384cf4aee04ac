"""Runs the simulated mesh: `python -m tests.mesh --seeds A:B [--mutant NAME]` or `--find`, and says what it costs.

`--figures` prints how well limits are used, `--cost` what an owner takes, `--check` what a local check takes.
"""

import argparse
import sys
import time

from tests.mesh import check, cost
from tests.mesh.figures import table
from tests.mesh.mutants import MUTANTS
from tests.mesh.scenario import simulate

EVERY = 500  # seeds between two lines of progress


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mesh", description=__doc__)
    parser.add_argument("--seeds", default="0:10000", help="A:B runs the seeds from A up to B, N alone those up to N")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="plant a bug; ends at the first seed that finds it")
    parser.add_argument("--find", action="store_true", help="say which seed finds each planted bug first")
    parser.add_argument("--figures", action="store_true", help="print how well limits are used, shared and moved")
    parser.add_argument("--cost", action="store_true", help="print what an owner of 200 holders takes of a core")
    parser.add_argument("--check", action="store_true", help="print what a check costs beside one of RateLimiter")
    given = parser.parse_args()
    if given.check:
        check.table()
        return 0
    if given.cost:
        cost.table()
        return 0
    if given.figures:
        table()
        return 0
    first, _, end = given.seeds.partition(":")
    seeds = range(int(first), int(end)) if end else range(int(first))
    if given.find:
        for name in sorted(MUTANTS):
            found = next((seed for seed in seeds if simulate(seed, MUTANTS[name]()).problems), None)
            print(f'    "{name}": {found},', flush=True)
        return 0
    started, failed, calls, units = time.perf_counter(), [], 0, 0
    for done, seed in enumerate(seeds, 1):
        result = simulate(seed, MUTANTS[given.mutant]() if given.mutant else None)
        calls, units = calls + result.calls, units + result.units
        if result.problems:
            failed.append(seed)
            print(f"seed {seed}:", *result.problems, sep="\n  ", flush=True)
            if given.mutant:
                break
        if done % EVERY == 0 or done == len(seeds):
            seconds = time.perf_counter() - started
            print(
                f"{done} seeds, {calls} calls, {units} units, {seconds:.0f} s: {len(failed)} over {failed[:20]}",
                flush=True,
            )
    return bool(failed) != bool(given.mutant)


if __name__ == "__main__":
    sys.exit(main())
