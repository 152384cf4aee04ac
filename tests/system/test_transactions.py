"""`gate transactions`: what is open is named with its owner, and ended by the command that is printed for it."""

import asyncio
import json
import shlex
import subprocess
import sys
import time

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from gate.kafka.aio.client import Client
from gate.kafka.aio.reader import Reader
from gate.kafka.aio.transaction_requests import AbortMarker
from gate.kafka.connect import running as running_client
from gate.kafka.delayed_reader import ParkedReader
from gate.kafka.open_transactions import Transactions, shown
from gate.kafka.undecided_requests import open_transaction, options
from gate.shard.records import Partition
from tests.hostile.encoding import TRANSACTIONAL, RawBatch, RawRecord
from tests.kafka.raw import produce
from tests.system.gates import create, gate, until

POLICY = "shards: 2\ndefaults: {requests_per_second: 1000}\n"
HALF_AN_HOUR_MS = 1_800_000


def main_of(*args):
    return subprocess.run([sys.executable, "-m", "gate", *args], capture_output=True, text=True, check=False)


def run(bootstrap, prefix, *args):
    return main_of("transactions", *args, "--bootstrap", bootstrap, "--prefix", prefix)


def listed(bootstrap, prefix):
    told = run(bootstrap, prefix, "list", "--json")
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def abort(bootstrap, prefix, topic, offset, partition=0):
    place = ["--topic", topic, "--partition", str(partition), "--start-offset", str(offset)]
    return run(bootstrap, prefix, "abort", *place)


async def readable(bootstrap, topic):
    """Return how far committed records can be read."""
    async with running_client(
        AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed")
    ) as consumer:
        partition = TopicPartition(topic, 0)
        return (await consumer.end_offsets([partition]))[partition]


async def test_a_transaction_that_a_coordinator_knows_is_ended_by_the_command_that_is_printed(bootstrap, prefix):
    topic = f"{prefix}.requests.pay"
    await create(bootstrap, topic)
    assert await asyncio.to_thread(listed, bootstrap, prefix) == []
    forgotten = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"{prefix}-nightly")
    async with running_client(AIOKafkaProducer(bootstrap_servers=bootstrap)) as plain, running_client(forgotten):
        await plain.send_and_wait(topic, b"before", partition=0)
        await forgotten.begin_transaction()
        for _ in range(3):
            await forgotten.send_and_wait(topic, b"within", partition=0)
        await plain.send_and_wait(topic, b"behind", partition=0)
        [one] = await asyncio.to_thread(listed, bootstrap, prefix)
        assert (one["topic"], one["partition"], one["start_offset"]) == (topic, 0, 1)
        assert (one["transactional_id"], one["state"]) == (f"{prefix}-nightly", "Ongoing")
        assert 0 <= one["age_seconds"] < 60
        assert "nightly" in one["whose"]
        shown = await asyncio.to_thread(run, bootstrap, prefix, "list")
        assert f"{topic}-0" in shown.stdout

        wrong = await asyncio.to_thread(abort, bootstrap, prefix, topic, 2)
        assert wrong.returncode == 1
        assert "open there, by their first offset: 1" in wrong.stderr
        remedy = open_transaction("pay", Partition(topic, 0), 1, 0, None, options(bootstrap, prefix)).remedy
        command = shlex.split(remedy[remedy.index("gate transactions") :])
        ended = await asyncio.to_thread(main_of, *command[1:])
        assert ended.returncode == 0, ended.stderr
        assert f"fenced off by the transactional id {prefix}-nightly" in ended.stdout
        assert await readable(bootstrap, topic) > 5
        assert await asyncio.to_thread(listed, bootstrap, prefix) == []
        with pytest.raises(KafkaError):
            await forgotten.commit_transaction()


async def test_what_gates_have_open_is_left_to_them_while_one_runs(bootstrap, prefix, tmp_path):
    topic = f"{prefix}.requests.pay"
    await create(bootstrap, topic)
    like_a_gate = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"{prefix}-7")
    async with running_client(like_a_gate):
        with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "127.0.0.1:0") as running:
            await asyncio.to_thread(until, running.is_ready)
            await like_a_gate.begin_transaction()
            await like_a_gate.send_and_wait(topic, b"within", partition=0)
            [one] = await asyncio.to_thread(listed, bootstrap, prefix)
            assert one["whose"] == f"a gate's of group {prefix}"
            refused = await asyncio.to_thread(abort, bootstrap, prefix, topic, 0)
            assert refused.returncode == 1
            assert "a gate runs: it ends it itself" in refused.stderr
            assert running.stop() == 0
        ended = await asyncio.to_thread(abort, bootstrap, prefix, topic, 0)
        assert ended.returncode == 0, ended.stderr


