import io
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from gate.cli import main
from gate.cli.usage_history import as_json, divided, plot, said, show_history, table
from gate.observe.history import Point
from gate.observe.track import Change, Track
from gate.protocol.topics import Names
from tests.console.conftest import usage_of

NOW_MS = 1_764_025_200_000


@pytest.fixture
def usage():
    return lambda service, **fields: replace(usage_of(service), **fields)


def track():
    told = Track()
    for second in range(600):
        told.add(Point(NOW_MS - 600_000 + second * 1_000, 100 * second, 50 * second, 50 * second, 50.0), "a:1", "p")
    return told


def test_a_plot_is_a_line_from_nothing_to_the_most():
    assert plot([0, 1, 7, None, 3.5]) == "▁▂█ ▅"
    assert plot([0, 0.0]) == "▁▁"
    assert plot([None]) == " "
    assert plot([]) == ""


def test_steps_are_printed_with_the_time_at_which_each_began():
    printed = as_json(divided(track(), NOW_MS, 1_200_000, 600_000))
    assert printed["step_ms"] == 600_000
    unknown, known = printed["steps"]
    assert unknown["offered_per_second"] is None
    assert known == {
        "at_ms": NOW_MS - 600_000, "offered_per_second": 99.8333, "granted_per_second": 49.9167, "waiting": 29_950,
        "limit_per_second": 50.0,
    }  # fmt: skip


def test_the_table_fits_80_columns_and_says_what_is_not_known():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(divided(track(), NOW_MS, 1_200_000, 60_000), NOW_MS))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("not known") == 9
    assert "100/s" in text
    assert text.count("50/s") == 20


def test_changes_are_said_in_words():
    assert said(Change(NOW_MS, "take-over", "b:2", "a:1")) == "b:2 took over from a:1"
    assert said(Change(NOW_MS, "policy", "bb", "aa\x1b")) == "policy bb, before aa\\x1b"


@pytest.mark.parametrize("options", [["--since", "10m"], ["pay", "--since", "10m", "--watch"]])
def test_history_is_of_one_service_and_shown_once(options, capsys):
    assert main(["usage", *options]) == 2
    assert "--since shows one service once" in capsys.readouterr().err


@pytest.mark.parametrize("gate", ["[/nobody]", "[b]one[/b]"])
def test_brackets_in_names_are_no_markup(monkeypatch, capsys, usage, gate):
    now = time.time_ns() // 1_000_000

    async def read(*_args, **_options):
        found = Track()
        for ago, one in ((20_000, "a:1"), (10_000, gate)):
            found.add(Point(now - ago, 1, 1, 0, None), one, "p")
        return found

    monkeypatch.setattr("gate.cli.usage_history.read_history", read)
    connection = SimpleNamespace(access=dict)
    client = SimpleNamespace(names=Names("gate"), connection=connection)
    show_history(client, "pay", usage(service="pay", at=now * 1_000_000), 60.0, json=False)
    assert f"{gate} took over from a:1" in capsys.readouterr().out
