"""Errors of a policy file: what is wrong, where, and what to do about it."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, NamedTuple

from gate.errors import GateError

Loc = tuple[str | int, ...]
"""The way from the top of the document to a field: keys, and numbers of list items."""

_SHOWN: Final = 100  # problems printed; a file with more has one cause for most of them
_WIDTH: Final = 100  # characters of a source line shown around the caret
_PLAIN: Final = re.compile(r"[\w-]+")


class Span(NamedTuple):
    """A stretch of one line; line and columns count from 1, `end` is the column behind the last character."""

    line: int
    column: int
    end: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong: which field, what about it, where (None: the file as a whole), and a hint or ""."""

    message: str
    field: str = ""
    span: Span | None = None
    hint: str = ""


class PolicyError(GateError):
    """A policy that cannot be used, with everything that is wrong with it in the order of the file.

    `path`, `line`, `column`, `field` and `message` are those of the first problem; line and column count from 1 and
    are None where a problem has no place. `str()` is one line about it, `hint` all that is left to say, and `render()`
    the whole, each problem with its source line.
    """

    def __init__(self, path: str, problems: Sequence[Problem], text: str = "") -> None:
        self.path = path
        self.problems = tuple(sorted(problems, key=lambda problem: problem.span or Span(0, 0, 0)))
        first = self.problems[0]
        self.line = first.span.line if first.span else None
        self.column = first.span.column if first.span else None
        self.field = first.field
        self.message = first.message
        lines = re.split(r"\r\n|\r|\n", text)
        shown = [_render(path, problem, lines) for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            shown.append(f"... and {len(self.problems) - _SHOWN} more")
        self._rendered = "\n".join(shown)
        head, _, rest = self._rendered.partition("\n")
        super().__init__(head, hint=rest or None)

    def render(self) -> str:
        """Return all problems as a compiler would print them, several lines for each."""
        return self._rendered


def dotted(loc: Loc) -> str:
    """Spell a location as people write it: `services.payments.windows[0].limit`; odd names in quotes."""
    spelt = ""
    for part in loc:
        if isinstance(part, int):
            spelt += f"[{part}]"
        else:
            spelt += ("." if spelt else "") + (part if _PLAIN.fullmatch(part) and len(part) <= 60 else quoted(part))
    return spelt


def quoted(value: object) -> str:
    """Show what the user wrote, cut to a size that fits into a message, with nothing a terminal would obey."""
    if isinstance(value, str):
        return f'"{printable(_cut(value))}"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    return _cut(str(value))


def printable(text: str) -> str:
    """Replace what a terminal would obey instead of show."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the hint that offers the likeliest known name; "" where none is close."""
    close = get_close_matches(name[:100], list(known), n=1) if isinstance(name, str) else []
    return f"did you mean {close[0]}?" if close else ""


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _render(path: str, problem: Problem, lines: Sequence[str]) -> str:
    head, source = printable(path), ""
    if problem.span is not None:
        head += f":{problem.span.line}:{problem.span.column}"
        if problem.span.line <= len(lines):
            source = _underlined(lines[problem.span.line - 1], problem.span)
    what = f"{head}: {problem.field}: {problem.message}" if problem.field else f"{head}: {problem.message}"
    return what + source + (f"\nhint: {problem.hint}" if problem.hint else "")


def _underlined(line: str, span: Span) -> str:
    """Draw the source line with carets under the span, cut to a window where the line is long."""
    start, end = span.column - 1, max(span.end - 1, span.column)
    left = 0 if len(line) <= _WIDTH else max(0, min(start - 20, len(line) - _WIDTH))
    # A tab counts as one column, so it is shown as one.
    shown = printable(line[left : left + _WIDTH].replace("\t", " "))
    before, inside = shown[: start - left], shown[start - left : end - left]
    if left:
        before, shown = "..." + before, "..." + shown
    if left + _WIDTH < len(line):
        shown += "..."
    number = str(span.line)
    carets = " " * _cells(before) + "^" * max(_cells(inside), 1)
    return f"\n  {number} | {shown.rstrip()}\n  {' ' * len(number)} | {carets}"


def _cells(text: str) -> int:
    """Columns that text takes on a terminal."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
