"""Reaching a broker and letting go of it: nothing here may wait for ever."""

import asyncio
import socket
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from gate.errors import GateError
from gate.kafka import connect
from gate.kafka.connect import BrokerUnreachableError, check_bootstrap, running, wait_for_broker
from gate.protocol.topics import Names
from tests.client.log import Log


@pytest.fixture
def mute():
    """A server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield "127.0.0.1:%d" % server.getsockname()[1]  # noqa: UP031


@pytest.fixture
def closed():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return "127.0.0.1:%d" % server.getsockname()[1]  # noqa: UP031


@pytest.mark.parametrize("bootstrap", ["localhost:9092", "a:1,b:2", "[::1]:9092", "a:1, b:2"])
def test_addresses_are_taken(bootstrap):
    check_bootstrap(bootstrap)


@pytest.mark.parametrize("bootstrap", ["", "localhost", ":9092", "a:0", "a:65536", "a:b", "a:1,", "a:-1", "a:²"])
def test_what_is_no_address_is_told(bootstrap):
    with pytest.raises(GateError, match="is not a broker's address") as caught:
        check_bootstrap(bootstrap)
    assert "HOST:PORT" in caught.value.hint


async def test_a_broker_that_answers_is_reached_without_a_word(bootstrap):
    said = []
    await wait_for_broker(bootstrap, 10, said.append)
    assert said == []


@pytest.mark.parametrize("kind", ["closed", "mute"])
async def test_a_broker_that_does_not_answer_is_told_once_and_given_up_in_time(kind, request):
    address = request.getfixturevalue(kind)
    said = []
    started = asyncio.get_running_loop().time()
    with pytest.raises(BrokerUnreachableError, match=rf"no Kafka broker answers at {address} \(tried for 0.5 s\)"):
        await wait_for_broker(address, 0.5, said.append)
    assert asyncio.get_running_loop().time() - started < 5
    assert said == [] if kind == "mute" else [f"no Kafka broker answers at {address} yet; trying for 0.5 s"]


@pytest.mark.fast_path
async def test_what_is_cut_off_at_the_end_does_not_hide_the_reason(closed, monkeypatch):
    tries = 0
    refused = connect._refused

    async def slow_at_last(bootstrap: str, deadline: float) -> Exception | None:
        nonlocal tries
        tries += 1
        if tries == 1:
            return await refused(bootstrap, deadline)
        await asyncio.sleep(max(0.0, deadline - asyncio.get_running_loop().time()))
        return TimeoutError()

    monkeypatch.setattr(connect, "_refused", slow_at_last)
    with pytest.raises(BrokerUnreachableError) as told:
        await wait_for_broker(closed, 1.0)
    assert tries == 2
    assert "Connect call failed" in told.value.hint


@pytest.mark.parametrize("client", [AIOKafkaConsumer, AIOKafkaProducer])
@pytest.mark.parametrize("kind", ["closed", "mute"])
async def test_a_client_that_cannot_start_is_let_go(client, kind, request):
    address = request.getfixturevalue(kind)
    with pytest.raises(BrokerUnreachableError, match="does not let a client start"):
        async with running(client(bootstrap_servers=address), start_seconds=0.3):
            raise AssertionError("it started")


@pytest.mark.parametrize("client", [AIOKafkaConsumer, AIOKafkaProducer])
async def test_a_client_is_stopped_whatever_happens(client, bootstrap):
    made = client(bootstrap_servers=bootstrap)
    with pytest.raises(ZeroDivisionError):
        async with running(made):
            raise ZeroDivisionError
    assert made._closed


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KafkaError("no"), None], ids=repr)
async def test_a_client_that_cannot_stop_leaves_no_connection(bootstrap, error, monkeypatch):
    monkeypatch.setattr(connect, "STOP_SECONDS", 0.1)
    client = AIOKafkaConsumer(bootstrap_servers=bootstrap)

    async def cannot(seconds: float = 1000) -> None:
        if error is not None:
            raise error
        await asyncio.sleep(seconds)

    async with running(client):
        await client.topics()  # over a connection
        (connection,) = client._client._conns.values()
        assert connection.connected()
        stop = client.stop
        monkeypatch.setattr(client, "stop", cannot)
    assert not connection.connected()
    await stop()


async def test_a_client_whose_stop_is_cancelled_leaves_no_connection(bootstrap, monkeypatch):
    client = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    stopping, stop = asyncio.Event(), client.stop

    async def cannot() -> None:
        stopping.set()
        await asyncio.Event().wait()

    async def use() -> None:
        async with running(client):
            await client.topics()
            monkeypatch.setattr(client, "stop", cannot)

    using = asyncio.ensure_future(use())
    await stopping.wait()
    using.cancel()
    await asyncio.wait([using])
    assert using.cancelled()
    assert not any(connection.connected() for connection in client._client._conns.values())
    await stop()


async def test_a_broker_may_come_late_and_go_early(own_broker, monkeypatch):
    monkeypatch.setattr(connect, "STOP_SECONDS", 0.5)
    broker = own_broker()
    await _pause(broker)
    waiting = asyncio.create_task(wait_for_broker(broker.bootstrap, 30))
    await asyncio.sleep(0)
    broker.resume()
    await waiting
    await Log(broker.bootstrap, Names()).create("topic")
    loop = asyncio.get_running_loop()
    async with running(AIOKafkaProducer(bootstrap_servers=broker.bootstrap, enable_idempotence=True)) as producer:
        await producer.send_and_wait("topic", b"arrives")
        await _pause(broker)
        await producer.send("topic", b"waits for an acknowledgement that does not come")
        left = loop.time()
    assert 0.4 < loop.time() - left < 5
    broker.resume()


async def _pause(broker):
    broker.pause()
    while "\nState:\tT" not in Path(f"/proc/{broker.pid}/status").read_text():
        await asyncio.sleep(0)  # the signal has not reached all of its threads
