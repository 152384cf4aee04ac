"""`gate reshard` beside gates that run: they give way to it, and go on when it is taken back."""

import asyncio
import json
import re

from aiokafka import AIOKafkaProducer

from gate.shard.placement import shard_of
from tests.system.gates import create, gate, read_count, send, until
from tests.system.test_delivery import reshard

SHARDS = 3
POLICY = f"""shards: {SHARDS}
services:
  pay: {{requests_per_second: 1000, burst_size: 1000}}
"""


async def test_a_gate_does_not_take_back_what_a_move_has_fenced_off_until_that_is_taken_back(
    bootstrap, prefix, tmp_path
):
    """Else the two would fence each other off in turn, and the move may never come to its end."""
    shard = shard_of("pay", SHARDS)
    assert shard != 0, "that one is closed first"
    requests, admitted = f"{prefix}.requests.pay", f"{prefix}.admitted.pay"
    await create(bootstrap, requests, partitions=1)
    with gate(tmp_path, bootstrap, prefix, POLICY, "--http", "0") as running:
        await asyncio.to_thread(until, lambda: running.text().count("taken over") == SHARDS, explain=running.text)
        code, said = await reshard(running, "5", point="reshard-closing")
        assert code == -9, said
        moving = "the state is being moved to generation 2"
        await asyncio.to_thread(until, lambda: f"why='{moving}" in running.text(), explain=running.text)
        async with AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"{prefix}-{shard}") as mover:
            await send(bootstrap, requests, [(b"k", b"1", [])])
            gives_way = lambda: any(  # noqa: E731
                "a shard gives way" in line and f"shard={shard}" in line and "resharding to generation 2" in line
                for line in running.text().splitlines()
            )
            await asyncio.to_thread(until, gives_way, explain=running.text)
            await asyncio.to_thread(until, lambda: "resharding" in running.readiness(), explain=running.text)
            told = json.loads(running.readiness())
            assert (told["ready"], told["status"]) == (True, "degraded"), "it was asked for"
            assert re.search(
                r"resharding to generation 2 \(5 shards\) since 20[-0-9]+T[:0-9]+Z: its", told["shards"][0]
            )
            assert "shard restarts" not in running.text()
            async with mover.transaction():  # it is not fenced off in turn
                await mover.send(requests, b"2")
        code, said = await reshard(running, "--abort")
        assert (code, f"with {SHARDS} shards is in force again" in said) == (0, True), said
        assert len(await read_count(bootstrap, [admitted], 2)) == 2
        assert running.stop() == 0
