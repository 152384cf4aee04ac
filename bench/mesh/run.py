"""One contender from the start of its servers to what came of it."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from bench.mesh.contenders import Contender
from bench.mesh.plan import FLAT, LIMIT, SATURATED, Phase, phases
from bench.mesh.servers import SPELLS, FailedError, Servers, servers
from gate.cli.demo.intervals import Use, excess, fullest
from gate.limits import Spec, Window
from gate.units import SECOND

_GRACE_SECONDS: Final = 30.0
_LEAD_SECONDS: Final = 1  # from the word that all are ready to the start, at a full second

Told = dict[str, Any]  # by a process, of a phase


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a contender did. Times of checks are ns; without a limit, `used` and `fullest` are None."""

    name: str
    rate: float  # checks per second and process, flat out
    p50: int
    p99: int
    cpu_us: float  # of all together, per check
    paced_p50: int | None = None
    paced_p99: int | None = None
    cores: float | None = None  # of all together, saturated
    used: float | None = None  # of what the limit allows
    fullest: int | None = None  # units in the fullest true second
    limit: int = LIMIT
    over: tuple[str, ...] = ()  # of ours: every limit that was exceeded, the bucket too

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run(contender: Contender, folder: Path, processes: int, *, quick: bool, bootstrap: str | None) -> Outcome:
    """Measure one contender. Raises MissingError and FailedError."""
    plan = phases(processes, quick=quick, limited=contender.shared)
    folder.mkdir(parents=True)
    with servers(contender.needs, folder, LIMIT, bootstrap) as running, ExitStack() as stack:
        crew = [_start(stack, contender, running, plan, number, processes) for number in range(processes)]
        for process, log in crew:
            _ready(process, log)
        start = int(time.time()) + 1 + _LEAD_SECONDS
        for process, _ in crew:
            assert process.stdin is not None
            process.stdin.write(f"{start}\n".encode())
            process.stdin.flush()
        spent = [_watch(running, phase, start) for phase in plan]
        for process, log in crew:
            try:
                code = process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                raise FailedError(f"{contender.name}: a process does not end") from None
            if code:
                raise FailedError(f"{contender.name}: a process failed: {_tail(log)}")
    told = [json.loads((folder / f"calls-{number}").read_text()) for number in range(processes)]
    return judge(contender, plan, told, spent, start)


def judge(
    contender: Contender,
    plan: Sequence[Phase],
    told: Sequence[list[dict[str, Any]]],
    spent: Sequence[float],
    start: int,
) -> Outcome:
    """Make figures of what each process told of each phase; `spent`: seconds of CPU of the servers in each phase."""
    by_phase = {phase.name: ([one[place] for one in told], phase, spent[place]) for place, phase in enumerate(plan)}
    some, phase, servers_cpu = by_phase[FLAT]
    calls = sum(one["calls"] for one in some)
    outcome: dict[str, Any] = {
        "name": contender.name,
        "rate": calls / len(some) / (phase.end - phase.begin),
        "p50": _median([one["p50_ns"] for one in some]),
        "p99": _median([one["p99_ns"] for one in some]),
        "cpu_us": (servers_cpu + sum(one["cpu"] for one in some)) / calls * 1e6,
    }
    if SATURATED in by_phase:
        some, phase, servers_cpu = by_phase[SATURATED]
        begin, end = ((start + moment) * SECOND for moment in (phase.counts_from, phase.end))
        uses = _uses(some)
        inside = sum(begin <= after < end for _, after in uses)
        in_spells = _uses(by_phase[SPELLS][0])
        window = Window(LIMIT, SECOND)
        spec = Spec(Fraction(LIMIT), LIMIT, (window,))
        over = [*excess(spec, uses), *excess(spec, in_spells)] if contender.kind == "gate" else []
        outcome |= {
            "paced_p50": _median([one["p50_ns"] for one in some]),
            "paced_p99": _median([one["p99_ns"] for one in some]),
            "cores": (servers_cpu + sum(one["cpu"] for one in some)) / (phase.end - phase.begin),
            "used": inside / (LIMIT * (phase.end - phase.counts_from)),
            "fullest": max(fullest(window, uses)[0], fullest(window, in_spells)[0]),
            "over": tuple(over),
        }
    return Outcome(**outcome)


def _uses(some: Sequence[Told]) -> list[Use]:
    return sorted((before, after) for one in some for before, after in one["uses"])


def _median(values: Sequence[int]) -> int:
    """Return the middle of the processes' figures: the greater one of two."""
    return sorted(values)[len(values) // 2]


def _start(
    stack: ExitStack, contender: Contender, running: Servers, plan: Sequence[Phase], number: int, processes: int
) -> tuple[subprocess.Popen[bytes], Path]:
    options = {
        "bootstrap": running.bootstrap,
        "prefix": running.prefix,
        "limit": LIMIT,
        "number": number,
        "processes": processes,
        "phases": [phase.as_json() for phase in plan],
        **running.addresses,
        **contender.options,
    }
    log = running.folder / f"process-{number}.log"
    command = [sys.executable, "-m", "bench.mesh.process", contender.kind, json.dumps(options)]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*command, str(running.folder / f"calls-{number}")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    stack.callback(_kill, process)
    return process, log


def _ready(process: subprocess.Popen[bytes], log: Path) -> None:
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        raise FailedError(f"a process is not ready: {_tail(log)}")


def _watch(running: Servers, phase: Phase, start: int) -> float:
    """Return the seconds of CPU that servers spend in a phase."""
    time.sleep(max(0.0, start + phase.begin - time.time()))
    before = running.spent()
    time.sleep(max(0.0, start + phase.end - time.time()))
    return running.spent() - before


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-6:])
