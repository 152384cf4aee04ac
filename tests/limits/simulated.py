"""A loop whose time passes only when nothing is left to do, and then at once."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

SECOND = 10**9


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Counts in whole ns; what other threads do still wakes it."""

    def __init__(self) -> None:
        self.now = 10**18
        self._real = selectors.DefaultSelector()
        super().__init__(self._real)
        self._real.select = self._select(self._real.select)  # type: ignore[method-assign]

    def time(self) -> float:
        return (self.now - 10**18) / SECOND

    def clock(self) -> int:
        return self.now

    def _select(self, select: Callable[[float | None], Any]) -> Callable[[float | None], Any]:
        def pass_time(timeout: float | None = None) -> Any:
            if timeout is None:
                return select(None)
            events = select(0)
            if not events and timeout > 0:
                self.now += -int(-timeout * SECOND // 1)  # rounded up: what was due then is due now
            return events

        return pass_time


def simulate(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(work)
