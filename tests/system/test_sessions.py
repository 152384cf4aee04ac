"""Sessions that end after seconds: a gate under load goes on over many of them as if there were none."""

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError
from aiokafka.protocol.metadata import MetadataRequest

from gate.client import JobClient
from gate.kafka.access import access
from gate.kafka.aio import connection as connections
from gate.kafka.aio.client import Client
from gate.kafka.local import LocalBroker, config
from tests.system.gates import create, gate, read_count, until
from tests.system.issuer import Issuer, issuer

POLICY = "services: {pay: {requests_per_second: 100000, burst_size: 100000}}\n"
LOAD_SECONDS = 10.0
TOKEN_SECONDS = 3.0
PLAIN = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_gate="secret";'
OAUTH = (
    'org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="b";'
)


LISTENERS = {"PASSWORDS": ("PLAIN", 3_000), "TOKENS": ("OAUTHBEARER", 600_000), "UNSAID": ("OAUTHBEARER", 0)}  # ms


@pytest.fixture(scope="module")
def broker() -> Iterator[dict[str, str]]:
    """A broker with a listener that is open (PLAINTEXT), and one for each kind of session; their addresses."""
    ports = {name: config.free_port() for name in LISTENERS}
    guards = ",".join(f"{name}:SASL_PLAINTEXT" for name in LISTENERS)
    properties = {
        "listeners": ",".join(f"{name}://{config.HOST}:{port}" for name, port in ports.items()),
        "listener.security.protocol.map": f"PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,{guards}",
        "inter.broker.listener.name": "PLAINTEXT",
    }
    for name, (mechanism, session_ms) in LISTENERS.items():
        listener = f"listener.name.{name.lower()}"
        properties[f"{listener}.sasl.enabled.mechanisms"] = mechanism
        properties[f"{listener}.{mechanism.lower()}.sasl.jaas.config"] = PLAIN if mechanism == "PLAIN" else OAUTH
        properties[f"{listener}.{mechanism.lower()}.connections.max.reauth.ms"] = str(session_ms)
    with LocalBroker.start(properties=properties) as started:
        yield {"PLAINTEXT": started.bootstrap} | {name: f"{config.HOST}:{port}" for name, port in ports.items()}


PASSWORD = {
    "GATE_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
    "GATE_SASL_USERNAME": "gate",
    "GATE_SASL_PASSWORD": "secret",
}


def token_of(made: Issuer) -> dict[str, str]:
    return {
        "GATE_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "GATE_SASL_MECHANISM": "OAUTHBEARER",
        "GATE_OAUTH_TOKEN_URL": made.url,
        "GATE_OAUTH_CLIENT_ID": made.client,
        "GATE_OAUTH_CLIENT_SECRET": made.secret,
    }


async def offer(bootstrap: str, topic: str, seconds: float) -> int:
    """Send requests for some time, beside what is tested; return how many."""
    count, end = 0, time.monotonic() + seconds
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True) as producer:
        while time.monotonic() < end:
            batch = [await producer.send(topic, b"%d" % (count + i), partition=i % 2) for i in range(20)]
            await asyncio.gather(*batch)
            count += len(batch)
            await asyncio.sleep(0.02)
    return count


@pytest.mark.parametrize("listener", LISTENERS)
def test_a_gate_under_load_never_notices(broker, prefix, tmp_path, listener):
    plain = broker["PLAINTEXT"]
    asyncio.run(create(plain, f"{prefix}.requests.pay"))
    with issuer(TOKEN_SECONDS) as made:
        env = PASSWORD if listener == "PASSWORDS" else token_of(made)
        with gate(tmp_path, broker[listener], prefix, POLICY, "--http", "0", env=env) as running:
            until(running.is_ready, explain=running.text)
            before = len(running.text())
            asked = len(made.forms)
            sent = asyncio.run(offer(plain, f"{prefix}.requests.pay", LOAD_SECONDS))
            asked = len(made.forms) - asked
            out = asyncio.run(read_count(plain, [f"{prefix}.admitted.pay"], sent))
            assert running.stop() == 0
    if listener != "PASSWORDS":
        assert LOAD_SECONDS / TOKEN_SECONDS - 1 < asked < 3 * LOAD_SECONDS / TOKEN_SECONDS, "one for all connections"
    assert sorted(int(record.value) for record in out) == list(range(sent)), "lost or doubled"
    text = running.text()[before:]
    assert not re.findall("anew|failed|error|warning|Traceback", text), text


@pytest.fixture
def brief(broker, monkeypatch):
    """Sessions that end with their tokens, after 3 s; (how to get there, who gives tokens)."""
    monkeypatch.setattr(connections, "_told", {})
    with issuer(TOKEN_SECONDS) as made:
        yield access(broker["TOKENS"], token_of(made)), made


