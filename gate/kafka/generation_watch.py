"""The watch for another generation of the state: it looks which one is in force, once there is a sign of a move."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from gate.errors import reason_of
from gate.kafka.aio.client import Client
from gate.kafka.aio.pending_requests import within
from gate.kafka.aio.reader import Reader
from gate.kafka.generations import Generation, Moving, find
from gate.log import get_logger
from gate.protocol.topics import Names

POLL: Final = 0.3  # seconds
LONG: Final = 5.0  # seconds of looking that are worth telling
DEADLINE: Final = 120.0  # seconds

log = get_logger("gate")


class GenerationWatch:
    """Sets `superseded` when another generation than that of `names` is in force; knows what is moving."""

    def __init__(
        self,
        client: Client,
        names: Names,
        partitions: Callable[[], Awaitable[Mapping[str, int]]],
        superseded: asyncio.Event,
    ) -> None:
        """`partitions` tells which topics the cluster has, with how many partitions."""
        self._client = client
        self._reader = Reader(client)
        self._names = names
        self._partitions = partitions
        self._superseded = superseded
        self._signs = asyncio.Event()
        self.moving: Moving | None = None  # by what was seen last

    def look(self) -> None:
        """Look: a shard of this generation is closed, or somebody tells of another one."""
        self._signs.set()

    async def run(self) -> None:
        """Look whenever there is a sign, until a generation is in force again."""
        while True:
            await self._signs.wait()
            try:
                found = await self._find()
            except Exception as error:  # noqa: BLE001 - whatever it is, such as what only a later gate can read: it looks on
                log.warning("it is not known which generation of the state is in force", why=reason_of(error))
            else:
                self._take(found)
            await asyncio.sleep(POLL)

    def _take(self, found: Generation | Moving | None) -> None:
        known, self.moving = self.moving, found if isinstance(found, Moving) else None
        if isinstance(found, Generation):
            self._signs.clear()  # if it is taken back, too
            if found.number != self._names.generation:
                log.info("another generation of the state is in force; starting anew", generation=found.number)
                self._superseded.set()
        elif self.moving is not None and known is None:
            log.warning("waiting", why=self.moving.shown)

    async def _find(self) -> Generation | Moving | None:
        """Return what is in force, or under way; say what is waited for where that takes long."""
        began = time.monotonic()

        def tell() -> None:
            why = self._client.asked.why(began) or f"{self._names.state} is being read"
            log.warning("waiting to learn which generation of the state is in force", why=why)

        timer = asyncio.get_running_loop().call_later(LONG, tell)
        try:
            async with within(DEADLINE, "finding which generation is in force", [self._client]):
                return await find(self._reader, self._names, await self._partitions())
        finally:
            timer.cancel()
