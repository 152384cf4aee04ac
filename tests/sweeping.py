"""Topics that tests leave on the broker that all share: deleted some prefixes at a time.

Each gate asks twice a second for all topics there are, and clients ask, too: with the topics of a whole run, that is a
tenth of a processor for each.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

AT_ONCE: Final = 10  # prefixes


class Sweeper:
    """Knows which prefixes nobody uses any more."""

    def __init__(self) -> None:
        self._left: list[str] = []

    def leave(self, prefix: str) -> None:
        """Take over what is named with a prefix."""
        self._left.append(prefix)

    def sweep(self, bootstrap: str) -> None:
        """Delete the topics, if those of enough prefixes are left. To be called while no test runs."""
        if len(self._left) >= AT_ONCE:
            left, self._left = tuple(self._left), []
            with ThreadPoolExecutor(1) as pool:  # whatever loop the next test has is not ours
                pool.submit(asyncio.run, _delete(bootstrap, left)).result()


async def _delete(bootstrap: str, prefixes: tuple[str, ...]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    with suppress(KafkaError, TimeoutError):  # no test depends on it
        await _delete_by(admin, prefixes)


async def _delete_by(admin: AIOKafkaAdminClient, prefixes: tuple[str, ...]) -> None:
    await admin.start()
    try:
        if names := [name for name in await admin.list_topics() if name.startswith(prefixes)]:
            await admin.delete_topics(names)
    finally:
        await admin.close()
