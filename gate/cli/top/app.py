"""The terminal application: the pressure list of the whole group, sorted by time to drain."""

import time
from collections.abc import Callable
from typing import ClassVar, Final

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Input, Static

from gate.cli.top.actions import ActionKeys
from gate.cli.top.service import ServiceScreen
from gate.cli.top.words import COLOURS, LEAST, drained, slot, state
from gate.config import Connection
from gate.console import words
from gate.console.access import Role, Viewer
from gate.console.actions import Actions
from gate.console.feed import Feed
from gate.console.view import Line, Pressure, Trouble, Word
from gate.console.words import number, rate
from gate.text import printable

EVERY: Final = 1.0  # seconds
SHOWN: Final = 200  # services; the others are found by name
_NUMBER: Final = 8  # characters of a column
_LEAST: Final = 15  # characters of a service's name
_GATE: Final = 28
_WIDE: Final = 110  # columns of the terminal


class Top(App[None]):
    """The application. Whoever may write commands to the topic may act: the broker asks who that is."""

    TITLE = "gate"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c", "quit", show=False, priority=True)]
    CSS = """
    DataTable { height: 1fr; scrollbar-size-vertical: 1; overflow-x: hidden; }
    #status { height: auto; max-height: 5; padding: 0 1; }
    #find { display: none; height: 1; border: none; padding: 0 1; }
    #service { padding: 0 1; height: auto; }
    Dialog { align: center middle; }
    Dialog > Vertical { width: 74; height: auto; padding: 1 2; background: $panel; border: round $primary; }
    Dialog > Vertical { max-width: 100%; max-height: 100%; overflow-y: auto; }
    Dialog .field { height: 1; margin-top: 1; }
    Dialog .field Label { width: 22; }
    Dialog.-low > Vertical { padding: 0 1; }
    Dialog.-low .field { margin-top: 0; }
    Dialog .field Input { width: 1fr; height: 1; border: none; padding: 0; background: $surface; }
    Dialog Checkbox { border: none; padding: 0; background: $panel; }
    Dialog Checkbox > .toggle--button { color: $surface; background: $surface; }
    Dialog Checkbox.-on > .toggle--button { color: $text-success; background: $surface; }
    Dialog .buttons { height: 1; margin-top: 1; }
    Dialog Button { height: 1; min-width: 10; border: none; margin-right: 2; }
    Dialog #failed { color: $text-error; height: auto; }
    """

    def __init__(
        self, connection: Connection, *, wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        super().__init__()
        self.feed = Feed(connection)
        self.commands = Actions(connection)
        self.viewer = Viewer(role=Role.ADMIN)
        self.wall_ms = wall_ms

    def on_mount(self) -> None:
        """Show the list."""
        self.push_screen(PressureScreen())

    async def on_unmount(self) -> None:
        """Let go of the broker."""
        await self.commands.close()
        await self.feed.close()


class PressureScreen(ActionKeys, Screen[None]):
    """The services, those first that take longest to drain."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *ActionKeys.BINDINGS,
        Binding("slash", "find", "Find", key_display="/"),
        Binding("escape", "all", "All", show=False),
        Binding("q", "app.quit", "Quit"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._shown: list[str] = []
        self._widths: tuple[int, int, bool] = (0, 0, False)
        self._laid_out: tuple[tuple[int, int, bool], list[str]] | None = None
        self._query = ""

    @property
    def gate(self) -> Top:
        """The application."""
        assert isinstance(self.app, Top)
        return self.app

    def compose(self) -> ComposeResult:
        """Lay out the screen."""
        yield Static("reading the topics", id="status", markup=False)
        yield Input(placeholder="a part of the service's name", id="find")
        yield DataTable(cursor_type="row", zebra_stripes=False)
        yield Footer()

    async def on_mount(self) -> None:
        """Begin."""
        self.query_one(DataTable).focus()
        self.set_interval(EVERY, self.show)
        self.run_worker(self._first())

    async def _first(self) -> None:
        await self.gate.feed.use()
        self.show()

    def on_resize(self, _: Resize) -> None:
        """Use the width."""
        self.show()

    @property
    def chosen(self) -> str | None:
        """The service under the cursor."""
        row = self.query_one(DataTable).cursor_row
        return self._shown[row] if 0 <= row < len(self._shown) else None

    def show(self) -> None:
        """Show what is known by now."""
        feed, now = self.gate.feed, self.gate.wall_ms()
        feed.look()
        group = feed.group
        found = group.pressure(now, query=self._query, size=SHOWN, names=True)
        troubles = [*feed.troubles(), *group.troubles(now)]
        self.query_one("#status", Static).update(status(found, troubles, self._query))
        table: DataTable[Text] = self.query_one(DataTable)
        chosen, self._shown = self.chosen, [line.service for line in found.lines]
        table_top = table.scroll_y
        self._lay_out(table)
        for line in found.lines:
            table.add_row(*self._cells(line, now), key=line.service)
        if chosen in self._shown:
            table.move_cursor(row=self._shown.index(chosen), animate=False, scroll=False)
        table.scroll_to(y=table_top, animate=False)

    def _lay_out(self, table: "DataTable[Text]") -> None:
        wide = self.size.width >= _WIDE
        numbers = ["Offered", "Granted"] if self.size.width >= LEAST else []
        numbers += ["Waiting", "Drained"] + (["Limit", "Next", "Gate"] if wide else [])
        room = self.size.width - len(numbers) * (_NUMBER + 2) - (_GATE - _NUMBER if wide else 0) - 4
        service = max(_LEAST, room * 2 // 5)
        widths = service, max(_LEAST, room - service), wide  # the last column's padding goes for the scroll bar
        if (widths, numbers) == self._laid_out:
            table.clear()
            return
        self._widths, self._laid_out = widths, (widths, numbers)
        table.clear(columns=True)
        table.add_column("Service", width=widths[0])
        table.add_column("State", width=widths[1])
        for name in numbers:
            table.add_column(Text(name, justify="right"), width=_GATE if name == "Gate" else _NUMBER)

    def _cells(self, line: Line, now_ms: int) -> list[Text]:
        service, said, wide = self._widths
        numbers = [rate(line.offered), rate(line.granted)] if self.size.width >= LEAST else []
        numbers += [number(line.waiting), drained(line)]
        cells = [Text(printable(line.service, service), style="bold"), state(line, said)]
        cells += [Text(one, justify="right") for one in numbers]
        if wide:
            limit = "none" if line.limit is None else words.limit(line.limit)
            cells += [Text(one, justify="right") for one in (limit, slot(line, now_ms))]
            cells.append(Text(printable(line.owner or "unknown", _GATE), style="dim"))
        return cells

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        """Show a service."""
        if (chosen := self.chosen) is not None:
            self.app.push_screen(ServiceScreen(chosen))

    def action_find(self) -> None:
        """Ask for a part of a name."""
        find = self.query_one("#find", Input)
        find.display = True
        find.focus()

    def action_all(self) -> None:
        """Show all services again."""
        find = self.query_one("#find", Input)
        find.value = self._query = ""
        find.display = False
        self.query_one(DataTable).focus()
        self.show()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show those that have it in their name."""
        self._query = event.value
        self.show()

    def on_input_submitted(self, _: Input.Submitted) -> None:
        """Go back to the list."""
        self.query_one(DataTable).focus()


def status(found: Pressure, troubles: list[Trouble], query: str) -> Text:
    """Return how the whole group is, and what is wrong with its gates."""
    lines = [Text(f"! {printable(one.what)}; {printable(one.hint)}", style="red") for one in troubles[:3]]
    counts = [f"{count} {word}" for word, count in found.counts if word is not Word.FREE]
    if not found.services:
        said = Text("no service has asked for anything yet")
    elif counts:
        said = Text(f"{', '.join(counts)} of {found.services} services; {number(found.waiting)} requests wait")
    else:
        said = Text(f"all {found.services} services are free")
    said.stylize(COLOURS[found.kind])
    if query:
        said.append(f"; {found.found} have {printable(query)!r} in their name, esc shows all", style="dim")
    elif found.found > len(found.lines):
        said.append(f"; the first {len(found.lines)} are shown, / finds others", style="dim")
    return Text("\n").join([*lines, said])
