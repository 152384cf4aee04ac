"""How long the gate and Kafka Streams stand when something fails; the method is described in the package.

python -m bench.pauses [--rounds N] [--faults KIND,KIND] [--rate R] [--broker NAME=VALUE] [--keep FOLDER]
"""

import argparse
import asyncio
import json
import logging
import sys
from pathlib import Path

from bench.memory import use_memory
from bench.pauses import page
from bench.pauses.faults import KINDS
from bench.pauses.run import run
from bench.pipeline.contenders import build_kafka_streams
from bench.results import FILE, write
from tests.chaos.keep import add_keep, kept

RAW = Path("build/bench-pauses.json")
ROUNDS = 3
RATE = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--rounds", type=int, help=f"how often each kind happens; {ROUNDS} if not said")
    parser.add_argument("--faults", default=",".join(KINDS), metavar="KIND,KIND", help="of %(default)s")
    parser.add_argument("--rate", type=float, default=RATE, help="requests a second of each of four lanes of both")
    add_keep(parser)
    parser.add_argument("--broker", action="append", default=[], metavar="NAME=VALUE", help="a property of all nodes")
    given = parser.parse_args()
    properties = dict(text.split("=", 1) for text in given.broker)
    kinds = given.faults.split(",")
    if unknown := set(kinds) - KINDS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    kinds = list(dict.fromkeys(["none", *kinds]))  # to compare with
    rounds = given.rounds or (1 if given.quick else ROUNDS)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # of nodes that go; what fails raises
    use_memory()
    build_kafka_streams()
    with kept(parser, given.keep, "pauses-") as folder:
        outcome = asyncio.run(run(folder, kinds, rounds, given.rate, properties, lambda line: print(line, flush=True)))
    RAW.parent.mkdir(exist_ok=True)
    RAW.write_text(json.dumps([one.as_json() for one in outcome.struck], indent=1) + "\n")
    results = page.results(outcome.struck)
    write(results, FILE)
    print(page.table(outcome.struck))
    for result in results:
        print(f"{result.name:44} {result.ratio:8.3f} ({result.min:.3f} to {result.max:.3f})  {result.unit}")
    for text in outcome.wrong:
        print(f"FAILED {text}", file=sys.stderr)
    if not outcome.wrong and set(kinds) >= KINDS.keys() and rounds >= ROUNDS:
        page.write_page(RAW)
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
