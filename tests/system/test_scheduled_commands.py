"""Commands reach what waits for its time, on a real broker: by what only its record says, too."""

import json
import time

import pytest
from aiokafka import AIOKafkaProducer

from gate.client import CommandRefusedError, Filter, GateControl
from gate.kafka.connect import running as running_client
from gate.protocol.topics import Names
from tests.system.gates import create, gate, read_count, stamp, until

POLICY = "services: {pay: {requests_per_second: 100, priorities: {default: 3, batch: 1}}}\n"


async def test_what_waits_for_its_time_is_cancelled_and_moved(bootstrap, prefix, tmp_path):
    names, start = Names(prefix), b"%d" % (time.time_ns() // 10**6 + 3_600_000)
    await create(bootstrap, names.requests("pay"))
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as running:

        def scheduled() -> int | None:
            services = json.loads(running.get("/v1/usage"))["services"]
            return services[0]["scheduled"] if services else None

        until(running.is_ready, explain=running.text)
        async with (
            running_client(AIOKafkaProducer(bootstrap_servers=bootstrap)) as producer,
            GateControl(bootstrap, prefix=prefix) as control,
        ):
            for number in range(6):
                who = b"a" if number % 2 == 0 else b"b"
                headers = [("gate-start", start), ("gate-id", b"order-%d" % number), ("gate-tenant", who)]
                await producer.send_and_wait(names.requests("pay"), b"%d" % number, headers=headers, partition=0)
            await read_count(bootstrap, [names.delayed("pay")], 6)
            one = await control.cancel("pay", Filter(producer_id="order-3"), reason="not wanted")
            assert (one.done, one.of) == (1, 1)
            assert (await control.move("pay", Filter(tenant="a"), "batch")).done == 3
            with pytest.raises(CommandRefusedError) as refused:
                await control.expedite("pay", Filter(everything=True))
            assert refused.value.hint == "5 requests that wait for their gate-start are not meant by this command"
            rest = await control.cancel("pay", Filter(lane="batch"), reason="not wanted")
            assert (rest.done, rest.of) == (3, 3)
        until(lambda: scheduled() == 2, explain=running.text)
    rejected = await read_count(bootstrap, [names.rejected("pay")], 4)
    assert {stamp(record).reason for record in rejected} == {"cancelled"}
    assert {record.value for record in rejected} == {b"0", b"2", b"3", b"4"}
