"""Progress of a command, on stderr, while its user waits."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a line: the newest one beside a spinner on a terminal, else each on its own."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda message: print(message, file=sys.stderr, flush=True)
        return
    with console.status("") as status:
        yield lambda message: status.update(Text(message))
