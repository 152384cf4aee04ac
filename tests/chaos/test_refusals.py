"""What a gate can't work with is said clearly, and nothing is lost: it goes on as soon as it is put right."""

import json
import re
import urllib.error
import urllib.request
from collections import Counter

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest

from tests.system.gates import GateProcess, create, gate, read_count, send, until

POLICY = "shards: 2\nservices: {pay: {requests_per_second: 1000, burst_size: 1000}}\n"
GOOD = "shards: 1\ndefaults: {requests_per_second: 1000, burst_size: 1000}\n"
TOPIC, TRANSACTIONAL_ID, LITERAL, ALL, WRITE, DENY = 2, 5, 3, 2, 4, 2
NO_TRANSACTIONS = (TRANSACTIONAL_ID, "*", LITERAL, "User:ANONYMOUS", "*", ALL, DENY)


def numbered(first: int, stop: int) -> list[tuple[bytes | None, bytes | None, list]]:
    return [(None, b"%d" % i, []) for i in range(first, stop)]


async def admitted(bootstrap: str, prefix: str, count: int, running: GateProcess) -> None:
    """Check that requests 0 to `count` have been admitted, once each."""
    out = await read_count(bootstrap, [f"{prefix}.admitted.pay"], count)
    assert Counter(r.value for r in out) == Counter(b"%d" % i for i in range(count)), running.text()


async def test_a_gate_with_another_number_of_shards_does_not_start(bootstrap, prefix, tmp_path):
    await create(bootstrap, f"{prefix}.requests.pay")
    other = tmp_path / "other"
    other.mkdir()
    with gate(tmp_path, bootstrap, prefix, POLICY) as running:
        running.wait_for("shard taken over")
        await send(bootstrap, f"{prefix}.requests.pay", numbered(0, 10))
        with gate(other, bootstrap, prefix, POLICY, "--shards", "3") as refused:
            assert refused.process.wait(30) == 1, refused.text()
        assert f"gate: topic {prefix}.state has 2 partitions, but this gate was started with 3 shards" in refused.text()
        assert "--shards 2" in refused.text()
        await admitted(bootstrap, prefix, 10, running)
        assert running.stop() == 0, running.text()


async def test_a_state_topic_deleted_under_a_running_gate(bootstrap, prefix, tmp_path):
    await create(bootstrap, f"{prefix}.requests.pay")
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as running:
        until(running.is_ready, explain=running.text)
        await send(bootstrap, f"{prefix}.requests.pay", numbered(0, 10))
        await admitted(bootstrap, prefix, 10, running)
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        await admin.delete_topics([f"{prefix}.state"])
        await admin.close()
        await send(bootstrap, f"{prefix}.requests.pay", numbered(10, 20))
        running.wait_for(f"topic {prefix}.state is gone")
        until(lambda: f"topic {prefix}.state is gone" in faults(running), explain=running.text)
        running.kill()
    with gate(tmp_path, bootstrap, prefix, POLICY) as refused:
        assert refused.process.wait(30) == 1, refused.text()
        assert f"gate: topic {prefix}.state is gone" in refused.text()
        assert "--state reset" in refused.text()
    with gate(tmp_path, bootstrap, prefix, POLICY, "--state", "reset") as again:
        await admitted(bootstrap, prefix, 20, again)
        assert again.stop() == 0, again.text()


async def test_a_transaction_of_somebody_else_that_is_open_in_the_state(bootstrap, prefix, tmp_path):
    await create(bootstrap, f"{prefix}.requests.pay")
    with gate(tmp_path, bootstrap, prefix, POLICY) as running:
        running.wait_for("shard taken over")
        running.stop()
    stranger = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"{prefix}-stranger")
    await stranger.start()
    try:
        await stranger.begin_transaction()
        for shard in range(2):
            await stranger.send_and_wait(f"{prefix}.state", b"?", key=b"service/pay", partition=shard)
        await send(bootstrap, f"{prefix}.requests.pay", numbered(0, 10))
        with gate(tmp_path, bootstrap, prefix, POLICY) as waiting:
            waiting.wait_for(f"somebody else has a transaction open in {prefix}.state")
            assert "gate transactions list" in waiting.text()
            await stranger.abort_transaction()
            await admitted(bootstrap, prefix, 10, waiting)
            assert waiting.stop() == 0, waiting.text()
    finally:
        await stranger.stop()


