"""Runs simulations: `python -m tests.sim --seeds A:B --hours H [--mutant NAME] [--trace]`."""

import argparse
import sys
import time

from tests.sim.mutants import MUTANTS
from tests.sim.world import simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", default="0:1000", help="A:B runs the seeds from A up to B, A alone that one")
    parser.add_argument("--hours", type=float, default=1.0, help="mean length of a run, simulated")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="plant a bug; ends at the first seed that finds it")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    given = parser.parse_args()
    first, _, end = given.seeds.partition(":")
    started, hours, requests, commits, failed = time.perf_counter(), 0.0, 0, 0, []
    seeds = range(int(first), int(end) if end else int(first) + 1)
    for seed in seeds:
        mutant = MUTANTS[given.mutant]() if given.mutant else None
        result = simulate(seed, given.hours, mutant=mutant, show=print if given.trace else None)
        hours, requests, commits = hours + result.hours, requests + result.requests, commits + result.commits
        if result.problems:
            failed.append(seed)
            print(f"seed {seed} (trace {result.trace}):", *result.problems, sep="\n  ")
            if given.mutant:
                break
        elif len(seeds) == 1:
            print(f"seed {seed}: trace {result.trace}")
    seconds = time.perf_counter() - started
    print(
        f"{len(seeds)} seeds, {hours:.0f} simulated hours, {requests} requests, {commits} transactions "
        f"in {seconds:.1f} s: {len(failed)} failed {failed[:20]}"
    )
    return bool(failed) != bool(given.mutant)


if __name__ == "__main__":
    sys.exit(main())
