"""A bound on HTTP connections: in number, so that brokers always get theirs, and in how long each may do nothing.

uvicorn has neither: whoever connects and says half a request holds a file descriptor for ever. When there are too many,
that one goes which has been without an answer for longest, so that a new one is always heard.
"""

import asyncio
import resource
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE: Final = 10.0  # seconds for a whole request and its answer
_TICKS: Final = 8  # as many make up the patience
MOST: Final = 128  # scrapers and probes are few
BACKLOG: Final = 16  # as many are accepted at once, before the first of them can be counted


def most_connections() -> int:
    """Return how many connections may be open: a quarter of the file descriptors that this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(4, min(MOST, soft // 4))


class Connections:
    """All connections of a server, those first that have been without an answer for longest.

    Patience is counted in ticks of this process. While it stands still, it hears nobody: that is one tick, however long
    it takes, and whoever has asked meanwhile is answered.
    """

    def __init__(self, most: int, patience: float) -> None:
        """Hold at most `most` connections; each has between `patience` seconds and an eighth more for an answer."""
        self._most = most
        self._tick_seconds = patience / _TICKS
        self._ticks = 0
        self._open: dict[Connection, int] = {}  # the tick by which it must have been answered; in that order
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def __call__(self, **options: Any) -> "Connection":
        """Return a new one, as uvicorn makes them."""
        return Connection(self, **options)

    def progress(self, connection: "Connection") -> None:
        """Note that a connection is new, or has been answered."""
        self._open.pop(connection, None)
        if len(self._open) >= self._most:
            self._cut(next(iter(self._open)))
        self._open[connection] = self._ticks + _TICKS + 1  # the first of them may come at once
        if self._timer is None:
            self._timer = connection.loop.call_later(self._tick_seconds, self._tick, connection.loop)

    def leave(self, connection: "Connection") -> None:
        """Forget a connection that is closed."""
        self._open.pop(connection, None)
        if not self._open and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self._tick_seconds, self._tick, loop)
        self._ticks += 1
        for connection, end in list(self._open.items()):
            if end > self._ticks:
                break
            if connection.is_listening():
                self.progress(connection)
            else:
                self._cut(connection)

    def _cut(self, connection: "Connection") -> None:
        del self._open[connection]
        connection.transport.abort()  # not close(): that waits until the other side has read


class Connection(H11Protocol):
    """One connection."""

    def __init__(self, all_of_them: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._all = all_of_them

    def is_listening(self) -> bool:
        """Tell whether an answer is under way that comes bit by bit, and the other side has taken all of it so far."""
        cycle = self.cycle
        begun = cycle is not None and cycle.response_started and not cycle.response_complete
        return begun and self.transport.get_write_buffer_size() == 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self._all.progress(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._all.leave(self)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def on_response_complete(self) -> None:
        """See uvicorn."""
        if not self.transport.is_closing():
            self._all.progress(self)
        super().on_response_complete()
