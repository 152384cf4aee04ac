"""docs/performance.md: the figures in it and its picture, from a full run. Its prose is written by hand."""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gate.kafka.local import jvm
from gate.kafka.local.jars import KAFKA_VERSION

PAGE = Path("docs/performance.md")
PICTURE = Path("docs/figures/performance.png")
DRAWING = Path("docs/figures/performance.py")
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def write(raw: Path, results: Path, page: Path = PAGE) -> None:
    """Put the newest figures between the marks of the page, and draw the picture."""
    text = page.read_text("utf-8")
    picture = f"![CPU per record of the gate and its peers]({PICTURE.relative_to('docs')})"
    figures = "\n\n".join(
        [machine(), picture, costs(json.loads(raw.read_text())), ratios(json.loads(results.read_text()))]
    )
    page.write_text(with_figures(text, figures), "utf-8")
    subprocess.run([sys.executable, str(DRAWING), str(raw), str(PICTURE)], check=True)


def with_figures(text: str, figures: str, marks: tuple[str, str] = (BEGIN, END)) -> str:
    """Return the page with `figures` between marks. Raises ValueError if they are not there, once and in order."""
    first, last = marks
    head, begin, rest = text.partition(first)
    _old, end, tail = rest.partition(last)
    if not (begin and end) or first in tail or last in tail:
        raise ValueError(f"the page needs {first} and {last}, each once, in this order")
    return f"{head}{first}\n{figures}\n{last}{tail}"


def machine() -> str:
    return (
        f"{os.cpu_count()} cores, {platform.system()}, CPython {platform.python_version()}, "
        f"Java {jvm.find().version}, Apache Kafka {KAFKA_VERSION} on the same machine."
    )


def costs(cases: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of CPU and speed by contender, the cheapest first in each group."""
    lines = [
        "| value, form | contender | CPU, us per record | records/s | MB |",
        "|---|---|---|---|---|",
    ]
    good = [case for case in cases if case["cpu"]]
    named = Counter((_group(case)[-1], case["contender"]) for case in good)
    for case in sorted(good, key=lambda case: (_group(case), statistics.median(case["cpu"]))):
        name = _group(case)[-1]
        if named[name, case["contender"]] > 1:  # of loads of different sizes
            name += f", {case['records']:,} records"
        lines.append(
            f"| {name} | {case['contender']} | {_spread(case['cpu'], 2)} "
            f"| {statistics.median(case['rate']):,.0f} | {max(case['memory']):.0f} |"
        )
    return "\n".join(lines)


def ratios(results: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| name | median | least to greatest | what |", "|---|---|---|---|"]
    lines += [
        f"| `{r['name']}` | {r['ratio']:g} | {r['min']:g} to {r['max']:g} | {r['unit']} |"
        for r in results
        if not r["name"].startswith(("pause/", "mesh/"))  # they have tables of their own
    ]
    return "\n".join(lines)


def _group(case: Mapping[str, Any]) -> tuple[int, int, int, str, str]:
    services, tenants, size = case["services"], case["tenants"], case["value_size"]
    text = f"{size} B, {case['form']}"
    text += f", {services:,} services" * (services > 1) + f", {tenants:,} tenants" * bool(tenants)
    return services, tenants, size, case["form"], text


def _spread(values: Sequence[float], digits: int) -> str:
    return f"**{statistics.median(values):.{digits}f}** ({min(values):.{digits}f} to {max(values):.{digits}f})"
