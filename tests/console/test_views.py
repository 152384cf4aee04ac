"""Each view over one gate with traffic: what it looks up is what the gate did; then in a browser, by axe and keys."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from gate.config import Connection
from gate.console.commanded import AUDITS
from gate.console.feed import Feed
from gate.console.lookups import Lookups
from gate.console.tried import Change, Tried
from gate.errors import GateError
from gate.policy import load_policy
from gate.protocol.answers import Audit, encode
from gate.protocol.topics import Names
from gate.units import SECOND
from tests.console.browser import Browser, Page
from tests.system.gates import GateProcess, create, gate, read, read_count, send, stamp, until

AXE = Path(__file__).parents[2] / "build" / "axe.min.js"
ROOT, BOB = "c" * 32, "b" * 32
TOKENS = f"root admin {ROOT}\nbob read {BOB}\n"
LONG = "settlement-of-cross-border-payments.eu-central-1.".ljust(120, "x")
LONG_TENANT = "tenant-of-the-northern-regions-and-islands-".ljust(120, "z")
POLICY = f"""
shards: 2
defaults: {{window_size: 3s, overflow: delay}}
groups: {{both: {{requests_per_second: 5000, burst_size: 5000}}}}
services:
  search: {{requests_per_second: 1000, burst_size: 1000, group: both}}
  payments: {{requests_per_second: 40, burst_size: 20}}
  reports:
    requests_per_second: 30
    burst_size: 10
    max_delay: 2s
    priorities: {{interactive: 6, batch: 1}}
    tenants: {{default: {{requests_per_second: 20, burst_size: 5}}, acme: {{requests_per_second: 10, burst_size: 5}}}}
  slow: {{requests_per_second: 1/h, burst_size: 1, window_size: 1, max_delay: 10000d}}
  late: {{requests_per_second: 1000, burst_size: 1000}}
  {LONG}:
    requests_per_second: 1/h
    burst_size: 1
    priorities: {{interactive-requests-of-people-who-wait-in-front-of-a-screen: 6, default: 3, batch: 1}}
    tenants: {{{LONG_TENANT}: {{requests_per_second: 1/d, burst_size: 1}}}}
