"""What becomes of the figures: ratios in build/bench.json, a table and a picture in docs/performance.md."""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.pauses.contenders import GATE, STREAMS
from bench.pauses.run import LOAD, Struck
from bench.pipeline.page import PAGE, machine, with_figures
from bench.pipeline.plan import figure
from bench.results import Result, from_rounds

PICTURE = Path("docs/figures/pauses.png")
DRAWING = Path("docs/figures/pauses.py")
MARKS = "<!-- pauses: begin -->", "<!-- pauses: end -->"
NONE = "none"
P99 = 99


def by_kind(struck: Sequence[Struck]) -> dict[str, list[Struck]]:
    found: dict[str, list[Struck]] = {}
    for one in struck:
        found.setdefault(one.kind, []).append(one)
    return found


def lanes(struck: Sequence[Struck], name: str) -> list[float]:
    """Return the pauses of each lane in each fault, seconds, the shortest first."""
    return sorted(seconds for one in struck for seconds in one.pauses[name])


def results(struck: Sequence[Struck]) -> list[Result]:
    """Return the worst lane of ours by theirs in the same fault, and both in seconds."""
    found = []
    for kind, some in by_kind(struck).items():
        worst = {name: [one.worst(name) for one in some] for name in (GATE, STREAMS)}
        found.append(from_rounds(f"pause/{kind}", worst[GATE], worst[STREAMS], "longest pause, gate / kafka-streams"))
        found += [figure(f"pause/{kind}/{name}", worst[name], "s, longest pause of a lane") for name in worst]
    return found


def table(struck: Sequence[Struck]) -> str:
    """Return the pauses by kind of fault."""
    lines = [
        "| fault | gate, p50 | gate, longest | Kafka Streams, p50 | Kafka Streams, longest | nothing could be sent |",
        "|---|---|---|---|---|---|",
    ]
    for kind, some in by_kind(struck).items():
        ours, theirs, load = (lanes(some, name) for name in (GATE, STREAMS, LOAD))
        lines.append(
            f"| {kind} | **{statistics.median(ours):.1f} s** | {ours[-1]:.1f} s | {statistics.median(theirs):.1f} s "
            f"| {theirs[-1]:.1f} s | {statistics.median(load):.1f} s, {load[-1]:.1f} s |"
        )
    return "\n".join([*lines, "", beyond(struck)])


def beyond(struck: Sequence[Struck]) -> str:
    """Say how much longer than without a fault lanes stand while nodes are restarted one by one."""
    kinds = by_kind(struck)
    if not (kinds.get(NONE) and kinds.get("rolling-restart")):
        return ""
    texts = []
    for name in (GATE, STREAMS):
        usual = lanes(kinds[NONE], name)[-1]
        over = [max(0.0, seconds - usual) for seconds in lanes(kinds["rolling-restart"], name)]
        p99 = over[min(len(over) - 1, len(over) * P99 // 100)]
        texts.append(f"{name} p50 {statistics.median(over):.2f} s, p99 {p99:.2f} s")
    return f"A rolling restart, beyond the longest pause without a fault: {'; '.join(texts)}."


def write_page(raw: Path, page: Path = PAGE, picture: Path = PICTURE) -> None:
    """Put the newest figures between their marks of the page, and draw the picture."""
    struck = [Struck(**entry) for entry in json.loads(raw.read_text())]
    shown = f"![Pauses of the gate and of Kafka Streams by kind of fault](figures/{picture.name})"
    figures = "\n\n".join([machine(), shown, table(struck)])
    page.write_text(with_figures(page.read_text("utf-8"), figures, MARKS), "utf-8")
    subprocess.run([sys.executable, str(DRAWING), str(raw), str(picture)], check=True)
