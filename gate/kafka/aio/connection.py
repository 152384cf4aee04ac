"""aiokafka's connections without the copies that they make of what they carry, five on the way in, eight on that out.

A connection is set up and asked for its versions as aiokafka does it; then its stream is taken over. An answer is read
into one buffer and decoded there, the pieces of a request are joined once. Before its session ends a connection
authenticates again (KIP-368); what is asked meanwhile is sent right after, so that nobody notices.
"""

import asyncio
import random
import time
import weakref
from collections.abc import Awaitable
from typing import Any, Final

from gate.kafka.aio.compat.connections import CloseReason, OpenConnection, wait_for
from gate.kafka.aio.frames import SIZE, Frames
from gate.kafka.aio.sasl import HANDSHAKES, AccessError, NotAgainError, Session, authenticate
from gate.log import get_logger

RENEWED: Final = 0.7, 0.85  # of a session, somewhere between
LEAST_SESSION: Final = 1.1  # seconds; a broker takes credentials once a second at most
AGAIN_AFTER: Final = 1.0  # seconds, where there is no new token
SILENT: Final = 30.0  # seconds between two lines that say the same
REMEMBERED: Final = 100  # such lines

log = get_logger("gate.connection")
_told: dict[tuple[str, str], float] = {}  # what has been said, and when it may be said again


class Connection(OpenConnection):
    """A connection to a broker whose stream has been taken over, and whose session does not end."""

    _held: "list[tuple[int, Any, asyncio.Future[Any], bytes]] | None" = None  # requests, while it authenticates again
    _ends: float | None = None  # when its token does, where the broker does not say when the session does
    _leaving = False  # it is closed as soon as nobody waits for an answer
    _timer: asyncio.TimerHandle | None = None
    _renewing: "asyncio.Task[None] | None" = None

    def opened(self, transport: Any) -> None:
        """Read what comes from now on."""
        transport.set_protocol(Frames(self, transport.get_protocol()))

    def send(self, request: Any, expect_response: bool = True) -> Awaitable[Any]:
        """Send a request; await the result for its answer. Raises KafkaError."""
        if (stream := self.stream) is None or not expect_response:
            sent: Awaitable[Any] = super().send(request, expect_response)
            return sent
        number, struct, header = self.prepare(request)
        pieces = [header, *struct.pieces()] if hasattr(struct, "pieces") else [header, struct.encode()]
        # not writelines(): from 3.12 to 3.15 that breaks the loop on a transport that is about to close
        # (https://github.com/python/cpython/issues/136234), and it makes a TLS record of each piece
        data = b"".join([SIZE.pack(sum(map(len, pieces))), *pieces])
        answer = self.loop.create_future()
        if self._held is not None and not isinstance(request, HANDSHAKES):
            self._held.append((number, struct, answer, data))
        else:
            stream.write(data)
            self.pending.append((number, struct, answer))
        waiting: Awaitable[Any] = wait_for(answer, self.patience)
        return waiting

    def take(self, frame: memoryview) -> None:
        """Hand an answer to who waits for it."""
        number, request, answer = self.pending[0]
        read = getattr(request.RESPONSE_TYPE, "read", None)
        if read is None or answer.done() or SIZE.unpack_from(frame)[0] != number:
            self.answer(bytes(frame))
        else:
            answer.set_result(read(frame, SIZE.size))
            self.answered()
        if self._leaving and not self.pending:
            self.close(reason=CloseReason.IDLE_DROP)

    def close(self, reason: CloseReason | None = None, exc: BaseException | None = None) -> Any:
        """See aiokafka."""
        if self._timer is not None:
            self._timer.cancel()
        if self._renewing is not None:
            self._renewing.cancel()
        held, self._held = self._held or [], None
        self.pending.extend(entry[:3] for entry in held)
        return super().close(reason=reason, exc=exc)

    async def authenticate(self) -> None:
        """Show the broker who we are, and plan when to do so again."""
        self._plan(await authenticate(self))

    def _plan(self, session: Session) -> None:
        """Plan what must be done before the session ends, or, where the broker does not say when, the token.

        Kafka serves on when a token ends unless it has said otherwise; others cut the connection.
        """
        self._ends = None if session.seconds else session.token_ends
        left = session.seconds or (None if self._ends is None else self._ends - time.time())
        if left is not None:
            self._wake_after(max(left * random.uniform(*RENEWED), LEAST_SESSION))  # noqa: S311 - not all at once

    def _wake_after(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, Connection._wake, weakref.ref(self))

    @staticmethod
    def _wake(connection: "weakref.ref[Connection]") -> None:
        if (self := connection()) is not None and self.stream is not None:
            self._renewing = asyncio.ensure_future(self._renew())

    async def _renew(self) -> None:
        """Go on with new credentials, here or, where the broker does not have that, on a connection made anew."""
        if (tokens := self.credentials[-1]) is not None:
            try:
                ends = (await tokens.current()).expires_at  # before anything is held: its issuer may be slow
            except AccessError as error:
                tell("no new token", str(error))
                self._wake_after(AGAIN_AFTER)
                return
            if self._ends is not None:
                if ends is None or ends > self._ends:
                    self._leave()
                else:
                    self._wake_after(AGAIN_AFTER)
                return
        idle_since, self._held = self.last_used, []
        try:
            self._plan(await authenticate(self))
        except NotAgainError:
            self._leave()
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing may be held for ever
            if self.stream is not None:
                log.warning("a session with a broker ends", why=str(error) or "no answer in time")
                self._renewing = None  # not to be cancelled: it is who ends it
                self.close(reason=CloseReason.AUTH_FAILURE, exc=error)
            return
        self.last_used = idle_since  # nobody used it
        held, self._held = self._held or [], None
        for number, struct, answer, data in held:
            if not answer.done():  # or who asked has given up
                self.stream.write(data)
                self.pending.append((number, struct, answer))

    def _leave(self) -> None:
        self._leaving, self._renewing = True, None
        if not self.pending and not self._held:
            self.close(reason=CloseReason.IDLE_DROP)


def tell(what: str, why: str, **more: Any) -> None:
    """Log a line; the same, of whichever connection, once in a while."""
    now = time.monotonic()
    if now >= _told.get((what, why), 0.0):
        if len(_told) >= REMEMBERED:
            _told.clear()
        _told[what, why] = now + SILENT
        log.warning(what, why=why, **more)
