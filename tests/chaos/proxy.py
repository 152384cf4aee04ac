"""A TCP proxy in front of a broker that makes requests late, or loses them, by kind.

What it does to a request a network can do as well: hold it back for longer than its sender waits, and deliver it even
after the sender has hung up.
"""

import asyncio
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum

from gate.kafka.local.config import free_port

TAKEN = 1.0  # seconds in which a broker takes what came late
_HEAD = struct.Struct(">hhih")  # api key, api version, correlation id, length of the client id


class Api(IntEnum):
    """Kinds of requests that a gate's transactions and membership are made of."""

    PRODUCE = 0
    JOIN_GROUP = 11
    HEARTBEAT = 12
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS = 24
    ADD_OFFSETS = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


@dataclass(frozen=True, slots=True)
class Request:
    """What the proxy knows of a request."""

    api: int
    client: str


@dataclass(frozen=True, slots=True)
class Delay:
    """Deliver the request after so many seconds, whether the sender still waits or not."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Drop:
    """Lose the request and the connection; with `after` deliver it and lose the answer."""

    after: bool = False


@dataclass(frozen=True, slots=True)
class Keep:
    """Lose the connection, and deliver the request when `until` is set: its sender has sent it once more by then."""

    until: asyncio.Event


Judge = Callable[[Request], Delay | Drop | Keep | None]


@dataclass(eq=False)
class Proxy:
    """Forwards `port` to `upstream`; `judge` says what befalls each request."""

    port: int
    upstream: int
    judge: Judge = lambda _: None
    host: str = "127.0.0.1"
    struck: Counter[tuple[str, int]] = field(default_factory=Counter)  # by what was done and api
    _server: asyncio.Server | None = None
    _links: set["asyncio.Task[None]"] = field(default_factory=set)

    @property
    def bootstrap(self) -> str:
        return f"{self.host}:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, self.host, self.port, limit=64 << 20)

    async def stop(self) -> None:
        """Cut all connections."""
        assert self._server is not None
        self._server.close()
        for link in list(self._links):
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        await asyncio.sleep(0)  # sockets are closed a moment after their connections

    async def renew(self) -> None:
        """Cut all connections, and take new ones."""
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        task.add_done_callback(self._links.discard)
        # a connection that is cut ends like any other one: asyncio would complain about a cancelled handler
        cut = True
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            up_reader, up_writer = await asyncio.open_connection(self.host, self.upstream, limit=64 << 20)
            answers = asyncio.ensure_future(_pump(up_reader, writer))
            try:
                await self._forward(reader, writer, up_writer)
                up_writer.write_eof()
                await answers
                cut = False
            finally:
                answers.cancel()
                up_writer.transport.abort()
        if cut:  # nobody may be there any more to take what is left
            writer.transport.abort()
        writer.close()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: asyncio.StreamWriter
    ) -> None:
        """Pass requests on, in order: what comes behind a late one is late as well."""
        while True:
            size = await reader.read(4)
            if not size:
                return
            size += await reader.readexactly(4 - len(size))
            frame = await reader.readexactly(int.from_bytes(size, "big"))
            request = _request(frame)
            fate = self.judge(request)
            if fate is not None:
                self.struck[type(fate).__name__.lower(), request.api] += 1
            if isinstance(fate, Delay):
                await asyncio.sleep(fate.seconds)
            elif isinstance(fate, Drop):
                if fate.after:
                    up.write(size + frame)
                    await up.drain()
                raise ConnectionAbortedError
            elif isinstance(fate, Keep):
                writer.transport.abort()
                await fate.until.wait()
                up.write(size + frame)
                await asyncio.sleep(TAKEN)
                raise ConnectionAbortedError
            up.write(size + frame)
            await up.drain()


@asynccontextmanager
async def behind_proxy(start: Callable[..., object]) -> AsyncIterator[Proxy]:
    """Start a broker by `start`, which takes what `LocalBroker.start` does, that is to be reached by a proxy only."""
    proxy = Proxy(free_port(), free_port())
    await proxy.start()
    try:
        listeners = {"advertised.listeners": f"PLAINTEXT://{proxy.bootstrap}"}
        await asyncio.to_thread(start, port=proxy.upstream, properties=listeners)
        yield proxy
    finally:
        await proxy.stop()


def _request(frame: bytes) -> Request:
    api, _, _, length = _HEAD.unpack_from(frame)
    return Request(api, frame[_HEAD.size : _HEAD.size + max(0, length)].decode(errors="replace"))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if not writer.is_closing():
                    writer.write(data)
                    await writer.drain()
    finally:
        writer.close()  # one that was killed answers nothing more; who asked is not to wait for its time-out
