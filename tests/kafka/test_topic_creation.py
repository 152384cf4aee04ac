"""Topics are created as safe as a cluster lets them be, and with less where a broker refuses some of it."""

import asyncio

import pytest
import structlog
from aiokafka import errors

from gate.errors import GateError
from gate.kafka.aio.compat.shared import MetadataRequest
from gate.kafka.cluster import Cluster
from gate.kafka.topic_creation import Copies, TopicSpec, choose_copies, left_out, refusal_hint
from gate.protocol.topics import Names
from tests.system.test_pages import BROKERS, allow


@pytest.fixture
async def cluster(bootstrap, prefix):
    cluster = Cluster(Names(prefix), create=True, replication_factor=-1, bootstrap_servers=bootstrap)
    await cluster.start()
    yield cluster
    await cluster.close()


@pytest.mark.parametrize(
    ("setting", "brokers", "default", "copies"),
    [
        (-1, 3, 1, Copies(3, 2)),  # nobody has chosen 1: it is what Kafka comes with
        (-1, 5, 4, Copies(4, 2)),
        (-1, 3, 9, Copies(3, 2)),
        (-1, 4, None, Copies(3, 2)),
        (-1, 1, 1, Copies(1, None)),
        (-1, 2, 2, Copies(2, None)),
        (-1, 1, 3, Copies(3, None)),  # two more are away, or behind the same address
        (-1, 1, None, Copies(-1, None)),  # only the broker knows, and two in sync of one could not be written
        (3, 0, None, Copies(3, 2)),
        (1, 3, 3, Copies(1, None)),
    ],
)
def test_copies(setting, brokers, default, copies):
    assert choose_copies(setting, brokers, default) == copies


async def made(cluster, *topics):
    async with asyncio.timeout(10):
        while not set(topics) <= (await cluster.partitions()).keys():
            await asyncio.sleep(0.02)
    return await cluster.configs(*topics)


async def test_what_a_broker_refuses_and_can_be_done_without_is_left_out(cluster, prefix):
    refused = TopicSpec(f"{prefix}.a", 2, {"cleanup.policy": "compact"}, {"segment.ms": "-5"})
    good = TopicSpec(f"{prefix}.b", 1, {"retention.ms": "-1"}, {"segment.ms": "600000"})
    with structlog.testing.capture_logs() as logs:
        await cluster.ensure(refused, good)
    configs = await made(cluster, refused.name, good.name)
    assert configs[refused.name]["cleanup.policy"] == "compact"
    assert configs[refused.name]["segment.ms"] == "604800000"
    assert (configs[good.name]["retention.ms"], configs[good.name]["segment.ms"]) == ("-1", "600000")
    [warning] = logs
    assert (warning["topic"], warning["without"]) == (refused.name, ["segment.ms"])
    assert "segment.ms" in warning["why"]


async def test_of_a_cluster_only_its_brokers_are_asked_for_however_many_topics_it_has(cluster, prefix, monkeypatch):
    asked, send = [], cluster._client.send

    async def heard(node, request, **options):
        if isinstance(request, MetadataRequest):
            asked.append(request._topics)
        return await send(node, request, **options)

    there = await cluster.partitions()
    monkeypatch.setattr(cluster._client, "send", heard)
    monkeypatch.setattr(cluster, "partitions", lambda: asyncio.sleep(0, there))
    await cluster.ensure(TopicSpec(f"{prefix}.a", 1, {}))
    assert await cluster.brokers() == 1
    assert asked
    assert all(topics == [] for topics in asked)


async def test_the_hint_does_not_repeat_what_was_refused(cluster, prefix):
    spec = TopicSpec(f"{prefix}.a", 1, {"cleanup.policy": "sweep"}, {"segment.ms": "-5"})
    with pytest.raises(GateError, match="could not be created") as raised:
        await cluster.ensure(spec)
    assert "--config" not in raised.value.hint
    assert "allow" in raised.value.hint
    assert "segment.ms" not in raised.value.hint
    denied = refusal_hint(spec, errors.TopicAuthorizationFailedError)
    assert "--config cleanup.policy=sweep" in denied
    assert "segment.ms" not in denied


async def test_where_only_the_broker_knows_it_decides_how_many_copies_there_are(own_broker):
    broker = own_broker(
        properties={
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "true",
        }
    )
    # who is told the brokers' settings, is somebody else; and the broker may go on to talk to itself
    await allow(broker.bootstrap, [(4, "kafka-cluster", 3, "User:somebody", "*", 10, 3), BROKERS])
    cluster = Cluster(Names(), create=True, replication_factor=-1, bootstrap_servers=broker.bootstrap)
    await cluster.start()
    try:
        assert await cluster.broker_configs() == {}
        assert await cluster._creator._copies() == Copies(-1, None)
        spec = TopicSpec("gate.a", 1, {}, {"segment.ms": "600000"})
        await cluster.ensure(spec)
        assert (await made(cluster, spec.name))[spec.name]["segment.ms"] == "600000"
        assert [part.copies for part in (await cluster.layout())[spec.name]] == [1]
    finally:
        await cluster.close()


async def test_a_broker_that_refuses_the_number_of_copies_chooses_it(cluster, prefix, monkeypatch):
    monkeypatch.setattr("gate.kafka.topic_creation.choose_copies", lambda *_: Copies(3, 2))  # of one broker
    spec = TopicSpec(f"{prefix}.a", 1, {"retention.ms": "-1"})
    await cluster.ensure(spec)
    assert (await made(cluster, spec.name))[spec.name]["min.insync.replicas"] == "1"


async def test_a_number_of_copies_that_was_asked_for_is_not_replaced(bootstrap, prefix):
    cluster = Cluster(Names(prefix), create=True, replication_factor=3, bootstrap_servers=bootstrap)
    await cluster.start()
    try:
        with pytest.raises(GateError, match=r"could not be created: .*replication"):
            await cluster.ensure(TopicSpec(f"{prefix}.a", 1, {}))
    finally:
        await cluster.close()


def test_min_isr_is_wished():
    spec = TopicSpec("a", 1, {"cleanup.policy": "compact"}, {"segment.ms": "1"})
    assert left_out(spec, Copies(3, 2)) == ("segment.ms", "min.insync.replicas")
    assert left_out(spec, Copies(-1, None)) == ("segment.ms",)
