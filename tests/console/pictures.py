"""Pictures of the console and of `gate top` over a real gate with traffic: `python -m tests.console.pictures [FOLDER]`.

Draws `docs/figures/console.png`, `console-390.png` and `top.svg`. With FOLDER each view goes there instead, at 1440 and
390 pixels, light and dark, with names of 120 characters among the others, to be looked at.
"""

import argparse
import asyncio
import re
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from aiokafka import AIOKafkaProducer
from textual.widgets import DataTable

from gate.cli.top.app import Top
from gate.config import Connection
from gate.kafka.local import LocalBroker
from gate.protocol.topics import Names
from tests.console.browser import Page, browsing
from tests.system.gates import GateProcess, create, gate, read, stamp, until

FIGURES: Final = Path("docs/figures")
TOKEN: Final = "c" * 32
LONG: Final = "settlement-of-cross-border-payments.eu-central-1.".ljust(119, "x") + "y"
LONG_TENANT: Final = "tenant-of-the-northern-regions-and-islands-".ljust(120, "z")
POLICY: Final = """
shards: 4
defaults: {window_size: 10s, overflow: delay, max_delay: 10000d}
groups: {the-bank: {requests_per_second: 60, burst_size: 60}}
services:
  search: {requests_per_second: 1000, burst_size: 1000}
  payments: {requests_per_second: 40, burst_size: 40, group: the-bank}
  mail: {requests_per_second: 50, burst_size: 50}
  reports:
    requests_per_second: 30
    burst_size: 10
    priorities: {interactive: 6, default: 3, batch: 1}
    tenants: {default: {requests_per_second: 20, burst_size: 5}, acme: {requests_per_second: 4, burst_size: 5}}
  exports: {requests_per_second: 1/h, burst_size: 1, window_size: 1}
"""
MORE: Final = f"""
  {LONG}:
    requests_per_second: 5
    burst_size: 5
    priorities: {{interactive-requests-of-people-who-wait-in-front-of-a-screen: 6, default: 3, batch: 1}}
    tenants: {{{LONG_TENANT}: {{requests_per_second: 1, burst_size: 1}}}}
"""
HEADERS: Final = {
    "reports": [
        [("gate-tenant", tenant), ("gate-priority", lane)]
        for tenant in (b"acme", b"zeta") for lane in (b"interactive", b"batch", b"default")
    ],
    LONG: [[("gate-tenant", LONG_TENANT.encode())], [("gate-priority", b"batch")], []],
}  # fmt: skip
PER_SECOND: Final = {"search": 25, "payments": 30, "mail": 12, "reports": 24, LONG: 8}


def main() -> None:
    """Stage it, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    folder = parser.parse_args().folder
    with LocalBroker.start() as broker, tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "tokens").write_text(f"ann admin {TOKEN}\n")
        policy = POLICY + (MORE if folder else "")
        options = ("--http", "0", "--tokens", f"{scratch}/tokens")
        with gate(Path(scratch), broker.bootstrap, "gate", policy, *options) as process:
            until(process.is_ready, 120, process.text)
            asyncio.run(draw(broker.bootstrap, process, folder))


async def draw(bootstrap: str, process: GateProcess, folder: Path | None) -> None:
    """Draw while requests come."""
    services = [one for one in (*PER_SECOND, "exports") if folder or one != LONG]
    await create(bootstrap, *map(Names("gate").requests, services))
    coming = asyncio.create_task(come(bootstrap, services))
    await asyncio.sleep(20)
    command(process, "search", "pause", "for=15m&reason=the index is rebuilt")
    command(process, "payments", "limit", "requests_per_second=25&for=1h&reason=campaign until noon")
    if folder:
        long = "an explanation of what has happened " * 4
        command(process, LONG, "limit", f"requests_per_second=4&burst_size=6&window_limit=30&for=1h&reason={long}")
        command(process, LONG, "limit", f"requests_per_second=2&for=1h&reason=x&tenant={LONG_TENANT}")
        command(process, "mail", "limit", "requests_per_second=55&group=the-bank&for=1h&reason=more", quiet=True)
    await asyncio.sleep(25)
    waiting = await read(bootstrap, [Names("gate").delayed("exports")], lambda found: len(found) >= 3)
    if folder is None:
        await asyncio.to_thread(photograph, process.url(), [("/", 1440, False, FIGURES / "console.png"),
                                                            ("/", 390, True, FIGURES / "console-390.png")])  # fmt: skip
        await terminal(bootstrap, FIGURES / "top.svg")
    else:
        folder.mkdir(exist_ok=True)
        shots = [(path, width, dark, folder / f"{name}-{width}-{'dark' if dark else 'light'}.png")
                 for name, path in views(stamp(waiting[0]).id).items()
                 for width, dark in ((1440, False), (390, True))]  # fmt: skip
        await asyncio.to_thread(photograph, process.url(), shots)
    coming.cancel()
    with suppress(asyncio.CancelledError):
        await coming


def views(waiting: str) -> dict[str, str]:
    """Return each view's address by its name."""
    long, tenant = quote(LONG), quote(LONG_TENANT)
    return {
        "list": "/", "service": "/services/reports", "long": f"/services/{long}",
        "what-if": "/services/payments/what-if?limit=50", "long-what-if": f"/services/{long}/what-if?limit=50",
        "tenants": f"/services/{long}/tenant", "tenant": "/services/reports/tenant?tenant=acme",
        "long-tenant": f"/services/{long}/tenant?tenant={tenant}", "request": f"/requests?id={quote(waiting)}",
        "shards": "/shards", "brokers": "/brokers", "mesh": "/mesh", "audit": "/audit",
    }  # fmt: skip


