"""What becomes of the figures: ratios in build/bench.json, tables and a picture in docs/performance.md."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.mesh.contenders import ALL, GATE, LOCAL
from bench.mesh.edge import OURS, PLAIN, THEIRS, Passed
from bench.mesh.run import Outcome
from bench.pipeline.page import PAGE, machine, with_figures
from bench.results import Result, from_rounds

PICTURE: Final = Path("docs/figures/mesh.png")
DRAWING: Final = Path("docs/figures/mesh.py")
MARKS: Final = "<!-- mesh: begin -->", "<!-- mesh: end -->"
_COLUMNS: Final = (
    "limiter", "checks/s, each process", "p50, us", "p99, us", "p99 at a steady pace, us", "CPU of all, us per check",
    "cores, saturated", "used", "fullest true second",
)  # fmt: skip
_BEYOND: Final = "of the limit, beyond it in the fullest true second"
_LEAST_MS: Final = 0.01  # by which two p99 of calls through Envoy can be told apart

Rounds = Mapping[str, Sequence[Outcome]]


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure must hold."""

    name: str
    value: float
    most: float

    @property
    def holds(self) -> bool:
        return self.value <= self.most

    def __str__(self) -> str:
        return f"{'holds' if self.holds else 'MISSED':6}  {self.name:44} {self.value:10.4f}, at most {self.most:g}"


def by_name(rounds: Sequence[Sequence[Outcome]]) -> dict[str, list[Outcome]]:
    """Sort outcomes by contender, in the order of the contenders."""
    found: dict[str, list[Outcome]] = {contender.name: [] for contender in ALL}
    for one in rounds:
        for outcome in one:
            found[outcome.name].append(outcome)
    return {name: outcomes for name, outcomes in found.items() if outcomes}


def results(rounds: Rounds, edges: Sequence[Sequence[Passed]]) -> list[Result]:
    """Return ours by theirs, of the rounds in which both were measured, and what of ours is no ratio."""
    found: list[Result] = []
    if GATE.name in rounds:
        for name in rounds:
            if name != GATE.name:
                found += _against(rounds, name)
        found.append(_figure("mesh/used", [outcome.used or 0 for outcome in rounds[GATE.name]], "of the limit, gate"))
        found.append(_figure("mesh/p99", [o.p99 / 1000 for o in rounds[GATE.name]], "us, p99 of a check of the gate"))
    for name, outcomes in rounds.items():
        over = [o.fullest / o.limit - 1 for o in outcomes if o.fullest is not None]
        if over:
            found.append(_figure(f"mesh/over/{name}", over, _BEYOND))
    added = [{one.name: one for one in edge} for edge in edges]
    if added:
        theirs = [max(_LEAST_MS, edge[THEIRS].added_p99) for edge in added]
        ours = [max(_LEAST_MS, edge[OURS].added_p99) for edge in added]
        found.append(from_rounds("mesh/envoy/added-p99", ours, theirs, f"p99 added to a call, gate / {THEIRS}"))
        for name in (OURS, THEIRS):
            over = [(edge[name].fullest or 0) / edge[name].limit - 1 for edge in added]
            found.append(_figure(f"mesh/envoy/over/{name}", over, _BEYOND))
    return found


def _against(rounds: Rounds, name: str) -> list[Result]:
    pairs = list(zip(rounds[GATE.name], rounds[name], strict=False))

    def ratio(kind: str, what: Callable[[Outcome], float], unit: str) -> Result:
        ours, theirs = ([what(pair[place]) for pair in pairs] for place in (0, 1))
        return from_rounds(f"mesh/{kind}/{name}", ours, theirs, f"{unit}, gate / {name}")

    time = ratio("time", lambda o: 1 / o.rate, "time per check")
    if name == LOCAL.name:
        return [time, ratio("check", lambda o: o.p50, "p50 of a check")]
    return [
        time,
        ratio("p99", lambda o: o.p99, "p99 of a check"),
        ratio("cpu", lambda o: o.cpu_us, "CPU of all per check"),
    ]


