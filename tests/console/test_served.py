"""The console that gates serve, and that of `gate console`, over one broker; then in a browser."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from gate.protocol.topics import Names
from tests.console.served import consoled
from tests.system.gates import GateProcess, create, gate, send, until

POLICY = """
shards: 4
services:
  "open-*": {requests_per_second: 1000, burst_size: 1000}
  slow: {requests_per_second: 1/h, burst_size: 1, window_size: 1, max_delay: 10000d, priorities: {high: 6, low: 1}}
"""
SERVICES = ["slow", *(f"open-{number}" for number in range(8))]


@dataclass
class Group:
    bootstrap: str
    names: Names
    gates: list[GateProcess]
    console: str  # URL

    @property
    def urls(self) -> list[str]:
        running = [one.url() for one in self.gates if one.process.poll() is None]
        return [*running, self.console]

    def pressure(self, url: str) -> dict:
        with urllib.request.urlopen(f"{url}/v1/pressure", timeout=30) as answer:
            return json.load(answer)

    def owners(self, url: str) -> dict[str, str]:
        return {line["service"]: line["owner"] for line in self.pressure(url)["services"]}


@pytest.fixture(scope="module")
def group(bootstrap, shared_prefix, tmp_path_factory) -> Iterator[Group]:
    names = Names(shared_prefix)
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("gate")
        gates = [stack.enter_context(gate(folder, bootstrap, shared_prefix, POLICY, "--http", "0")) for _ in range(2)]
        for one in gates:
            until(one.is_ready, explain=one.text)
        told = Group(bootstrap, names, gates, stack.enter_context(consoled(bootstrap, shared_prefix))[0])

        async def fill() -> None:
            await create(bootstrap, *map(names.requests, SERVICES))
            for service in SERVICES:
                await send(bootstrap, names.requests(service), [(None, b"x", [])] * 5)

        asyncio.run(fill())
        until(lambda: all(set(told.owners(url)) == set(SERVICES) for url in told.urls), explain=gates[0].text)
        yield told


def test_every_door_shows_the_whole_group(group):
    until(lambda: len({json.dumps(group.owners(url), sort_keys=True) for url in group.urls}) == 1)
    owners = group.owners(group.console)
    assert len(set(owners.values())) == 2, "both gates have some"

    def first() -> dict:
        return group.pressure(group.console)["services"][0]

    # another one may stand for a moment, until its owner tells what it has decided
    until(lambda: (first()["service"], first()["state"], first()["binds"]) == ("slow", "limited", "rate"))
    until(lambda: group.pressure(group.console)["waiting"] == first()["waiting"] == 4)
    assert first()["drain_seconds"] > 3 * 3600 - 600


def read(url: str, path: str = "/", **headers: str):
    return urllib.request.urlopen(urllib.request.Request(url + path, headers=headers), timeout=30)


def test_the_page_may_load_nothing_from_elsewhere_and_is_small(group):
    for path in ("/", "/services/slow", "/shards", "/audit"):
        with read(group.console, path) as page:
            policy, html = page.headers["content-security-policy"], page.read().decode()
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http://" not in html
        assert "https://" not in html
        assert "<script>" not in html
        assert len(html) < 60_000
    with read(group.console, "/services/no-such-service") as page:
        assert "There is no service of this name" in page.read().decode()


def test_names_that_come_over_the_wire_are_text(group):
    with read(group.console, "/?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&state=%3Cb%3E") as page:
        html = page.read().decode()
    assert "<script>alert" not in html
    assert "<b>" not in html.partition("<main")[0]
    assert "No service has that in its name" in html


@pytest.mark.parametrize("path", ["/static/vendored.json", "/static/..", "/static/htmx.LICENSE", "/live/policy"])
def test_what_is_not_served_is_not_found(group, path):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        read(group.console, path)


def test_scripts_are_packed_and_kept_by_browsers(group):
    with read(group.console, "/static/htmx.min.js?1", **{"Accept-Encoding": "gzip"}) as script:
        assert script.headers["content-encoding"] == "gzip"
        assert "immutable" in script.headers["cache-control"]
        assert len(script.read()) < 20_000


def test_the_page_follows_by_itself_and_not_in_the_background(group, browser):
    with browser.page(group.console) as page:
        page.open("/services/open-0")
        page.until("document.querySelector('main h1')")
        before = page.text(".numbers")
        asyncio.run(send(group.bootstrap, group.names.requests("open-0"), [(None, b"x", [])] * 500))
        page.until(f"document.querySelector('.numbers').innerText !== {json.dumps(before)}")
        hide = """Object.defineProperty(document, 'hidden', {configurable: true, get: () => %s});
            document.dispatchEvent(new Event('visibilitychange'))"""
        page.run(hide % "true")
        page.run(
            """window.changes = 0; window.changed = performance.now();
            const count = (all) => { window.changes += all.length; window.changed = performance.now(); };
            const what = {subtree: true, childList: true, characterData: true};
            new MutationObserver(count).observe(document.getElementById('live'), what)"""
        )
        # its stream has ended, and what came by then is shown: that goes on for a moment in the page itself
        ended = "document.getElementById('live')._htmx.sse.reader === null"
        page.until(f"{ended} && performance.now() - window.changed > 1500")
        page.run("window.changes = 0")
        asyncio.run(send(group.bootstrap, group.names.requests("open-0"), [(None, b"x", [])] * 500))
        until(lambda: group.pressure(group.console) and _decided(group, "open-0") >= 1000)
        assert page.run("window.changes") == 0
        page.run(hide % "false")
        page.until("window.changes > 0")
        assert (page.errors, page.foreign) == ([], [])


def test_plots_go_on_by_their_end_and_stay_as_long(group, browser):
    with browser.page(group.console) as page:
        page.open("/services/slow")
        page.until("document.getElementById('plots')?.dataset.drawn === '15m'")
        shown = "(({steps, end}) => [steps, Number(end)])(document.getElementById('plots').dataset)"
        before = page.run(shown)
        asked = "performance.getEntriesByType('resource').filter((one) => one.name.includes('since=2m')).length"
        page.until(f"{asked} > 1 && Number(document.getElementById('plots').dataset.end) > {before[1]}")
        assert (before[0], page.run(shown)[0]) == ("900", "900")
        page.run("document.querySelector('#plots [data-since=\"24h\"]').click()")
        page.until("document.getElementById('plots').dataset.drawn === '24h'")
        assert page.run(shown)[0] == "1440"
        assert (page.errors, page.foreign) == ([], [])


def _decided(group: Group, service: str) -> int:
    for one in group.gates:
        if one.process.poll() is None:
            for usage in json.loads(one.get("/v1/usage"))["services"]:
                if usage["service"] == service:
                    return sum(total["requests"] for total in usage["totals"] if total["verdict"] == "admitted")
    return 0


def test_a_background_tab_from_the_start_is_sent_nothing_until_it_is_looked_at(group, browser):
    with browser.page(group.console) as page:
        hide = "Object.defineProperty(document, 'hidden', {configurable: true, get: () => !window.looked})"
        page.call("Page.addScriptToEvaluateOnNewDocument", source=hide)
        page.open("/")
        page.until("window.htmx")
        page.until("performance.getEntriesByType('navigation')[0].loadEventEnd > 0")  # the page's own script has run
        asked = "performance.getEntriesByType('resource').filter((one) => one.name.includes('/live/')).length"
        page.run(
            """window.asked = 0; const was = window.fetch;
            window.fetch = (...all) => { window.asked += 1; return was(...all); }"""
        )
        assert page.run(asked) == 0
        page.run("window.looked = true; document.dispatchEvent(new Event('visibilitychange'))")
        page.until("window.asked > 0")


def test_a_refused_policy_is_not_green(group, browser):
    first = group.gates[0]
    good = first.config.read_text()
    with browser.page(group.console) as page:
        page.open("/?state=free")
        page.until("document.querySelector('[role=status]')")
        assert "fault" not in page.text("[role=status]")
        first.config.write_text(good.replace("1/h", "1/fortnight"))
        page.until("document.querySelector('[role=status]').className.includes('bad')"
                   " && document.body.innerText.includes('1/fortnight')")  # fmt: skip
        assert "policy refused at" in page.text(".trouble")
        first.config.write_text(good)
        page.until("!document.querySelector('.trouble')")


def test_a_gate_is_killed_and_all_is_shown_with_its_new_owner(group):
    killed, left = group.gates
    owners = group.owners(group.console)
    mine = [service for service, owner in owners.items() if owner.endswith(f":{killed.process.pid}")]
    assert mine
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.process.wait(10)
    heir = owners[next(service for service in SERVICES if service not in mine)]

    def is_taken_over(url: str) -> bool:
        told = group.owners(url)
        assert set(told) == set(SERVICES), "none is lost from the page meanwhile"
        return set(told.values()) == {heir}

    for url in (left.url(), group.console):
        until(lambda url=url: is_taken_over(url), explain=left.text)
    with read(group.console, f"/services/{mine[0]}") as page:
        assert "took over" in page.read().decode()


def test_what_is_vendored_is_as_its_checksums_say():
    check = Path(__file__).parents[2] / "vendor.py"
    done = subprocess.run([sys.executable, check, "--check"], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (0, "2 packages are as their checksums say\n")
