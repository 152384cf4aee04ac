"""A look at the brokers that is repeated for ever: one that fails or is late tells nothing, and is taken again."""

import asyncio
from collections.abc import Awaitable, Callable

from structlog.typing import FilteringBoundLogger


async def look_for_ever(
    look: Callable[[], Awaitable[object]], every: float, deadline: float, log: FilteringBoundLogger, unknown: str
) -> None:
    """Look every so many seconds, each time within a deadline (seconds); `unknown` is logged of a look that failed."""
    while True:
        try:
            async with asyncio.timeout(deadline):
                await look()
        except Exception as error:  # noqa: BLE001 - whatever it is: it is looked again
            log.debug(unknown, why=repr(error))
        await asyncio.sleep(every)
