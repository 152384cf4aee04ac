"""aiokafka's connections without the copies that they make of what they carry, five on the way in, eight on that out.

A connection is set up, asked for its versions and authenticated as aiokafka does it; then its stream is taken over. An
answer is read into one buffer and decoded there, the pieces of a request are joined once.
"""

import asyncio
import time
import weakref
from collections.abc import Awaitable
from struct import Struct
from typing import Any, Final, cast

import aiokafka
import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.util import wait_for

KNOWN: Final = "0.14.0"  # the version whose private parts this and `writer.fill` were written for
_INT: Final = Struct(">i")
SMALLEST: Final = 64 << 10  # bytes that a connection holds to read into
LARGEST: Final = 1 << 20  # and that it holds on to
BELIEVED: Final = 16 << 20  # that it takes at once for an answer which says that it is so large; more only as it comes

log = structlog.get_logger("gate.connection")


class Frames(asyncio.BufferedProtocol):
    """Cuts what comes into frames, four bytes of size and then as many, and gives each to `connection.take`.

    What it gives is a view, good until `take` returns.
    """

    def __init__(self, connection: "Connection", stream: asyncio.Protocol) -> None:
        self._connection = weakref.ref(connection)  # as aiokafka does: one that is forgotten closes itself
        self._stream = stream  # what aiokafka read by: it still wants to know of the end
        self._buffer = bytearray(SMALLEST)
        self._end = 0  # of what has come

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's name
        """See asyncio: the place to read into."""
        return memoryview(self._buffer)[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio: so much has been read."""
        connection = self._connection()
        if connection is None:
            return
        self._end += nbytes
        start, missing = 0, _INT.size
        with memoryview(self._buffer) as view:
            while self._end - start >= _INT.size:
                size = _INT.size + _INT.unpack_from(view, start)[0]
                if self._end - start < size:
                    missing = size
                    break
                try:
                    with view[start + _INT.size : start + size] as frame:
                        connection.take(frame)
                except Exception as error:
                    log.exception("an answer of a broker can't be read", connection=repr(connection))
                    connection.close(reason=CloseReason.CONNECTION_BROKEN, exc=error)
                    return
                start += size
        self._keep(start, missing)

    def _keep(self, start: int, missing: int) -> None:
        """Begin anew with what is left from `start` on, in a buffer that has room for some of its `missing` bytes."""
        left, size = self._end - start, len(self._buffer)
        if left == size or size < min(missing, BELIEVED) or size > LARGEST >= missing:
            old, self._buffer = self._buffer, bytearray(max(SMALLEST, min(missing, max(BELIEVED, 2 * left))))
            self._buffer[:left] = old[start : self._end]
        elif start and left:
            self._buffer[:left] = self._buffer[start : self._end]
        self._end = left

    def eof_received(self) -> None:
        """See asyncio: the transport closes. It may take long to, so that the connection must know at once."""
        self._stream.eof_received()
        self._close(EOFError())

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._stream.connection_lost(exc)
        self._close(exc)

    def _close(self, exc: Exception | None) -> None:
        connection = self._connection()
        if connection is not None:
            connection.close(reason=CloseReason.CONNECTION_BROKEN, exc=exc)


class Connection(AIOKafkaConnection):  # type: ignore[misc]
    """A connection to a broker whose stream has been taken over: aiokafka made it, and it became one of these."""

    def send(self, request: Any, expect_response: bool = True) -> Awaitable[Any]:
        """Send a request; await the result for its answer. Raises KafkaError."""
        if self._writer is None or not expect_response:
            sent: Awaitable[Any] = super().send(request, expect_response)
            return sent
        struct = request.prepare(self._versions)
        number = self._next_correlation_id()
        header = struct.build_request_header(correlation_id=number, client_id=self._client_id).encode()
        pieces = [header, *struct.pieces()] if hasattr(struct, "pieces") else [header, struct.encode()]
        # not writelines(): from 3.12 to 3.15 that breaks the loop on a transport that is about to close
        # (https://github.com/python/cpython/issues/136234), and it makes a TLS record of each piece
        self._writer.write(b"".join([_INT.pack(sum(map(len, pieces))), *pieces]))
        answer = self._loop.create_future()
        self._requests.append((number, struct, answer))
        waiting: Awaitable[Any] = wait_for(answer, self._request_timeout)
        return waiting

    def take(self, frame: memoryview) -> None:
        """Hand an answer to who waits for it."""
        number, request, answer = self._requests[0]
        read = getattr(request.RESPONSE_TYPE, "read", None)
        if read is None or answer.done() or _INT.unpack_from(frame)[0] != number:
            self._handle_frame(bytes(frame))
            return
        answer.set_result(read(frame, _INT.size))
        self._last_action = time.monotonic()
        self._requests.popleft()


class Client(AIOKafkaClient):  # type: ignore[misc]
    """A client whose connections are such, and that makes none once it is closed.

    aiokafka's makes them as long as anything of it runs: what `stop` did not reach, or gave up, would connect anew.
    """

    _ended = False

    async def _get_conn(self, node_id: int, **options: Any) -> Any:
        connection = None if self._ended else await super()._get_conn(node_id, **options)
        if connection is None:
            return None
        if self._ended:
            connection.close(reason=CloseReason.SHUTDOWN)
            return None
        # one that has ended already is closed by who reads it
        if not isinstance(connection, Connection) and aiokafka.__version__ == KNOWN and connection.connected():
            _take_over(connection)
        return connection

    async def close(self) -> None:
        """Close all connections, and wait for what they still have to send."""
        self._ended = True
        try:
            await super().close()
        finally:
            self.cut()

    def cut(self) -> None:
        """Close all connections without waiting for anything."""
        self._ended = True
        if self._sync_task is not None:
            self._sync_task.cancel()
        for connection in self._conns.values():
            connection.close(reason=CloseReason.SHUTDOWN)


def adopt(owner: Any) -> Client:
    """Make the client of a producer, a consumer or an admin client such a one, and return it."""
    client = getattr(owner, "client", None) or owner._client  # noqa: SLF001
    client.__class__ = Client
    return cast("Client", client)


def _take_over(connection: Any) -> None:  # with no request under way
    connection._read_task.cancel()  # noqa: SLF001
    connection.__class__ = Connection
    transport = connection._writer.transport  # noqa: SLF001
    transport.set_protocol(Frames(connection, transport.get_protocol()))
