"""Client of the public path: aiokafka's own, at whose `send` is heard what is asked and what is answered.

Nothing of it is private: `send`, `ready` and `close` are what aiokafka itself calls, so that a client which was told to
end ends whatever still asks by it.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError, RequestTimedOutError

from gate.kafka.aio.compat.shared import AIOKafkaClient, ConnectionGroup, ProduceRequest, client_of
from gate.kafka.aio.pending_requests import PendingRequests
from gate.kafka.aio.public_skip_unreadable import readable

CUT_DEADLINE: Final = 2.0  # seconds

Hears = Callable[[Any, Any], None]  # a request and its answer


class Client:
    """A client of aiokafka that notes what it asks, and asks no more once it is closed."""

    def __init__(self, client: AIOKafkaClient | None = None, **options: Any) -> None:
        self._client = AIOKafkaClient(**options) if client is None else client
        self.asked = PendingRequests()
        self.hears: list[Hears] = []
        self._ended = self._closed = False
        self._send, self._ready, self._close = self._client.send, self._client.ready, self._client.close
        self._client.send, self._client.ready, self._client.close = self.send, self.ready, self.close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def _check(self) -> None:
        if self._ended:  # aiokafka asks again after any error of its own, for ever
            raise asyncio.CancelledError

    async def ready(self, node_id: Any, *, group: ConnectionGroup = ConnectionGroup.DEFAULT) -> bool:
        """See aiokafka."""
        self._check()
        there: bool = await self._ready(node_id, group=group)
        self._check()
        return there

    async def send(self, node_id: Any, request: Any, *, group: ConnectionGroup = ConnectionGroup.DEFAULT) -> Any:
        """See aiokafka; errors name the broker and the request."""
        self._check()
        if isinstance(request, ProduceRequest) and request.required_acks == 0:
            return await self._send(node_id, request, group=group)
        asked = self.asked.begin(node_id, request)
        try:
            answer = await self._send(node_id, request, group=group)
        except NodeNotReadyError as error:  # nothing was sent
            self.asked.answered(asked)
            raise NodeNotReadyError(self.asked.away(f"broker {node_id} can't be connected to")) from error
        except RequestTimedOutError as error:
            raise RequestTimedOutError(self.asked.ended(asked)) from error
        except KafkaConnectionError as error:
            why = f"the connection to broker {node_id} ended before it answered {asked.name}"
            raise KafkaConnectionError(self.asked.ended(asked, why)) from error
        except BaseException:
            self.asked.given_up(asked)
            raise
        self.asked.answered(asked)
        for hear in self.hears:
            hear(request, answer)
        return answer

    async def close(self) -> None:
        """Close all connections, and wait for what they still have to send."""
        self._ended = True
        await self._close()
        self._closed = True

    async def end(self) -> None:
        """Close all connections, and wait no longer for what they still have to send than CUT_DEADLINE."""
        self._ended = True
        if not self._closed:
            self._closed = True
            with suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(CUT_DEADLINE):
                    await self._close()


def adopt(owner: Any) -> Client:
    """Listen to the client of a producer, a consumer or an admin client; return who listens."""
    client = client_of(owner)
    listener = getattr(client.send, "__self__", None)
    if not isinstance(listener, Client):
        listener = Client(client)
        if isinstance(owner, AIOKafkaConsumer):
            listener.hears.append(readable)
    return listener


def adopt_member(owner: Any, _session_seconds: float) -> Client:
    """Listen to the client of a group's member; its heartbeats are aiokafka's own."""
    return adopt(owner)


def tolerate(_client: object) -> None:
    """Let a consumer pass over what it can't read: what it is given to read has been looked at already."""
