"""Reaching a broker, and letting go of it, within deadlines."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, Protocol, TypeVar

from aiokafka.errors import KafkaError

from gate.errors import GateError
from gate.kafka.access import PROTOCOL, access, described
from gate.kafka.aio.client import Client as Connections
from gate.kafka.aio.client import adopt, tolerate
from gate.kafka.aio.sasl import AccessError
from gate.log import get_logger

START_SECONDS: Final = 30.0  # a group's rebalance is part of a start
STOP_SECONDS: Final = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0

log = get_logger("gate.connect")


class BrokerUnreachableError(GateError):
    """No broker answered within the time given, or none lets us in."""


class Client(Protocol):
    """An aiokafka consumer or producer."""

    def start(self) -> Awaitable[None]: ...  # noqa: D102
    def stop(self) -> Awaitable[None]: ...  # noqa: D102


C = TypeVar("C", bound=Client)


def check_bootstrap(bootstrap: str) -> None:
    """Raise GateError unless `bootstrap` is HOST:PORT, or several with commas between."""
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise GateError(
                f"{bootstrap!r} is not a broker's address", hint="give HOST:PORT, or several with commas between"
            )


async def wait_for_broker(bootstrap: str, seconds: float, on_wait: Callable[[str], None] | None = None) -> None:
    """Return as soon as a broker of `bootstrap` answers; try with growing pauses.

    Calls `on_wait` once, with a line for the user, after a first failure. Raises BrokerUnreachableError after
    `seconds`, or at once where asking again is of no use, and GateError for an address that makes no sense.
    """
    check_bootstrap(bootstrap)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    pause = _FIRST_PAUSE
    refused: Exception | None = None
    while (now := await _refused(bootstrap, deadline)) is not None:
        if refused is None or loop.time() < deadline:  # what is cut off by the deadline says less than what was before
            refused = now
        denied = refused if isinstance(refused, AccessError) else None
        if (denied and denied.lasting) or loop.time() + pause >= deadline:
            if denied:
                raise BrokerUnreachableError(str(denied)) from denied
            raise BrokerUnreachableError(
                f"no Kafka broker answers at {bootstrap} (tried for {seconds:g} s)",
                hint="name another with --bootstrap HOST:PORT, or start one with `gate broker`; it was asked by"
                f" {described()}: where that is not what it wants, set {PROTOCOL} and what goes with it"
                f" (at last: {str(refused) or 'no answer in time'})",
            )
        if on_wait is not None:
            what = str(denied) if denied else f"no Kafka broker answers at {bootstrap} yet"
            on_wait(f"{what}; trying for {seconds:g} s")
            on_wait = None
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def _refused(bootstrap: str, deadline: float) -> Exception | None:
    """Return why no broker lets us in; None: one does."""
    options = access(bootstrap)
    if (tokens := options.get("sasl_oauth_token_provider")) is not None:
        try:
            async with asyncio.timeout_at(deadline):
                await tokens.current()  # by itself, so that a slow issuer is not taken for a slow broker
        except AccessError as error:
            return error
        except TimeoutError:
            return AccessError(f"{tokens} gives no token in time; check GATE_OAUTH_TOKEN_URL", lasting=False)
    client = Connections(**options)
    try:
        async with asyncio.timeout_at(deadline):
            await client.bootstrap()
    except (KafkaError, OSError, TimeoutError) as error:
        log.debug("broker does not answer", bootstrap=bootstrap, error=str(error))
        return error
    else:
        return None
    finally:
        await client.close()


@asynccontextmanager
async def running(client: C, *, start_seconds: float = START_SECONDS) -> AsyncIterator[C]:
    """Start a consumer or producer, and stop it at the end whatever happens.

    Neither end waits for a broker that is gone: aiokafka's own `start` and `stop` can hang for ever then. Raises
    BrokerUnreachableError if the start takes longer than `start_seconds`.
    """
    connections = adopt(client)
    try:
        try:
            async with asyncio.timeout(start_seconds):
                await client.start()
        except AccessError as error:
            raise BrokerUnreachableError(str(error)) from error
        except (KafkaError, TimeoutError) as error:
            reason = str(error) or f"no answer within {start_seconds:g} s"
            raise BrokerUnreachableError(f"the Kafka broker does not let a client start: {reason}") from error
        tolerate(client)
        yield client
    finally:
        try:
            await _stop(client)
        finally:
            await connections.end()  # stop() closes them last, so not at all where it fails or is given up


async def _stop(client: Client) -> None:
    # A task of its own: with the broker gone, stop() may hang, or raise CancelledError that nobody asked for.
    stopping = asyncio.ensure_future(client.stop())
    await asyncio.wait([stopping], timeout=STOP_SECONDS)
    if not stopping.done():
        log.warning("client does not stop in time", client=type(client).__name__, seconds=STOP_SECONDS)
        stopping.cancel()
    elif not stopping.cancelled() and (error := stopping.exception()) is not None:
        log.warning("client stops with an error", client=type(client).__name__, error=str(error))
