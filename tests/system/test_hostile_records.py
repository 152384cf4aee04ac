"""Whatever a stranger writes to a request topic ends once, and stops nobody: neither its shard nor its own service."""

import asyncio

import pytest

from tests.kafka.raw import Rec, batch, produce, record, varint
from tests.system.gates import create, gate, header, read_count, send, stamp, until

POLICY = "defaults: {requests_per_second: 1000}\n"
SMALL = "20000"  # bytes that a batch of a topic may have


async def innocents(bootstrap: str, prefix: str, count: int = 20) -> None:
    """Have a neighbour on the same shard decided, from beginning to end."""
    await send(bootstrap, f"{prefix}.requests.good", [(b"k", b"%d" % i, []) for i in range(count)], partitions=1)
    found = await read_count(bootstrap, [f"{prefix}.admitted.good"], count)
    assert len(found) == count


def crowded(headers: int) -> bytes:
    """Return a batch of kilobytes, of which the second of three records unpacks to so many headers."""
    body = b"\0" + varint(0) + varint(1) + varint(-1) * 2 + varint(headers) + b"\0\1" * headers
    records = [record(Rec(value=b"before"), 0), varint(len(body)) + body, record(Rec(value=b"after"), 2)]
    return batch([], count=3, last_delta=2, codec=1, body=b"".join(records))


