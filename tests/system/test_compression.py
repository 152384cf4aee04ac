"""Compressed requests come through as they are, and leave as the policy says."""

import asyncio

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient

from gate.kafka.aio.reader import Reader
from gate.shard.records import Partition
from tests.system.gates import create, gate, read_count

CODECS = {None: 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}  # as in a batch's attributes
COUNT = 30
POLICY = """
services:
  "*": {{requests_per_second: 50, burst_size: 10}}
compression: {}
"""


async def offer(bootstrap, topic, codec):
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, compression_type=codec, linger_ms=50)
    await producer.start()
    try:
        await asyncio.gather(*[await producer.send(topic, b"%d " % i * 50, key=b"k") for i in range(COUNT)])
    finally:
        await producer.stop()


async def codec_of(bootstrap, topic):
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        fetched = await Reader(client).fetch_one(Partition(topic, 0), 0, wait_ms=5_000, partition_bytes=1 << 20)
        return fetched.codec
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("written", "expected"),
    [("keep", CODECS), ("zstd", dict.fromkeys(CODECS, 4)), ("none", dict.fromkeys(CODECS, 0))],
)
async def test_outputs_are_compressed_as_the_policy_says(bootstrap, prefix, tmp_path, written, expected):
    services = {codec: codec or "plain" for codec in CODECS}
    await create(bootstrap, *(f"{prefix}.requests.{service}" for service in services.values()), partitions=1)
    with gate(tmp_path, bootstrap, prefix, POLICY.format(written)) as running:
        for codec, service in services.items():
            await offer(bootstrap, f"{prefix}.requests.{service}", codec)
            assert await codec_of(bootstrap, f"{prefix}.requests.{service}") == CODECS[codec], "a test of its own"
        for codec, service in services.items():
            out = await read_count(bootstrap, [f"{prefix}.admitted.{service}"], COUNT)
            assert sorted(r.value for r in out) == sorted(b"%d " % i * 50 for i in range(COUNT)), running.text()
            for kind in ("admitted", "delayed"):
                assert await codec_of(bootstrap, f"{prefix}.{kind}.{service}") == expected[codec], (kind, service)
        assert running.stop() == 0, running.text()


async def test_the_first_request_is_weighed_as_it_will_be_written(bootstrap, prefix, tmp_path):
    """Before any batch was written it was weighed as if it were not compressed, and rejected as too large."""
    topic = f"{prefix}.requests.large"
    await create(bootstrap, topic, partitions=1)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, compression_type="gzip", max_request_size=4 << 20)
    await producer.start()
    try:
        await producer.send_and_wait(topic, bytes(2 << 20))
    finally:
        await producer.stop()
    with gate(tmp_path, bootstrap, prefix, POLICY.format("keep")) as running:
        (found,) = await read_count(bootstrap, [f"{prefix}.{kind}.large" for kind in ("admitted", "rejected")], 1)
        assert found.topic == f"{prefix}.admitted.large", running.text()
        assert len(found.value) == 2 << 20
