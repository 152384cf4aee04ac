"""An event loop in a thread of its own: what the twins for programs without one (`SyncX`) run on."""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from gate.client._errors import NotConnectedError

T = TypeVar("T")
Inner = TypeVar("Inner", bound=AbstractAsyncContextManager[Any])


class Background:
    """Runs the calls of one object. May be used by several threads; `name` is its class's, for messages."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, entering: Coroutine[Any, Any, object]) -> None:
        """Start the loop, and connect in it; what that raises is raised here, and the loop has ended."""
        self._loop = loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name=self._name, daemon=True)
        self._thread.start()
        try:
            self.run(entering)
        except BaseException:
            self._end()
            raise

    def stop(self, leaving: Coroutine[Any, Any, object]) -> None:
        """Disconnect, and end the loop."""
        try:
            self.run(leaving)
        finally:
            self._end()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns in the loop. Raises NotConnectedError where there is none."""
        if self._loop is None:
            work.close()
            raise NotConnectedError(self._name, sync=True)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C, while it is waited for
            raise

    def _end(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(loop.shutdown_asyncgens(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            loop.close()


class Twin(Generic[Inner]):
    """The base of the classes for programs without an event loop: `with SyncX(...) as x`. May be used by threads."""

    def __init__(self, inner: Inner) -> None:
        self._inner = inner
        self._background = Background(type(self).__name__)

    def __enter__(self) -> Self:
        """Connect; raises what the asynchronous class raises."""
        self._background.start(self._inner.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disconnect."""
        self._background.stop(self._inner.__aexit__(kind, error, traceback))
