"""What was rejected goes back, on a real broker, while gates are killed in the midst of it: each of it once."""

import asyncio
import signal
from collections import Counter

import pytest

from gate.client import Filter, GateControl
from gate.protocol.answers import AnswerState, decode_audit
from gate.protocol.headers import parse_stamp
from gate.protocol.topics import Names
from tests.chaos.killed import kill_amid
from tests.client.log import Log
from tests.system.gates import gate, read_count, until

REJECTS = "services: {pay: {requests_per_second: 1/h, burst_size: 1, window_size: 1, overflow: reject}}"
ADMITS = "services: {pay: {requests_per_second: 100000, burst_size: 100000}}"
KILLS = ("after-decide:4", "in-produce:5", "before-commit:4", "in-commit:5", "after-commit:4", "after-restore")
EACH = 1_200


async def offer(log, names):
    await log.create(names.requests("pay"), partitions=2)
    await log.write(names.requests("pay"), b"first")
    await read_count(log.bootstrap, [names.admitted("pay")], 1)
    for tenant in (b"acme", b"beta"):
        values = [b"%s-%d" % (tenant, n) for n in range(EACH)]
        for part in (0, 1):
            await log.write(names.requests("pay"), *values[part::2], partition=part, headers=[("gate-tenant", tenant)])
    await read_count(log.bootstrap, [names.rejected("pay")], 2 * EACH)


@pytest.mark.slow
def test_what_was_rejected_goes_back_once_though_gates_are_killed(bootstrap, prefix, tmp_path):
    names, log, deaths = Names(prefix), Log(bootstrap, Names(prefix)), []

    async def put_back():
        async with GateControl(bootstrap, prefix=prefix) as control:
            return await control.redrive("pay", Filter(tenant="acme"), reason="the limit is higher now")

    async def redriven():
        await offer(log, names)
        first.kill()
        work = asyncio.create_task(put_back())
        deaths.extend(await kill_amid(work, KILLS, tmp_path, bootstrap, prefix, ADMITS))
        with gate(tmp_path, bootstrap, prefix, ADMITS):
            answer = await asyncio.wait_for(work, 120)
            await read_count(bootstrap, [names.admitted("pay")], 1 + EACH)
            audit = [decode_audit(record.value) for record in await log.read(names.audit)]
            parts = [(part, names.admitted("pay")) for part in (0, 1)]
            return answer, audit, [record for part, topic in parts for record in await log.read(topic, part)]

    with gate(tmp_path, bootstrap, prefix, REJECTS, "--http", "0") as first:
        until(first.is_ready, explain=first.text)
        answer, (noted,), admitted = asyncio.run(redriven())
    assert deaths.count(-signal.SIGKILL) >= 4  # the last ones may find all done
    assert (answer.state, answer.done, answer.of, answer.skipped) == (AnswerState.DONE, EACH, EACH, 0)
    assert (noted.what, noted.result, noted.after["done"]) == ("redrive", "done", EACH)
    back = [record for record in admitted if record.value != b"first"]
    assert Counter(record.value for record in back) == Counter(b"acme-%d" % n for n in range(EACH))
    stamps = [parse_stamp(dict(record.headers)["gate"]) for record in back]
    assert len({stamp.id for stamp in stamps}) == len({stamp.origin for stamp in stamps}) == EACH
    assert {stamp.id.rpartition("-")[0] for stamp in stamps} == {names.retries("pay")}
    assert {stamp.origin.rpartition("-")[0] for stamp in stamps} == {names.requests("pay")}
