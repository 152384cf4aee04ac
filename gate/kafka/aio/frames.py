"""Answers of brokers, cut out of what comes without copies of it."""

import asyncio
import weakref
from struct import Struct
from typing import TYPE_CHECKING, Final

from gate.kafka.aio.compat.connections import CloseReason
from gate.log import get_logger

if TYPE_CHECKING:
    from gate.kafka.aio.connection import Connection

SIZE: Final = Struct(">i")
SMALLEST: Final = 64 << 10  # bytes that a connection holds to read into
LARGEST: Final = 1 << 20  # and that it holds on to
BELIEVED: Final = 16 << 20  # that it takes at once for an answer which says that it is so large; more only as it comes

log = get_logger("gate.connection")


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
        start, missing = 0, SIZE.size
        with memoryview(self._buffer) as view:
            while self._end - start >= SIZE.size:
                size = SIZE.size + SIZE.unpack_from(view, start)[0]
                if self._end - start < size:
                    missing = size
                    break
                try:
                    with view[start + SIZE.size : start + size] as frame:
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
