"""The reader of what redrives put back: ahead of batches, so that none waits for somebody else's topic."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from gate.errors import GateError
from gate.shard.environment import Environment
from gate.shard.ports import UnavailableError
from gate.shard.records import Partition
from gate.shard.redrives import Extents, Scanned, SourceRequest

PAUSE: Final = 1.0  # seconds, before what can't be read now is tried again
PASSING: Final = (UnavailableError, OSError, TimeoutError)  # brokers come back
Read = Extents | Scanned | GateError

log = structlog.get_logger("gate.commands")


class SourceReader:
    """Reads for one owner of a shard, until `close`; one service's redrive does not wait for another's."""

    def __init__(self, environment: Environment) -> None:
        self._env = environment
        self._tasks: dict[str, tuple[SourceRequest, asyncio.Task[Read]]] = {}

    def close(self) -> None:
        """Read no more."""
        for _, task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    def take(self, service: str, wanted: SourceRequest, ready: Callable[[], object]) -> Read | None:
        """Return what is wanted, or why it can't be had; None: it is being read, and `ready` is called then."""
        known, task = self._tasks.get(service, (None, None))
        if task is None or known != wanted:
            if task is not None:
                task.cancel()
            task = asyncio.create_task(self._read(service, wanted), name="redrive")
            task.add_done_callback(lambda _: ready())
            self._tasks[service] = wanted, task
            return None
        if not task.done():
            return None
        del self._tasks[service]
        return task.result()

    async def _read(self, service: str, wanted: SourceRequest) -> Read:
        """Read, however long that takes."""
        said = ""
        while True:
            try:
                if wanted.acts:
                    await self._env.widen(service, 1)
                if wanted.place is None:
                    return await self._env.extents(wanted.topic, wanted.since_ms)
                number, offset = wanted.place
                fetched = await self._env.scan(partition := Partition(wanted.topic, number), offset)
                return Scanned(partition, list(fetched.records), (number, fetched.next_offset))
            except PASSING as error:
                why = str(error) or type(error).__name__
                if why != said:
                    log.warning("what is to be put back can't be read yet", topic=wanted.topic, why=why)
                said = why
                await asyncio.sleep(PAUSE)
            except GateError as error:
                return error
            except Exception as error:  # noqa: BLE001 - a redrive that fails must not stop the shard
                return GateError(f"reading {wanted.topic} failed: {type(error).__name__}: {error}")
