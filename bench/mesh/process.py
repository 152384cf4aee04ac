"""A process that calls: `python -m bench.mesh.process KIND OPTIONS FILE`; it says "ready", and reads the plan's start.

FILE gets, per phase, how often it called, how long checks took, its CPU time, and when calls that may go were made.
"""

import json
import sys
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.mesh.callers import KINDS, Check
from bench.mesh.plan import Phase
from gate.cli.demo.intervals import Use

FIRST_SECONDS = 30.0
BEHIND = 0.1  # seconds of calls that are made up for


def main(kind: str, options: str, file: str) -> None:
    given = json.loads(options)
    phases = [Phase.read(entry) for entry in given["phases"]]
    with KINDS[kind](given) as checks:
        for phase in phases:
            first_answer(checks[phase.service])
        print("ready", flush=True)
        start = float(sys.stdin.readline())
        place = given["number"] / given["processes"]
        done = [run(phase, checks[phase.service], start, place) for phase in phases]
    Path(file).write_text(json.dumps([tell(*one) for one in done]))


def first_answer(check: Check) -> None:
    """Call until a call may go: connections are made then, and parts are there."""
    end = time.monotonic() + FIRST_SECONDS
    while not check():
        if time.monotonic() > end:
            raise RuntimeError("no call may go")
        time.sleep(0.05)


def run(phase: Phase, check: Check, start: float, place: float) -> "tuple[Phase, array[int], float, list[Use]]":
    """Return what checks of a phase took, ns, its CPU time, and when calls that may go were made.

    `start` is the plan's, in unix seconds; `place` is from 0 to 1, so that processes do not call all at once.
    """
    time.sleep(max(0.0, start + phase.begin - time.time()))
    cpu = time.process_time()
    uses: list[Use] = []
    if phase.rate is None:
        took = flat_out(check, start + phase.end)
    else:
        took = array("q")
        for begin, end in phase.spells or [(phase.begin, phase.end)]:
            time.sleep(max(0.0, start + begin - time.time()))
            paced(check, start + begin + place / phase.rate, start + end, phase.rate, took, uses)
    time.sleep(max(0.0, start + phase.end - time.time()))  # what background threads do counts, too
    return phase, took, time.process_time() - cpu, uses


def tell(phase: Phase, took: Sequence[int], cpu: float, uses: list[Use]) -> dict[str, Any]:
    """Return it as it is written: sorting takes long, and comes when all phases are over."""
    ordered = sorted(took)
    return {
        "name": phase.name,
        "calls": len(ordered),
        "p50_ns": quantile(ordered, 0.5),
        "p99_ns": quantile(ordered, 0.99),
        "cpu": cpu,
        "uses": uses,
    }


def flat_out(check: Check, end: float) -> "array[int]":
    took = array("q")
    add, clock = took.append, time.perf_counter_ns
    after = clock()
    last = after + round((end - time.time()) * 1e9)
    while after < last:
        before = clock()
        check()
        after = clock()
        add(after - before)
    return took


def paced(check: Check, begin: float, end: float, rate: float, took: "array[int]", uses: list[tuple[int, int]]) -> None:
    due = begin
    while due < end:
        if (wait := due - time.time()) > 0:
            time.sleep(wait)
        before = time.time_ns()
        allowed = check()
        after = time.time_ns()
        took.append(after - before)
        if allowed:
            uses.append((before, after))
        due = max(due + 1 / rate, after / 1e9 - BEHIND)


def quantile(ordered: Sequence[int], share: float) -> int:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0


if __name__ == "__main__":
    main(*sys.argv[1:])
