"""aiokafka's connections without the copies that they make of what they carry, five on the way in, eight on that out.

A connection is set up and asked for its versions as aiokafka does it; then its stream is taken over. An answer is read
into one buffer and decoded there, the pieces of a request are joined once. Before its session ends a connection
authenticates again (KIP-368); what is asked meanwhile is sent right after, so that nobody notices.
"""

import asyncio
import random
import time
import weakref
from collections import deque
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, Final, cast

import aiokafka
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError, RequestTimedOutError, StaleMetadata
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.util import create_task, wait_for

from gate.kafka.aio.asked import Asked, Silent
from gate.kafka.aio.frames import SIZE, Frames
from gate.kafka.aio.lateness import LATE, Lateness
from gate.kafka.aio.sasl import HANDSHAKES, AccessError, NotAgainError, Session, authenticate
from gate.log import get_logger

KNOWN: Final = "0.14.0"  # the version whose private parts this and `writer.fill` were written for
RENEWED: Final = 0.7, 0.85  # of a session, somewhere between
LEAST_SESSION: Final = 1.1  # seconds; a broker takes credentials once a second at most
AGAIN_AFTER: Final = 1.0  # seconds, where there is no new token
SILENT: Final = 30.0  # seconds between two lines that say the same
AT_FIRST: Final = 2.0  # seconds for each of the named brokers, before all are asked once more
REMEMBERED: Final = 100  # such lines

log = get_logger("gate.connection")
_silent: Final = Silent()
_told: dict[tuple[str, str], float] = {}  # what has been said, and when it may be said again


class Connection(AIOKafkaConnection):  # type: ignore[misc]
    """A connection to a broker whose stream has been taken over, and whose session does not end."""

    _held: "list[tuple[int, Any, asyncio.Future[Any], bytes]] | None" = None  # requests, while it authenticates again
    _ends: float | None = None  # when its token does, where the broker does not say when the session does
    _leaving = False  # it is closed as soon as nobody waits for an answer
    _timer: asyncio.TimerHandle | None = None
    _renewing: "asyncio.Task[None] | None" = None

    async def connect(self) -> Any:
        """See aiokafka."""
        streams = await super().connect()
        if self.connected():  # one that has ended already is closed by who reads it
            self._read_task.cancel()  # with no request under way
            transport = self._writer.transport
            transport.set_protocol(Frames(self, transport.get_protocol()))
        return streams

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
        data = b"".join([SIZE.pack(sum(map(len, pieces))), *pieces])
        answer = self._loop.create_future()
        if self._held is not None and not isinstance(request, HANDSHAKES):
            self._held.append((number, struct, answer, data))
        else:
            self._writer.write(data)
            self._requests.append((number, struct, answer))
        waiting: Awaitable[Any] = wait_for(answer, self._request_timeout)
        return waiting

    def take(self, frame: memoryview) -> None:
        """Hand an answer to who waits for it."""
        number, request, answer = self._requests[0]
        read = getattr(request.RESPONSE_TYPE, "read", None)
        if read is None or answer.done() or SIZE.unpack_from(frame)[0] != number:
            self._handle_frame(bytes(frame))
        else:
            answer.set_result(read(frame, SIZE.size))
            self._last_action = time.monotonic()
            self._requests.popleft()
        if self._leaving and not self._requests:
            self.close(reason=CloseReason.IDLE_DROP)

    def close(self, reason: CloseReason | None = None, exc: BaseException | None = None) -> Any:
        """See aiokafka."""
        if self._timer is not None:
            self._timer.cancel()
        if self._renewing is not None:
            self._renewing.cancel()
        held, self._held = self._held or [], None
        self._requests.extend(entry[:3] for entry in held)
        return super().close(reason=reason, exc=exc)

    async def _do_sasl_handshake(self) -> None:
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
        self._timer = self._loop.call_later(seconds, Connection._wake, weakref.ref(self))

    @staticmethod
    def _wake(connection: "weakref.ref[Connection]") -> None:
        if (self := connection()) is not None and self._writer is not None:
            self._renewing = asyncio.ensure_future(self._renew())

    async def _renew(self) -> None:
        """Go on with new credentials, here or, where the broker does not have that, on a connection made anew."""
        if (tokens := self._sasl_oauth_token_provider) is not None:
            try:
                ends = (await tokens.current()).expires_at  # before anything is held: its issuer may be slow
            except AccessError as error:
                _tell("no new token", str(error))
                self._wake_after(AGAIN_AFTER)
                return
            if self._ends is not None:
                if ends is None or ends > self._ends:
                    self._leave()
                else:
                    self._wake_after(AGAIN_AFTER)
                return
        idle_since, self._held = self._last_action, []
        try:
            self._plan(await authenticate(self))
        except NotAgainError:
            self._leave()
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing may be held for ever
            if self._writer is not None:
                log.warning("a session with a broker ends", why=str(error) or "no answer in time")
                self._renewing = None  # not to be cancelled: it is who ends it
                self.close(reason=CloseReason.AUTH_FAILURE, exc=error)
            return
        self._last_action = idle_since  # nobody used it
        held, self._held = self._held or [], None
        for number, struct, answer, data in held:
            if not answer.done():  # or who asked has given up
                self._writer.write(data)
                self._requests.append((number, struct, answer))

    def _leave(self) -> None:
        self._leaving, self._renewing = True, None
        if not self._requests and not self._held:
            self.close(reason=CloseReason.IDLE_DROP)


