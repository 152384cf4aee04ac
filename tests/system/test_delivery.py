"""`delivery: at_least_once`: for brokers without transactions. Never lost, never over; doubled only around a crash."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import pytest

from tests.system.gates import assert_never_over, create, gate, read, read_count, send, stamp

POLICY = """
delivery: at_least_once
services:
  pay: {requests_per_second: 300, burst_size: 40, window_size: 1, window_limit: 300}
"""
COUNT = 1200


def ids(records) -> Counter[bytes]:
    return Counter(record.value for record in records)


async def test_without_a_crash_nothing_is_doubled(bootstrap, prefix, tmp_path):
    await create(bootstrap, f"{prefix}.requests.pay")
    with gate(tmp_path, bootstrap, prefix, POLICY) as running:
        await send(bootstrap, f"{prefix}.requests.pay", [(b"k", b"%d" % i, []) for i in range(COUNT)])
        out = await read_count(bootstrap, [f"{prefix}.admitted.pay"], COUNT)
        assert running.stop() == 0
    assert ids(out) == Counter(b"%d" % i for i in range(COUNT)), running.text()
    assert_never_over([stamp(r).at_ms for r in out], rate=Fraction(300), burst=40, windows=[(300, 1000)])


@pytest.mark.parametrize("point", ["after-produce:1", "after-state:3", "after-state:8", "before-commit:4"])
async def test_killed_in_the_middle_of_a_batch_it_loses_nothing_and_admits_no_more(bootstrap, prefix, tmp_path, point):
    await create(bootstrap, f"{prefix}.requests.pay")
    with gate(tmp_path, bootstrap, prefix, POLICY, env={"GATE_FAILPOINT": point}) as running:
        await send(bootstrap, f"{prefix}.requests.pay", [(b"k", b"%d" % i, []) for i in range(COUNT)])
        assert running.process.wait(30) == -9, running.text()
    with gate(tmp_path, bootstrap, prefix, POLICY) as running:
        out = await read(bootstrap, [f"{prefix}.admitted.pay"], lambda found: len(ids(found)) >= COUNT)
        assert running.stop() == 0
    assert ids(out).keys() == {b"%d" % i for i in range(COUNT)}, running.text()
    assert_never_over([stamp(r).at_ms for r in out], rate=Fraction(300), burst=40, windows=[(300, 1000)])


async def reshard(running, *arguments: str, point: str = "") -> tuple[int, str]:
    command = [sys.executable, "-m", "gate", "reshard", *arguments, "--config", running.config]
    process = await asyncio.create_subprocess_exec(
        *command, "--bootstrap", running.bootstrap, env={**os.environ, "GATE_FAILPOINT": point},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def test_the_state_moves_to_other_shards_once_the_gates_are_stopped(bootstrap, prefix, tmp_path):
    """Nothing fences gates off that write without transactions."""
    await create(bootstrap, f"{prefix}.requests.pay")
    policy = f"shards: 3\n{POLICY}"
    with gate(tmp_path, bootstrap, prefix, policy) as running:
        running.wait_for("taken over")
        code, said = await reshard(running, "5")
        assert (code, "nothing fences them off" in said, "stop them" in said) == (1, True, True), said
        await send(bootstrap, f"{prefix}.requests.pay", [(b"k", b"%d" % i, []) for i in range(COUNT)])
        await read_count(bootstrap, [f"{prefix}.delayed.pay"], COUNT // 4)
        assert running.stop() == 0
    code, said = await reshard(running, "5", point="reshard-copying")
    assert code == -9, said
    code, said = await reshard(running, "5")
    assert (code, "generation 2 is in force" in said) == (0, True), said
    with gate(tmp_path, bootstrap, prefix, policy) as running:
        running.wait_for("taken over")
        out = await read_count(bootstrap, [f"{prefix}.admitted.pay"], COUNT)
        assert running.stop() == 0
    assert ids(out) == Counter(b"%d" % i for i in range(COUNT)), running.text()
    assert_never_over([stamp(r).at_ms for r in out], rate=Fraction(300), burst=40, windows=[(300, 1000)])
