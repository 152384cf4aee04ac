"""One service in the terminal: its state, how it came, limits, lanes, and what happened."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static

from gate.cli.top.actions import ActionKeys
from gate.cli.top.words import LEAST, drained, slot, state
from gate.cli.usage_history import plot
from gate.console import words
from gate.console.history import point_of
from gate.console.records import Record
from gate.console.view import Line, Mark, limit_name
from gate.console.words import clock, duration, number, rate
from gate.observe.track import Steps
from gate.text import printable

if TYPE_CHECKING:
    from gate.cli.top.app import Top

EVERY: Final = 1.0  # seconds
SINCE_MS: Final = 900_000
_PLOT: Final = 60  # characters
_NARROW_PLOT: Final = 40
_LABEL: Final = 24
_MARKS: Final = 8
_BAR: Final = 20


class ServiceScreen(ActionKeys, Screen[None]):
    """A service, anew each second."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *ActionKeys.BINDINGS,
        Binding("escape", "app.pop_screen", "Back"),
        Binding("q", "app.quit", "Quit"),
    ]

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    @property
    def chosen(self) -> str | None:
        """The service that is meant."""
        return self._service

    def compose(self) -> ComposeResult:
        """Lay out the screen."""
        with VerticalScroll():
            yield Static("", id="service", markup=False)
        yield Footer()

    async def on_mount(self) -> None:
        """Begin."""
        self.query_one(VerticalScroll).focus()
        self.set_interval(EVERY, self._again)
        self._again()

    def _again(self) -> None:
        self.run_worker(self._show(), exclusive=True, group="show")

    async def _show(self) -> None:
        top = cast("Top", self.app)
        group, now = await top.feed.use(), top.wall_ms()
        record, line = group.record(self._service), group.line(self._service, now, names=True)
        if record is None or line is None:
            self.query_one("#service", Static).update(f"nothing is known of {printable(self._service)} any more")
            return
        begin = now - SINCE_MS
        track = await top.feed.histories.track(self._service, begin, now)
        track.add(point_of(record), record.owner, record.policy)
        width = self.size.width
        steps = track.steps(begin, now, SINCE_MS // (_PLOT if width >= LEAST else _NARROW_PLOT))
        marks = group.marks(self._service, names=True)
        self.query_one("#service", Static).update(Text("\n").join(lines(record, line, steps, marks, now, width)))


def lines(record: Record, line: Line, steps: Steps, marks: Sequence[Mark], now_ms: int, width: int) -> Iterator[Text]:
    """Yield the lines of a service, for a terminal of so many columns."""
    label, most_bar = (_LABEL, _BAR) if width >= LEAST else (_LABEL // 2, _BAR // 2)
    yield Text(printable(line.service), style="bold").append("  ").append_text(state(line))
    for one in record.waiting:
        place = f"{one.topic}-{one.partition} stands at offset {one.offset}: {one.why}; {one.remedy}"
        yield Text(printable(place), style="red")
    limit = "none" if line.limit is None else words.limit(line.limit)
    yield Text(
        f"offered {rate(line.offered)}   granted {rate(line.granted)}   limit {limit}   waiting {number(line.waiting)}"
    )
    next_slot, through = slot(line, now_ms) or "none", drained(line) or "none"
    waits = "none" if line.waits_seconds is None else duration(line.waits_seconds)
    yield Text(f"next slot {next_slot}   drained in {through}   waits for {waits}")
    owner, policy = printable(line.owner or "unknown"), printable(record.policy)
    yield Text(f"gate {owner}   shard {line.shard}   policy {policy}", style="dim")
    yield Text("\nthe last 15 min", style="bold")
    for name, values in (("offered", steps.offered), ("granted", steps.granted), ("waiting", steps.waiting)):
        most = max((value for value in values if value is not None), default=0)
        yield Text(f"{name:8}{plot(values)} {number(most)}{'' if name == 'waiting' else '/s'}")
    yield Text("\nlimits", style="bold")
    for one_limit in record.limits:
        bar = "█" * round(min(1.0, one_limit.usage) * most_bar)
        name = printable(limit_name(one_limit.name, line.service, names=True), label)
        gives = f"{number(one_limit.capacity)}, {words.limit(one_limit.per_second)}"
        yield Text(f"{name:{label}} {bar:{most_bar}} {one_limit.usage:4.0%} of {gives}")
    lanes = [lane for lane in record.lanes if lane.backlog]
    if lanes:
        yield Text("\nlanes", style="bold")
    for lane in sorted(lanes, key=lambda lane: -lane.backlog):
        name = printable(lane.name or "default", label)
        yield Text(f"{name:{label}} {number(lane.backlog):>8} wait, the last one {duration(lane.eta_seconds)}")
    yield Text("\nwhat happened", style="bold")
    for mark in list(reversed(marks))[:_MARKS]:
        more = f"  {printable(limit_name(mark.more, line.service, names=True))}" if mark.more else ""
        yield Text(f"{clock(mark.at_ms, now_ms)}  {printable(mark.what)}{more}")
    if not marks:
        yield Text("nothing that is known", style="dim")
