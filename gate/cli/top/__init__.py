"""`gate top`."""

import asyncio
import json as jsonlib
import logging
import sys
import time
from typing import Final

from gate.cli.client import Client, Flag, log_to_stderr
from gate.console.feed import Feed
from gate.console.group import as_json
from gate.errors import GateError

_MOST: Final = 1_000  # services, as in `/v1/pressure`


def top(*, json: Flag = False, client: Client | None = None) -> None:
    """Show in the terminal who is held back, by what, until when, and act on it.

    The services of the whole group, those first that take longest to drain, once a second. Enter shows one of them; p
    pauses it, r resumes it, c cancels what waits, after a count: each with a reason, as on the page of `gate console`.
    Ends with q.

    Example: `gate top`

    Parameters
    ----------
    json
        Print the list once instead, in its order: a JSON object per line and service, as in `services` of
        `/v1/pressure`; times are unix ms.
    """
    log_to_stderr(logging.CRITICAL)  # the screen is the application's
    asyncio.run(_print(client or Client()) if json else _run(client or Client()))


async def _run(client: Client) -> None:
    await client.reach()
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        raise GateError("gate top needs a terminal", hint="`gate top --json` prints, and `gate console` serves a page")
    from gate.cli.top.app import Top  # noqa: PLC0415 - textual is what only this command needs

    await Top(client.connection).run_async()


async def _print(client: Client) -> None:
    await client.reach()
    feed = Feed(client.connection)
    try:
        group = await feed.use()
        if troubles := feed.troubles():
            raise GateError(troubles[0].what, hint=troubles[0].hint)
        found = group.pressure(time.time_ns() // 1_000_000, size=_MOST)
        for line in found.lines:
            print(jsonlib.dumps(as_json(line)))
    finally:
        await feed.close()