"""
ROUNDS = 20


@dataclass
class Staged:
    bootstrap: str
    names: Names
    process: GateProcess
    config: Path
    waiting: str  # id of a request that waits

    @property
    def url(self) -> str:
        return self.process.url()

    def page(self, path: str, token: str = ROOT) -> str:
        asked = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.read().decode().replace("<wbr>", "")  # where long names may be broken

    def views(self) -> dict[str, str]:
        """Return the address of each view, and what it shows."""
        return {
            "/": "payments", "/?state=limited": "slow", "/services/reports": "interactive",
            "/services/none": "no service", "/services/reports/what-if?limit=50": "Who loses",
            "/services/reports/tenant?tenant=acme": "share of what went",
            "/services/reports/tenant": "Tenants of which most waits",
            f"/requests?id={quote(self.waiting)}": "what would change it", "/shards": "Commit takes",
            f"/services/{LONG}": "What happened", f"/services/{LONG}/what-if": "Try it",
            f"/services/{LONG}/tenant?tenant={LONG_TENANT}": "Why it waits",
            "/brokers": "Open transactions", "/mesh": "Shared limits", "/audit": "pause",
        }  # fmt: skip


async def traffic(bootstrap: str, names: Names) -> None:
    """Send what the services get: little, bursts, and three times what is allowed."""
    await create(bootstrap, *map(names.requests, ("search", "payments", "reports", "slow", LONG)))
    await send(bootstrap, names.requests(LONG), [(None, b"x", [("gate-tenant", LONG_TENANT.encode())])] * 3)
    await send(bootstrap, names.requests("slow"), [(None, b"x", [("gate-id", b"order-1")])] * 4)
    for number in range(ROUNDS):
        await send(bootstrap, names.requests("search"), [(None, b"x", [])] * 5)
        if number % 8 == 0:
            await send(bootstrap, names.requests("payments"), [(None, b"%d" % i, []) for i in range(60)])
        headers = [
            [("gate-tenant", b"acme" if i % 2 else b"zeta"), ("gate-priority", b"batch" if i % 3 else b"interactive")]
            for i in range(10)
        ]
        await send(bootstrap, names.requests("reports"), [(b"%d" % i, b"x", one) for i, one in enumerate(headers)])
        await asyncio.sleep(0.1)  # it is a rate


@pytest.fixture(scope="module")
def staged(bootstrap, shared_prefix, tmp_path_factory) -> Iterator[Staged]:
    names, folder = Names(shared_prefix), tmp_path_factory.mktemp("gate")
    (folder / "tokens").write_text(TOKENS)
    options = ("--http", "0", "--tokens", str(folder / "tokens"))
    with gate(folder, bootstrap, shared_prefix, POLICY, *options) as process:
        until(process.is_ready, explain=process.text)
        asyncio.run(traffic(bootstrap, names))
        told = Staged(bootstrap, names, process, process.config, "")

        def drained() -> bool:
            asked = urllib.request.Request(f"{told.url}/v1/usage", headers={"Authorization": f"Bearer {BOB}"})
            with urllib.request.urlopen(asked, timeout=30) as answer:
                services = json.load(answer)["services"]
            idle = [one["service"] for one in services if not one["backlog"] and not one["undecided"]]
            return {"search", "payments", "reports"} <= set(idle) and len(services) == 5

        until(drained, explain=process.text)
        parked = asyncio.run(read(bootstrap, [names.delayed("slow")], lambda found: len(found) >= 3))
        told.waiting = stamp(parked[0]).id
        yield told


async def patiently(staged: Staged, service: str, change: Change) -> Tried:
    """Ask again while it takes a while."""
    policy, connection = load_policy(staged.config), Connection(staged.bootstrap, prefix=staged.names.prefix)
    lookups, feed = Lookups(connection, lambda: policy), Feed(connection)
    try:
        while (record := (await feed.use()).record(service)) is None:
            await asyncio.sleep(0.1)
        for _ in range(5):
            with contextlib.suppress(GateError):
                return await lookups.tried(record, change)
        return await lookups.tried(record, change)
    finally:
        await lookups.close()
        await feed.close()


def command(staged: Staged, service: str, action: str, form: bytes) -> None:
    asked = urllib.request.Request(
        f"{staged.url}/services/{service}/{action}", form, {"Authorization": f"Bearer {ROOT}"}
    )
    urllib.request.urlopen(asked, timeout=60).close()


@pytest.mark.parametrize("service", ["search", "payments", "reports", "slow"])
async def test_the_engine_decides_about_the_recording_as_the_gate_did(staged, service):
    tried = await patiently(staged, service, Change())
    assert tried.compared == tried.requests > 0
    assert tried.same == tried.compared
    assert tried.own == tried.other, "it is the same limit"
    if service == "payments":
        less = await patiently(staged, service, Change(50))
        assert less.other.p99_seconds > less.own.p99_seconds
        assert sum(loser.requests for loser in less.losers) > 0
        narrow = await patiently(staged, service, Change(100, ((3 * SECOND, 30),)))
        assert narrow.other.drained_seconds > narrow.own.drained_seconds
    where = ["--bootstrap", staged.bootstrap, "--prefix", staged.names.prefix, "--config", str(staged.config)]
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "gate", "replay", service, "--check", *where],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    count = f"{tried.requests:,}"
    assert (done.returncode, done.stdout) == (0, f"{count} of {count} decisions of the gate are the engine's\n")


def test_one_request_is_found_with_why_it_waits(staged):
    html = staged.page(f"/requests?id={quote(staged.waiting)}")
    assert all(part in html for part in ("waiting", staged.waiting, "a higher limit", "order-1"))
    assert "?what=expedite&amp;request=" in html
    assert "?what=expedite" not in staged.page(f"/requests?id={quote(staged.waiting)}", BOB), "who may do nothing"
    assert "there is no request" in staged.page("/requests?id=nobody&service=slow")


def test_a_tenant_is_told_its_limits_with_their_origin_and_why_it_waits(staged):
    html = staged.page("/services/reports/tenant?tenant=acme")
    assert 'exact "' in html or ">exact" in html
    assert "requests_per_second" in html
    assert "delayed" in html
    came = html.partition("<dt>came</dt><dd>")[2].partition(" ")[0]
    assert came == str(ROUNDS * 5)
    assert "nothing of it was held back" in staged.page("/services/reports/tenant?tenant=nobody")
    tops = staged.page("/services/reports/tenant").partition('id="tops"')[2]
    assert re.findall(r"tenant=(\w+)", tops) == ["acme", "zeta"]
    assert f'data-is="Came">{ROUNDS * 5}</td><td class="n" data-is="Of all">50.0 %</td>' in tops


def test_a_page_tells_the_policy_in_force_with_what_is_set_over_the_file(staged):
    command(staged, "search", "limit", b"requests_per_second=900&for=15m&reason=campaign")
    command(staged, "search", "limit", b"requests_per_second=90&burst_size=90&group=both&for=15m&reason=campaign")
    command(staged, "reports", "limit", b"requests_per_second=3&tenant=acme&for=15m&reason=contract")
    row = r"requests_per_second</th><td>900</td><td>live until [^<]*</td>"
    until(lambda: re.search(row, staged.page("/services/search")))
    assert re.search(r"burst_size</th><td>1000</td><td>exact", staged.page("/services/search"))
    until(lambda: "limit of group both set by root" in staged.page("/services/search"))
    until(lambda: "limits are set for 1 tenant:" in staged.page("/services/reports"))
    until(lambda: ">group:both</td>" in staged.page("/audit"))
    assert "/services/group" not in staged.page("/audit"), "a group has no page"
    tenant = staged.page("/services/reports/tenant?tenant=acme")
    assert "limit set by root until" in tenant
    assert re.search(r"requests_per_second</th><td>3</td><td>live until", tenant)

    told = json.loads(staged.page("/v1/policy", BOB))
    search, reports = told["services"]["search"], told["services"]["reports"]
    assert (search["requests_per_second"]["value"], search["burst_size"]["source"]) == ("900", "exact")
    assert search["requests_per_second"]["source"].startswith("live until ")
    acme, others = (reports[f"tenants.{name}.requests_per_second"] for name in ("acme", "default"))
    assert (acme["value"], acme["source"].partition(" ")[0], others["source"]) == ("3", "live", "exact")
    assert told["groups"]["both"]["burst_size"]["source"].startswith("live until ")
    assert told["tenants_limited"] == {"reports": 1}
    shown = subprocess.run(
        [sys.executable, "-m", "gate", "policy", "show", str(staged.config), "--live", "--json", "--bootstrap",
         staged.bootstrap, "--prefix", staged.names.prefix],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    same = json.loads(shown.stdout)
    assert (same["services"]["search"], same["services"]["reports"]) == (search, reports), "as the command says"
    assert same["groups"] == told["groups"]


async def test_the_engine_decides_by_what_is_set_live_as_the_gate_did(staged):
    await create(staged.bootstrap, staged.names.requests("late"))
    command(staged, "late", "limit", b"requests_per_second=20&burst_size=4&for=1d&reason=try")
    command(staged, "late", "limit", b"requests_per_second=2&burst_size=1&tenant=acme&for=1d&reason=try")
    await asyncio.to_thread(until, lambda: "limits are set for 1 tenant" in staged.page("/services/late"))
    headers = [[("gate-tenant", b"acme" if number % 4 == 0 else b"zeta")] for number in range(24)]
    await send(staged.bootstrap, staged.names.requests("late"), [(b"k", b"x", one) for one in headers])
    await read_count(staged.bootstrap, [staged.names.admitted("late")], 24)
    tried = await patiently(staged, "late", Change())
    assert (tried.requests, tried.compared, tried.same) == (24, 24, 24)

    later = encode(Audit(1, "pause", "other", "c", "somebody", result="done"))
    await send(staged.bootstrap, staged.names.audit, [(b"other", later, [])] * (AUDITS + 1), partitions=1)
    feed = Feed(Connection(staged.bootstrap, prefix=staged.names.prefix))
    try:
        group = await feed.use()
        assert {one.service for one in group.commanded.audits()} == {"other"}
        line = group.line("late", time.time_ns() // 1_000_000, names=True)
        assert line.limit_set.fields == {"requests_per_second": "20", "burst_size": 4}
        assert (line.limit_set.who, line.limit_set.why, line.tenants_limited) == ("root", "try", 1)
    finally:
        await feed.close()


def test_another_limit_is_tried_and_nothing_is_changed(staged):
    until(lambda: "with 50 %, 20/s" in staged.page("/services/payments/what-if?limit=50"))
    html = staged.page("/services/payments/what-if?limit=50")
    assert "as the gate did" in html
    assert "limit set" not in staged.page("/services/payments")


def test_a_window_is_tried_by_itself(staged):
    path = "/services/payments/what-if?limit=100&window.3s=30"
    until(lambda: "with 100 %, 40/s, 30 in 3s" in staged.page(path))
    html = staged.page(path)
    assert 'name="window.3s" min="1" max="1000000000000000" value="30"' in html
    assert 'name="window.1s"' not in html, "it has none"


def test_shards_tell_how_long_commits_take_and_nothing_is_open(staged):
    assert " ms</td>" in staged.page("/shards")
    until(lambda: "No transaction is open" in staged.page("/brokers"))
    assert "No process shares a limit" in staged.page("/mesh")


# -- in a browser ------------------------------------------------------------------------------------------------------


# words of a usual length in tables that stand on two lines, as no hyphen is there
GREAT = "1,000,000"  # in each cell for a number
BROKEN = """(() => {
  const found = [], texts = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  for (let text; (text = texts.nextNode());) {
    if (text.parentElement.closest('table:not(.u-legend), h1, .chips') === null) continue;
    if (text.parentElement.closest('.hidden, thead') !== null) continue;
    for (const {0: word, index} of text.data.matchAll(/[A-Za-z0-9]+/g)) {
      if (word.length > 14) continue;
      const range = document.createRange();
      range.setStart(text, index);
      range.setEnd(text, index + word.length);
      if (new Set([...range.getClientRects()].map(({top}) => Math.round(top))).size > 1) found.push(word);
    }
  }
  return found.join(' ');
})()"""


def opened(page: Page, path: str, shown: str) -> None:
    """Open a view, again where what it looks up takes a while."""
    for _ in range(5):
        page.open(path)
        with contextlib.suppress(AssertionError):
            page.until(f"document.body.innerText.toLowerCase().includes({json.dumps(shown.lower())})", 6)
            return
    page.until(f"document.body.innerText.toLowerCase().includes({json.dumps(shown.lower())})")


def signed_in(page: Page, url: str) -> None:
    page.call("Network.setCookie", url=url, name="gate-token", value=ROOT, httpOnly=True, sameSite="Strict")


@pytest.mark.parametrize("path", ["/", "/services/search"])
def test_a_page_is_painted_within_a_second_and_small(staged, browser: Browser, path):
    took = []
    with browser.page(staged.url) as page:
        signed_in(page, staged.url)
        for _ in range(5):
            page.call("Network.clearBrowserCache")
            page.bytes = 0
            page.open(path)
            paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
            page.until(f"{paint} > 0 && document.querySelector('main [role=status]')")
            took.append(page.run(paint))
            assert page.bytes < 120_000
        assert page.foreign == []
    assert sorted(took)[2] <= 1000, took


def test_a_pause_is_a_band_in_the_plots(staged, browser: Browser):
    for action, form in (("pause", b"for=5m&reason=deploy"), ("resume", b"reason=done")):
        asked = urllib.request.Request(
            f"{staged.url}/services/reports/{action}", form, {"Authorization": f"Bearer {ROOT}"}
        )
        urllib.request.urlopen(asked, timeout=60).close()
    told = lambda: json.loads(staged.page("/v1/history/reports?since=15m"))["pauses"]  # noqa: E731
    until(lambda: told() and told()[0][0] < told()[0][1] < time.time() * 1000)
    with browser.page(staged.url) as page:
        signed_in(page, staged.url)
        page.open("/services/reports")
        page.until("document.getElementById('plots').dataset.pauses === '1'")
        assert page.errors == []


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_each_view_is_readable_reachable_and_small(staged, browser: Browser, width, dark):
    if not AXE.exists():
        pytest.skip("no axe-core here: `make test-tools` fetches it where npm is")
    pause = urllib.request.Request(
        f"{staged.url}/services/search/pause", b"for=5m&reason=deploy", {"Authorization": f"Bearer {ROOT}"}
    )
    urllib.request.urlopen(pause, timeout=60).close()
    axe, faults = AXE.read_text(), {}
    with browser.page(staged.url) as page:
        signed_in(page, staged.url)
        page.size(width, dark=dark)
        for path, shown in staged.views().items():
            page.open(path)
            page.until(f"document.body.innerText.toLowerCase().includes({json.dumps(shown.lower())})")
            if path == "/services/reports":
                page.until("document.getElementById('plots').dataset.drawn === '15m'")
            if path == "/":
                box = page.run(
                    "(({top, right}) => [top, right])(document.querySelector('.state').getBoundingClientRect())"
                )
                assert box[0] < 900, "the first state is seen without scrolling"
                assert box[1] <= width
                assert page.bytes < 120_000
            page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            if page.run("document.documentElement.scrollWidth") > width:
                faults[path] = "is wider than the screen"
            if broken := page.run(BROKEN):
                faults[path] = broken
            page.run(f"document.querySelectorAll('td.n').forEach((one) => {{ one.textContent = '{GREAT}'; }})")
            if page.run("document.documentElement.scrollWidth") > width:
                faults[path] = "is wider than the screen where numbers are great"
            assert page.run("document.documentElement.outerHTML.length") < 60_000
            page.run(axe + ";0")
            said = page.run(
                "axe.run(document, {resultTypes: ['violations']}).then((all) => all.violations"
                ".filter((one) => ['serious', 'critical'].includes(one.impact))"
                ".map((one) => one.id + ': ' + one.nodes.map((node) => node.target.join(' ')).join(', ')))"
            )
            if said:
                faults[path] = said
        assert faults == {}
        assert (page.errors, page.foreign) == ([], [])


def test_another_limit_is_tried_on_a_phone_as_well(staged, browser: Browser):
    with browser.page(staged.url) as page:
        signed_in(page, staged.url)
        page.size(390)

        def is_played() -> bool:
            page.open("/services/reports/what-if?limit=50&window.3s=1000000000000000")
            page.until("document.querySelector('main h1')")
            return "on average by" in page.text("main")

        until(is_played, explain=lambda: page.text("main"))
        assert page.run("document.documentElement.scrollWidth") <= 390
        assert page.errors == []


def test_the_keyboard_alone_reaches_every_action(staged, browser: Browser):
    with browser.page(staged.url) as page:
        signed_in(page, staged.url)
        page.size(390)
        page.open("/services/slow")
        page.until("document.querySelector('.actions')")
        reached = set()
        for _ in range(120):
            page.key("Tab")
            at = page.run("({tag: document.activeElement.tagName, text: document.activeElement.innerText})")
            if at["tag"] == "SUMMARY" and not page.run("document.activeElement.parentElement.open"):
                page.key("Enter", "\r")
                page.until("document.activeElement.parentElement.open")
            if at["tag"] == "BUTTON":
                reached.add(at["text"])
            if at["text"] == "Count what fits":
                break
        assert reached >= {"Pause", "Resume", "Set limit", "Back to the policy file", "Count what fits"}
        assert page.errors == []


def test_a_limit_is_tried_by_the_keys_of_the_slider(staged, browser: Browser):
    with browser.page(staged.url) as page:
        signed_in(page, staged.url)
        page.open("/services/payments/what-if")
        page.until("document.body.innerText.includes('as it is')")
        page.run("document.querySelector('.slide input').focus()")
        page.key("ArrowRight")
        page.until("location.search === '?limit=110' && document.body.innerText.includes('with 110 %')")
        assert (page.errors, page.foreign) == ([], [])
