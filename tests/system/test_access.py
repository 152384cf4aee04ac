"""A broker that wants encryption and credentials: gate, commands and libraries get through, and say why they do not."""

import asyncio
import json
import os
import re
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from gate.client import JobClient
from gate.kafka.local import LocalBroker, config
from tests.system.gates import create, gate, read_count, until
from tests.system.issuer import issuer

PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
OAUTH = 'org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="b"'
POLICY = "services: {pay: {requests_per_second: 1000, burst_size: 1000}}\n"


def pkcs8(key: bytes) -> str:
    """Return a key in the one form that Java reads."""
    private = serialization.load_pem_private_key(key, None)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return private.private_bytes(*form).decode()


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    """A broker with a listener that is open, one for passwords and one for tokens; (addresses of them, folder)."""
    folder, authority = tmp_path_factory.mktemp("access"), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    own = authority.issue_cert(config.HOST)
    chain = "".join(blob.bytes().decode() for blob in own.cert_chain_pems)
    passwords, tokens = config.free_port(), config.free_port()
    properties = {
        "listeners": f"GUARDED://{config.HOST}:{passwords},TOKENS://{config.HOST}:{tokens}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_SSL,"
        "TOKENS:SASL_PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.name.guarded.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.guarded.plain.sasl.jaas.config": f'{PLAIN} user_gate="secret";',
        "listener.name.guarded.ssl.keystore.type": "PEM",
        "listener.name.guarded.ssl.keystore.certificate.chain": chain,
        "listener.name.guarded.ssl.keystore.key": pkcs8(own.private_key_pem.bytes()),
        "listener.name.tokens.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.tokens.oauthbearer.sasl.jaas.config": f'{OAUTH} unsecuredValidatorRequiredScope="kafka";',
    }
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with LocalBroker.start(properties=properties) as started, issuer(300, tls) as made:
        yield started.bootstrap, f"{config.HOST}:{passwords}", f"{config.HOST}:{tokens}", made, folder


@pytest.fixture
def guarded(broker, prefix):
    """(open, guarded, environment of who may)."""
    plain, passwords, _, _, folder = broker
    credentials = {
        "GATE_SECURITY_PROTOCOL": "SASL_SSL",
        "GATE_SASL_USERNAME": "gate",
        "GATE_SASL_PASSWORD": "secret",
        "GATE_SSL_CAFILE": str(folder / "ca.pem"),
        "GATE_PREFIX": prefix,
    }
    return plain, passwords, credentials


@pytest.fixture
def wants_tokens(broker, prefix):
    """(open, guarded, who gives tokens, environment of who gets one)."""
    plain, _, tokens, made, folder = broker
    made.answer, made.claims = None, {"scope": "kafka"}
    made.forms.clear()
    (folder / "secret").write_text(f"{made.secret}\n")
    environment = {
        "GATE_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "GATE_SASL_MECHANISM": "OAUTHBEARER",
        "GATE_OAUTH_TOKEN_URL": made.url,
        "GATE_OAUTH_CLIENT_ID": made.client,
        "GATE_OAUTH_CLIENT_SECRET": f"@{folder / 'secret'}",
        "GATE_OAUTH_SCOPE": "kafka read",
        "GATE_OAUTH_AUDIENCE": "cluster-1",
        "GATE_OAUTH_CAFILE": str(folder / "ca.pem"),
        "GATE_PREFIX": prefix,
    }
    return plain, tokens, made, environment


def command(*words, bootstrap, environment):
    options = ["--bootstrap", bootstrap, "--connect-timeout", "4"]
    return subprocess.run(
        [sys.executable, "-m", "gate", *words, *options],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False, input="one\ntwo\n",
    )  # fmt: skip


def test_gate_commands_and_libraries_get_through(guarded, prefix, tmp_path, monkeypatch):
    plain, bootstrap, credentials = guarded
    asyncio.run(create(plain, f"{prefix}.requests.pay"))
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0", env=credentials) as running:
        until(running.is_ready, explain=running.text)
        submitted = command("submit", "pay", bootstrap=bootstrap, environment=credentials)
        assert submitted.returncode == 0, submitted.stderr
        for name, value in credentials.items():
            monkeypatch.setenv(name, value)

        async def job():
            async with JobClient(bootstrap, prefix=prefix) as client:
                ticket = await client.submit("pay", b"three")
                return await asyncio.wait_for(ticket.decision(), 20)

        assert asyncio.run(job()).verdict == "admitted"
        for name in credentials:
            monkeypatch.delenv(name)
        out = asyncio.run(read_count(plain, [f"{prefix}.admitted.pay"], 3))
        assert sorted(record.value for record in out) == [b"one", b"three", b"two"]
        usage = command("usage", "pay", "--json", bootstrap=bootstrap, environment=credentials)
        assert json.loads(usage.stdout), usage.stderr
        assert running.stop() == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"GATE_SASL_PASSWORD": "guess"}, "refuses user gate by PLAIN: Authentication failed: Invalid username"),
        ({"GATE_SASL_MECHANISM": "SCRAM-SHA-512"}, "does not take SCRAM-SHA-512; set GATE_SASL_MECHANISM to one of"),
    ],
)
def test_who_may_not_is_told_so_at_once_in_one_line(guarded, wrong, said):
    _, bootstrap, credentials = guarded
    refused = command("usage", bootstrap=bootstrap, environment=credentials | wrong)
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"gate: the Kafka broker at {bootstrap} {said}")
    assert "guess" not in line


