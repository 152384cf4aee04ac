"""The terminal application by textual's own pilot, over a group that is filled by hand."""

import pytest
from rich.text import Text
from textual.widgets import DataTable, Static

from gate.admission.model import SECOND, Binding, Reason
from gate.cli.top.app import PressureScreen, Top
from gate.cli.top.service import ServiceScreen
from gate.config import Connection
from gate.observe.track import Track
from tests.console.conftest import AT_MS, audited, group, tell

__all__ = ["audited", "group", "tell"]
AT = AT_MS * 1_000_000


@pytest.fixture
def top(group, monkeypatch):
    async def read(*_args, **_options) -> Track:
        return Track()

    monkeypatch.setattr("gate.console.history.read_history", read)
    app = Top(Connection("localhost:9092"), wall_ms=lambda: AT_MS)
    app.feed.group = group
    app.feed._ready.set()
    monkeypatch.setattr(app.feed, "look", lambda: None)
    return app


def text(app: Top) -> str:
    """Return what is on the screen."""
    lines = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in lines)


def fill(tell) -> None:
    tell(
        "payments-of-the-night",
        backlog=21_811,
        eta=3_600.0,
        binding=Binding(Reason.WINDOW, "payments-of-the-night.window.60s"),
    )
    tell("mail", backlog=9, eta=60.0, binding=Binding(Reason.RATE, "mail.rate"), breach_since=AT - 90 * SECOND)
    tell("hold", backlog=5, eta=600.0, paused_until=AT + 60 * SECOND, binding=Binding(Reason.PAUSED, "hold"))
    for number in range(30):
        tell(f"quiet-{number:02}")


async def test_at_80_by_24_the_list_says_who_is_held_back_by_what_and_until_when(top, tell):
    fill(tell)
    async with top.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        shown = text(top)
        lines = shown.splitlines()
        assert len(lines) == 24
        assert "1 paused, 2 limited of 33 services" in lines[0]
        assert [word in lines[1] for word in ("Service", "State", "Offered", "Granted", "Waiting", "Drained")] == [
            True
        ] * 6
        first = lines[2]
        assert first.split()[0].startswith("payments-of-th")
        assert "limited by window." in first
        assert "21,811" in first
        assert "60 min" in first
        assert "paused until " in shown
        assert "Pause" in lines[-1]
        assert "Quit" in lines[-1]


async def test_enter_shows_a_service_and_escape_the_list(top, tell, audited):
    fill(tell)
    audited("pause", "mail", who="ann", reason="the bank is down")
    async with top.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        await pilot.press("down", "down", "enter")
        await pilot.pause()
        assert isinstance(top.screen, ServiceScreen)
        await pilot.pause()
        shown = text(top)
        assert "mail  limited by rate, breach for 90 s" in shown
        assert "offered 180/s" in shown
        assert "the last 15 min" in shown
        await pilot.press("end")
        await pilot.pause()
        assert "pause by ann" in text(top)
        await pilot.press("escape")
        assert isinstance(top.screen, PressureScreen)


async def test_a_part_of_a_name_finds_services(top, tell):
    fill(tell)
    async with top.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        await pilot.press("slash", *"mai", "enter")
        await pilot.pause()
        assert top.screen.query_one(DataTable).row_count == 1
        assert "1 have 'mai' in their name" in " ".join(text(top).split())
        await pilot.press("escape")
        await pilot.pause()
        assert top.screen.query_one(DataTable).row_count == 33


async def test_the_cursor_stays_at_its_service_when_the_order_changes(top, tell):
    fill(tell)
    async with top.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        await pilot.press("down", "down")
        assert top.screen.chosen == "mail"
        tell("mail", backlog=900_000, eta=99_999.0, binding=Binding(Reason.RATE, "mail.rate"))
        top.screen.show()
        await pilot.pause()
        assert top.screen.chosen == "mail"
        assert top.screen.query_one(DataTable).cursor_row == 0


async def test_names_from_the_wire_are_neither_markup_nor_control_characters(top, tell):
    tell("[red]x[/red]", backlog=1, eta=1.0, binding=Binding(Reason.RATE, "\x1b[2J[bold]limit"))
    async with top.run_test(size=(120, 24)) as pilot:
        await pilot.pause()
        assert "[red]x[/red]" in text(top)
        assert "\x1b" not in text(top)
        await pilot.press("enter")
        await pilot.pause()
        assert "[bold]limit" in text(top)


async def test_a_pause_without_a_reason_is_not_sent(top, tell):
    fill(tell)
    async with top.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        await pilot.press("p", "enter")
        await pilot.pause()
        await top.workers.wait_for_complete()
        await pilot.pause()
        assert "say why" in text(top)
        assert "For how long" in text(top)
        await pilot.press("escape")
        assert isinstance(top.screen, PressureScreen)


async def test_a_cancel_wants_to_know_what_is_meant_and_is_counted_first(top, tell):
    fill(tell)
    async with top.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        await pilot.press("c", "enter")
        await pilot.pause()
        await top.workers.wait_for_complete()
        await pilot.pause()
        assert "nothing says which requests are meant" in " ".join(text(top).split())
        assert "count it first" in text(top)


async def test_nothing_and_faults_are_said(top):
    async with top.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert "no service has asked for anything yet" in text(top)
        top.feed._fault = "no broker"
        top.screen.show()
        await pilot.pause()
        assert "not up to date: no broker" in " ".join(text(top).split())
        assert isinstance(top.screen.query_one("#status", Static).content, Text)


async def test_names_and_versions_can_not_command_the_terminal(top, tell):
    hostile = "pay\x1b]0;owned\x07[/x]"
    tell(hostile, backlog=9, eta=60.0, policy="aa\x1b[2J", owner="g\x1b[H", binding=Binding(Reason.RATE, "x\x1b"))
    async with top.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        assert "\x1b" not in text(top)
        for keys in (["p"], ["escape", "c"], ["escape", "enter"]):
            await pilot.press(*keys)
            await pilot.pause()
            assert "pay\\x1b]0;owned" in text(top)
            assert not set(text(top)) & {"\x1b", "\x07"}
        assert "aa\\x1b[2J" in text(top)
