"""The gate and its peers from end to end on one broker; the method is described in the package.

python -m bench.pipeline [--quick] [--rounds N] [--only NAME ...]
python -m bench.pipeline --itself deduplicate [--rounds N]: of the gate against itself these pairs alone
"""

import argparse
import asyncio
import json
import logging
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.memory import use_memory
from bench.pipeline import latency, page, plan
from bench.pipeline.contenders import EXACTLY_ONCE, KAFKA_STREAMS, build_kafka_streams
from bench.pipeline.process import FailedError
from bench.pipeline.run import Case, Outcome, run
from bench.results import FILE, Result, write
from gate.kafka.local import LocalBroker

RAW = Path("build/bench-pipeline.json")
BROKER_HEAP = "1g"


async def run_rounds(cases: Sequence[Case], rounds: int, bootstrap: str) -> tuple[plan.Rounds, list[str]]:
    """Run each case once a round, in random order; what fails is reported, and the others go on."""
    outcomes: dict[Case, list[Outcome | None]] = {case: [] for case in cases}
    failures = []
    for number in range(rounds):
        for case in random.sample(cases, len(cases)):
            try:
                outcome = await run(case, bootstrap)
            except FailedError as error:
                outcome = None
                failures.append(str(error))
                print(f"  FAILED {error}", file=sys.stderr, flush=True)
            else:
                print(
                    f"  round {number + 1}: {case.name:45} {outcome.cpu:8.2f} us  {outcome.rate:10,.0f} /s"
                    f"  {outcome.memory:5.0f} MB",
                    flush=True,
                )
            outcomes[case].append(outcome)
    return outcomes, failures


def table(rounds: plan.Rounds) -> str:
    lines = [f"{'':45} {'CPU us/record (least, greatest)':>34} {'records/s':>12}"]
    for case, outcomes in rounds.items():
        good = [outcome for outcome in outcomes if outcome is not None]
        if good:
            cpu = [outcome.cpu for outcome in good]
            spread = f"{statistics.median(cpu):8.2f} ({min(cpu):.2f} to {max(cpu):.2f})"
            lines.append(f"{case.name:45} {spread:>34} {statistics.median(o.rate for o in good):12,.0f}")
    return "\n".join(lines)


def against_itself(names: Sequence[str], rounds: int) -> int:
    """Run pairs of the gate alone, and print what each ratio came to."""
    pairs = [pair for pair in plan.pairs() if pair.name in names]
    with LocalBroker.start(heap=BROKER_HEAP, optimize=True) as broker:
        cases = list(dict.fromkeys(case for pair in pairs for case in (pair.many, pair.few)))
        outcomes, failures = asyncio.run(run_rounds(cases, rounds, broker.bootstrap))
    for result in plan.ratios_of(pairs, outcomes):
        print(f"{result.name:32} {result.ratio:10.4f} ({result.min:.4f} to {result.max:.4f})  {result.unit}")
    return 1 if failures else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds of small loads, under four minutes")
    parser.add_argument("--rounds", type=int, help="5 if not said; 2 when quick")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these peers alone, beside the gate")
    parser.add_argument(
        "--itself", nargs="+", metavar="PAIR", choices=[p.name for p in plan.pairs()], help="%(choices)s"
    )
    arguments = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # of topics that come and go; what fails raises
    rounds = arguments.rounds or (2 if arguments.quick else 5)
    use_memory()
    if arguments.itself:
        return against_itself(arguments.itself, rounds)
    failures: list[str] = []
    try:
        build_kafka_streams()
        left_out = ""
    except FailedError as error:
        left_out = KAFKA_STREAMS.name
        failures.append(str(error))
    kept = {EXACTLY_ONCE.name, *arguments.only} if arguments.only else None
    cases = [
        case
        for case in plan.cases(quick=arguments.quick)
        if case.contender.name != left_out and (kept is None or case.contender.name in kept)
    ]
    results: list[Result] = []
    with LocalBroker.start(heap=BROKER_HEAP, optimize=True, on_progress=print) as broker:
        print(f"{rounds} rounds of {len(cases)} runs, in random order", flush=True)
        outcomes, failed = asyncio.run(run_rounds(cases, rounds, broker.bootstrap))
        failures += failed
        results += plan.ratios(outcomes)
        print(f"\n{table(outcomes)}\n", flush=True)
        raw = [plan.by_contender(case, outcomes[case]) for case in outcomes]
        if not arguments.only:
            try:  # before thousands of topics come, whose files the broker deletes for minutes after
                results += asyncio.run(latency.measure(broker.bootstrap, quick=arguments.quick))
            except FailedError as error:
                failures.append(str(error))
        if not arguments.quick and not arguments.only:
            scaled, failed = asyncio.run(run_rounds(plan.scale_cases(), min(rounds, 3), broker.bootstrap))
            failures += failed
            results += plan.scale_ratios(scaled)
            raw += [plan.by_contender(case, scaled[case]) for case in scaled]
    RAW.parent.mkdir(exist_ok=True)
    RAW.write_text(json.dumps(raw, indent=1) + "\n")
    write(results)
    for result in results:
        print(f"{result.name:32} {result.ratio:10.4f} ({result.min:.4f} to {result.max:.4f})  {result.unit}")
    if not arguments.quick and not arguments.only and not failures:
        page.write(RAW, FILE)
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
