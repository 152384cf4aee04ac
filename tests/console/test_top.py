"""`gate top` over a real gate: what it shows is what the gate decides, and what is pressed is done once."""

import asyncio

import pytest
from textual.widgets import Checkbox, Input

from gate.cli.top.app import Top
from gate.config import Connection
from gate.protocol.topics import Names
from tests.system.gates import create, gate, read_count, send, until

POLICY = """
shards: 2
services: {slow: {requests_per_second: 1/h, burst_size: 1, window_size: 1, max_delay: 10000d}}
"""


def text(app: Top) -> str:
    """Return what is on the screen, in one line."""
    strips = app.screen._compositor.render_strips()
    return " ".join("".join(segment.text for strip in strips for segment in strip).split())


async def test_a_service_is_paused_and_what_waits_cancelled_from_the_terminal(bootstrap, prefix, tmp_path):
    names = Names(prefix)

    with gate(tmp_path, bootstrap, prefix, POLICY) as running:
        await asyncio.to_thread(until, lambda: "gate runs" in running.text(), explain=running.text)
        await create(bootstrap, names.requests("slow"))
        await send(bootstrap, names.requests("slow"), [(None, b"x", [])] * 5)
        top = Top(Connection(bootstrap, prefix=prefix))
        async with top.run_test(size=(80, 24)) as pilot:

            async def shows(what: str) -> None:
                deadline = asyncio.get_running_loop().time() + 60
                while what not in text(top):
                    if asyncio.get_running_loop().time() > deadline:
                        pytest.fail(f"{what!r} is not shown: {text(top)}")
                    await pilot.pause(0.1)

            async def fill(field: str, value: str) -> None:
                top.screen.query_one(f"#{field}", Input).value = value

            await shows("1 limited of 1 services; 4 requests wait")
            await pilot.press("p")
            await fill("for", "10m")
            await fill("reason", "the bank is down")
            await pilot.press("enter")
            await shows("paused until")
            await pilot.press("enter")
            await shows("the bank is down")
            await shows("pause by")
            await pilot.press("c")
            top.screen.query_one("#all", Checkbox).value = True
            await pilot.click("#do")
            await shows("4 requests of slow fit")
            await fill("reason", "nobody wants them")
            await fill("confirm", "fast")
            await pilot.click("#do")
            await shows("type the service's name, slow")
            await fill("confirm", "slow")
            await pilot.press("enter", "enter")
            await shows("waiting 0")
            await shows("cancel by")
            await pilot.press("r")
            await fill("reason", "the bank is up")
            await pilot.press("enter")
            await shows("resume by")
        rejected = await read_count(bootstrap, [names.rejected("slow")], 4)
        assert len(rejected) == 4
