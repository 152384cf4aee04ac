"""Draw CPU per record of the gate and its peers: `python docs/figures/performance.py RUNS.json PICTURE.png`.

RUNS.json is what `make bench` leaves in build/bench-pipeline.json: per case the figures of each round.
"""

import json
import sys
from pathlib import Path

import altair as alt

BLUE, GREY = "#1f6feb", "#9aa4b2"


def chart(cases: list[dict]) -> alt.HConcatChart:
    """Return bars of medians, one panel per form, with a line from the least round to the greatest."""
    rows = [
        {
            "contender": case["contender"],
            "form": f"{case['value_size']} B, {'all admitted' if case['form'] == 'all' else 'half delayed'}",
            "cpu": cpu,
        }
        for case in cases
        if case["services"] == 1 and not case["tenants"] and case["contender"] != "faststream"
        for cpu in case["cpu"]
    ]
    panels = []
    for form in dict.fromkeys(row["form"] for row in rows):
        base = alt.Chart(alt.Data(values=[row for row in rows if row["form"] == form])).encode(
            y=alt.Y("contender:N", sort=alt.EncodingSortField("cpu", op="median"), title=None)
        )
        ours = alt.expr.indexof(alt.datum.contender, "gate") == 0
        bars = base.mark_bar(size=16).encode(
            x=alt.X("median(cpu):Q", title="CPU, us per record"),
            color=alt.condition(ours, alt.value(BLUE), alt.value(GREY)),
        )
        spread = base.mark_rule(strokeWidth=2).encode(x="min(cpu):Q", x2="max(cpu):Q")
        panels.append((bars + spread).properties(title=form, width=230, height=170))
    return alt.hconcat(*panels).configure_axis(grid=False).configure_view(stroke=None)


def main(runs: str, picture: str) -> None:
    """Draw the figures in the file `runs` into the file `picture`."""
    chart(json.loads(Path(runs).read_text("utf-8"))).save(picture, scale_factor=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
