"""A broker that wants encryption and credentials: gate, commands and libraries get through, and say why they do not."""

import asyncio
import json
import os
import subprocess
import sys

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from consumers.jobs import JobClient
from gate.kafka.local import config
from tests.system.gates import create, gate, read_count, until

POLICY = "services: {pay: {requests_per_second: 1000, burst_size: 1000}}\n"


def pkcs8(key: bytes) -> str:
    """Return a key in the one form that Java reads."""
    private = serialization.load_pem_private_key(key, None)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return private.private_bytes(*form).decode()


@pytest.fixture
def guarded(own_broker, tmp_path):
    """A broker with a listener that is open, and one that is not; (open, guarded, environment of who may)."""
    authority, port = trustme.CA(), config.free_port()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    own = authority.issue_cert(config.HOST)
    chain = "".join(blob.bytes().decode() for blob in own.cert_chain_pems)
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    broker = own_broker(
        properties={
            "listeners": f"GUARDED://{config.HOST}:{port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_SSL",
            "inter.broker.listener.name": "PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.guarded.plain.sasl.jaas.config": f'{login} user_gate="secret";',
            "listener.name.guarded.ssl.keystore.type": "PEM",
            "listener.name.guarded.ssl.keystore.certificate.chain": chain,
            "listener.name.guarded.ssl.keystore.key": pkcs8(own.private_key_pem.bytes()),
        }
    )
    credentials = {
        "GATE_SECURITY_PROTOCOL": "SASL_SSL",
        "GATE_SASL_USERNAME": "gate",
        "GATE_SASL_PASSWORD": "secret",
        "GATE_SSL_CAFILE": str(tmp_path / "ca.pem"),
    }
    return broker.bootstrap, f"{config.HOST}:{port}", credentials


def command(*words, bootstrap, environment):
    options = ["--bootstrap", bootstrap, "--connect-timeout", "2"]
    return subprocess.run(
        [sys.executable, "-m", "gate", *words, *options],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False, input="one\ntwo\n",
    )  # fmt: skip


def test_gate_commands_and_libraries_get_through(guarded, tmp_path, monkeypatch):
    plain, bootstrap, credentials = guarded
    asyncio.run(create(plain, "gate.requests.pay"))
    with gate(tmp_path, bootstrap, "gate", POLICY, "--http", "0", env=credentials) as running:
        until(running.is_ready, explain=running.text)
        submitted = command("submit", "pay", bootstrap=bootstrap, environment=credentials)
        assert submitted.returncode == 0, submitted.stderr
        for name, value in credentials.items():
            monkeypatch.setenv(name, value)

        async def job():
            async with JobClient(bootstrap) as client:
                ticket = await client.submit("pay", b"three")
                return await asyncio.wait_for(ticket.decision(), 20)

        assert asyncio.run(job()).verdict == "admitted"
        for name in credentials:
            monkeypatch.delenv(name)
        out = asyncio.run(read_count(plain, ["gate.admitted.pay"], 3))
        assert sorted(record.value for record in out) == [b"one", b"three", b"two"]
        usage = command("usage", "pay", "--json", bootstrap=bootstrap, environment=credentials)
        assert json.loads(usage.stdout), usage.stderr
        assert running.stop() == 0


@pytest.mark.parametrize("wrong", [{"GATE_SASL_PASSWORD": "guess"}, {"GATE_SSL_CAFILE": ""}, None])
def test_who_may_not_is_told_how_it_asked(guarded, wrong):
    _, bootstrap, credentials = guarded
    environment = {} if wrong is None else credentials | wrong
    refused = command("usage", bootstrap=bootstrap, environment=environment)
    assert refused.returncode == 1
    assert f"no Kafka broker answers at {bootstrap}" in refused.stderr
    assert ("PLAINTEXT" if wrong is None else "SASL_SSL as user gate") in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "guess" not in refused.stderr
