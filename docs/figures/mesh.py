"""Draw limiters that processes share, side by side: `python docs/figures/mesh.py RUNS.json PICTURE.png`.

RUNS.json is what `make bench BENCH=--mesh` leaves in build/bench-mesh.json: per round the figures of each contender.
"""

import json
import sys
from pathlib import Path

import altair as alt

BLUE, GREY, RED = "#1f6feb", "#9aa4b2", "#c23b22"


def chart(told: dict) -> alt.HConcatChart:
    """Return bars of medians: how fast checks are, how long they take, and what lies in the fullest true second."""
    rows = [
        {
            "who": one["name"],
            "rate": one["rate"],
            "p99": one["p99"] / 1000,
            "over": 100 * (one["fullest"] or 0) / one["limit"],
        }
        for outcomes in told["rounds"]
        for one in outcomes
        if one["used"] is not None
    ]
    order = sorted({row["who"] for row in rows}, key=lambda who: -max(r["rate"] for r in rows if r["who"] == who))

    def panel(what: str, title: str, scale: str, *, names: bool) -> alt.LayerChart:
        bars = alt.Chart(alt.Data(values=rows)).mark_bar(size=15)
        return bars.encode(
            y=alt.Y("who:N", sort=order, title=None, axis=alt.Axis(labels=names, ticks=names, labelLimit=200)),
            x=alt.X(f"median({what}):Q", title=title, scale=alt.Scale(type=scale)),
            color=alt.condition(alt.datum.who == "gate", alt.value(BLUE), alt.value(GREY)),
        ).properties(width=210, height=200)

    limit = alt.Chart(alt.Data(values=[{"limit": 100}])).mark_rule(color=RED, strokeWidth=2).encode(x="limit:Q")
    panels = (
        panel("rate", "checks per second of each process", "log", names=True),
        panel("p99", "p99 of a check, us", "log", names=False),
        panel("over", "fullest true second, % of the limit", "linear", names=False) + limit,
    )
    return alt.hconcat(*panels).configure_axis(grid=False).configure_view(stroke=None)


def main(runs: str, picture: str) -> None:
    """Draw the figures in the file `runs` into the file `picture`."""
    chart(json.loads(Path(runs).read_text("utf-8"))).save(picture, scale_factor=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
