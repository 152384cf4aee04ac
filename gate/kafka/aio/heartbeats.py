"""Heartbeats that are heard while they are not answered.

A group's coordinator answers none as long as something that it has written is not on all copies in sync: from the death
of a follower until the cluster has given that one up (`broker.session.timeout.ms`, 9 s by default), which may take
longer than a member's session. It hears them all the same, but one after the other on each connection, and a client
sends none before the last one is answered. So all members would be expelled at once whenever any broker dies, and
every shard taken over anew. What is not answered in time is sent once more, on a connection of its own.
"""

import asyncio
from typing import Any, Final, cast

from aiokafka.errors import StaleMetadata

from gate.kafka.aio.compat.connections import ConnectionGroup
from gate.kafka.aio.compat.shared import HeartbeatRequest, client_of
from gate.kafka.aio.fast_client import Client

PER_SESSION: Final = 3  # heartbeats that are sent at least, answered or not


class MemberClient(Client):
    """The client of a group's member."""

    patience = 1.0  # seconds until a heartbeat is sent once more

    async def send(self, node_id: Any, request: Any, *, group: ConnectionGroup = ConnectionGroup.DEFAULT) -> Any:
        """See `Client`; of a heartbeat, the first answer to any of those that were sent."""
        if not isinstance(request, HeartbeatRequest):
            return await super().send(node_id, request, group=group)
        first = asyncio.ensure_future(super().send(node_id, request, group=group))
        sent: set[asyncio.Future[Any]] = {first}
        try:
            while True:
                done, sent = await asyncio.wait(sent, timeout=self.patience, return_when=asyncio.FIRST_COMPLETED)
                answered = [one for one in done if one.exception() is None]  # each is asked, or its error is logged
                if answered or first in done:
                    return (*answered, first)[0].result()
                if not done:
                    sent.add(asyncio.create_task(self._send_apart(node_id, request), name="heartbeat"))
        finally:
            for one in sent:
                one.cancel()
            await asyncio.gather(*sent, return_exceptions=True)

    async def _send_apart(self, node_id: Any, request: Any) -> Any:
        """Send a request on a connection of its own."""
        broker = self.cluster.broker_metadata(node_id)
        if broker is None:
            raise StaleMetadata(f"broker {node_id} is not in the metadata")
        connection = await self._connect(broker.host, broker.port)
        try:
            return await connection.send(request)
        finally:
            connection.close()


def adopt_member(owner: Any, session_seconds: float) -> MemberClient:
    """Make the client of a consumer such a one, and return it."""
    client = client_of(owner)
    client.__class__ = MemberClient
    member = cast("MemberClient", client)
    member.patience = session_seconds / PER_SESSION
    return member
