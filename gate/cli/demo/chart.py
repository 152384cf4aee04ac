"""The picture of a run: offered, admitted and waiting over time for each service, with its limit drawn in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gate.cli.demo.calls import SERVICE, Calls
from gate.cli.demo.scenario import PARTS
from gate.cli.demo.tally import Ledger, Sample, samples
from gate.limits import Spec
from gate.policy.wording import spell_rate, spell_spec
from gate.units import MS

_STEP_MS: Final = 500
_WIDTH, _HEIGHT, _HEIGHT_BELOW = 330, 190, 100  # pixels, before scaling
_SCALE: Final = 2.0
_COLOURS: Final = {
    "offered": "#6b7785",
    "admitted": "#2a7fb8",
    "calls": "#4a9d6f",
    "limit": "#c23b22",
    "waiting": "#e0a030",
}
_HEADROOM: Final = 1.12  # for the label of the topmost line
_FEW: Final = 10  # waiting requests that an axis shows at the least


def draw(ledgers: Mapping[str, Ledger], specs: Mapping[str, Spec], calls: Calls, path: Path) -> None:
    """Write a PNG. Raises ImportError where the extra `plot` is not installed."""
    import altair as alt  # noqa: PLC0415 - takes a second, and is only needed here

    requests = [content.created for ledger in ledgers.values() for content in ledger.requests.values()]
    outcomes = [o.at_ms for ledger in ledgers.values() for o in (*ledger.admitted, *ledger.rejected)]
    start, end = min(requests), max(outcomes, default=max(requests)) + _STEP_MS
    columns = []
    for part in PARTS:
        ledger, spec = ledgers[part.service], specs[part.service]
        called = [after // MS for _, after in calls.uses] if part.service == SERVICE else []
        rows = samples(ledger, start, end, _STEP_MS, called)
        head = alt.TitleParams(
            f"{part.service}, {part.mood}",
            subtitle=[f"limit: {spell_spec(spec)}", _outcome(ledger, called)],
            anchor="start",
            fontSize=14,
            offset=8,
        )
        above = _rates(alt, rows, spec).properties(width=_WIDTH, height=_HEIGHT, title=head)
        below = _waiting(alt, rows).properties(width=_WIDTH, height=_HEIGHT_BELOW)
        columns.append(alt.vconcat(above, below, spacing=12))
    title = alt.TitleParams(
        "What came, and what the gate let through",
        subtitle="Above: requests per second, over half a second each, and calls on top of them. "
        "Below: requests that wait in the delayed topic.",
        fontSize=18,
        subtitleFontSize=13,
        anchor="start",
        offset=14,
    )
    chart = alt.hconcat(*columns, spacing=28, title=title, background="white", padding=16).configure_view(stroke=None)
    chart = chart.configure_axis(gridColor="#eeeeee", titleFontWeight="normal", labelFontSize=11, titleFontSize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    chart.save(str(path), scale_factor=_SCALE)


def _outcome(ledger: Ledger, called: Sequence[int]) -> str:
    waited = len(ledger.delayed_then_admitted)
    words = [
        f"{len(ledger.requests)} came",
        f"{len(ledger.admitted)} admitted" + (f" ({waited} later)" if waited else ""),
    ]
    calls = [f"{len(called)} calls allowed"] if called else []
    return ", ".join([*words, f"{len(ledger.rejected)} rejected", *calls])


def _rates(alt: Any, rows: Sequence[Sample], spec: Spec) -> Any:
    levels = [] if spec.rate is None else [(float(spec.rate), spell_rate(spec.rate), [6, 4])]
    if spec.rate is not None and any(row.admitted + row.called > spec.rate for row in rows):
        levels.append((float(spec.rate) + spec.burst * 1000 / _STEP_MS, "with a full bucket", [1, 3]))
    end = rows[-1].seconds + _STEP_MS / 1000
    top = _HEADROOM * max(
        *(level for level, _, _ in levels), *(max(row.offered, row.admitted + row.called) for row in rows)
    )
    height = alt.Scale(domain=[0, top], nice=False)
    points = [
        {"s": row.seconds, "offered": row.offered, "admitted": row.admitted, "calls": row.admitted + row.called}
        for row in rows
    ]
    base = alt.Chart(alt.InlineData(points)).encode(x=_time(alt, end, title=None))
    offered, admitted, calls = (
        base.encode(y=alt.Y(f"{what}:Q", title="requests per second", scale=height))
        for what in ("offered", "admitted", "calls")
    )
    return alt.layer(
        _coloured(alt, offered.mark_area(interpolate="step-after", opacity=0.3), "offered"),
        *([_coloured(alt, calls.mark_area(interpolate="step-after"), "calls")] if any(r.called for r in rows) else []),
        _coloured(alt, admitted.mark_area(interpolate="step-after"), "admitted"),
        _coloured(alt, offered.mark_line(interpolate="step-after", strokeWidth=1.2), "offered"),
        *(layer for level in levels for layer in _level(alt, *level, end)),
    )


def _level(alt: Any, level: float, label: str, dash: list[int], end: float) -> tuple[Any, Any]:
    points = [{"s": moment, "level": level, "label": label} for moment in (0.0, end)]
    line, text = (alt.Chart(alt.InlineData(data)).encode(x="s:Q", y="level:Q") for data in (points, points[1:]))
    return (
        _coloured(alt, line.mark_line(strokeDash=dash, strokeWidth=2), "limit"),
        text.mark_text(align="right", baseline="bottom", dy=-3, color=_COLOURS["limit"]).encode(text="label:N"),
    )


def _waiting(alt: Any, rows: Sequence[Sample]) -> Any:
    points = [{"s": row.seconds, "waiting": row.waiting} for row in rows]
    heights = alt.Scale(domain=[0, _HEADROOM * max(_FEW, *(row.waiting for row in rows))], nice=False)
    area = alt.Chart(alt.InlineData(points)).encode(
        x=_time(alt, rows[-1].seconds + _STEP_MS / 1000, title="seconds"),
        y=alt.Y("waiting:Q", title="waiting requests", scale=heights, axis=alt.Axis(tickCount=4)),
    )
    return _coloured(alt, area.mark_area(interpolate="step-after"), "waiting")


def _time(alt: Any, end: float, title: str | None) -> Any:
    return alt.X("s:Q", title=title, scale=alt.Scale(domain=[0, end], nice=False))


def _coloured(alt: Any, layer: Any, what: str) -> Any:
    """Give a layer its colour, and with it a place in the one legend."""
    scale = alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values()))
    legend = alt.Legend(orient="top", symbolType="square", symbolOpacity=1)
    return layer.transform_calculate(what=f"'{what}'").encode(
        color=alt.Color("what:N", title=None, scale=scale, legend=legend)
    )