def test_a_name_that_a_stranger_has_chosen_harms_no_terminal():
    assert shown("nightly") == "nightly"
    assert "\x1b" not in shown("\x1b[2J" * 100)
    assert len(shown("x" * 10_000)) == 100


async def write_orphan(bootstrap, topic, *, producer_id, written_ms):
    """Write in a transaction of which no coordinator knows."""
    batch = RawBatch(
        [RawRecord(value=b"orphan")], timestamp=written_ms, attributes=TRANSACTIONAL,
        producer_id=producer_id, producer_epoch=0, sequence=0,
    )  # fmt: skip
    await produce(bootstrap, topic, batch.encode(), transactional_id="nobody")


async def test_an_orphan_is_ended_by_a_marker_once_it_is_older_than_any_transaction_can_be(own_broker):
    broker = own_broker(properties={"transaction.partition.verification.enable": "false"})  # as before Kafka 3.6
    bootstrap, now = broker.bootstrap, time.time_ns() // 1_000_000
    await create(bootstrap, "gate.requests.old", "gate.requests.young")
    await write_orphan(bootstrap, "gate.requests.old", producer_id=4_242, written_ms=now - HALF_AN_HOUR_MS)
    await write_orphan(bootstrap, "gate.requests.young", producer_id=4_343, written_ms=now)
    old, young = await asyncio.to_thread(listed, bootstrap, "gate")
    assert (old["topic"], old["producer_id"], old["transactional_id"]) == ("gate.requests.old", 4_242, None)
    assert old["age_seconds"] >= 1_800
    assert old["whose"] == young["whose"] == "an orphan's: no coordinator tells of it"
    refused = await asyncio.to_thread(abort, bootstrap, "gate", "gate.requests.young", 0)
    assert refused.returncode == 1
    assert "one that is merely hidden from you may last for 900 s" in refused.stderr
    assert await readable(bootstrap, "gate.requests.young") == 0
    ended = await asyncio.to_thread(abort, bootstrap, "gate", "gate.requests.old", 0)
    assert ended.returncode == 0, ended.stderr
    assert "a marker is written" in ended.stdout
    assert await readable(bootstrap, "gate.requests.old") == 2
    assert [one["topic"] for one in await asyncio.to_thread(listed, bootstrap, "gate")] == ["gate.requests.young"]


async def test_what_the_state_says_is_parked_is_there_though_an_operator_has_marked_it_as_aborted(bootstrap, prefix):
    """`kafka-transactions abort` amid a gate's batch: the rest of the batch is committed all the same."""
    topic, parked = f"{prefix}.delayed.pay", Partition(f"{prefix}.delayed.pay", 0)
    await create(bootstrap, topic)
    client = Client(bootstrap_servers=bootstrap)
    await client.bootstrap()
    reader = Reader(client)
    like_a_gate = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"{prefix}-0")
    try:
        async with running_client(like_a_gate):
            async with like_a_gate.transaction():
                written = [await like_a_gate.send_and_wait(topic, b"%d" % n, partition=0) for n in range(3)]
                [one] = await Transactions(client).open_in([parked])
                marker = AbortMarker(*parked, (one.producer_id, one.producer_epoch), one.coordinator_epoch)
                answer = await reader.ask_leader(parked, marker)
                assert "[(0, 0, {})]" in str(answer.markers)
            async with like_a_gate.transaction():
                behind = await like_a_gate.send_and_wait(topic, b"3", partition=0)
        async with asyncio.timeout(40):
            while not await readable(bootstrap, topic) > behind.offset:
                await asyncio.sleep(0.02)
        seen = await reader.fetch_one(parked, 0, wait_ms=0, partition_bytes=1 << 16)
        assert [record.value for record in seen.records] == [b"3"], "the marker counts for who does not know better"
        offsets = [one.offset for one in (*written, behind)]
        found = await ParkedReader(reader).read(parked, offsets)
        assert [record.offset for record in found] == offsets
        assert [record.value for record in found] == [b"0", b"1", b"2", b"3"]
    finally:
        await client.close()
