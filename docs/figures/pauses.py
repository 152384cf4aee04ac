"""Draw pauses of the gate and of Kafka Streams by kind of fault: `python docs/figures/pauses.py RUNS.json PICTURE.png`.

RUNS.json is what `make bench BENCH=--pauses` leaves in build/bench-pauses.json: per fault the pauses of each lane.
"""

import json
import sys
from pathlib import Path

import altair as alt

BLUE, GREY = "#1f6feb", "#9aa4b2"
NAMES = ("gate", "kafka-streams")


def chart(faults: list[dict]) -> alt.Chart:
    """Return two bars of medians per kind, each with a line from the shortest pause of a lane to the longest."""
    rows = [
        {"fault": fault["kind"], "who": name, "seconds": seconds}
        for fault in faults
        for name in NAMES
        for seconds in fault["pauses"][name]
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("fault:N", sort=list(dict.fromkeys(row["fault"] for row in rows)), title=None),
        yOffset=alt.YOffset("who:N", sort=list(NAMES)),
    )
    bars = base.mark_bar().encode(
        x=alt.X("median(seconds):Q", title="pause of a lane: median, shortest to longest, s"),
        color=alt.Color("who:N", scale=alt.Scale(domain=list(NAMES), range=[BLUE, GREY]), title=None),
    )
    spread = base.mark_rule(strokeWidth=2).encode(x="min(seconds):Q", x2="max(seconds):Q")
    picture = (bars + spread).properties(width=520, height=alt.Step(16))
    return picture.configure_axis(grid=False).configure_view(stroke=None).configure_legend(orient="top")


def main(runs: str, picture: str) -> None:
    """Draw the figures in the file `runs` into the file `picture`."""
    chart(json.loads(Path(runs).read_text("utf-8"))).save(picture, scale_factor=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
