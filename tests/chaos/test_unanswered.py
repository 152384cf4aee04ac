"""A request that is never answered: the connection stands, and nothing comes."""

import asyncio
import re

from tests.chaos.proxy import Api, Delay, Request, behind_proxy
from tests.system.gates import create, gate, read, send, until

POLICY = """
services:
  pay: {requests_per_second: 20}
"""
FOR_EVER = 3600.0


async def test_a_gate_whose_place_in_the_group_is_never_told_asks_again(own_broker, prefix, tmp_path):
    held: list[Request] = []

    def hold_the_first(request: Request) -> Delay | None:
        if request.api != Api.JOIN_GROUP or held:
            return None
        held.append(request)
        return Delay(FOR_EVER)

    async with behind_proxy(own_broker) as proxy:
        await create(proxy.bootstrap, f"{prefix}.requests.pay")
        proxy.judge = hold_the_first
        with gate(tmp_path, proxy.bootstrap, prefix, POLICY) as running:
            # the session of 2 s, which a rebalance may take, and the 10 s of any request
            await asyncio.to_thread(until, lambda: "assigned" in running.text(), 25, running.text)
            assert held
            await send(proxy.bootstrap, f"{prefix}.requests.pay", [(None, b"x", [])])
            await read(proxy.bootstrap, [f"{prefix}.admitted.pay"], lambda found: len(found) >= 1)
            assert await asyncio.to_thread(running.stop) == 0, running.text()


async def test_a_batch_that_no_broker_ends_is_told_with_broker_and_request(own_broker, prefix, tmp_path):
    async with behind_proxy(own_broker) as proxy:
        await create(proxy.bootstrap, f"{prefix}.requests.pay")
        program = ("-m", "tests.chaos.altered", "--deadline", "2")
        with gate(tmp_path, proxy.bootstrap, prefix, POLICY, "--shards", "1", program=program) as running:
            await asyncio.to_thread(running.wait_for, "shard taken over")
            proxy.judge = lambda request: Delay(FOR_EVER) if request.api == Api.END_TXN else None
            await send(proxy.bootstrap, f"{prefix}.requests.pay", [(None, b"x", [])])
            text = await asyncio.to_thread(running.wait_for, "shard restarts")
            assert re.search(r"committing a batch took more than 4 s; broker 1 did not answer EndTxn for", text), text
            proxy.judge = lambda _: None
            await read(proxy.bootstrap, [f"{prefix}.admitted.pay"], lambda found: len(found) >= 1)
