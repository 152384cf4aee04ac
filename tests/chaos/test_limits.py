"""Limits that are set while gates are killed in the midst of their batches: each change once, none lost."""

import asyncio
import signal

import pytest

from gate.client import GateControl, LiveLimit
from gate.protocol.answers import decode_audit
from gate.protocol.topics import Names
from tests.chaos.killed import kill_amid
from tests.client.log import Log
from tests.system.gates import gate, read_count, until

POLICY = "services: {pay: {requests_per_second: 1/h, burst_size: 1, window_size: 1, max_delay: 10000d}}"
KILLS = ("after-decide", "in-produce:2", "before-commit:4", "in-commit:6", "after-commit:6", "after-restore")
CHANGES = 3
TENANTS = {f"t{number}": LiveLimit("1/h", 1 + number % 9) for number in range(9_000)}
PARKED = 40


async def change(bootstrap, prefix):
    """Change limits, each time against the version before, and by an import; then let go what waits."""
    async with GateControl(bootstrap, prefix=prefix) as control:
        told = []
        for version in range(CHANGES):
            answer = await control.set_limit(
                "pay", requests_per_second="1/h", burst_size=1 + version, tenant=f"old{version}", if_version=version
            )
            told.append(answer.version)
        told.append((await control.import_limits("pay", TENANTS, if_version=CHANGES)).version)
        last = await control.set_limit("pay", requests_per_second=100, window_limit=1000, if_version=CHANGES + 1)
        return [*told, last.version]


@pytest.mark.slow
def test_each_change_counts_once_though_gates_are_killed(bootstrap, prefix, tmp_path):
    names, log, deaths = Names(prefix), Log(bootstrap, Names(prefix)), []

    async def commanded():
        await log.create(names.requests("pay"), partitions=2)
        await log.write(names.requests("pay"), *[b"%d" % number for number in range(PARKED + 1)])
        await read_count(bootstrap, [names.delayed("pay")], PARKED)
        first.kill()
        work = asyncio.create_task(change(bootstrap, prefix))
        deaths.extend(await kill_amid(work, KILLS, tmp_path, bootstrap, prefix, POLICY))
        with gate(tmp_path, bootstrap, prefix, POLICY):
            versions = await asyncio.wait_for(work, 120)
            admitted = await read_count(bootstrap, [names.admitted("pay")], PARKED + 1)
            async with GateControl(bootstrap, prefix=prefix) as control:
                return versions, admitted, await control.limits("pay")

    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as first:
        until(first.is_ready, explain=first.text)
        versions, admitted, limits = asyncio.run(commanded())
    assert deaths.count(-signal.SIGKILL) >= 4  # the last ones may find all done
    assert versions == list(range(1, CHANGES + 3))
    assert (limits.version, limits.limit.requests_per_second, limits.importing) == (CHANGES + 2, "100", False)
    assert {name: record.limit for name, record in limits.tenants.items()} == TENANTS
    audit = [decode_audit(record.value) for record in asyncio.run(log.read(names.audit))]
    assert [record.after["version"] for record in audit] == versions
    assert len({record.value for record in admitted}) == len(admitted) == PARKED + 1
