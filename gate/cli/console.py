"""`gate console`."""

import asyncio
import logging
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Final

import structlog
from cyclopts import Parameter
from prometheus_client import CollectorRegistry

from gate.cli.client import Client, Flag, log_to_stderr
from gate.cli.output import tell
from gate.config import Connection
from gate.console.access import Access, load_access
from gate.console.actions import Actions
from gate.console.feed import Feed
from gate.console.lookups import Lookups
from gate.console.pages import Console
from gate.console.views import Views
from gate.errors import GateError
from gate.observe.http import Board, HttpServer
from gate.policy import Policy, Settings

_ALWAYS: Final = float("inf")

log = structlog.get_logger("gate")


def console(
    *,
    http: str = "9601",
    http_host: Annotated[list[str] | None, Parameter(negative="")] = None,
    tokens: Annotated[Path | None, Parameter(env_var="GATE_TOKENS")] = None,
    trusted_proxy: Annotated[list[str] | None, Parameter(negative="")] = None,
    json: Flag = False,
    client: Client | None = None,
) -> None:
    """Serve a page of the whole group: who is held back, by what, until when.

    Every gate serves the same page at `/` of its own --http; this one needs no gate, and stays when gates come and go.
    With --tokens those who may can act, as by `gate pause`, `gate limit` and `gate cancel`. Prints its URL; ends with
    Ctrl-C.

    Example: `gate console --http 9601`

    Parameters
    ----------
    http
        PORT or HOST:PORT to serve at.
    http_host
        A name by which that address is asked, as with `gate run`; may be given several times.
    tokens
        A file that says who may see and do what, as with `gate run`: a line each, NAME ROLE TOKEN.
    trusted_proxy
        A network whose proxies are believed, as with `gate run`; may be given several times.
    json
        Print the URL as JSON: an object with `url`; also the log on stderr, an object per line.
    """
    log_to_stderr(logging.INFO, json=json)
    client = client or Client()
    address = _address(http)
    names = tuple(http_host or client.settings.http_host)
    policy = client.policy if client.config is not None else None
    access = load_access(tokens, trusted_proxy or ())
    asyncio.run(_run(client.connection, address, names, policy, access, as_json=json))


async def _run(
    connection: Connection,
    address: tuple[str, int],
    names: tuple[str, ...],
    policy: Policy | None,
    access: Access,
    *,
    as_json: bool,
) -> None:
    await connection.reach()
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    async with AsyncExitStack() as stack:
        feed = Feed(connection, linger=_ALWAYS)
        actions = Actions(connection) if access.is_on else None
        views = Views(feed, Lookups(connection, lambda: policy))
        pages = Console(feed, views, access=access, actions=actions)
        server = HttpServer(
            *address, Board(faults={}), CollectorRegistry(), names=names, routes=pages.routes, guard=pages.guard
        )
        url = await server.start()
        tell(url, json=as_json, url=url)
        stack.push_async_callback(server.stop)
        stack.push_async_callback(pages.close)
        feed.look()
        await stopped.wait()
    log.info("stopped")


def _address(text: str) -> tuple[str, int]:
    """Read HOST:PORT, or a port of 127.0.0.1."""
    try:
        address = Settings().override(http=int(text) if text.isdecimal() else text).http_address
    except GateError:
        address = None
    if address is None:
        raise GateError(f"--http must be HOST:PORT, not {text!r}", hint="as in 127.0.0.1:9601")
    return address