def test_the_library_never_notices(broker, prefix, tmp_path, monkeypatch, caplog):
    plain = broker["PLAINTEXT"]
    asyncio.run(create(plain, f"{prefix}.requests.pay"))

    async def jobs(made: Issuer) -> int:
        count = 0
        async with JobClient(broker["TOKENS"], prefix=prefix) as client:
            asked = len(made.forms)
            while len(made.forms) < asked + 3:
                ticket = await client.submit("pay", b"%d" % count)
                assert (await asyncio.wait_for(ticket.decision(), 20)).verdict == "admitted"
                count += 1
        return count

    with issuer(TOKEN_SECONDS) as made, gate(tmp_path, plain, prefix, POLICY, "--http", "0") as running:
        until(running.is_ready, explain=running.text)
        for name, value in token_of(made).items():
            monkeypatch.setenv(name, value)
        with structlog.testing.capture_logs() as logs:
            count = asyncio.run(jobs(made))
        assert [line for line in logs if line["log_level"] in {"warning", "error"}] == []
        assert [line.getMessage() for line in caplog.records if line.levelname in {"WARNING", "ERROR"}] == []
        out = asyncio.run(read_count(plain, [f"{prefix}.admitted.pay"], count))
        assert [int(record.value) for record in sorted(out, key=lambda record: int(record.value))] == list(range(count))


async def ask(client: Client) -> object:
    return await client.send(1, MetadataRequest([]))


async def test_one_connection_outlives_many_sessions_whatever_is_under_way(brief):
    options, made = brief
    client = Client(**options)
    await client.bootstrap()
    await ask(client)
    (connection,) = client._conns.values()
    held = 0

    async def keep_asking() -> None:
        while len(made.forms) < 5:
            assert (await ask(client)).brokers

    async def watch() -> None:
        nonlocal held
        while len(made.forms) < 5:
            held = max(held, len(connection._held or ()))
            await asyncio.sleep(0)

    await asyncio.gather(watch(), *(keep_asking() for _ in range(20)))
    assert held > 5, "nothing waited for a new session"
    assert list(client._conns.values()) == [connection]
    assert connection.connected()
    await client.close()


async def test_a_session_that_is_not_prolonged_ends_what_waits_and_says_why(brief):
    options, made = brief
    client = Client(**options)
    await client.bootstrap()
    await ask(client)
    (connection,) = client._conns.values()
    made.claims = {"sub": "somebody else"}  # whom a broker does not let take a session over
    with structlog.testing.capture_logs() as logs:
        with pytest.raises(KafkaConnectionError):
            while connection.connected():
                await asyncio.gather(ask(client), ask(client))
                await asyncio.sleep(0.01)
            raise KafkaConnectionError  # none was under way
        (said,) = [line for line in logs if line["event"] == "a session with a broker ends"]
        assert "refuses the token of client gate" in said["why"]
        await ask(client)  # a new session is another matter
        await client.close()


async def test_without_a_new_token_the_old_session_goes_on_until_it_ends(brief):
    options, made = brief
    client = Client(**options)
    await client.bootstrap()
    await ask(client)
    started, made.answer = time.monotonic(), (503, b"")
    with structlog.testing.capture_logs() as logs:
        with pytest.raises((KafkaConnectionError, NodeNotReadyError)):
            while True:
                await ask(client)
                await asyncio.sleep(0.01)
        assert time.monotonic() - started > 2.0, "it ended early"
        with pytest.raises(NodeNotReadyError):
            await ask(client)
        said = {line["why"] for line in logs if line["event"] in {"no new token", "no connection to a broker"}}
        assert said == {f"the token endpoint {made.url} answers 503 to client gate; it will be asked again"}
        made.answer = None
        while not connections_of(client):
            with suppress(NodeNotReadyError):
                await ask(client)
        await client.close()


async def test_where_a_session_cant_be_prolonged_connections_are_made_anew_between_requests(broker, monkeypatch):
    monkeypatch.setattr(connections, "RENEWED", (0.0, 0.0))
    monkeypatch.setattr(connections, "LEAST_SESSION", 0.1)  # a broker refuses to be asked so often
    client = Client(**access(broker["PASSWORDS"], PASSWORD))
    await client.bootstrap()
    used = set()

    async def keep_asking() -> None:
        while len(used) < 4:
            assert (await ask(client)).brokers
            used.add(client._conns[1, 0])
            await asyncio.sleep(0.01)

    await asyncio.gather(*(keep_asking() for _ in range(3)))
    assert sum(connection.connected() for connection in used) <= 1
    await client.close()


def connections_of(client: Client) -> list[object]:
    return [one for one in client._conns.values() if one.connected()]