def bounds(found: Sequence[Result]) -> list[Bound]:
    """Return what must hold, of the results that there are."""
    over_redis = {contender.name for contender in ALL if contender.over_redis}
    most: dict[str, float] = {f"mesh/time/{slug}": 1 / 20 for slug in over_redis}
    most |= {f"mesh/p99/{slug}": 1 / 10 for slug in over_redis}
    most |= {f"mesh/check/{LOCAL.name}": 1.2, "mesh/envoy/added-p99": 2.0}
    most |= {"mesh/over/gate": 0.0, "mesh/envoy/over/gate": 0.0}
    held = [
        Bound(one.name, one.max if "/over/" in one.name else one.ratio, most[one.name])
        for one in found
        if one.name in most
    ]
    return held + [Bound("not used of the limit", 1 - one.ratio, 0.03) for one in found if one.name == "mesh/used"]


def table(rounds: Rounds) -> str:
    """Return the figures of each contender: medians of the rounds, and of the fullest second the most."""
    lines = [_row(_COLUMNS), _row(["---"] * len(_COLUMNS))]
    for name, outcomes in rounds.items():
        shared = [o for o in outcomes if o.used is not None]
        cells = [
            f"**{name}**" if name == GATE.name else name,
            f"{_middle(o.rate for o in outcomes):,.0f}",
            _us(_middle(o.p50 for o in outcomes)),
            _us(_middle(o.p99 for o in outcomes)),
            _us(_middle(o.paced_p99 or 0 for o in shared)) if shared else "-",
            f"{_middle(o.cpu_us for o in outcomes):,.1f}",
            f"{_middle(o.cores or 0 for o in shared):.2f}" if shared else "-",
            f"{_middle(o.used or 0 for o in shared):.1%}" if shared else "-",
            f"{max(o.fullest or 0 for o in shared)} of {shared[0].limit}" if shared else "of one process alone",
        ]
        lines.append(_row(cells))
    return "\n".join(lines)


def edge_table(edges: Sequence[Sequence[Passed]]) -> str:
    columns = ("behind Envoy", "p50, ms", "p99, ms", "added p50, ms", "added p99, ms", "fullest true second")
    lines = [_row(columns), _row(["---"] * len(columns))]
    for name in (PLAIN, OURS, THEIRS):
        some = [one for edge in edges for one in edge if one.name == name]
        cells = [name if name != OURS else "**gate sidecar**"]
        cells += [f"{_middle(getattr(one, what) for one in some):.2f}" for what in ("p50", "p99")]
        if name == PLAIN:
            cells += ["-", "-", "-"]
        else:
            cells += [f"{_middle(getattr(one, what) for one in some):.2f}" for what in ("added_p50", "added_p99")]
            cells.append(f"{max(one.fullest or 0 for one in some)} of {some[0].limit}")
        lines.append(_row(cells))
    return "\n".join(lines)


def read(raw: Path) -> tuple[dict[str, list[Outcome]], list[list[Passed]]]:
    told = json.loads(raw.read_text())
    rounds = [[Outcome(**{**one, "over": tuple(one["over"])}) for one in some] for some in told["rounds"]]
    return by_name(rounds), [[Passed(**one) for one in edge] for edge in told["edges"]]


def write_page(raw: Path, page: Path = PAGE, picture: Path = PICTURE) -> None:
    """Put the newest figures between their marks of the page, and draw the picture."""
    rounds, edges = read(raw)
    shown = f"![Limiters that processes share: checks per second, p99, fullest true second](figures/{picture.name})"
    figures = "\n\n".join([machine(), shown, table(rounds), *([edge_table(edges)] if edges else [])])
    page.write_text(with_figures(page.read_text("utf-8"), figures, MARKS), "utf-8")
    subprocess.run([sys.executable, str(DRAWING), str(raw), str(picture)], check=True)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(name: str, values: Sequence[float], unit: str) -> Result:
    return Result(name, round(statistics.median(values), 4), round(min(values), 4), round(max(values), 4), unit)


def _middle(values: Iterable[float]) -> float:
    return statistics.median(values)


def _us(ns: float) -> str:
    return f"{ns / 1000:,.1f}" if ns < 100_000 else f"{ns / 1000:,.0f}"
