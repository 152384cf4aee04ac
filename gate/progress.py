"""A bar that shows how far a batch is, and when the gate will have admitted the last of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


@contextmanager
def bar(name: str, total: int | None, console: Console | None = None) -> Iterator[Callable[[int, float | None], None]]:
    """Yield a function that shows how many are done, and the seconds until the last is admitted (None: not known).

    On a terminal only, and gone at the end.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield lambda _done, _eta: None
        return
    columns = TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[eta]}")
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(name, total=total, eta="")

        def show(done: int, eta_seconds: float | None) -> None:
            eta = "" if eta_seconds is None else f"all admitted in {_duration(eta_seconds)}"
            progress.update(task, completed=done, eta=eta)

        yield show


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(min(seconds, 1e9))))
