"""Client of the fast path: its connections are our own, its errors name broker and request, and it ends for sure."""

import asyncio
import random
from collections import deque
from contextlib import suppress
from typing import Any, Final, cast

from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError, RequestTimedOutError, StaleMetadata

from gate.kafka.aio.compat.connections import BOOTSTRAP, CloseReason, ConnectionGroup, OpenClient
from gate.kafka.aio.compat.shared import MetadataRequest, ProduceRequest, client_of
from gate.kafka.aio.connection import Connection, tell
from gate.kafka.aio.lateness import LATE, Lateness
from gate.kafka.aio.leader_epochs import Epochs, Leaders, Metadata
from gate.kafka.aio.pending_requests import PendingRequests, Silent
from gate.kafka.aio.sasl import AccessError

AT_FIRST: Final = 2.0  # seconds for each of the named brokers, before all are asked once more

_silent: Final = Silent()
_leaders: Final[dict[Any, Leaders]] = {}  # by cluster


class Client(OpenClient):
    """A client whose connections are such, and that makes none once it is closed.

    aiokafka's makes them as long as anything of it runs: what `stop` did not reach, or gave up, would connect anew.
    """

    _ended = False
    _asked: PendingRequests | None = None
    _lateness: Lateness | None = None
    _turns: "dict[Any, asyncio.Lock] | None" = None  # to connect; one that stands still keeps nobody from the others

    @property
    def lateness(self) -> Lateness:
        """What it waits for."""
        if self._lateness is None:
            self._lateness = Lateness(self._is_given_up, self._let_go)
        return self._lateness

    @property
    def asked(self) -> PendingRequests:
        """What it has asked, and what of it is not answered."""
        if self._asked is None:  # it may have been adopted
            self._asked = PendingRequests(lambda moment: _silent.since(self._cluster_name, moment))
        return self._asked

    async def send(self, node_id: Any, request: Any, *, group: ConnectionGroup = ConnectionGroup.DEFAULT) -> Any:
        """See aiokafka; errors name the broker and the request."""
        connection = await self.connection_to(node_id, group)
        if connection is None:
            _silent.add(self._cluster_name, node_id)
            raise NodeNotReadyError(self.asked.away(f"broker {node_id} can't be connected to"))
        if isinstance(request, ProduceRequest) and request.required_acks == 0:
            return await connection.send(request, expect_response=False)
        asked = self.asked.begin(node_id, request)
        try:
            with self.lateness.awaiting(node_id):
                answer = await connection.send(request)
        except TimeoutError as error:
            connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
            _silent.add(self._cluster_name, node_id)
            raise RequestTimedOutError(self.asked.ended(asked)) from error
        except KafkaConnectionError as error:
            why = f"the connection to broker {node_id} ended before it answered {asked.name}"
            cause = f": {error.__cause__}" if isinstance(error.__cause__, AccessError) else ""
            raise KafkaConnectionError(self.asked.ended(asked, why + cause)) from error
        except BaseException:
            self.asked.given_up(asked)
            raise
        self.asked.answered(asked)
        _silent.discard(self._cluster_name, node_id)
        return answer

    @property
    def epochs(self) -> Epochs:
        """By which epoch each partition is led, as far as any client of this process was told."""
        return self._leaders.epochs

    @property
    def _leaders(self) -> Leaders:
        return _leaders.setdefault(self._cluster_name, Leaders())

    @property
    def _cluster_name(self) -> Any:
        servers = self.servers
        return servers if isinstance(servers, str) else tuple(servers)

    def get_random_node(self) -> Any:
        """See aiokafka; one that answers, as far as anybody knows."""
        nodes = [broker.nodeId for broker in self.cluster.brokers()]
        return random.choice(_silent.better(self._cluster_name, nodes)) if nodes else None  # noqa: S311

    async def coordinator_lookup(self, coordinator_type: Any, coordinator_key: str) -> Any:
        """See aiokafka, whose sender asks another broker where one is not ready, and ends where a connection does."""
        try:
            return await super().coordinator_lookup(coordinator_type, coordinator_key)
        except KafkaConnectionError as error:
            raise NodeNotReadyError(str(error)) from error

    async def bootstrap(self) -> None:
        """Learn of the cluster from the first broker that lets us in; raise what the last one said if none does."""
        refused: Any = KafkaConnectionError(f"no broker is named: {self.servers!r}")
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
        self.keep_metadata(connection)

    async def connection_to(self, node_id: Any, group: ConnectionGroup = ConnectionGroup.DEFAULT) -> Any:
        """Return a connection to a broker; None: there can't be one now, or this client is closed."""
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
                    kept = await self._connect(broker.host, broker.port, on_close=self.connection_ended)
                    self.connections[node_id, group] = kept
        except (OSError, KafkaError, TimeoutError) as error:
            tell("no connection to a broker", str(error) or "no answer in time", node=node_id)
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
                    if (connection := await self.connection_to(other)) is not None:
                        there = {number for number, *_ in (await connection.send(MetadataRequest([]))).brokers}
                        return bool(there) and node_id not in there
        return False

    def _let_go(self, node_id: Any) -> None:
        tell("a broker is late, and the others have given it up", "others lead what it led", node=node_id)
        for (node, _), connection in list(self.connections.items()):
            if node == node_id:
                connection.close(reason=CloseReason.CONNECTION_BROKEN)

    async def update_metadata(self, metadata: Any, topics: Any) -> bool:
        """Have a broker tell who leads: those that answer are asked first, and none for long while another is left."""
        first = BOOTSTRAP, ConnectionGroup.DEFAULT
        nodes = [broker.nodeId for broker in self.cluster.brokers()]
        nodes = [*_silent.first(self._cluster_name, nodes), *([BOOTSTRAP] if first in self.connections else [])]
        for node_id in nodes:
            try:
                async with asyncio.timeout(AT_FIRST if node_id != nodes[-1] else None):
                    connection = await self.connection_to(node_id)
                    if connection is None:
                        continue
                    answer = await connection.send(Metadata(list(topics) if topics else None))
            except (KafkaError, TimeoutError) as error:
                _silent.add(self._cluster_name, node_id)
                tell("a broker does not tell who leads", str(error) or "no answer in time", node=node_id)
                continue
            if not answer.brokers:
                return False
            metadata.update_metadata(self._leaders.believed(answer))
            if first in self.connections and self.cluster.brokers():  # that connection was for want of another
                self.connections.pop(first).close()
            return True
        metadata.failed_update(None)
        return False

    def _kept(self, node_id: Any, group: ConnectionGroup) -> Any:
        connection = self.connections.get((node_id, group))
        if connection is not None and not connection.connected():
            del self.connections[node_id, group]
            return None
        return connection

    async def _connect(self, host: str, port: int, **options: Any) -> Connection:
        connection = Connection(host, port, **self.connection_options, **options)
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

    async def end(self) -> None:
        """Close all connections, and wait for nothing."""
        self.cut()

    def cut(self) -> None:
        """Close all connections without waiting for anything."""
        self._ended = True
        self.lateness.stop()
        self.forget_metadata()
        for connection in self.connections.values():
            connection.close(reason=CloseReason.SHUTDOWN)


def adopt(owner: Any) -> Client:
    """Make the client of a producer, a consumer or an admin client such a one, and return it."""
    client = client_of(owner)
    client.__class__ = Client
    return cast("Client", client)


def _clearer(before: Any, host: str, port: int, error: Any) -> Any:
    """Return what says more: that a broker refuses us more than that another is away."""
    if isinstance(before, AccessError):
        return before
    if isinstance(error, KafkaError):
        return error
    return KafkaConnectionError(f"{host}:{port}: {error or 'no answer'}")
