"""What was rejected, or given up, or lies in another topic, goes back as it was, on a real broker."""

import pytest
from aiokafka import AIOKafkaProducer

from gate.client import CommandRefusedError, Filter, GateControl
from gate.kafka.connect import running as running_client
from gate.protocol.feedback import Failed, encode
from gate.protocol.headers import attempt
from gate.protocol.topics import Names
from tests.system.gates import create, gate, header, read_count, stamp, until

POLICY = "services: {jobs: {requests_per_second: 1000, deduplicate: 1h}}\n"
HEADERS = [("gate-id", b"order-1"), ("gate-tenant", b"acme"), ("trace", b"\xff")]


async def test_a_job_that_was_given_up_goes_back_and_so_does_what_is_elsewhere(bootstrap, prefix, tmp_path):
    names, elsewhere = Names(prefix), f"{prefix}-archive"
    await create(bootstrap, names.requests("jobs"))
    await create(bootstrap, elsewhere)
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as running:
        until(running.is_ready, explain=running.text)
        async with (
            running_client(AIOKafkaProducer(bootstrap_servers=bootstrap)) as producer,
            GateControl(bootstrap, prefix=prefix) as control,
        ):
            with pytest.raises(CommandRefusedError, match=r"nothing in .*rejected\.jobs fits the filter"):
                await control.redrive("jobs", Filter(everything=True))
            await producer.send_and_wait(names.requests("jobs"), b"work", b"key", headers=HEADERS, partition=1)
            (first,) = await read_count(bootstrap, [names.admitted("jobs")], 1)
            given_up = encode(Failed(group="w", attempt=1, error="no"))
            place = f"{first.topic}-{first.partition}@{first.offset}".encode()
            await producer.send_and_wait(names.feedback("jobs"), given_up, place, partition=first.partition)
            await read_count(bootstrap, [names.rejected("jobs")], 1)
            looked = await control.redrive("jobs", Filter(producer_id="order-1"), dry_run=True)
            assert (looked.of, looked.done) == (1, 0)
            done = await control.redrive("jobs", Filter(id=stamp(first).id), reason="it works again")
            assert (done.done, done.of, done.skipped) == (1, 1, 0)
            await producer.send_and_wait(elsewhere, b"kept", b"other", headers=[("trace", b"2")], partition=0)
            with pytest.raises(CommandRefusedError, match=f"there is no topic {prefix}-none"):
                await control.redrive("jobs", Filter(everything=True), f"{prefix}-none")
            assert (await control.redrive("jobs", Filter(key="other"), elsewhere)).done == 1
            admitted = await read_count(bootstrap, [names.admitted("jobs")], 3)
    (back,) = (record for record in admitted if record.value == b"work" and stamp(record).id != stamp(first).id)
    (foreign,) = (record for record in admitted if record.value == b"kept")
    assert (back.key, back.value, back.partition) == (b"key", b"work", first.partition)
    assert [name for name in back.headers if name[0] in dict(HEADERS)] == HEADERS  # and it is no repeat of itself
    assert (attempt(back.headers), header(back, "gate-error")) == (1, None)
    assert stamp(back).id.startswith(f"{names.retries('jobs')}-0@")
    assert stamp(back).origin == stamp(first).id
    assert (foreign.key, foreign.value, header(foreign, "trace")) == (b"other", b"kept", b"2")
    assert stamp(foreign).origin == f"{elsewhere}-0@0"