CASES = {
    "a million headers": (crowded(1_000_000), {}),
    "ten million headers": (crowded(10_000_000), {}),
    "a bomb": (batch([Rec(value=b"before"), Rec(key=b"k", value=bytes(3 << 20)), Rec(value=b"after")], codec=1), {}),
    "a larger bomb": (batch([Rec(value=b"before"), Rec(value=bytes(5 << 20)), Rec(value=b"after")], codec=4), {}),
    "a name that is no text": (
        batch([Rec(value=b"before"), Rec(headers=[(b"\xff\xfe", b"x"), (b"ok", b"y")]), Rec(value=b"after")]),
        {},
    ),
    "no key where it must have one": (
        batch([Rec(b"k", b"before"), Rec(None, b"bad"), Rec(b"k", b"after")]),
        {"admitted": {"cleanup.policy": "compact"}},
    ),
    "too large for admitted": (
        batch([Rec(value=b"before"), Rec(value=bytes(30_000)), Rec(value=b"after")]),
        {"admitted": {"max.message.bytes": SMALL}},
    ),
    "too large for delayed": (
        batch([Rec(value=b"before"), Rec(value=bytes(30_000)), Rec(value=b"after")]),
        {"delayed": {"max.message.bytes": SMALL}},
    ),
    "too large for admitted and rejected": (
        batch([Rec(value=b"before"), Rec(value=bytes(30_000)), Rec(value=b"after")]),
        {"admitted": {"max.message.bytes": SMALL}, "rejected": {"max.message.bytes": "2000"}},
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_one_request_costs_nobody_else_anything(bootstrap, prefix, tmp_path, name):
    raw, configs = CASES[name]
    await create(bootstrap, f"{prefix}.requests.bad", f"{prefix}.requests.good", partitions=1)
    for kind, config in configs.items():
        await create(bootstrap, f"{prefix}.{kind}.bad", partitions=1, **config)
    with gate(tmp_path, bootstrap, prefix, POLICY, "--shards", "1", "--http", "0") as running:
        await produce(bootstrap, f"{prefix}.requests.bad", raw)
        admitted = await read_count(bootstrap, [f"{prefix}.admitted.bad"], 2)
        (rejected,) = await read_count(bootstrap, [f"{prefix}.rejected.bad"], 1)
        await innocents(bootstrap, prefix)
        assert "shard restarts" not in running.text()
        until(running.is_ready, explain=running.text)
    assert [record.value for record in admitted] == [b"before", b"after"]
    found = stamp(rejected)
    assert found.id == f"{prefix}.requests.bad-0@1"
    assert found.reason == ("malformed" if "text" in name else "unforwardable")
    error = header(rejected, "gate-error").decode()
    assert error
    if "text" in name:
        assert "0xfffe" in error
        assert header(rejected, "ok") == b"y"
    if "bomb" in name or name.endswith("rejected"):
        assert rejected.value is None
    if "too large" in name:
        assert "max.message.bytes" in error


async def test_what_only_the_broker_knows_is_found_by_what_it_says(bootstrap, prefix, tmp_path):
    """The topic becomes compacted after the gate has looked: a refusal costs a session, and names the record."""
    bad = f"{prefix}.requests.bad"
    await create(bootstrap, bad, f"{prefix}.requests.good", partitions=1)
    with gate(tmp_path, bootstrap, prefix, POLICY, "--shards", "1") as running:
        await send(bootstrap, bad, [(b"k", b"first", [])], partitions=1)
        await read_count(bootstrap, [f"{prefix}.admitted.bad"], 1)
        await alter(bootstrap, f"{prefix}.admitted.bad", "cleanup.policy", "compact")
        records = [Rec(b"k", b"%d" % i) for i in range(100)]
        records[33] = records[77] = Rec(None, b"bad")
        await produce(bootstrap, bad, batch(records))
        admitted = await read_count(bootstrap, [f"{prefix}.admitted.bad"], 99)
        rejected = await read_count(bootstrap, [f"{prefix}.rejected.bad"], 2)
        await innocents(bootstrap, prefix)
        assert running.text().count("a batch is decided anew") <= 2, running.text()
        assert "shard restarts" not in running.text()
    assert len(admitted) == 99
    assert sorted(stamp(record).id.partition("@")[2] for record in rejected) == ["34", "78"]
    assert {stamp(record).reason for record in rejected} == {"unforwardable"}


async def test_a_limit_that_sinks_makes_smaller_batches(bootstrap, prefix, tmp_path):
    bad = f"{prefix}.requests.bad"
    await create(bootstrap, bad, f"{prefix}.requests.good", partitions=1)
    with gate(tmp_path, bootstrap, prefix, POLICY, "--shards", "1") as running:
        await send(bootstrap, bad, [(b"k", b"first", [])], partitions=1)
        await read_count(bootstrap, [f"{prefix}.admitted.bad"], 1)
        await alter(bootstrap, f"{prefix}.admitted.bad", "max.message.bytes", SMALL)
        records = [Rec(b"k", b"%d" % i + bytes(400)) for i in range(600)]
        records[300] = Rec(b"k", bytes(30_000))
        await produce(bootstrap, bad, batch(records))
        await read_count(bootstrap, [f"{prefix}.admitted.bad"], 600)
        (rejected,) = await read_count(bootstrap, [f"{prefix}.rejected.bad"], 1)
        await innocents(bootstrap, prefix)
        assert "shard restarts" not in running.text(), running.text()
    assert stamp(rejected).id.endswith("@301")


async def test_forged_offsets_are_not_believed(bootstrap, prefix, tmp_path):
    bad = f"{prefix}.requests.bad"
    await create(bootstrap, bad, partitions=1)
    policy = "services: {bad: {requests_per_second: 10, burst_size: 5, window_limit: 1000000, overflow: hold}}\n"
    deltas = [0, 500_000, 3, 3, -7, 2, 100, 1]
    await produce(bootstrap, bad, batch([Rec(value=b"%d" % i, delta=d) for i, d in enumerate(deltas)]))
    with gate(tmp_path, bootstrap, prefix, policy, "--shards", "1") as first:
        await read_count(bootstrap, [f"{prefix}.admitted.bad"], 5)
        first.kill()
    with gate(tmp_path, bootstrap, prefix, policy, "--shards", "1") as second:
        await produce(bootstrap, bad, batch([Rec(value=b"last", delta=-5)]))
        admitted = await read_count(bootstrap, [f"{prefix}.admitted.bad"], len(deltas) + 1)
        assert second.process.poll() is None
    assert [record.value for record in admitted] == [*(b"%d" % i for i in range(len(deltas))), b"last"]
    assert [stamp(record).id for record in admitted] == [f"{bad}-0@{i}" for i in range(len(deltas) + 1)]


async def test_where_not_even_the_rejection_is_taken_only_that_partition_waits_and_is_named(
    bootstrap, prefix, tmp_path
):
    bad, rejected = f"{prefix}.requests.bad", f"{prefix}.rejected.bad"
    await create(bootstrap, bad, f"{prefix}.requests.good", partitions=1)
    await create(bootstrap, rejected, partitions=1, **{"max.message.bytes": "100"})
    with gate(tmp_path, bootstrap, prefix, POLICY, "--shards", "1", "--http", "0") as running:
        await produce(bootstrap, bad, batch([Rec(b"k", b"x", headers=[(b"gate-cost", b"nonsense")])]))
        text = running.wait_for("a partition waits")
        assert rejected in text
        assert bad in text
        assert "max.message.bytes" in text
        await innocents(bootstrap, prefix)
        until(lambda: '"status":"degraded"' in running.readiness().replace(" ", ""), explain=running.text)
        assert "gate_shard_waiting" in running.get("/metrics")
        await alter(bootstrap, rejected, "max.message.bytes", "100000")
        (record,) = await read_count(bootstrap, [rejected], 1)
        until(lambda: "a partition goes on" in running.text(), explain=running.text)
    assert stamp(record).reason == "malformed"


async def alter(bootstrap: str, topic: str, name: str, value: str) -> None:
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {name: value})])
        while True:
            (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
            if any(entry[:2] == (name, value) for entry in answer.resources[0][4]):
                return
            await asyncio.sleep(0.02)
    finally:
        await admin.close()
