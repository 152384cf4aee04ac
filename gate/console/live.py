"""One rendering a second of each view that somebody looks at, sent to all who look at it as server-sent events."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import Final

from gate.log import get_logger

EVERY: Final = 1.0  # seconds
_ALIVE: Final = 15.0  # seconds after which something is sent although nothing has changed

_STILL: Final = b": nothing has changed\n\n"

log = get_logger("gate.console")

Render = Callable[[], Awaitable[str]]


def event(html: str) -> bytes:
    """Return a server-sent event with some HTML."""
    return "".join(f"data: {line}\n" for line in html.splitlines()).encode() + b"\n"


class Live:
    """The views that are looked at. A view that nobody looks at costs nothing."""

    def __init__(self) -> None:
        self._views: dict[Hashable, _View] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._views)

    async def events(self, key: Hashable, render: Render) -> AsyncIterator[bytes]:
        """Yield what changes of a view. Those who give the same key share what `render` returns."""
        if self._closed:
            return
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = _View(render)
        view.viewers += 1
        seen, turn = b"", 0
        try:
            while not (self._closed or view.failed):
                if view.turn == turn:
                    await view.news()
                    continue
                turn = view.turn
                if view.sent is not seen:
                    seen = view.sent
                    yield seen
                else:
                    yield _STILL
        finally:
            view.viewers -= 1
            if view.failed or not view.viewers:
                view.close()
                if self._views.get(key) is view:
                    del self._views[key]

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        for view in self._views.values():
            view.wake()


class _View:
    def __init__(self, render: Render) -> None:
        self.viewers = 0
        self.sent = b""
        self.turn = 0  # counts on with what viewers are to be sent: it, or that nothing has changed
        self.failed = False
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run(render), name="console-view")

    async def _run(self, render: Render) -> None:
        loop, sent_at = asyncio.get_running_loop(), 0.0
        while True:
            try:
                sent = event(await render())
            except Exception as error:  # noqa: BLE001 - browsers come again, and find what is new then
                log.warning("a view of the console could not be rendered", why=repr(error))
                self.failed = True
                self.wake()
                return
            if is_new := sent != self.sent:
                self.sent = sent
            if is_new or loop.time() - sent_at >= _ALIVE:  # one timer for all who look
                sent_at = loop.time()
                self.turn += 1
                self.wake()
            await asyncio.sleep(EVERY)

    def wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def news(self) -> None:
        """Wait until there is something to send, or no more."""
        await self._news.wait()

    def close(self) -> None:
        self._task.cancel()
