"""Where requests stand, found from another process: compared with what all topics say."""

import asyncio
import json
import urllib.error
from collections import Counter

import pytest
from aiokafka import AIOKafkaProducer

from gate.client import JobClient, UnknownRequestError, Verdict
from gate.config import Connection
from gate.kafka.bounded_reads import MOST
from gate.kafka.connect import running as running_client
from gate.kafka.request_search import FEW, RequestSearch
from gate.kafka.whereabouts import Standing
from gate.protocol.topics import Names
from tests.system.gates import create, gate, read_count, stamp, until

COUNT, FAST = 120, 6_000
POLICY = """
shards: 1
services:
  pay: {requests_per_second: 40/min, burst_size: 30, max_delay: 10000d, window_size: null}
  strict: {requests_per_second: 1/h, burst_size: 10, overflow: reject, window_size: null}
  fast: {requests_per_second: 1000000, burst_size: 1000000}
"""


async def send(bootstrap, topic, count, **record):
    async with running_client(AIOKafkaProducer(bootstrap_servers=bootstrap)) as producer:
        sends = [
            await producer.send(topic, b"%d" % n, partition=0, headers=[("gate-id", b"order-%d" % n)], **record)
            for n in range(count)
        ]
        await asyncio.gather(*sends)


async def test_each_request_is_found_where_it_stands(bootstrap, prefix, tmp_path):
    """The gate is gone by then: a ticket, and a search, need none."""
    names = Names(prefix)
    for service in ("pay", "strict", "fast"):
        await create(bootstrap, names.requests(service))
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as running:
        until(running.is_ready, explain=running.text)
        await send(bootstrap, names.requests("pay"), COUNT)
        await send(bootstrap, names.requests("strict"), COUNT)
        await send(bootstrap, names.requests("fast"), FAST)
        await read_count(bootstrap, [names.delayed("pay")], 60)
        await read_count(bootstrap, [names.admitted("pay")], 32)
        await read_count(bootstrap, [names.rejected("strict")], COUNT - 10)
        await read_count(bootstrap, [names.admitted("fast")], FAST)
        shown = json.loads(
            await asyncio.to_thread(running.get, f"/v1/requests/{names.requests('strict')}-0@{COUNT - 1}")
        )
        own = json.loads(await asyncio.to_thread(running.get, f"/v1/requests/order-{COUNT - 1}?service=strict"))
        assert (shown["standing"], shown["reason"], shown["id"]) == ("rejected", "rate", own["id"])
        assert "producer_id" not in shown, "nobody has told who asks"
        pay = names.requests("pay")
        for asked, why in (
            (f"{pay}-0@{COUNT}", f"{pay}-0 ends before it"),
            (f"{pay}-9@0", "no such partition"),
            (f"{pay}-0@{10**17}", "ends before it"),
            ("order-1?service=nobody", "there is no service 'nobody'"),
            ("%ff%00" + "9" * 900, "there is no request"),
        ):
            with pytest.raises(urllib.error.HTTPError, match="404") as refused:
                await asyncio.to_thread(running.get, f"/v1/requests/{asked}")
            assert why in json.load(refused.value)["error"]
        running.kill()
    await send(bootstrap, names.requests("pay"), 1)  # which nobody decides about
    connection = Connection(bootstrap, prefix=prefix)
    async with RequestSearch.connected(names, prefix, **connection.access()) as search:
        found = [await search.find(f"{names.requests('pay')}-0@{n}") for n in range(COUNT + 1)]
        strict = [await search.find(f"{names.requests('strict')}-0@{n}") for n in (0, 9, 10, 57, COUNT - 1)]
        fast = [await search.find(f"{names.requests('fast')}-0@{n}") for n in (0, 1, 2_345, FAST - 1)]
        newest = await search.find("order-0")
        with pytest.raises(UnknownRequestError, match="there is no request 'order-x'"):
            await search.find("order-x", "pay")
    admitted = {one.id for one in found if one.standing is Standing.ADMITTED}
    assert admitted == {stamp(r).id for r in await read_count(bootstrap, [names.admitted("pay")], len(admitted))}
    waits = [one for one in found if one.standing is Standing.WAITING]
    assert Counter(one.standing for one in found) == {"admitted": len(admitted), "waiting": len(waits), "undecided": 1}
    assert [one.ahead for one in waits] == list(range(len(waits)))
    assert all(one.not_before_ms >= one.at_ms and one.limit == "pay.rate" for one in waits)
    assert [one.standing for one in strict] == ["admitted", "admitted", "rejected", "rejected", "rejected"]
    assert {one.standing for one in fast} == {"admitted"}
    assert max(one.read for one in fast) < FEW + 100 < FAST < MOST  # by halves, and not all that there is
    assert (newest.producer_id, newest.standing) == ("order-0", "undecided")
    async with JobClient(bootstrap, prefix=prefix) as jobs:
        ticket = await jobs.ticket(waits[0].id)
        assert (await ticket.decision()).verdict is Verdict.DELAYED
        with gate(tmp_path, bootstrap, prefix, POLICY):
            told = [decision async for decision in ticket]
        assert [decision.verdict for decision in told] == [Verdict.DELAYED, Verdict.ADMITTED]
        assert (await (await jobs.ticket("order-3", service="strict")).decision()).verdict is Verdict.ADMITTED
