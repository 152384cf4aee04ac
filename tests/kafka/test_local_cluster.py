"""The local cluster: nothing acknowledged is lost with a node, and another terminal makes nodes fail by number."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import NotLeaderForPartitionError, UnknownTopicOrPartitionError

from gate.cli import main
from gate.errors import GateError
from gate.kafka.aio.client import Client
from gate.kafka.aio.reader import Reader
from gate.kafka.local import LocalBroker, LocalCluster, probe, remote
from gate.kafka.local.remote import Request
from gate.shard.records import Fetched, Partition
from tests.system.gates import until

DEADLINE = 60.0


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path_factory):
    """Clusters of other tests of this machine are none that runs; the jars are shared."""
    folder = tmp_path_factory.mktemp("running")
    monkeypatch.setattr(remote, "cache_folder", lambda: folder)


@pytest.fixture(scope="module")
def cluster():
    """One for all that leave it as it was."""
    with LocalCluster.start() as running:
        yield running


async def create(bootstrap, *topics):
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 3) for topic in topics])
        return await admin.describe_topics(list(topics))
    finally:
        await admin.close()


async def produce(bootstrap, topic, value):
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", transactional_id="t")
    await producer.start()
    try:
        async with producer.transaction():
            await producer.send_and_wait(topic, value)
        return producer.client.cluster.leader_for_partition(TopicPartition(topic, 0))
    finally:
        await producer.stop()


async def test_a_transaction_commits_with_any_one_node_gone(cluster):
    """So the internal topics, too, are kept more than once."""
    assert len(cluster.bootstrap.split(",")) == 3
    await create(cluster.bootstrap, "a")
    for number in cluster.numbers:
        await asyncio.to_thread(cluster.kill, number)
        assert cluster.running() == [other for other in cluster.numbers if other != number]
        assert await asyncio.wait_for(produce(cluster.bootstrap, "a", b"1"), DEADLINE) != number
        assert await asyncio.to_thread(cluster.start_nodes, number)
    assert cluster.running() == [1, 2, 3]


async def test_only_who_leads_is_read_from(cluster):
    """A follower answers a request of version 11 with what it has: after a move it was read on, late or for nothing."""
    partition = Partition("read", 0)
    await create(cluster.bootstrap, partition.topic)
    leader = await produce(cluster.bootstrap, partition.topic, b"1")
    client = Client(bootstrap_servers=cluster.bootstrap)
    await client.bootstrap()
    try:
        reader = Reader(client)
        for node in cluster.numbers:
            answer = None
            async with asyncio.timeout(DEADLINE):
                while answer is None or isinstance(answer, UnknownTopicOrPartitionError):  # it may be new there
                    found = await reader.fetch(node, {partition: 0}, wait_ms=100, partition_bytes=1 << 20)
                    answer = found.get(partition)
            assert isinstance(answer, Fetched if node == leader else NotLeaderForPartitionError), node
    finally:
        await client.close()


def test_data_of_another_number_of_nodes_is_not_touched(tmp_path):
    with LocalBroker.start(tmp_path / "one"):
        pass
    with pytest.raises(GateError, match="holds the data of 1 node, not of 3"):
        LocalCluster.start(tmp_path / "one")
    for number in (1, 2):
        (tmp_path / "two" / f"node-{number}").mkdir(parents=True)
    for start in (LocalBroker.start, LocalCluster.start):
        with pytest.raises(GateError, match="holds the data of 2 nodes") as refusal:
            start(tmp_path / "two")
        assert "--nodes 2" in refusal.value.hint


def test_a_node_that_is_asked_to_stop_does_not_end_by_itself(cluster):
    """Whoever looks in the moment between its end and the return of `stop_node` is not told of it."""
    node = cluster.node(2)
    node.terminate()
    until(lambda: not node.runs())
    assert cluster.ended() == {}
    node.await_end()
    assert cluster.start_nodes(2)
    os.kill(node.pid, signal.SIGTERM)
    until(lambda: not node.runs())
    assert set(cluster.ended()) == {2}
    assert cluster.start_nodes(2)


@contextmanager
def gate_broker(folder, *options):
    program = (
        "import sys; from pathlib import Path; from gate.kafka.local import remote;"
        f"remote.cache_folder = lambda: Path({str(folder)!r}); from gate.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, "broker", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def answers(bootstrap, number):
    host, port = bootstrap.split(",")[number - 1].split(":")
    return probe.cluster_id(host, int(port), timeout=0.5) is not None


def test_another_terminal_makes_nodes_fail_and_come_back(capsys, monkeypatch):
    monkeypatch.delenv("GATE_BOOTSTRAP", raising=False)

    def command(*options):
        code = main(["broker", *options])
        return (code, *capsys.readouterr())

    with gate_broker(remote.cache_folder(), "--nodes", "3") as process:
        bootstrap = process.stdout.readline().removeprefix("bootstrap: ").strip()
        assert [answers(bootstrap, n) for n in (1, 2, 3)] == [True, True, True]
        assert command("stop", "2") == (0, "node 2 has shut down\n", "")
        assert not answers(bootstrap, 2)
        assert "node 2 does not run" in command("stop", "2")[2]
        assert "there is no node 4" in command("kill", "1", "4")[2]
        assert answers(bootstrap, 1)  # nothing is done by halves
        assert command("start", "2") == (0, "node 2 serves\n", "")
        assert "node 2 runs" in command("start", "2")[2]
        assert answers(bootstrap, 2)
        assert command("pause", "3") == (0, "node 3 stands still\n", "")
        assert not answers(bootstrap, 3)
        told = json.loads(command("resume", "3", "--json")[1])
        assert told == {"node": 3, "did": "resume", "stands": "node 3 goes on"}
        assert command("restart", "3", "--bootstrap", bootstrap.split(",")[0]) == (0, "node 3 serves\n", "")
        assert command("kill", "1", "2") == (0, "node 1 is killed\nnode 2 is killed\n", "")
        assert command("start", "1", "2") == (0, "node 1 serves\nnode 2 serves\n", "")
        assert "no local cluster has a node at 127.0.0.1:1" in command("stop", "1", "--bootstrap", "127.0.0.1:1")[2]
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=DEADLINE)
    assert (process.returncode, rest, said.count("ended")) == (0, "", 0), said
    assert "no local cluster runs" in command("stop", "1")[2]


def test_a_node_that_dies_is_told_of_once_and_too_few_say_that_they_do_not_serve_yet(cluster):
    os.kill(cluster.node(2).pid, signal.SIGKILL)
    gone = {}
    while not gone:
        gone = cluster.ended()
    assert gone == {2: -signal.SIGKILL}
    assert cluster.ended() == {}
    cluster.kill(1)
    cluster.kill(3)
    said = remote.carry_out(cluster, Request("start", (1,)))
    assert said == ["node 1 runs; it serves when more than half of the 3 nodes run"]
    assert remote.carry_out(cluster, Request("start", (2, 3))) == ["node 2 serves", "node 3 serves"]


def test_which_of_two_clusters_must_be_said_and_a_dead_one_is_none(tmp_path):
    clusters = {name: Stub(name) for name in ("127.0.0.1:1,127.0.0.1:2", "127.0.0.1:3,127.0.0.1:4")}
    folder = remote.cache_folder() / "running"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(folder / "0"))  # nobody listens
    one, other = clusters.values()
    with remote.listening(one):
        assert remote.ask(Request("stop", (1,))) == ["node 1 has shut down"]
        assert not (folder / "0").exists()
        (listener,) = folder.iterdir()
        listener.rename(folder / "1")  # or the second one of this process would take its place
        with remote.listening(other):
            with pytest.raises(GateError, match=r"2 local clusters run: 127\.0\.0\.1:1"):
                remote.ask(Request("stop", (1,)))
            remote.ask(Request("kill", (2,)), "localhost:4")
        (folder / "1").rename(listener)
    assert (one.did, other.did) == ([("stop", 1)], [("kill", 2)])
    with pytest.raises(GateError, match="no local cluster runs"):
        remote.ask(Request("stop", (1,)))


class Stub:
    """Stands for a cluster of which nothing but the address matters."""

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.did = []

    def node(self, number):
        return number

    def __getattr__(self, name):
        return lambda number: self.did.append((name.removesuffix("_node"), number))
