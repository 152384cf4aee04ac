# ruff: noqa: D103, T201 - a script, whose functions say what they draw
"""Draws docs/figures/limits.png: four ways to count the same arrivals, seen through every true window.

python docs/figures/limits.py
"""

import sys
from collections.abc import Callable
from pathlib import Path

import altair as alt

from gate.limits import Limiter, Spec, Window

SECOND = 10**9
LIMIT, SIZE = 1000, 60 * SECOND
FILE = Path(__file__).with_suffix(".png")
MARGIN = "admitted in the 60 s that end here"


def arrivals() -> list[int]:
    """Four minutes: bursts around the turn of the minute, which is where windows cheat, and a steady stream."""
    times = []
    for start, end, per_second in (
        (20, 58, 10),
        (52, 68, 80),
        (110, 114, 300),
        (118, 126, 140),
        (150, 200, 20),
        (176, 184, 150),
    ):
        times += range(start * SECOND, end * SECOND, SECOND // per_second)
    return sorted(times)


def ours() -> Callable[[int], bool]:
    limiter = Limiter(Spec(None, 1, (Window(LIMIT, SIZE),)), 0)
    return lambda now: limiter.take(now, 1) == 1


def true_window() -> Callable[[int], bool]:
    admitted: list[int] = []

    def admit(now: int) -> bool:
        fits = sum(time > now - SIZE for time in admitted) < LIMIT
        if fits:
            admitted.append(now)
        return fits

    return admit


def fixed_window() -> Callable[[int], bool]:
    counts: dict[int, int] = {}

    def admit(now: int) -> bool:
        fits = counts.get(now // SIZE, 0) < LIMIT
        counts[now // SIZE] = counts.get(now // SIZE, 0) + fits
        return fits

    return admit


def sliding_counter() -> Callable[[int], bool]:
    """Weigh the count of the last fixed window by what of it is still in sight: as if its arrivals had been even."""
    counts: dict[int, int] = {}

    def admit(now: int) -> bool:
        index, elapsed = divmod(now, SIZE)
        fits = counts.get(index - 1, 0) * (SIZE - elapsed) / SIZE + counts.get(index, 0) + 1 <= LIMIT
        counts[index] = counts.get(index, 0) + fits
        return fits

    return admit


def seen(admitted: list[int], name: str) -> list[dict[str, object]]:
    """Count, at every tenth of a second, what was admitted in the 60 s before."""
    rows = []
    for tenth in range(2701):
        now = tenth * SECOND // 10
        count = sum(now - SIZE < time <= now for time in admitted)
        rows.append({"seconds": now / SECOND, MARGIN: count, "way": name, "over": max(count, LIMIT), "limit": LIMIT})
    return rows


def main() -> int:
    requests = arrivals()
    ways = {
        "true window (exact log)": true_window(),
        "gate": ours(),
        "fixed window": fixed_window(),
        "sliding counter": sliding_counter(),
    }
    rows, titles = [], []
    for name, admit in ways.items():
        admitted = [now for now in requests if admit(now)]
        series = seen(admitted, name)
        most = max(row[MARGIN] for row in series)
        titles.append(f"{name}: at most {most:,} of {LIMIT:,}")
        rows += [{**row, "way": titles[-1]} for row in series]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("seconds:Q", title="seconds", axis=alt.Axis(values=[0, 60, 120, 180, 240]))
    )
    count = base.mark_area(color="#9ecae1", line={"color": "#2171b5"}).encode(
        y=alt.Y(f"{MARGIN}:Q", title="admitted in the last 60 s")
    )
    over = base.mark_area(color="#cb181d").encode(y=alt.Y("limit:Q"), y2="over:Q")
    limit = base.mark_line(color="#555", strokeDash=[4, 3], strokeWidth=1).encode(y="limit:Q")
    chart = (
        alt.layer(count, over, limit)
        .properties(width=420, height=150)
        .facet(facet=alt.Facet("way:N", title=None, sort=titles), columns=2)
        .properties(
            title=alt.Title(
                f"The same {len(requests):,} requests against {LIMIT:,} per minute, through every true window",
                subtitle="red: above the limit (dashed)",
            )
        )
        .configure_view(stroke=None)
    )
    chart.save(FILE, scale_factor=1.5)
    print(f"{FILE}: " + "; ".join(titles))
    return 0


if __name__ == "__main__":
    sys.exit(main())
