"""The local broker: it serves, survives what chaos tests do to it, and leaves nothing behind."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import ProducerFenced

from gate.errors import GateError
from gate.kafka.local import LocalBroker, bound, config, probe

DEADLINE = 30.0


async def create(bootstrap, *topics):
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1) for topic in topics])
    finally:
        await admin.close()


@asynccontextmanager
async def producing(bootstrap, **options):
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, **options)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def committed_values(bootstrap, topic):
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed")
    await consumer.start()
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning()
        end = (await consumer.end_offsets([partition]))[partition]
        values = []
        while await consumer.position(partition) < end:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                values += [record.value for record in records]
        return values
    finally:
        await consumer.stop()


def wait_until(condition, what):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE} s: {what}"
        time.sleep(0.02)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_transactions_commit_abort_and_fence(bootstrap, prefix):
    """The promises of the gate stand on these three, so they are checked on the version that is pinned."""
    topic = f"{prefix}.admitted.a"
    await create(bootstrap, topic)
    async with producing(bootstrap, transactional_id=prefix) as producer:
        async with producer.transaction():
            await producer.send_and_wait(topic, b"committed")
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"aborted")
        await producer.abort_transaction()
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"of a zombie")
        async with producing(bootstrap, transactional_id=prefix) as successor:
            with pytest.raises(ProducerFenced):
                await producer.commit_transaction()
            async with successor.transaction():
                await successor.send_and_wait(topic, b"of its successor")
    assert await committed_values(bootstrap, topic) == [b"committed", b"of its successor"]


async def test_what_was_acknowledged_survives_sigkill(own_broker):
    broker = await asyncio.to_thread(own_broker)
    await create(broker.bootstrap, "a")
    before = broker.bootstrap, broker.pid
    async with producing(broker.bootstrap, acks="all") as producer:
        await producer.send_and_wait("a", b"1")
    await asyncio.to_thread(broker.kill)
    assert probe.cluster_id(config.HOST, int(broker.bootstrap.split(":")[1])) is None
    await asyncio.to_thread(broker.restart)
    assert broker.bootstrap == before[0]
    assert broker.pid != before[1]
    assert await committed_values(broker.bootstrap, "a") == [b"1"]


def test_a_paused_broker_keeps_its_port_but_does_not_answer(own_broker):
    broker = own_broker()
    port = int(broker.bootstrap.split(":")[1])
    broker.pause()
    assert probe.cluster_id(config.HOST, port, timeout=0.3) is None
    assert not config.is_free(port)
    broker.resume()
    wait_until(lambda: probe.cluster_id(config.HOST, port) is not None, "an answer after resume")


async def test_a_given_folder_keeps_topics_for_the_next_broker(tmp_path):
    folder = tmp_path / "with, comma, ünd Umlaut"
    with LocalBroker.start(folder) as broker:
        first = broker.bootstrap
        await create(first, "a")
        async with producing(first) as producer:
            await producer.send_and_wait("a", b"1")
    with LocalBroker.start(folder) as broker:
        assert broker.bootstrap != first
        assert await committed_values(broker.bootstrap, "a") == [b"1"]


def test_a_broker_that_tells_clients_to_come_elsewhere_is_started_all_the_same(own_broker):
    """Tests put a proxy in front of it."""
    elsewhere = f"PLAINTEXT://{config.HOST}:{config.free_port()}"
    broker = own_broker(properties={"advertised.listeners": elsewhere})
    assert probe.cluster_id(config.HOST, int(broker.bootstrap.split(":")[1])) is not None


def test_one_folder_one_broker(own_broker, tmp_path):
    own_broker(tmp_path)
    with pytest.raises(GateError, match="another broker is running in"):
        LocalBroker.start(tmp_path)


def test_one_port_one_broker(own_broker):
    port = int(own_broker().bootstrap.split(":")[1])
    with pytest.raises(GateError, match=f"port {port} is in use"):
        LocalBroker.start(port=port)


def test_a_broker_that_fails_to_start_shows_its_log_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(GateError, match="did not start") as failure:
        LocalBroker.start(properties={"num.io.threads": "none"})
    assert "num.io.threads" in failure.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_broker_that_does_not_answer_in_time_is_killed(tmp_path):
    with pytest.raises(GateError, match=r"did not answer .* within 0\.1 s"):
        LocalBroker.start(tmp_path, timeout=0.1)
    with LocalBroker.start(tmp_path):  # so neither the folder nor Kafka's lock in it is held any more
        pass


def test_stop_removes_the_temporary_folder(own_broker):
    broker = own_broker()
    pid = broker.pid
    assert (broker.folder / "data" / "meta.properties").exists()
    broker.stop()
    broker.stop()
    assert not broker.folder.exists()
    assert not alive(pid)
    with pytest.raises(GateError, match="was stopped"):
        broker.kill()


PARENT = """
import time
from gate.kafka.local import LocalBroker
broker = LocalBroker.start()
print(broker.pid, broker.folder, flush=True)
time.sleep(600)
"""


def test_sigkill_of_the_parent_leaves_no_broker_and_in_the_end_no_folder(own_broker):
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        pid, folder = parent.stdout.readline().split()
        assert alive(pid)
        parent.kill()
    wait_until(lambda: not alive(pid), "the end of the broker")
    assert Path(folder).exists()
    own_broker()  # the next one cleans up
    assert not Path(folder).exists()


def test_the_end_of_the_thread_that_started_it_does_not_kill_a_child(tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    children = []

    def start():
        child = bound.spawn(["/bin/cat", str(gate)], cwd=tmp_path, output=tmp_path / "log")
        wait_until(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "cat\n", "the program in place of its guard")
        children.append(child)

    starter = threading.Thread(target=start)
    starter.start()
    starter.join()
    wait_until(lambda: not Path(f"/proc/self/task/{starter.native_id}").exists(), "the end of the thread")
    gate.write_text("lives")  # blocks until the child reads
    assert children[0].wait(DEADLINE) == 0
    assert (tmp_path / "log").read_text() == "lives"


def test_a_child_whose_parent_died_first_does_not_start(tmp_path):
    nobody = subprocess.Popen(["/bin/true"])
    nobody.wait()
    mark = tmp_path / "mark"
    subprocess.run([sys.executable, "-I", "-S", bound.__file__, str(nobody.pid), "/usr/bin/touch", mark], check=True)
    assert not mark.exists()


@contextmanager
def gate_broker(*options):
    command = [sys.executable, "-c", "import sys; from gate.cli import main; sys.exit(main())", "broker", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        yield process, process.stdout.readline()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_where_and_ends_cleanly(stop, tmp_path):
    with gate_broker("--data", tmp_path) as (process, line):
        label, host, port = line.strip().split(":")
        assert (label, host.strip()) == ("bootstrap", config.HOST)
        assert probe.cluster_id(config.HOST, int(port)) is not None
        os.killpg(process.pid, stop)  # as a terminal does it: to the whole group
        rest, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, said
    assert rest == ""
    assert config.is_free(int(port))


def test_the_command_reports_a_broker_that_dies(tmp_path):
    with gate_broker("--data", tmp_path) as (process, _):
        children = Path(f"/proc/{process.pid}/task").glob("*/children")
        (jvm,) = (int(pid) for file in children for pid in file.read_text().split())
        os.kill(jvm, signal.SIGKILL)
        _, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert "ended with exit code -9" in said
    assert "Traceback" not in said
