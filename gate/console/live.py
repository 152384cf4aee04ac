"""One rendering a second of each view that somebody looks at, sent to all who look at it as server-sent events."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import Final

from gate.log import get_logger

EVERY: Final = 1.0  # seconds
_ALIVE: Final = 15.0  # seconds after which something is sent although nothing has changed

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
        seen = b""
        try:
            while not (self._closed or view.failed):
                if view.sent != seen:
                    seen = view.sent
                    yield seen
                elif not await view.changed():
                    yield b": nothing has changed\n\n"
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
        self.failed = False
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run(render), name="console-view")

    async def _run(self, render: Render) -> None:
        while True:
            try:
                sent = event(await render())
            except Exception as error:  # noqa: BLE001 - browsers come again, and find what is new then
                log.warning("a view of the console could not be rendered", why=repr(error))
                self.failed = True
                self.wake()
                return
            if sent != self.sent:
                self.sent = sent
                self.wake()
            await asyncio.sleep(EVERY)

    def wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def changed(self) -> bool:
        """Wait for something new; False: nothing came for long."""
        try:
            async with asyncio.timeout(_ALIVE):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        self._task.cancel()
