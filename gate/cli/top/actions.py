"""Keys by which somebody acts on a service, and the dialogs that ask for what the gates want to know."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, cast

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.events import Resize
from textual.screen import ModalScreen, Screen
from textual.widgets import Button, Checkbox, Input, Label, Static

from gate.console.actions import Done, new_id
from gate.console.forms import RefusedError
from gate.text import printable

if TYPE_CHECKING:
    from gate.cli.top.app import Top


class Field(NamedTuple):
    """A line to fill in; `is_flag`: a box to tick."""

    name: str
    label: str
    value: str = ""
    is_flag: bool = False


_LOW: Final = 24  # lines of a terminal; in lower ones nothing is left empty
WHY = Field("reason", "Why")


class Dialog(ModalScreen[tuple[Done, Mapping[str, str]] | None]):
    """Asks for some fields and does something with them, once however often Enter is pressed."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "back", "Back")]

    def __init__(
        self, what: str, service: str, title: str, fields: Sequence[Field], given: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self._what, self._service, self._title, self._fields = what, service, title, fields
        self._given = {**(given or {}), "id": new_id()}
        self._is_sending = False

    def compose(self) -> ComposeResult:
        """Lay out the dialog."""
        with Vertical():
            yield Static(printable(self._title), markup=False)
            for field in self._fields:
                with Horizontal(classes="field"):
                    yield Label("" if field.is_flag else field.label, markup=False)
                    yield (
                        Checkbox(field.label, id=field.name)
                        if field.is_flag
                        else Input(field.value, id=field.name, select_on_focus=False)
                    )
            yield Static("", id="failed", markup=False)
            with Horizontal(classes="buttons"):
                yield Button(self._what.capitalize(), id="do", variant="primary")
                yield Button("Back", id="back")

    def on_resize(self, event: Resize) -> None:
        """Use the height."""
        self.set_class(event.size.height < _LOW, "-low")

    def action_back(self) -> None:
        """Do nothing."""
        self.dismiss(None)

    def on_input_submitted(self, _: Input.Submitted) -> None:
        """Do it."""
        self._do()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Do it, or nothing."""
        if event.button.id == "do":
            self._do()
        else:
            self.dismiss(None)

    def _do(self) -> None:
        form = dict(self._given)
        for field in self._fields:
            if field.is_flag:
                form[field.name] = field.name if self.query_one(f"#{field.name}", Checkbox).value else ""
            else:
                form[field.name] = self.query_one(f"#{field.name}", Input).value
        if not self._is_sending:
            self._is_sending = True
            self.query_one("#failed", Static).update("sending")
            self.run_worker(self._send(form))

    async def _send(self, form: Mapping[str, str]) -> None:
        top = cast("Top", self.app)
        try:
            done = await top.commands.take(self._what, self._service, top.viewer, form)
        except RefusedError as error:
            self._is_sending = False
            self.query_one("#failed", Static).update(printable(str(error)))
            self.query(Input).last().focus()  # Enter tries again
        else:
            self.dismiss((done, {name: text for name, text in form.items() if name != "id"}))


class ActionKeys(Screen[None]):
    """A screen on which a service is chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("p", "pause", "Pause"),
        ("r", "resume", "Resume"),
        ("c", "cancel", "Cancel"),
    ]

    @property
    def chosen(self) -> str | None:
        """The service that is meant."""
        raise NotImplementedError

    def action_pause(self) -> None:
        """Ask for how long, and why."""
        if (service := self.chosen) is not None:
            fields = (Field("for", "For how long", "15m"), WHY)
            self._ask(Dialog("pause", service, f"Pause {service}: nothing of it is admitted meanwhile", fields))

    def action_resume(self) -> None:
        """Ask why."""
        if (service := self.chosen) is not None:
            self._ask(Dialog("resume", service, f"Resume {service}: end its pause now", (WHY,)))

    def action_cancel(self) -> None:
        """Ask what is meant, count it, and ask again."""
        if (service := self.chosen) is None:
            return

        def counted(answer: tuple[Done, Mapping[str, str]] | None) -> None:
            if answer is not None:
                done, form = answer
                title = f"{done.text}. Cancelled requests are rejected for good; what comes from now on is not meant."
                confirm = Field("confirm", "Type the service's name")
                self._ask(Dialog("cancel", service, title, (WHY, confirm), form))

        fields = (
            Field("lane", "Lane"), Field("tenant", "Tenant"), Field("older_than", "Waits for longer than"),
            Field("all", "all that wait", is_flag=True),
        )  # fmt: skip
        self.app.push_screen(
            Dialog("count", service, f"Cancel what waits of {service}: count it first", fields), counted
        )

    def _ask(self, dialog: Dialog) -> None:
        def told(answer: tuple[Done, Mapping[str, str]] | None) -> None:
            if answer is not None:
                self.notify(printable(answer[0].text), markup=False)

        self.app.push_screen(dialog, told)
