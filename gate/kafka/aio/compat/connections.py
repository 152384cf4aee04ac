"""aiokafka's connections and client with their private parts under names of their own, for who takes them over."""

import asyncio
import time
from collections import deque
from typing import Any, Final

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.util import create_task, wait_for

__all__ = [
    "BOOTSTRAP",
    "CloseReason",
    "ConnectionGroup",
    "OpenClient",
    "OpenConnection",
    "wait_for",
]

BOOTSTRAP: Final = "bootstrap"  # the node of a connection that is kept until brokers are known

Pending = tuple[int, Any, asyncio.Future[Any]]  # correlation id, request, and who waits for the answer


class OpenConnection(AIOKafkaConnection):  # type: ignore[misc]
    """A connection to a broker that shows its stream and its requests."""

    async def connect(self) -> Any:
        """See aiokafka. With `opened` the stream has no reader any more."""
        streams = await super().connect()
        if self.connected():  # one that has ended already is closed by who reads it
            self._read_task.cancel()  # with no request under way
            self.opened(self._writer.transport)
        return streams

    def opened(self, transport: Any) -> None:
        """Take the stream over: nobody reads it from now on."""
        raise NotImplementedError

    async def authenticate(self) -> None:
        """Show the broker who we are."""
        raise NotImplementedError

    async def _do_sasl_handshake(self) -> None:
        await self.authenticate()

    @property
    def stream(self) -> Any:
        """Where requests are written; None: it is closed."""
        return self._writer

    @property
    def pending(self) -> deque[Pending]:
        """The requests that are not answered yet, the oldest first."""
        requests: deque[Pending] = self._requests
        return requests

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it lives in."""
        loop: asyncio.AbstractEventLoop = self._loop
        return loop

    @property
    def patience(self) -> float:
        """For how many seconds an answer is waited for."""
        seconds: float = self._request_timeout
        return seconds

    @property
    def last_used(self) -> float:
        """When an answer came last, monotonic seconds."""
        at: float = self._last_action
        return at

    @last_used.setter
    def last_used(self, at: float) -> None:
        self._last_action = at

    @property
    def credentials(self) -> tuple[str, str, Any]:
        """By which mechanism, which user, or which provider of tokens it is opened."""
        return self._sasl_mechanism, self._sasl_plain_username, self._sasl_oauth_token_provider

    def prepare(self, request: Any) -> tuple[int, Any, bytes]:
        """Return a request's number, its form that the broker understands, and its header."""
        struct = request.prepare(self._versions)
        number: int = self._next_correlation_id()
        header = struct.build_request_header(correlation_id=number, client_id=self._client_id)
        return number, struct, header.encode()

    def answered(self) -> None:
        """Note that the oldest request is answered."""
        self._last_action = time.monotonic()
        self._requests.popleft()

    def answer(self, frame: bytes) -> None:
        """Have aiokafka read an answer."""
        self._handle_frame(frame)


class OpenClient(AIOKafkaClient):  # type: ignore[misc]
    """A client that shows its connections, and lets them be made elsewhere."""

    _sync_task: "asyncio.Task[None] | None"

    async def connection_to(self, node_id: Any, group: ConnectionGroup = ConnectionGroup.DEFAULT) -> Any:
        """Return a connection to a broker; None: there can't be one now."""
        raise NotImplementedError

    async def _get_conn(
        self,
        node_id: Any,
        *,
        group: ConnectionGroup = ConnectionGroup.DEFAULT,
        no_hint: bool = False,  # noqa: ARG002 - aiokafka's signature
    ) -> Any:
        return await self.connection_to(node_id, group)

    async def update_metadata(self, metadata: Any, topics: Any) -> bool:
        """Have a broker tell who leads, of some topics or all; tell whether one has."""
        raise NotImplementedError

    async def _metadata_update(self, cluster_metadata: Any, topics: Any) -> bool:
        return await self.update_metadata(cluster_metadata, topics)

    @property
    def connections(self) -> dict[tuple[Any, ConnectionGroup], Any]:
        """Its connections."""
        connections: dict[tuple[Any, ConnectionGroup], Any] = self._conns
        return connections

    @property
    def servers(self) -> Any:
        """The brokers by which the cluster is found, as they were named."""
        return self._bootstrap_servers

    @property
    def connection_options(self) -> dict[str, Any]:
        """How connections are made."""
        return {
            "client_id": self._client_id,
            "request_timeout_ms": self._request_timeout_ms,
            "ssl_context": self._ssl_context,
            "security_protocol": self._security_protocol,
            "max_idle_ms": self._connections_max_idle_ms,
            "sasl_mechanism": self._sasl_mechanism,
            "sasl_plain_username": self._sasl_plain_username,
            "sasl_plain_password": self._sasl_plain_password,
            "sasl_oauth_token_provider": self._sasl_oauth_token_provider,
        }

    def connection_ended(self, connection: Any, reason: CloseReason) -> None:
        """Have aiokafka ask for new metadata if a connection has broken."""
        self._on_connection_closed(connection, reason)

    def keep_metadata(self, connection: Any) -> None:
        """Keep the metadata new from now on, by a connection until brokers are known."""
        if self.cluster.brokers():
            connection.close()
        else:  # a cluster without topics may tell of no broker
            self._conns[BOOTSTRAP, ConnectionGroup.DEFAULT] = connection
        if self._sync_task is None:
            self._sync_task = create_task(self._md_synchronizer())

    def forget_metadata(self) -> None:
        """Keep the metadata new no more."""
        if self._sync_task is not None:
            self._sync_task.cancel()
