"""`gate usage SERVICE --since`: what a service was like, in steps, as plots of one line each and as a table."""

import asyncio
import json as jsonlib
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gate.admission.model import Usage
from gate.cli.client import Client
from gate.console.words import clock, duration, number, rate
from gate.errors import GateError
from gate.kafka.history import read_history
from gate.observe.history import COARSE_MS, point_of
from gate.observe.track import FINE_MS, KEPT_MS, Change, Steps, Track
from gate.text import printable

_ROWS: Final = 20
_PLOT: Final = 60  # characters
_BARS: Final = "▁▂▃▄▅▆▇█"
_STEPS_MS: Final = (1_000, 10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000, 3_600_000, 7_200_000)


def show_history(client: Client, service: str, usage: Usage, since: float, *, json: bool) -> None:
    """Print what a service was like in the last `since` seconds, up to `usage`, its newest. Raises GateError."""
    since_ms = int(since * 1000)
    if since_ms > KEPT_MS:
        raise GateError(f"history is kept for 24 h, not for {duration(since)}", hint="give a shorter --since")
    now = time.time_ns() // 1_000_000
    topic, access = client.names.history, client.connection.access()
    track = asyncio.run(read_history(topic, service, now - since_ms, now - FINE_MS, **access))
    track.add(point_of(usage), "", usage.policy)
    changes = [change for change in track.changes if change.at_ms >= now - since_ms]
    if json:
        steps = divided(track, now, since_ms, 1_000 if since_ms <= FINE_MS else COARSE_MS)
        print(jsonlib.dumps({"service": service, **as_json(steps), "changes": [one._asdict() for one in changes]}))
        return
    console = Console(highlight=False)
    console.print(Text(f"{printable(service)}: the last {duration(since)}, until {clock(now, now)} UTC"))
    plotted = divided(track, now, since_ms, max(1_000, since_ms // _PLOT))
    for name, values, unit in (
        ("offered", plotted.offered, "/s"),
        ("granted", plotted.granted, "/s"),
        ("waiting", plotted.waiting, ""),
    ):
        console.print(Text(f"{name:8}{plot(values)}  {_most(values, unit)}"))
    step_ms = next((step for step in _STEPS_MS if since_ms <= step * _ROWS), _STEPS_MS[-1])
    console.print(table(divided(track, now, since_ms, step_ms), now))
    for change in changes:
        console.print(Text(f"{clock(change.at_ms, now)}  {said(change)}"))  # in which brackets are no markup


def divided(track: Track, now_ms: int, since_ms: int, step_ms: int) -> Steps:
    """Return the steps up to now, the first one whole."""
    count = max(1, -(-since_ms // step_ms))
    return track.steps(now_ms - count * step_ms, now_ms, step_ms)


def as_json(steps: Steps) -> dict[str, Any]:
    """Return steps as `--json` prints them: an object each, with unix ms at which it began."""
    rows = zip(steps.offered, steps.granted, steps.waiting, steps.limit, strict=True)
    return {
        "step_ms": steps.step_ms,
        "steps": [
            {"at_ms": steps.start_ms + i * steps.step_ms, "offered_per_second": offered, "granted_per_second": granted,
             "waiting": waiting, "limit_per_second": limit}
            for i, (offered, granted, waiting, limit) in enumerate(rows)
        ],
    }  # fmt: skip


def plot(values: Sequence[float | None]) -> str:
    """Return a plot of one line, from 0 to the largest value; a blank where nothing is known."""
    most = max((value for value in values if value is not None), default=0) or 1
    last = len(_BARS) - 1
    return "".join(" " if value is None else _BARS[min(last, round(value / most * last))] for value in values)


def table(steps: Steps, now_ms: int) -> Table:
    """Return the steps as a table, the newest below."""
    shown = Table(box=box.SIMPLE_HEAD)
    shown.add_column("Until", no_wrap=True)
    for name in ("Offered", "Granted", "Limit", "Waiting"):
        shown.add_column(name, justify="right", no_wrap=True)
    rows = zip(steps.offered, steps.granted, steps.limit, steps.waiting, strict=True)
    for i, (offered, granted, limit, waiting) in enumerate(rows, 1):
        if waiting is None:
            cells: Iterable[str] = ("", "", "", "not known")
        else:
            limited = "none" if limit is None else rate(limit)
            cells = (_rate(offered), _rate(granted), limited, number(waiting))
        shown.add_row(clock(steps.start_ms + i * steps.step_ms, now_ms), *cells)
    return shown


def said(change: Change) -> str:
    """Say in words what has changed."""
    now, before = printable(change.now), printable(change.before)
    return f"{now} took over from {before}" if change.kind == "take-over" else f"policy {now}, before {before}"


def _rate(per_second: float | None) -> str:
    return "" if per_second is None else rate(per_second)


def _most(values: Sequence[float | None], unit: str) -> str:
    known = [value for value in values if value is not None]
    return f"up to {number(max(known))}{unit}" if known else "not known"