@pytest.mark.parametrize(
    ("wrong", "how", "at_last"),
    [({"GATE_SSL_CAFILE": ""}, "SASL_SSL as user gate", "CERTIFICATE_VERIFY_FAILED"), (None, "PLAINTEXT", "")],
)
def test_who_asks_in_a_way_that_is_not_understood_is_told_how_it_asked(guarded, wrong, how, at_last):
    _, bootstrap, credentials = guarded
    environment = {} if wrong is None else credentials | wrong
    refused = command("usage", bootstrap=bootstrap, environment=environment)
    assert refused.returncode == 1
    assert f"no Kafka broker answers at {bootstrap}" in refused.stderr
    assert how in refused.stderr
    assert at_last in refused.stderr
    assert "Traceback" not in refused.stderr


def test_tokens_let_gate_commands_and_libraries_in(wants_tokens, prefix, tmp_path, monkeypatch):
    plain, bootstrap, made, environment = wants_tokens
    asyncio.run(create(plain, f"{prefix}.requests.pay"))
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0", env=environment) as running:
        until(running.is_ready, explain=running.text)
        assert len(made.forms) == 1, "one token is enough for all connections of a gate"
        assert made.forms[0] == {
            "grant_type": ["client_credentials"], "scope": ["kafka read"], "audience": ["cluster-1"]
        }  # fmt: skip
        submitted = command("submit", "pay", bootstrap=bootstrap, environment=environment)
        assert submitted.returncode == 0, submitted.stderr
        doctor = command("doctor", bootstrap=bootstrap, environment=environment)
        assert "gates running" in doctor.stdout, doctor.stdout + doctor.stderr
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

        async def job():
            async with JobClient(bootstrap, prefix=prefix) as client:
                ticket = await client.submit("pay", b"three")
                return await asyncio.wait_for(ticket.decision(), 20)

        assert asyncio.run(job()).verdict == "admitted"
        assert running.stop() == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("claims", "the Kafka broker at {broker} refuses the token of client gate at {url}: insufficient_scope, scope"),
        (
            "secret",
            "the token endpoint {url} answers 401 to client gate (invalid_client: no client has the secret ***)",
        ),
        ("status", "the token endpoint {url} answers 503 to client gate; it will be asked again"),
        ("authority", "the token endpoint {url} can't be reached: [SSL: CERTIFICATE_VERIFY_FAILED]"),
        ("away", "the token endpoint https://127.0.0.1:1/ can't be reached: All connection attempts failed; check"),
        ("silent", "client gate at {url} gives no token in time; check GATE_OAUTH_TOKEN_URL"),
        ("page", "the token endpoint {url} answers 200 without an access_token; check GATE_OAUTH_TOKEN_URL"),
        ("token", "what client gate at {url} gives is no bearer token"),
    ],
)
def test_who_gets_no_token_or_a_wrong_one_is_told_so_in_one_line(wants_tokens, wrong, said):
    _, bootstrap, made, environment = wants_tokens
    url = made.url
    with ExitStack() as stack:
        match wrong:
            case "claims":
                made.claims = {"scope": "metrics"}
            case "secret":
                environment["GATE_OAUTH_CLIENT_SECRET"] = "hunter 2"
            case "status":
                made.answer = 503, b"<html>"
            case "authority":
                environment["GATE_OAUTH_CAFILE"] = ""
            case "away":
                environment["GATE_OAUTH_TOKEN_URL"] = "https://user:hunter@127.0.0.1:1/?key=hunter"
            case "silent":
                mute = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                url = environment["GATE_OAUTH_TOKEN_URL"] = f"http://127.0.0.1:{mute.getsockname()[1]}/token"
            case "page":
                made.answer = 200, b"<html>please log in</html>"
            case "token":
                made.answer = 200, json.dumps({"access_token": "two\x01lines", "expires_in": 60}).encode()
        refused = command("usage", bootstrap=bootstrap, environment=environment)
    assert refused.returncode == 1, refused.stdout
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"gate: {said.format(broker=bootstrap, url=url)}")
    assert not re.search("hunter|s3cr|Bearer|eyJ", line)


def test_who_gives_tokens_may_be_a_function_of_ones_own(wants_tokens, prefix, tmp_path):
    plain, bootstrap, made, environment = wants_tokens
    asyncio.run(create(plain, f"{prefix}.requests.pay"))
    (tmp_path / "ours.py").write_text(
        "from tests.system.issuer import unsecured\n"
        "def token():\n"
        "    return unsecured('me', 60, scope='kafka')\n"
        "def broken():\n"
        "    raise LookupError('no token today')\n"
    )
    path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"}
    own = path | {name: value for name, value in environment.items() if not name.startswith("GATE_OAUTH_")}
    submitted = command("submit", "pay", bootstrap=bootstrap, environment=own | {"GATE_OAUTH_PROVIDER": "ours:token"})
    assert submitted.returncode == 0, submitted.stderr
    assert not made.forms
    refused = command("usage", bootstrap=bootstrap, environment=own | {"GATE_OAUTH_PROVIDER": "ours:broken"})
    assert refused.stderr == "gate: the token provider ours:broken fails: LookupError: no token today\n"