class Client(AIOKafkaClient):  # type: ignore[misc]
    """A client whose connections are such, and that makes none once it is closed.

    aiokafka's makes them as long as anything of it runs: what `stop` did not reach, or gave up, would connect anew.
    """

    _ended = False
    _sync_task: "asyncio.Task[None] | None"
    _asked: Asked | None = None
    _lateness: Lateness | None = None
    _turns: "dict[Any, asyncio.Lock] | None" = None  # to connect; one that stands still keeps nobody from the others

    @property
    def lateness(self) -> Lateness:
        """What it waits for."""
        if self._lateness is None:
            self._lateness = Lateness(self._is_given_up, self._let_go)
        return self._lateness

    @property
    def asked(self) -> Asked:
        """What it has asked, and what of it is not answered."""
        if self._asked is None:  # it may have been adopted
            self._asked = Asked()
        return self._asked

    async def send(self, node_id: Any, request: Any, *, group: ConnectionGroup = ConnectionGroup.DEFAULT) -> Any:
        """See aiokafka; errors name the broker and the request."""
        connection = await self._get_conn(node_id, group=group)
        if connection is None:
            _silent.add(self._cluster_name, node_id)
            raise NodeNotReadyError(self.asked.failed(f"broker {node_id} can't be connected to"))
        if isinstance(request, ProduceRequest) and request.required_acks == 0:
            return await connection.send(request, expect_response=False)
        asked = self.asked.begin(node_id, request)
        try:
            with self.lateness.awaiting(node_id):
                answer = await connection.send(request)
        except TimeoutError as error:
            connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
            _silent.add(self._cluster_name, node_id)
            raise RequestTimedOutError(self.asked.given_up(asked)) from error
        except KafkaConnectionError as error:
            why = f"the connection to broker {node_id} ended before it answered {asked.name}"
            cause = f": {error.__cause__}" if isinstance(error.__cause__, AccessError) else ""
            raise KafkaConnectionError(self.asked.given_up(asked, why + cause)) from error
        except BaseException:
            self.asked.given_up(asked)
            raise
        self.asked.answered(asked)
        _silent.discard(self._cluster_name, node_id)
        return answer

    @property
    def _cluster_name(self) -> Any:
        servers = self._bootstrap_servers
        return servers if isinstance(servers, str) else tuple(servers)

    def get_random_node(self) -> Any:
        """See aiokafka; one that answers, as far as anybody knows."""
        nodes = [broker.nodeId for broker in self.cluster.brokers()]
        return random.choice(_silent.better(self._cluster_name, nodes)) if nodes else None  # noqa: S311

    async def bootstrap(self) -> None:
        """Learn of the cluster from the first broker that lets us in; raise what the last one said if none does."""
        if aiokafka.__version__ != KNOWN:
            await super().bootstrap()
            return
        refused: Any = KafkaConnectionError(f"no broker is named: {self._bootstrap_servers!r}")
        left: deque[tuple[Any, Any, float | None]] = deque((host, port, AT_FIRST) for host, port, _ in self.hosts)
        while left:
            host, port, patience = left.popleft()
            connection = None
            try:
                # one that stands still must not use up all the time; the last one may
                async with asyncio.timeout(patience if left else None):
                    connection = await self._connect(host, port)
                    metadata = await connection.send(MetadataRequest([]))
            except (OSError, KafkaError, TimeoutError) as error:
                refused = _clearer(refused, host, port, error)
                if connection is not None:
                    connection.close()
                if isinstance(error, TimeoutError) and patience is not None and left:
                    left.append((host, port, None))
                continue
            break
        else:
            raise refused
        self.cluster.update_metadata(metadata)
        if self.cluster.brokers():
            connection.close()
        else:  # a cluster without topics may tell of no broker
            self._conns["bootstrap", ConnectionGroup.DEFAULT] = connection
        if self._sync_task is None:
            self._sync_task = create_task(self._md_synchronizer())

    async def _get_conn(
        self, node_id: Any, *, group: ConnectionGroup = ConnectionGroup.DEFAULT, no_hint: bool = False
    ) -> Any:
        if aiokafka.__version__ != KNOWN:
            connection = None if self._ended else await super()._get_conn(node_id, group=group, no_hint=no_hint)
        else:
            connection = None if self._ended else await self._kept_or_new(node_id, group)
        if connection is not None and self._ended:
            connection.close(reason=CloseReason.SHUTDOWN)
            return None
        return connection

    async def _kept_or_new(self, node_id: Any, group: ConnectionGroup) -> Any:
        if (kept := self._kept(node_id, group)) is not None:
            return kept
        broker = self.cluster.broker_metadata(node_id)
        if self._turns is None:
            self._turns = {}
        try:
            if broker is None:
                raise StaleMetadata(f"broker {node_id} is not in the metadata")
            turn = self._turns.setdefault((node_id, group), asyncio.Lock())
            async with self.lateness.bounded(node_id), turn:
                if (kept := self._kept(node_id, group)) is None:
                    kept = await self._connect(broker.host, broker.port, on_close=self._on_connection_closed)
                    self._conns[node_id, group] = kept
        except (OSError, KafkaError, TimeoutError) as error:
            _tell("no connection to a broker", str(error) or "no answer in time", node=node_id)
            self.force_metadata_update()
            return None
        return kept

    async def _is_given_up(self, node_id: Any) -> bool:
        """Tell whether a broker that answers takes another one for one of the cluster no more."""
        _silent.add(self._cluster_name, node_id)
        others = [broker.nodeId for broker in self.cluster.brokers() if broker.nodeId != node_id]
        for other in _silent.first(self._cluster_name, others):
            with suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(LATE):
                    if (connection := await self._get_conn(other)) is not None:
                        there = {number for number, *_ in (await connection.send(MetadataRequest([]))).brokers}
                        return bool(there) and node_id not in there
        return False

    def _let_go(self, node_id: Any) -> None:
        _tell("a broker is late, and the others have given it up", "others lead what it led", node=node_id)
        for (node, _), connection in list(self._conns.items()):
            if node == node_id:
                connection.close(reason=CloseReason.CONNECTION_BROKEN)

    async def _metadata_update(self, cluster_metadata: Any, topics: Any) -> bool:
        """See aiokafka; brokers that answer are asked first, and none for long while another one is left."""
        if aiokafka.__version__ != KNOWN:
            return bool(await super()._metadata_update(cluster_metadata, topics))
        first = "bootstrap", ConnectionGroup.DEFAULT
        nodes = [broker.nodeId for broker in self.cluster.brokers()]
        nodes = [*_silent.first(self._cluster_name, nodes), *(["bootstrap"] if first in self._conns else [])]
        for node_id in nodes:
            try:
                async with asyncio.timeout(AT_FIRST if node_id != nodes[-1] else None):
                    connection = await self._get_conn(node_id)
                    if connection is None:
                        continue
                    metadata = await connection.send(MetadataRequest(list(topics) if topics else None))
            except (KafkaError, TimeoutError) as error:
                _silent.add(self._cluster_name, node_id)
                _tell("a broker does not tell who leads", str(error) or "no answer in time", node=node_id)
                continue
            if not metadata.brokers:
                return False
            cluster_metadata.update_metadata(metadata)
            if first in self._conns and self.cluster.brokers():  # that connection was for want of another
                self._conns.pop(first).close()
            return True
        cluster_metadata.failed_update(None)
        return False

    def _kept(self, node_id: Any, group: ConnectionGroup) -> Any:
        connection = self._conns.get((node_id, group))
        if connection is not None and not connection.connected():
            del self._conns[node_id, group]
            return None
        return connection

    async def _connect(self, host: str, port: int, **options: Any) -> Connection:
        connection = Connection(
            host,
            port,
            client_id=self._client_id,
            request_timeout_ms=self._request_timeout_ms,
            ssl_context=self._ssl_context,
            security_protocol=self._security_protocol,
            max_idle_ms=self._connections_max_idle_ms,
            sasl_mechanism=self._sasl_mechanism,
            sasl_plain_username=self._sasl_plain_username,
            sasl_plain_password=self._sasl_plain_password,
            sasl_oauth_token_provider=self._sasl_oauth_token_provider,
            **options,
        )
        try:
            await connection.connect()
        except BaseException:  # given up as well
            connection.close()
            raise
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
        self.lateness.stop()
        if self._sync_task is not None:
            self._sync_task.cancel()
        for connection in self._conns.values():
            connection.close(reason=CloseReason.SHUTDOWN)


def adopt(owner: Any) -> Client:
    """Make the client of a producer, a consumer or an admin client such a one, and return it."""
    client = getattr(owner, "client", None) or owner._client  # noqa: SLF001
    client.__class__ = Client
    return cast("Client", client)


def _clearer(before: Any, host: str, port: int, error: Any) -> Any:
    """Return what says more: that a broker refuses us more than that another is away."""
    if isinstance(before, AccessError):
        return before
    if isinstance(error, KafkaError):
        return error
    return KafkaConnectionError(f"{host}:{port}: {error or 'no answer'}")


def _tell(what: str, why: str, **more: Any) -> None:
    """Log a line; the same, of whichever connection, once in a while."""
    now = time.monotonic()
    if now >= _told.get((what, why), 0.0):
        if len(_told) >= REMEMBERED:
            _told.clear()
        _told[what, why] = now + SILENT
        log.warning(what, why=why, **more)