async def come(bootstrap: str, services: Sequence[str]) -> None:
    """Have requests come at their rates."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=20)
    await producer.start()
    try:
        for _ in range(4):
            await producer.send(Names("gate").requests("exports"), b"x")
        sent, began = dict.fromkeys(services, 0), time.monotonic()
        while True:
            for service in services:
                due = int((time.monotonic() - began) * PER_SECOND.get(service, 0))
                for number in range(sent[service], due):
                    headers = HEADERS.get(service, [[]])
                    await producer.send(Names("gate").requests(service), b"x", headers=headers[number % len(headers)])
                sent[service] = due
            await asyncio.sleep(0.05)
    finally:
        await producer.stop()


def command(process: GateProcess, service: str, action: str, form: str, *, quiet: bool = False) -> None:
    """Give a command as somebody with a token."""
    asked = urllib.request.Request(
        f"{process.url()}/services/{service}/{action}", form.encode(), {"Authorization": f"Bearer {TOKEN}"}
    )
    with suppress(*(OSError,) if quiet else ()):
        urllib.request.urlopen(asked, timeout=60).close()


def photograph(url: str, shots: Sequence[tuple[str, int, bool, Path]]) -> None:
    """Take pictures of pages."""
    with browsing() as browser:
        for path, width, dark, file in shots:
            with browser.page(url) as page:
                page.call(
                    "Network.setCookie", url=url, name="gate-token", value=TOKEN, httpOnly=True, sameSite="Strict"
                )
                page.size(width, dark=dark)
                page.open(path)
                page.until("document.querySelector('main h1')")
                if re.fullmatch(r"/services/[^/]*", path):
                    page.until("document.getElementById('plots')?.dataset.drawn === '15m'", 60)
                if "what-if" in path:
                    await_tried(page, path)
                page.run("new Promise((done) => setTimeout(done, 1200))")
                height = page.run("document.documentElement.scrollHeight")
                page.size(width, min(height, 4000) if file.parent != FIGURES else min(height, 900), dark=dark)
                if (wide := page.run("document.documentElement.scrollWidth")) > width:
                    print(f"{file.name}: {wide} pixels wide")
                page.picture(file)
                if page.errors or page.foreign:
                    print(file.name, page.errors, page.foreign)


def await_tried(page: Page, path: str) -> None:
    """Ask again while the hour is played."""
    for _ in range(10):
        if "as it is" in page.text():
            return
        time.sleep(2)
        page.open(path)


async def terminal(bootstrap: str, file: Path) -> None:
    """Draw `gate top`, 80 columns and 24 lines."""
    top = Top(Connection(bootstrap))
    async with top.run_test(size=(80, 24)) as pilot:
        for _ in range(100):
            await pilot.pause(0.2)
            if top.screen.query(DataTable) and top.screen.query_one(DataTable).row_count >= 5:
                break
        await pilot.pause(2.0)
        file.write_text(top.export_screenshot(title="gate top"))


if __name__ == "__main__":
    main()
