"""Lines of the pressure list as the terminal shows them."""

from typing import Final

from rich.text import Text

from gate.console.view import Line, Word
from gate.console.words import duration
from gate.text import printable

LEAST: Final = 76  # columns of a terminal; in narrower ones something is left out
COLOURS: Final = {"good": "green", "warn": "yellow", "bad": "bold red"}


def state(line: Line, width: int | None = None) -> Text:
    """Return the state in a word with the limit that binds, and whatever else fits."""
    word, limit, more, kind = line.state
    said = f"{word} by {limit}" if limit and word is not Word.STANDS else f"{word} {limit}".rstrip()
    whole = f"{said}{' ' if word is Word.PAUSED else ', '}{more}" if more else said
    return Text(printable(whole, width), style=COLOURS[kind])


def drained(line: Line) -> str:
    """Say until when all are through."""
    return duration(line.drain_seconds) if line.waiting else ""


def slot(line: Line, now_ms: int) -> str:
    """Say when the next one may go."""
    if line.next_slot_ms is None:
        return "" if line.state.word is Word.FREE else "unknown"
    return "now" if line.next_slot_ms <= now_ms else duration((line.next_slot_ms - now_ms) / 1000)
