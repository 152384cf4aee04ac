"""The base of the programs that run until stopped: each connects, works, and stops in order."""

import asyncio
import signal
from abc import ABC, abstractmethod
from typing import Any

from gate.config import Connection


class Program(ABC):
    """Runs until stopped, by a signal or by a call."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._bootstrap, self._names = connection.bootstrap, connection.names
        self._stopping = asyncio.Event()
        self._jobs: set[asyncio.Task[Any]] = set()

    @abstractmethod
    async def run(self) -> None:
        """Work until stopped. Raises BrokerUnreachableError if no broker answers at the start."""

    def main(self) -> None:
        """Run until SIGTERM or SIGINT. A second signal does not wait for what still runs."""
        asyncio.run(self.run_until_signal())

    async def run_until_signal(self) -> None:
        """Do as `main`, in the caller's event loop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.stop)
        await self.run()

    def stop(self) -> None:
        """Finish what runs, commit, and return from `run`. Called again: cancel what still runs."""
        if self._stopping.is_set():
            self._abandon()
        self._stopping.set()

    async def _connected(self) -> bool:
        """Wait for a broker; False if stopped meanwhile."""
        connecting = asyncio.ensure_future(self._connection.reach())
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({connecting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if connecting.done():
                connecting.result()
            return not self._stopping.is_set()
        finally:
            connecting.cancel()
            stopped.cancel()
            await asyncio.gather(connecting, stopped, return_exceptions=True)

    async def _stops_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    async def _drain(self, seconds: float) -> None:
        """Give what runs some time to finish."""
        if self._jobs:
            await asyncio.wait(set(self._jobs), timeout=seconds)

    def _abandon(self) -> None:
        """Cancel what runs; it is not committed, so it is done again."""
        for job in self._jobs:
            job.cancel()
