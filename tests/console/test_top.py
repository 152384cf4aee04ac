"""`gate top` over a real gate: what it shows is what the gate decides, and what is pressed is done once."""

import asyncio
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Sequence

import pytest
from textual.geometry import Region
from textual.widget import Widget
from textual.widgets import Checkbox, DataTable, Input, Static

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


def overflowing(app: Top) -> list[str]:
    """Return the parts of what is on top that are wider than the screen, or stand beside it."""
    whole = app.screen.region
    found = [str(one) for one in app.screen.query("*") if one.display and one.region and not _is_within(one, whole)]
    return found + [str(one) for one in app.screen.query(DataTable) if one.virtual_size.width > whole.width]


def _is_within(one: Widget, whole: Region) -> bool:
    return (
        one.region.x >= 0
        and one.region.right <= whole.right
        and (
            isinstance(one, Static) or one.region.bottom <= whole.bottom  # what is long is scrolled
        )
    )


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
            for size in ((60, 20), (80, 24)):
                for key in ("", "p", "c"):
                    await pilot.resize_terminal(*size)
                    if key:
                        await pilot.press(key)
                        await shows("For how long" if key == "p" else "all that wait")
                    assert overflowing(top) == [], (size, key)
                    if key:
                        await pilot.press("escape")
            await pilot.press("escape")
            for size, numbers in (((60, 20), "Waiting Drained"), ((80, 24), "Offered Granted Waiting Drained")):
                await pilot.resize_terminal(*size)
                await shows(f"Service State {numbers}")
                assert overflowing(top) == [], size
            await pilot.press("enter")
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


async def test_it_ends_in_a_terminal_by_its_keys_and_leaves_it_as_it_was(bootstrap, prefix, tmp_path):
    names = Names(prefix)
    with gate(tmp_path, bootstrap, prefix, POLICY) as running:
        await asyncio.to_thread(until, lambda: "gate runs" in running.text(), explain=running.text)
        await create(bootstrap, names.requests("slow"))
        await send(bootstrap, names.requests("slow"), [(None, b"x", [])] * 5)
        await read_count(bootstrap, [names.delayed("slow")], 4)
        for keys in ([b"\r", b"\x1b", b"p", b"\x03"], [b"\r", b"\x1b", b"c", b"\x1b", b"q"]):
            written, code = await asyncio.to_thread(by_hand, bootstrap, prefix, keys)
            assert code == 0, written
            assert b"Traceback" not in written
            assert b"requests wait" in written
            assert written.rfind(b"\x1b[?1049l") > written.find(b"\x1b[?1049h") >= 0, "the screen before is back"


def by_hand(bootstrap: str, prefix: str, keys: Sequence[bytes]) -> tuple[bytes, int]:
    """Press keys in a pseudo-terminal, which is made smaller amid them; return what was written, and how it ended."""
    process, terminal = pty.fork()
    if not process:
        os.execv(sys.executable, [sys.executable, "-m", "gate", "top", "--bootstrap", bootstrap, "--prefix", prefix])
    resize(terminal, 80, 24)
    written, waiting, end = b"", [*keys], time.monotonic() + 90
    while time.monotonic() < end:
        try:
            if select.select([terminal], [], [], 0.4)[0]:
                written += os.read(terminal, 1 << 16)
                continue
        except OSError:  # it has ended
            break
        if waiting and b"requests wait" in written:  # it rests, and waits for a key
            if len(waiting) == len(keys) // 2:
                resize(terminal, 60, 20)
            os.write(terminal, waiting.pop(0))
    else:
        os.kill(process, signal.SIGKILL)
    os.close(terminal)
    return written, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def resize(terminal: int, columns: int, lines: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
