"""A limit that processes share by calls, beside others; the method is described in the package.

python -m bench.mesh [--quick] [--rounds N] [--only NAME,NAME] [--processes N] [--bootstrap HOST:PORT] [--keep FOLDER]
"""

import argparse
import json
import logging
import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from bench.memory import use_memory
from bench.mesh import edge, page
from bench.mesh.contenders import ALL, GATE, Contender
from bench.mesh.plan import PROCESSES
from bench.mesh.run import Outcome, run
from bench.mesh.servers import FailedError
from bench.mesh.setup import MissingError
from bench.results import FILE, write

RAW = Path("build/bench-mesh.json")
ROUNDS = 2
ENVOY = "envoy"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of short phases")
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS} if not said; 1 when quick")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="that call (%(default)s)")
    names = [ENVOY, *[contender.name for contender in ALL]]
    parser.add_argument("--only", metavar="NAME,NAME", help=f"beside the gate, of {', '.join(names)}")
    parser.add_argument(
        "--bootstrap", metavar="HOST:PORT", help="a broker that is there, whose CPU then does not count"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep all logs there")
    given = parser.parse_args()
    only = None if given.only is None else {name.strip() for name in given.only.split(",")}
    if only is not None and (unknown := only - set(names)):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    use_memory()
    wanted = [one for one in ALL if only is None or one.name in {GATE.name, *only}]
    rounds = given.rounds or (1 if given.quick else ROUNDS)
    if given.keep:
        given.keep.mkdir(parents=True)
    with nullcontext(given.keep) if given.keep else tempfile.TemporaryDirectory(prefix="mesh-") as folder:
        measured = Measured(Path(folder).resolve(), given.processes, quick=given.quick, bootstrap=given.bootstrap)
        for number in range(1, rounds + 1):
            measured.round(number, wanted, with_envoy=only is None or ENVOY in only)
    return measured.report(to_page=only is None and not given.quick)


class Measured:
    """What came of all rounds. What is missing on this machine is left out, what fails is told, the others go on."""

    def __init__(self, folder: Path, processes: int, *, quick: bool, bootstrap: str | None) -> None:
        self._folder = folder
        self._processes = processes
        self._how: dict[str, Any] = {"quick": quick, "bootstrap": bootstrap}
        self._left_out: set[str] = set()
        self._failures: list[str] = []
        self._rounds: list[list[Outcome]] = []
        self._edges: list[list[edge.Passed]] = []

    def round(self, number: int, wanted: Sequence[Contender], *, with_envoy: bool) -> None:
        outcomes: list[Outcome] = []
        for contender in random.sample(wanted, len(wanted)):
            place = self._folder / f"{number}-{contender.name.replace('/', '-')}"
            outcome = self._try(contender.name, lambda c=contender, p=place: run(c, p, self._processes, **self._how))
            if outcome is not None:
                outcomes.append(outcome)
                print(f"  round {number}: {line(outcome)}", flush=True)
        self._rounds.append(outcomes)
        if with_envoy:
            found = self._try(ENVOY, lambda: edge.run(self._folder / f"{number}-envoy", **self._how))
            if found is not None:
                self._edges.append(found)
                for one in found:
                    print(f"  round {number}: {edge_line(one)}", flush=True)

    def _try(self, name: str, measure: Any) -> Any:
        if name in self._left_out:
            return None
        try:
            return measure()
        except MissingError as error:
            self._left_out.add(name)
            print(f"  LEFT OUT {name}: {error}", flush=True)
        except FailedError as error:
            self._failures.append(f"{name}: {error}")
            print(f"  FAILED {name}: {error}", file=sys.stderr, flush=True)
        return None

    def report(self, *, to_page: bool) -> int:
        """Print and write what was measured; return the exit code: 1 if anything failed, or ours was over."""
        RAW.parent.mkdir(exist_ok=True)
        told = {
            "rounds": [[one.as_json() for one in some] for some in self._rounds],
            "edges": [[one.as_json() for one in some] for some in self._edges],
        }
        RAW.write_text(json.dumps(told, indent=1) + "\n")
        rounds, edges = page.read(RAW)
        print(f"\n{page.table(rounds)}\n")
        if edges:
            print(f"{page.edge_table(edges)}\n")
        results = page.results(rounds, edges)
        write(results, FILE)
        for result in results:
            print(f"{result.name:44} {result.ratio:10.4f} ({result.min:.4f} to {result.max:.4f})  {result.unit}")
        print()
        for bound in page.bounds(results):
            print(bound)
        over = [line for outcomes in rounds.values() for outcome in outcomes for line in outcome.over]
        for failure in [*self._failures, *[f"the gate was over: {line}" for line in over]]:
            print(f"FAILED {failure}", file=sys.stderr)
        if self._failures or over:
            return 1
        if to_page and not self._left_out:
            page.write_page(RAW)
        return 0


def line(outcome: Outcome) -> str:
    """Return one contender's figures in short."""
    text = (
        f"{outcome.name:22} {outcome.rate:9,.0f} checks/s each, p50 {outcome.p50 / 1000:7.1f} us, "
        f"p99 {outcome.p99 / 1000:8.1f} us, {outcome.cpu_us:7.1f} us of CPU each"
    )
    if outcome.used is None or outcome.cores is None:
        return text
    return f"{text}; {outcome.used:6.1%} used, {outcome.cores:.2f} cores, fullest {outcome.fullest} of {outcome.limit}"


def edge_line(one: edge.Passed) -> str:
    return (
        f"Envoy, {one.name:22} p50 {one.p50:6.2f} ms, p99 {one.p99:6.2f} ms, added {one.added_p50:5.2f} and "
        f"{one.added_p99:5.2f} ms, fullest {one.fullest}"
    )


if __name__ == "__main__":
    sys.exit(main())
