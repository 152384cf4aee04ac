"""Loggers of the parts that a user's program runs, too: a library says nothing to stdout.

They write to the standard library's logging, and are silent until that is set up. Where a program has configured
structlog, as the commands do, their events go there instead, with their fields.
"""

import logging
from typing import Any

import structlog

logging.getLogger("gate").addHandler(logging.NullHandler())  # as a library does: else warnings go to stderr


def get_logger(name: str) -> Any:
    """Return a logger as structlog's."""
    return _Logger(name)


class _Logger:
    def __init__(self, name: str) -> None:
        self._structured = structlog.get_logger(name)
        self._plain = structlog.wrap_logger(
            logging.getLogger(name),
            processors=[structlog.stdlib.filter_by_level, _as_text],
            wrapper_class=structlog.stdlib.BoundLogger,
        )

    def __getattr__(self, method: str) -> Any:
        return getattr(self._structured if structlog.is_configured() else self._plain, method)


def _as_text(_logger: Any, _method: str, event: structlog.typing.EventDict) -> tuple[tuple[str], dict[str, Any]]:
    """Return what `logging` is called with: the event and its fields as one line."""
    words, exc_info = str(event.pop("event")), event.pop("exc_info", None)
    fields = " ".join(f"{name}={value!r}" for name, value in event.items())
    return (f"{words} {fields}".rstrip(),), {"exc_info": exc_info}
