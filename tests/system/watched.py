"""`gate` whose event loop says on stderr how late its timers were: `python -m tests.system.watched run ...`."""

import asyncio
import sys
import time
from typing import Final

EVERY: Final = 0.02
WORTH_TELLING: Final = 0.1


class WatchedLoop(asyncio.SelectorEventLoop):
    """A loop that asks itself to be on time."""

    def __init__(self) -> None:
        super().__init__()
        self._expect()

    def _expect(self) -> None:
        self._due = time.monotonic() + EVERY
        self.call_at(self.time() + EVERY, self._look)

    def _look(self) -> None:
        late = time.monotonic() - self._due
        if late > WORTH_TELLING:
            print(f"loop late: {late:.3f}", file=sys.stderr, flush=True)
        self._expect()


class Policy(asyncio.DefaultEventLoopPolicy):
    """Makes such loops."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """Return a watched loop."""
        return WatchedLoop()


if __name__ == "__main__":
    from gate.cli import main

    asyncio.set_event_loop_policy(Policy())
    main()
