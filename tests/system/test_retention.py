"""What is admitted stays for the full retention from its admission, whatever its producer's timestamp was."""

import asyncio
import time

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.system.gates import create, gate, read_count, stamp

DAY_MS = 86_400_000
WEEK = {"retention.ms": str(7 * DAY_MS)}
QUICK = {"log.retention.check.interval.ms": "100", "log.initial.task.delay.ms": "100"}
POLICY = """
delivery: {delivery}
services:
  pay: {{requests_per_second: 10, burst_size: 5, max_delay: 60}}
"""


async def _send(bootstrap: str, topic: str, created_ms: int, count: int, **record: object) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        for number in range(count):
            await producer.send_and_wait(topic, b"%d" % number, partition=0, timestamp_ms=created_ms, **record)


async def _has_been_checked(bootstrap: str, topic: str) -> None:
    """Return when the broker has gone through all topics once: between two deletions of what is too old in `topic`."""
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap) as consumer:
        partition = TopicPartition(topic, 0)
        for deleted in (1, 2):
            await _send(bootstrap, topic, 1, 1)
            while (await consumer.beginning_offsets([partition]))[partition] < deleted:
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
async def test_an_old_request_is_kept_where_it_was_sent_to(own_broker, tmp_path, delivery):
    bootstrap = own_broker(properties=QUICK).bootstrap
    names = {kind: f"t.{kind}.pay" for kind in ("requests", "admitted", "delayed", "rejected")}
    await create(bootstrap, names["requests"], partitions=1, **{"retention.ms": "-1"})
    await create(bootstrap, names["admitted"], names["delayed"], names["rejected"], "canary", partitions=1, **WEEK)
    created = int(time.time() * 1000) - 8 * DAY_MS
    with gate(tmp_path, bootstrap, "t", POLICY.format(delivery=delivery)) as running:
        await _send(bootstrap, names["requests"], created, 10)  # five at once, five later
        await _send(bootstrap, names["requests"], created, 1, headers=[("gate-cost", b"6")])  # never
        out = await read_count(bootstrap, [names["admitted"], names["rejected"]], 11)
        await _has_been_checked(bootstrap, "canary")
        there = await read_count(bootstrap, [names["admitted"], names["delayed"], names["rejected"]], 16)
    assert len(out) == 11, running.text()
    assert sorted(r.topic for r in there) == sorted(
        [names["admitted"]] * 10 + [names["delayed"]] * 5 + [names["rejected"]]
    )
    assert {stamp(r).created_ms for r in there} == {created}
    assert all(r.timestamp == stamp(r).at_ms for r in there)


async def test_a_request_of_the_future_is_admitted_today(bootstrap, prefix, tmp_path):
    topic, ahead = f"{prefix}.requests.pay", int(time.time() * 1000) + 3 * DAY_MS
    any_time = {"message.timestamp.after.max.ms": str(2**63 - 1), "retention.ms": "-1"}
    await create(bootstrap, topic, partitions=1, **any_time)
    strict = {"message.timestamp.after.max.ms": "3600000", "message.timestamp.before.max.ms": "60000"}
    await create(bootstrap, *(f"{prefix}.{kind}.pay" for kind in ("admitted", "delayed")), partitions=1, **strict)
    with gate(tmp_path, bootstrap, prefix, POLICY.format(delivery="exactly_once")) as running:
        await _send(bootstrap, topic, ahead, 7)  # the last two wait
        await _send(bootstrap, topic, 1, 1)  # of 1970, which the broker takes there as well
        out = await read_count(bootstrap, [f"{prefix}.admitted.pay"], 8)
    assert [stamp(r).created_ms for r in out] == [ahead] * 7 + [1], running.text()
