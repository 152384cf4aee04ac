"""A broker that dies in the middle of ending a transaction ends it in some partitions and forgets the others."""

import asyncio
import re

import pytest

from gate.shard.placement import shard_of
from tests.chaos import topics
from tests.chaos.proxy import Api, Drop, behind_proxy
from tests.chaos.tearing import TEARS
from tests.system.gates import create, gate, read, send, stamp, until

SHARDS = 16
REQUESTS = 60
POLICY = f"""
shards: {SHARDS}
services:
  "*": {{requests_per_second: 20, burst_size: 20}}
"""
UNVERIFIED = {"transaction.partition.verification.enable": "false"}


def names(prefix, kind):
    return [f"{prefix}.{kind}.{service}" for service in TEARS]


async def offer(bootstrap, prefix, first, last):
    for topic in names(prefix, "requests"):
        await send(bootstrap, topic, [(b"k%d" % (i % 7), b"%d" % i, []) for i in range(first, last)])


@pytest.mark.parametrize("committed", [True, False])
async def test_a_torn_batch_is_ended_as_it_was_decided(own_broker, prefix, tmp_path, committed):
    """Whatever the broker has forgotten of it: nothing is lost, nothing is done twice, nothing stays unreadable."""
    assert len({shard_of(service, SHARDS) for service in TEARS}) == len(TEARS), "each has a session of its own"
    bootstrap = own_broker(properties=UNVERIFIED).bootstrap
    await create(bootstrap, *names(prefix, "requests"))
    program = ("-m", "tests.chaos.tearing", *(["--commit"] if committed else []))
    with gate(tmp_path, bootstrap, prefix, POLICY, program=program) as torn:
        await offer(bootstrap, prefix, 0, 40)
        assert torn.process.wait(60) == -9, torn.text()
    await offer(bootstrap, prefix, 40, REQUESTS)
    admitted, wanted = names(prefix, "admitted"), REQUESTS * len(TEARS)
    with gate(tmp_path, bootstrap, prefix, POLICY) as running:
        out = await read(bootstrap, admitted, lambda found: len({stamp(r).id for r in found}) >= wanted)
        assert running.stop() == 0, running.text()
    everything = await read(bootstrap, admitted, lambda found: len(found) >= wanted, deadline=5)
    ids = [stamp(record).id for record in everything]
    assert len(out) == len(ids) == len(set(ids)) == wanted, running.text()
    parked = [stamp(r).id async for r in topics.read(bootstrap, names(prefix, "delayed"))]
    assert len(parked) == len(set(parked)), running.text()
    assert await topics.open_transactions(bootstrap, await topics.topics(bootstrap)) == []
    offsets = await topics.group_offsets(bootstrap, prefix)
    ends = {p.topic: offset for p, offset in offsets.items() if p.topic in names(prefix, "requests") and p.number == 0}
    assert set(ends.values()) == {REQUESTS // 2}, ends
    ended = re.findall(r"half-done; ending it as it was decided committed=(\w+)", running.text())
    only_offsets = sum(kinds == {"offsets"} for kinds in TEARS.values())
    if committed:  # where no trace of it can be seen, nobody has seen it either, and it is decided anew
        assert sorted(ended) == ["False"] + ["True"] * (len(TEARS) - only_offsets - 1), running.text()
    else:
        assert ended == ["False"] * (len(TEARS) - only_offsets), running.text()


@pytest.mark.parametrize("failures", [1, 2])
async def test_a_gate_that_is_told_to_stop_ends_what_it_has_left_open(own_broker, prefix, tmp_path, failures):
    """It may be the last one: who reads what is committed would wait until the broker's time is up."""
    async with behind_proxy(own_broker) as proxy:
        bootstrap = proxy.bootstrap
        await create(bootstrap, *names(prefix, "requests"))
        program = ("-m", "tests.chaos.altered", "--deadline", "1")
        with gate(tmp_path, bootstrap, prefix, POLICY, program=program) as running:
            taken_over = lambda: running.text().count("shard taken over") >= SHARDS  # noqa: E731
            await asyncio.to_thread(until, taken_over, explain=running.text)
            lost = {Api.END_TXN}
            proxy.judge = lambda request: Drop() if request.api in lost else None
            await offer(bootstrap, prefix, 0, 1)
            if failures > 1:  # it fails to take over as well
                lost.add(Api.INIT_PRODUCER_ID)
            failed = lambda: f"failures={failures}" in running.text()  # noqa: E731
            await asyncio.to_thread(until, failed, explain=running.text)
            lost.discard(Api.INIT_PRODUCER_ID)
            names_of_all = await topics.topics(bootstrap)
            assert await topics.open_transactions(bootstrap, names_of_all), "there is something to end"
            assert await asyncio.to_thread(running.stop) == 0, running.text()
            assert await topics.open_transactions(bootstrap, names_of_all) == [], running.text()
