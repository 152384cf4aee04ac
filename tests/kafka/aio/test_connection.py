"""Answers are cut out of whatever comes; connections that are taken over work, and end, as aiokafka's own."""

import asyncio
import gc
import random
import struct
import warnings
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest, ProduceRequest_v2, ProduceRequest_v3, ProduceRequest_v7
from hypothesis import given
from hypothesis import strategies as st

from gate.kafka.access import access
from gate.kafka.aio import fast_client, lateness, pending_requests
from gate.kafka.aio.connection import Connection
from gate.kafka.aio.fast_client import Client
from gate.kafka.aio.frames import BELIEVED, LARGEST, SMALLEST, Frames
from gate.kafka.aio.pending_requests import Silent
from gate.kafka.aio.produce import Produce
from gate.kafka.connect import running

ints = st.integers(-(2**31), 2**31 - 1)
names = st.text(max_size=20).filter(lambda name: name.isprintable())
batches = st.lists(st.tuples(names, st.lists(st.tuples(ints, st.binary(max_size=40)), max_size=4)), max_size=6)


class Taker:
    """Keeps the frames that it gets."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.closed: Exception | None = None

    def take(self, frame: memoryview) -> None:
        self.taken.append(bytes(frame))

    def close(self, *, reason: object, exc: Exception) -> None:
        self.closed = exc


def deliver(frames: Frames, data: bytes, piece: int) -> None:
    """Do as a transport does: read into the buffer, at most `piece` bytes at a time."""
    while data:
        view = frames.get_buffer(-1)
        assert len(view), "there must be room, or the transport takes it for the end"
        count = min(len(view), piece, len(data))
        view[:count] = data[:count]
        data = data[count:]
        frames.buffer_updated(count)


SIZES = st.sampled_from(
    [0, 1, 3, 4, 5, 100, SMALLEST - 5, SMALLEST - 4, SMALLEST - 3, 3 * SMALLEST, LARGEST + 1, 2 * LARGEST]
)


@given(st.lists(SIZES, max_size=6), st.sampled_from([1000, SMALLEST - 1, SMALLEST, LARGEST]) | st.integers(1, 5))
def test_each_frame_is_taken_once_whole_and_in_order_however_it_comes(sizes, piece):
    if piece < 1000:
        sizes = [min(size, 100) for size in sizes]  # byte by byte
    sent = [bytes([i + 1]) * size for i, size in enumerate(sizes)]
    taker = Taker()
    frames = Frames(taker, asyncio.Protocol())
    deliver(frames, b"".join(struct.pack(">i", len(frame)) + frame for frame in sent), piece)
    assert taker.taken == sent
    assert len(frames._buffer) <= LARGEST, "what one large answer took is given back"


def test_no_more_memory_is_taken_than_what_came_explains():
    taker = Taker()
    frames = Frames(taker, asyncio.Protocol())
    deliver(frames, struct.pack(">i", 600 << 20) + b"and what follows", 100)
    assert len(frames._buffer) <= BELIEVED


def test_what_is_larger_than_is_believed_is_taken_as_it_comes():
    taker = Taker()
    sent = bytes(BELIEVED + 1)
    deliver(Frames(taker, asyncio.Protocol()), struct.pack(">i", len(sent)) + sent, LARGEST)
    assert taker.taken == [sent]


def test_an_answer_that_cant_be_read_closes_the_connection():
    class Confused(Taker):
        def take(self, frame: memoryview) -> None:
            raise ValueError("what is this")

    taker = Confused()
    deliver(Frames(taker, asyncio.Protocol()), struct.pack(">i", 4) + b"what", 100)
    assert isinstance(taker.closed, ValueError)


@given(st.none() | names, st.integers(-1, 1), ints, batches)
def test_a_produce_request_is_byte_for_byte_that_of_aiokafka(transactional_id, acks, timeout, topics):
    ours, theirs = (form(transactional_id, acks, timeout, topics) for form in (Produce, ProduceRequest))
    for version in (ProduceRequest_v3, ProduceRequest_v7, *[ProduceRequest_v2] * (not transactional_id)):
        assert ours.build(version).encode() == theirs.build(version).encode()


async def ask(client: AIOKafkaClient) -> object:
    return await client.send(client.get_random_node(), MetadataRequest([]))


@pytest.fixture
async def client(bootstrap) -> AsyncIterator[Client]:
    """A client with one connection, to the broker itself."""
    client = Client(**access(bootstrap))
    await client.bootstrap()
    await ask(client)
    yield client
    await client.close()


def only_connection(client: Client) -> Any:
    (found,) = client._conns.values()
    return found


@pytest.mark.parametrize("how", ["reset", "closed by the broker"])
async def test_who_waits_hears_at_once_of_the_end_and_the_next_one_connects_anew(client, how):
    first = only_connection(client)
    assert isinstance(first, Connection)
    waiting = asyncio.ensure_future(ask(client))
    await asyncio.sleep(0)  # it is under way
    assert first._requests
    transport = first._writer.transport
    if how == "reset":
        transport.abort()
    else:
        transport.get_protocol().eof_received()  # and no more: a transport with bytes to send stays open
        assert not first.connected()
    with pytest.raises(KafkaConnectionError):
        await waiting
    await ask(client)
    assert only_connection(client) is not first
    transport.close()


async def test_a_connection_that_has_ended_already_is_left_to_aiokafka(client, monkeypatch):
    connect = AIOKafkaConnection.connect

    async def too_late(made):
        await connect(made)
        made._reader.feed_eof()

    only_connection(client).close()
    monkeypatch.setattr(AIOKafkaConnection, "connect", too_late)
    with pytest.raises(KafkaConnectionError):
        await ask(client)


async def test_a_connection_that_is_forgotten_is_not_kept_open(client):
    forgotten = weakref.ref(only_connection(client))
    transport = forgotten()._writer.transport
    await asyncio.sleep(0)  # who asked last lets go of it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        client._conns.clear()
        gc.collect()
    assert forgotten() is None
    assert transport.is_closing()


async def test_a_closed_client_connects_no_more(client):
    client.cut()
    with pytest.raises(NodeNotReadyError):
        await ask(client)


async def test_a_connection_that_is_made_while_the_client_closes_is_closed(client):
    only_connection(client).close()
    client._conns.clear()
    asking = asyncio.ensure_future(ask(client))
    while not any(turn.locked() for turn in (client._turns or {}).values()):
        await asyncio.sleep(0)
    await client.close()
    with pytest.raises(NodeNotReadyError):
        await asking
    assert not only_connection(client).connected()


async def test_a_broker_that_stands_still_keeps_nobody_from_the_others(bootstrap, monkeypatch):
    """It took all the time that a gate gives to whoever takes a shard over, one time in three."""
    monkeypatch.setattr(fast_client, "AT_FIRST", 0.2)
    reached = asyncio.Event()

    async def stand_still(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        reached.set()
        await reader.read()  # until it is given up
        writer.close()

    still = await asyncio.start_server(stand_still, "127.0.0.1", 0)
    host, port = still.sockets[0].getsockname()
    there, number = bootstrap.split(":")
    monkeypatch.setattr(Client, "hosts", [(host, port, None), (there, int(number), None)])
    found = Client(**access(bootstrap), request_timeout_ms=3_600_000)
    try:
        async with asyncio.timeout(60):
            await found.bootstrap()
        assert reached.is_set()
        assert await ask(found)
    finally:
        await found.close()
        still.close()
        await still.wait_closed()


class Freezing:
    """Stands between a client and the broker, for one that can stand still: connections stay, answers do not come."""

    def __init__(self) -> None:
        self.frozen = False
        self._relays: set[asyncio.Task[Any] | None] = set()

    async def relay(self, upstream: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._relays.add(asyncio.current_task())
        host, port = upstream.split(":")
        back, forth = await asyncio.open_connection(host, int(port))
        await asyncio.gather(self._pass_on(reader, forth), self._pass_on(back, writer))
        await asyncio.gather(forth.wait_closed(), writer.wait_closed())

    async def ended(self) -> None:
        await asyncio.gather(*filter(None, self._relays), return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if not self.frozen:
                    writer.write(data)
        writer.close()


FROZEN = 1_000  # its number


@pytest.fixture
async def freezing(bootstrap, monkeypatch) -> AsyncIterator[tuple[Client, Freezing]]:
    """A client that knows two brokers: one that can stand still, and one that takes itself for the only one."""
    monkeypatch.setattr(lateness, "LATE", 0.2)
    monkeypatch.setattr(fast_client, "AT_FIRST", 0.2)
    monkeypatch.setattr(fast_client, "_silent", Silent())
    freezing = Freezing()
    server = await asyncio.start_server(partial(freezing.relay, bootstrap), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    client = Client(**access(bootstrap), request_timeout_ms=3_600_000)
    await client.bootstrap()
    (broker,) = client.cluster.brokers()
    known = {FROZEN: broker._replace(nodeId=FROZEN, host=host, port=port), broker.nodeId: broker}
    monkeypatch.setattr(client.cluster, "brokers", lambda: list(known.values()))
    monkeypatch.setattr(client.cluster, "broker_metadata", known.get)
    yield client, freezing
    await client.close()
    await freezing.ended()
    server.close()


async def test_nobody_waits_for_a_broker_that_the_others_have_given_up(freezing):
    client, between = freezing
    assert await client.send(FROZEN, MetadataRequest([]))
    between.frozen = True
    async with asyncio.timeout(60):
        with pytest.raises(KafkaConnectionError, match=f"broker {FROZEN} ended before it answered Metadata"):
            await client.send(FROZEN, MetadataRequest([]))


async def test_nobody_waits_to_be_connected_to_a_broker_that_the_others_have_given_up(freezing):
    client, between = freezing
    between.frozen = True
    async with asyncio.timeout(60):
        with pytest.raises(NodeNotReadyError, match=f"broker {FROZEN} can't be connected to"):
            await client.send(FROZEN, MetadataRequest([]))


async def test_who_looks_for_a_coordinator_may_ask_another_broker_where_the_connection_to_one_ends(
    freezing, monkeypatch
):
    """With aiokafka's error its sender ended, and with it the session."""
    client, between = freezing
    assert await client.send(FROZEN, MetadataRequest([]))
    between.frozen = True
    monkeypatch.setattr(client, "get_random_node", lambda: FROZEN)
    async with asyncio.timeout(60):
        with pytest.raises(NodeNotReadyError, match="ended before it answered FindCoordinator"):
            await client.coordinator_lookup(CoordinationType.TRANSACTION, "pay")


