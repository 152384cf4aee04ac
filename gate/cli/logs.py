"""Logs of libraries, as lines of the gate's own log: in its format, and the same line once in a while."""

import logging
import time
from collections.abc import Callable
from typing import Final

import stamina
import structlog

AGAIN_AFTER: Final = 30.0  # seconds
REMEMBERED: Final = 1_000  # lines that are known; beyond, all is forgotten

log = structlog.get_logger("gate.library")


class LibraryLog(logging.Handler):
    """Writes what asyncio, uvicorn and others log. A flood of one message is a line that says how many there were."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._said: dict[tuple[str, str], tuple[float, int]] = {}  # when it may be said again, and how often it was not

    def emit(self, record: logging.LogRecord) -> None:
        """See logging."""
        try:
            text = record.getMessage().partition("\n")[0]  # asyncio adds what it has at hand: sockets, tasks
        except Exception:  # noqa: BLE001 - a library's slip in its words
            text = str(record.msg)
        key, now = (record.name, text), self._clock()
        again, left_out = self._said.get(key, (0.0, 0))
        if now < again:
            self._said[key] = again, left_out + 1
            return
        if len(self._said) >= REMEMBERED:
            self._said.clear()
        self._said[key] = now + AGAIN_AFTER, 0
        error = record.exc_info[1] if record.exc_info else None
        more = ({"why": repr(error)} if error is not None else {}) | ({"more": left_out} if left_out else {})
        log.log(record.levelno, text, library=record.name, **more)


def take_over_libraries() -> None:
    """Have all that is logged by the standard library's logging written so."""
    let_libraries_go()
    logging.getLogger().addHandler(LibraryLog())
    stamina.instrumentation.set_on_retry_hooks(())  # who tries again says so, and what it was


def let_libraries_go() -> None:
    """Undo that."""
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, LibraryLog)]:
        root.removeHandler(handler)
    stamina.instrumentation.set_on_retry_hooks(None)
