"""The output of a command: text for people, or JSON for programs."""

import json as jsonlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

JSON: Final = "--json"


class InterruptedCommandError(KeyboardInterrupt):
    """Ctrl-C amid what goes on, or stands half-done: the error and its `hint` say so."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@contextmanager
def interruptible(told: Callable[[], tuple[str, str]]) -> Iterator[None]:
    """Have `told` say, after Ctrl-C, what stands and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedCommandError(*told()) from None


def is_json(tokens: Sequence[str]) -> bool:
    """Tell whether a command line asks for JSON; what comes behind `--` is another program's."""
    tokens = list(tokens)
    return JSON in (tokens[: tokens.index("--")] if "--" in tokens else tokens)


def tell(text: str, *, json: bool, **record: object) -> None:
    """Print what a command has done: in a line for people, or as one JSON object."""
    print(jsonlib.dumps(record) if json else text, flush=True)


def fail(code: int, message: str, hint: str | None, *, json: bool) -> int:
    """Print an error on stderr, in one line and with what to do about it; return the exit code."""
    message = " ".join(message.split())
    if json:
        print(jsonlib.dumps({"error": message, "hint": hint, "exit_code": code}), file=sys.stderr)
        return code
    print("gate:", message, file=sys.stderr)
    for line in hint.splitlines() if hint else ():
        print(" ", line, file=sys.stderr)
    return code