async def test_a_broker_that_is_late_is_waited_for_while_it_is_one_of_the_cluster(freezing, monkeypatch):
    client, between = freezing
    assert await client.send(FROZEN, MetadataRequest([]))
    looked = asyncio.Event()

    async def is_given_up(_node: int) -> bool:
        looked.set()
        return False

    monkeypatch.setattr(client.lateness, "_is_given_up", is_given_up)
    between.frozen = True
    waiting = asyncio.create_task(client.send(FROZEN, MetadataRequest([])))
    async with asyncio.timeout(60):
        await looked.wait()
    assert not waiting.done()
    waiting.cancel()


async def test_who_leads_is_asked_of_a_broker_that_answers(freezing, monkeypatch):
    client, between = freezing
    assert await client.send(FROZEN, MetadataRequest([]))
    between.frozen = True
    monkeypatch.setattr(random, "shuffle", lambda nodes: nodes.sort(reverse=True))
    monkeypatch.setattr(random, "sample", lambda nodes, _count: sorted(nodes, reverse=True))
    async with asyncio.timeout(60):
        assert await client.force_metadata_update()


async def test_one_that_has_not_answered_is_asked_after_the_others(client, monkeypatch):
    monkeypatch.setattr(fast_client, "_silent", silent := Silent())
    nodes = [SimpleNamespace(nodeId=number) for number in (1, 2, 3)]
    monkeypatch.setattr(client.cluster, "brokers", lambda: nodes)
    silent.add(client._bootstrap_servers, 2)
    assert {client.get_random_node() for _ in range(200)} == {1, 3}
    for number in (1, 3):
        silent.add(client._bootstrap_servers, number)
    assert {client.get_random_node() for _ in range(200)} == {1, 2, 3}
    silent.discard(client._bootstrap_servers, 3)
    assert client.get_random_node() == 3
    monkeypatch.setattr(pending_requests, "AVOIDED", 0.0)
    silent.add(client._bootstrap_servers, 3)
    assert {client.get_random_node() for _ in range(200)} == {3}


async def test_servers_may_be_named_in_a_list(bootstrap):
    async with running(AIOKafkaProducer(bootstrap_servers=[bootstrap], transactional_id="listed")) as producer:
        assert producer.client.get_random_node() is not None