async def test_a_transactional_id_that_is_not_authorised(own_broker, prefix, tmp_path):
    broker = own_broker(
        properties={
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "true",
        }
    )
    await create(broker.bootstrap, f"{prefix}.requests.pay")
    await change_acl(broker.bootstrap, CreateAclsRequest(*NO_TRANSACTIONS))
    with gate(tmp_path, broker.bootstrap, prefix, POLICY, "--http", "0") as running:
        await send(broker.bootstrap, f"{prefix}.requests.pay", numbered(0, 10))
        running.wait_for(f"does not let this gate use the transactional id {prefix}-")
        assert f"allow Write and Describe on TransactionalId {prefix}-*" in running.text()
        assert "shard" in faults(running)
        await change_acl(broker.bootstrap, DeleteAclsRequest(*NO_TRANSACTIONS))
        await admitted(broker.bootstrap, prefix, 10, running)
        assert running.stop() == 0, running.text()


def faults(running: GateProcess) -> str:
    """Return why a gate says that it is not ready."""
    request = urllib.request.Request(running.url() + "/readyz")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.dumps(json.load(answer))
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode()


async def change_acl(bootstrap: str, request: CreateAclsRequest | DeleteAclsRequest) -> None:
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        answer = await client.send(client.get_random_node(), request)
        assert not answer.to_object()[next(k for k in answer.to_object() if k != "throttle_time_ms")][0]["error_code"]
    finally:
        await client.close()


async def test_an_output_that_may_not_be_written_stops_its_own_service_alone(own_broker, prefix, tmp_path):
    broker = own_broker(
        properties={
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "true",
        }
    )
    topic = f"{prefix}.admitted.pay"
    denied = (TOPIC, topic, LITERAL, "User:ANONYMOUS", "*", WRITE, DENY)
    await create(broker.bootstrap, f"{prefix}.requests.pay", f"{prefix}.requests.good", topic)
    await change_acl(broker.bootstrap, CreateAclsRequest(*denied))
    with gate(tmp_path, broker.bootstrap, prefix, GOOD, "--http", "0") as running:
        await send(broker.bootstrap, f"{prefix}.requests.pay", numbered(0, 10))
        text = running.wait_for("a partition waits")
        assert f"{topic}-" in text
        assert f"--operation Write --topic {topic}" in text
        await send(broker.bootstrap, f"{prefix}.requests.good", numbered(0, 50))
        out = await read_count(broker.bootstrap, [f"{prefix}.admitted.good"], 50)
        assert len(out) == 50, running.text()
        assert '"degraded"' in faults(running)
        await change_acl(broker.bootstrap, DeleteAclsRequest(*denied))
        await admitted(broker.bootstrap, prefix, 10, running)
        until(lambda: "a partition goes on" in running.text(), explain=running.text)
        assert "gate.shard.failed" not in running.text()
        assert running.stop() == 0, running.text()


async def test_an_output_topic_that_is_deleted_stops_its_own_service_alone(bootstrap, prefix, tmp_path):
    topics = [
        f"{prefix}.{kind}.{name}"
        for name in ("pay", "good")
        for kind in ("requests", "admitted", "delayed", "rejected")
    ]
    await create(bootstrap, *topics)
    with gate(tmp_path, bootstrap, prefix, GOOD, "--http", "0") as running:
        await send(bootstrap, f"{prefix}.requests.pay", numbered(0, 10))
        await admitted(bootstrap, prefix, 10, running)
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        await admin.delete_topics([f"{prefix}.admitted.pay"])
        await admin.close()
        await send(bootstrap, f"{prefix}.requests.pay", numbered(10, 20))
        await send(bootstrap, f"{prefix}.requests.good", numbered(0, 50))
        out = await read_count(bootstrap, [f"{prefix}.admitted.good"], 50)
        assert len(out) == 50, running.text()
        again = await read_count(bootstrap, [f"{prefix}.admitted.pay"], 10)
        assert Counter(r.value for r in again) == Counter(b"%d" % i for i in range(10, 20)), running.text()
        assert re.search(rf"{prefix}\.admitted\.pay-\d: there is no such topic", running.text()), running.text()
        assert "does not take a batch in time" not in running.text(), "as long as a session lasts, nobody was decided"
        assert "shard restarts" not in running.text(), "it was not the shard that failed"
        until(lambda: "a partition goes on" in running.text(), explain=running.text)
