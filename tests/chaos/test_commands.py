"""Commands on a real broker while gates are killed in the midst of their batches: each request has one end."""

import asyncio
import signal
from collections import Counter

import pytest

from gate.admission.model import EXPEDITED
from gate.client import Filter, GateControl
from gate.protocol.answers import AnswerState, decode_audit
from gate.protocol.headers import parse_stamp
from gate.protocol.topics import Names
from tests.chaos.killed import kill_amid
from tests.client.log import Log
from tests.system.gates import gate, read_count, until

POLICY = """
services:
  pay: {requests_per_second: 1/h, burst_size: 1, window_size: 1, max_delay: 10000d, priorities: {high: 6, low: 1}}
"""
KILLS = ("after-decide:2", "in-produce:3", "before-commit:2", "in-commit:2", "after-commit:2", "after-restore")
EACH = 700


async def offer(log, names):
    await log.create(names.requests("pay"), partitions=2)
    await log.write(names.requests("pay"), b"first")
    await read_count(log.bootstrap, [names.admitted("pay")], 1)
    for tenant in ("acme", "beta", "gamma"):
        values = [b"%s-%d" % (tenant.encode(), n) for n in range(EACH)]
        for part in (0, 1):
            await log.write(
                names.requests("pay"), *values[part::2], partition=part, headers=[("gate-tenant", tenant.encode())]
            )
    await read_count(log.bootstrap, [names.delayed("pay")], 3 * EACH)


async def command(bootstrap, prefix):
    async with GateControl(bootstrap, prefix=prefix) as control:
        return await asyncio.gather(
            control.cancel("pay", Filter(tenant="acme"), reason="third"),
            control.move("pay", Filter(tenant="beta"), "high"),
            control.expedite("pay", Filter(tenant="gamma")),
        )


async def look(log, names):
    rejected = [r for part in (0, 1) for r in await log.read(names.rejected("pay"), part)]
    audit = [decode_audit(record.value) for record in await log.read(names.audit)]
    async with GateControl(log.bootstrap, prefix=names.prefix) as control:
        high = await control.cancel("pay", Filter(lane="high"), dry_run=True)
        low = await control.cancel("pay", Filter(lane="low"), dry_run=True)
        first = await control.cancel("pay", Filter(lane=EXPEDITED), dry_run=True)
    return rejected, audit, high.of, low.of, first.of


@pytest.mark.slow
def test_commands_are_carried_out_once_though_gates_are_killed(bootstrap, prefix, tmp_path):
    names, log, deaths = Names(prefix), Log(bootstrap, Names(prefix)), []

    async def commanded():
        await offer(log, names)
        first.kill()
        work = asyncio.create_task(command(bootstrap, prefix))
        deaths.extend(await kill_amid(work, KILLS, tmp_path, bootstrap, prefix, POLICY))
        with gate(tmp_path, bootstrap, prefix, POLICY):
            answers = await asyncio.wait_for(work, 120)
            return answers, await look(log, names)

    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as first:
        until(first.is_ready, explain=first.text)
        answers, (rejected, audit, *lanes) = asyncio.run(commanded())
    assert deaths.count(-signal.SIGKILL) >= 4  # the last ones may find all done
    for answer in answers:
        assert (answer.state, answer.done, answer.of, answer.gone) == (AnswerState.DONE, EACH, EACH, 0)
    assert Counter(parse_stamp(dict(r.headers)["gate"]).reason for r in rejected) == {"cancelled": EACH}
    assert {record.value for record in rejected} == {b"acme-%d" % n for n in range(EACH)}
    assert lanes == [EACH, 0, EACH]
    assert sorted((noted.what, noted.result, noted.after["done"]) for noted in audit) == [
        ("cancel", "done", EACH), ("expedite", "done", EACH), ("move", "done", EACH)
    ]  # fmt: skip
