"""Work in slices, so that whatever else waits in the loop, above all the group's heartbeats, goes in between."""

import asyncio
from collections.abc import Callable, Generator
from typing import Final, TypeVar

SLICE: Final = 10_000_000  # ns

T = TypeVar("T")


async def in_slices(work: Generator[None, None, T], local: Callable[[], int]) -> T:
    """Let work that yields every few ms come to its end; `local` tells a monotonic time in ns."""
    started = local()
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        if local() - started >= SLICE:
            await asyncio.sleep(0)
            started = local()
