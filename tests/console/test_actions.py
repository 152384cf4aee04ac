"""What is done by the page is in the topics, exactly once, and only by who may do it."""

import asyncio
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import NamedTuple
from urllib.parse import urlencode

import httpx
import jsonschema
import pytest

from gate.client import SyncGateControl
from gate.protocol import answers, control
from gate.protocol.topics import Names
from tests.client.log import Log
from tests.console.served import consoled
from tests.system.gates import GateProcess, create, gate, read, read_count, send, until

ANN, BOB, ROOT = "a" * 32, "b" * 32, "c" * 32
TOKENS = f"ann operate {ANN}\nbob read {BOB}\nroot admin {ROOT}\n"
POLICY = """
shards: 2
services:
  "slow-*": {requests_per_second: 1/h, burst_size: 1, window_size: 1, max_delay: 10000d, priorities: {high: 6, low: 1}}
"""


class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args, **_options):
        return None


class Answered(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str


@dataclass
class Guarded:
    bootstrap: str
    names: Names
    process: GateProcess

    @property
    def url(self) -> str:
        return self.process.url()

    def ask(self, path: str, form: dict[str, str] | None = None, **headers: str) -> Answered:
        body = None if form is None else urlencode(form).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        asked = urllib.request.Request(self.url + path, body, named)
        try:
            answer = urllib.request.build_opener(Stay).open(asked, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            # a stream of events has no end
            text = answer.readline() if "event-stream" in answer.headers.get("content-type", "") else answer.read()
            return Answered(answer.status, dict(answer.headers.items()), text.decode())

    def as_browser(self, token: str, path: str, form: dict[str, str] | None = None, **headers: str) -> tuple[int, str]:
        answer = self.ask(path, form, Cookie=f"gate-token={token}", **{"Sec_Fetch_Site": "same-origin", **headers})
        return answer.status, answer.text

    def form(self, token: str, service: str, action: str) -> dict[str, str]:
        """Return the hidden fields of a form, as the page holds them."""
        _, html = self.as_browser(token, f"/services/{service}")
        return hidden(html, f"/services/{service}/{action}")

    async def service(self) -> str:
        name = f"slow-{uuid.uuid4().hex[:6]}"
        await create(self.bootstrap, self.names.requests(name))
        requests = [(None, b"x", [("gate-priority", b"low" if i % 2 else b"high")]) for i in range(6)]
        await send(self.bootstrap, self.names.requests(name), requests)
        await asyncio.to_thread(until, lambda: self.line(name) is not None and self.line(name)["waiting"] == 5)
        return name

    def line(self, service: str) -> dict | None:
        answer = self.ask(f"/v1/pressure?q={service}", Authorization=f"Bearer {BOB}")
        return next(iter(json.loads(answer.text)["services"]), None)

    async def commands(self, service: str) -> list[control.Command]:
        records = await Log(self.bootstrap, self.names).read(self.names.control)
        told = [control.decode(record.value) for record in records]
        return [command for command in told if command.service == service]

    async def audits(self, service: str, count: int) -> list[answers.Audit]:
        def about(records) -> list[answers.Audit]:
            audits = [answers.decode_audit(record.value) for record in records]
            return [audit for audit in audits if audit.service == service]

        return about(await read(self.bootstrap, [self.names.audit], lambda found: len(about(found)) >= count))


def hidden(html: str, action: str) -> dict[str, str]:
    form = html.partition(f'action="{action}"')[2].partition("</form>")[0]
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))


@pytest.fixture(scope="module")
def guarded(bootstrap, shared_prefix, tmp_path_factory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("gate")
    (folder / "tokens").write_text(TOKENS)
    options = ("--http", "0", "--tokens", str(folder / "tokens"))
    with gate(folder, bootstrap, shared_prefix, POLICY, *options) as process:
        until(process.is_ready, explain=process.text)
        yield Guarded(bootstrap, Names(shared_prefix), process)


@pytest.fixture(scope="module")
def untouched(guarded) -> str:
    """A service about which no command is ever given."""
    return asyncio.run(guarded.service())


@pytest.mark.parametrize(
    "path", ["/", "/services/x", "/audit", "/shards", "/live/pressure", "/v1/pressure", "/v1/usage", "/v1/policy"]
)
def test_a_stranger_sees_nothing(guarded, path):
    for headers in (
        {},
        {"Authorization": "Bearer guess"},
        {"Cookie": "gate-token=guess"},
        {"X_Forwarded_User": "root"},
    ):
        assert guarded.ask(path, **headers).status == 401
    assert guarded.ask(path, Authorization=f"Bearer {BOB}").status == 200


def test_a_stranger_is_asked_for_a_token_and_signs_in(guarded):
    asked = guarded.ask("/audit", Accept="text/html")
    assert (asked.status, 'name="to" value="/audit"' in asked.text) == (401, True)
    same = {"Sec_Fetch_Site": "same-origin"}
    assert guarded.ask("/sign-in", {"token": "guess", "to": "/audit"}, **same).status == 401
    assert guarded.ask("/sign-in", {"token": BOB, "to": "/audit"}, Sec_Fetch_Site="cross-site").status == 401
    done = guarded.ask("/sign-in", {"token": BOB, "to": "/audit"}, **same)
    cookie = done.headers["set-cookie"]
    assert (done.status, done.headers["location"]) == (303, "/audit")
    assert all(part in cookie.lower() for part in ("httponly", "samesite=strict", "max-age="))
    elsewhere = guarded.ask("/sign-in", {"token": BOB, "to": "//evil.example"}, **same)
    assert elsewhere.headers["location"] == "/"
    assert guarded.ask("/", Cookie=cookie.partition(";")[0]).status == 200


async def test_two_clicks_and_a_reload_pause_once(guarded):
    service = await guarded.service()
    given = await asyncio.to_thread(guarded.form, ANN, service, "pause")
    form = {**given, "for": "15m", "reason": "the bank is down"}
    path = f"/services/{service}/pause"
    click = lambda: asyncio.to_thread(guarded.as_browser, ANN, path, form)  # noqa: E731
    assert [status for status, _ in await asyncio.gather(click(), click())] == [303, 303]
    await asyncio.to_thread(until, lambda: guarded.line(service)["state"] == "paused")
    assert (await click())[0] == 303
    until_then = [command.until for command in await guarded.commands(service)]
    await asyncio.to_thread(until, lambda: guarded.line(service)["more"].endswith("by ann: the bank is down"))
    resume = {**await asyncio.to_thread(guarded.form, ANN, service, "resume"), "reason": "it is back"}
    assert (await asyncio.to_thread(guarded.as_browser, ANN, f"/services/{service}/resume", resume))[0] == 303
    await asyncio.to_thread(until, lambda: guarded.line(service)["state"] == "limited")
    assert (await click())[0] == 303  # a tab that was left open, a day later
    marker = {**await asyncio.to_thread(guarded.form, ANN, service, "resume"), "reason": "to see what came before"}
    await asyncio.to_thread(guarded.as_browser, ANN, f"/services/{service}/resume", marker)
    audits = await guarded.audits(service, 3)
    assert [(audit.what, audit.who, audit.reason) for audit in audits] == [
        ("pause", "ann", "the bank is down"),
        ("resume", "ann", "it is back"),
        ("resume", "ann", "to see what came before"),
    ]
    assert audits[0].said["until_ms"] == until_then[0], "the first click counts"
    assert guarded.line(service)["state"] == "limited"


async def test_a_command_is_carried_out_once_whoever_sends_it_again(guarded):
    service = await guarded.service()

    def script() -> None:
        with SyncGateControl(guarded.bootstrap, prefix=guarded.names.prefix, who="eve") as gate:
            gate.pause(service, for_=600, command_id="the-same-pause")
            until(lambda: guarded.line(service)["state"] == "paused")
            gate.resume(service, command_id="the-same-resume")
            until(lambda: guarded.line(service)["state"] == "limited")
            gate.pause(service, for_=600, command_id="the-same-pause")
            gate.resume(service)

    await asyncio.to_thread(script)
    assert [audit.what for audit in await guarded.audits(service, 3)] == ["pause", "resume", "resume"]


@pytest.mark.parametrize(
    ("token", "action", "form", "status", "why"),
    [
        (BOB, "pause", {"for": "15m", "reason": "x"}, 403, "pause takes the role operate; bob has read"),
        (ANN, "count", {"all": "all"}, 403, "count takes the role admin; ann has operate"),
        (ANN, "cancel", {"all": "all", "reason": "x", "confirm": "SERVICE"}, 403, "cancel takes the role admin"),
        (ANN, "pause", {"for": "15m"}, 400, "say why"),
        (ANN, "pause", {"reason": "x"}, 400, "for how long?"),
        (ANN, "pause", {"for": "0s", "reason": "x"}, 400, "more than 0 seconds"),
        (ANN, "pause", {"for": "1000d", "reason": "x"}, 400, "at most 30 days"),
        (ANN, "delete", {"reason": "x"}, 404, "there is no action"),
        (BOB, "expedite", {"all": "all", "reason": "x"}, 403, "expedite takes the role operate; bob has read"),
        (BOB, "abort", {"command": "c", "reason": "x"}, 403, "abort takes the role operate; bob has read"),
        (BOB, "count", {"what": "move", "all": "all", "to": "low"}, 403, "count takes the role operate"),
        (ANN, "limit", {"requests_per_second": "5", "for": "5m", "reason": "x"}, 403, "limit takes the role admin"),
        (ANN, "clear-limit", {"reason": "x"}, 403, "clear-limit takes the role admin; ann has operate"),
        (ANN, "count", {"what": "pause", "all": "all"}, 404, "there is no action"),
        (ANN, "move", {"all": "all", "reason": "x"}, 400, "into which lane?"),
        (ANN, "redrive", {"reason": "x"}, 400, "nothing says which requests"),
        (ANN, "abort", {"reason": "x"}, 400, "which command?"),
        (ROOT, "limit", {"requests_per_second": "5", "reason": "x"}, 400, "for how long?"),
        (ROOT, "limit", {"for": "5m", "reason": "x"}, 400, "no limit is given"),
        (ROOT, "cancel", {"all": "all", "reason": "x"}, 400, "name, SERVICE, to confirm"),
        (ROOT, "cancel", {"reason": "x", "confirm": "SERVICE"}, 400, "nothing says which requests"),
    ],
)
async def test_each_refusal_says_why_and_nothing_is_done(guarded, untouched, token, action, form, status, why):
    service = untouched
    _, html = await asyncio.to_thread(guarded.as_browser, token, f"/services/{service}")
    given = hidden(html, f"/services/{service}/{action}")
    sent = {name: value.replace("SERVICE", service) for name, value in form.items()}
    headers = {} if given else {"Authorization": f"Bearer {token}"}  # who sees no form can still send one
    answer = await asyncio.to_thread(
        guarded.as_browser, token, f"/services/{service}/{action}", {**given, **sent}, **headers
    )
    assert (answer[0], why.replace("SERVICE", service) in answer[1]) == (status, True), answer
    assert await guarded.commands(service) == []


async def test_only_who_may_see_names_is_told_the_producers_id_of_a_request(guarded):
    name = f"slow-{uuid.uuid4().hex[:6]}"
    topic = guarded.names.requests(name)
    await create(guarded.bootstrap, topic)
    await send(guarded.bootstrap, topic, [(None, b"x", [("gate-id", b"order-1")])])
    path = f"/v1/requests/{topic}-0@0"
    assert (await asyncio.to_thread(guarded.ask, path)).status == 401
    found = await asyncio.to_thread(guarded.ask, path, Authorization=f"Bearer {BOB}")
    assert json.loads(found.text)["producer_id"] == "order-1"


async def test_a_page_of_elsewhere_can_do_nothing(guarded):
    service = await guarded.service()
    form = {**await asyncio.to_thread(guarded.form, ANN, service, "pause"), "for": "15m", "reason": "x"}
    path = f"/services/{service}/pause"
    for change, headers in (
        ({}, {"Sec_Fetch_Site": "cross-site"}),
        ({}, {"Sec_Fetch_Site": "same-site"}),
        ({"csrf": "0" * 64}, {}),
        ({"id": "another"}, {}),
        ({"csrf": ""}, {}),
        ({"csrf": "é"}, {}),
    ):
        status, html = await asyncio.to_thread(guarded.as_browser, ANN, path, {**form, **change}, **headers)
        assert (status, "Not done:" in html) == (403, True)
    status, _ = await asyncio.to_thread(guarded.as_browser, ROOT, path, form)
    assert status == 403, "the form is another one's"
    assert await guarded.commands(service) == []
    answer = await asyncio.to_thread(guarded.ask, path, None, Cookie=f"gate-token={ANN}")
    assert answer.status == 405


async def test_a_cancel_is_counted_first_and_done_once(guarded):
    service = await guarded.service()
    given = await asyncio.to_thread(guarded.form, ROOT, service, "count")
    counting = {**given, "lane": "low"}
    status, html = await asyncio.to_thread(guarded.as_browser, ROOT, f"/services/{service}/count", counting)
    fits = re.search(rf"(\d) requests of {service} fit", html)
    assert (status, fits and fits[1]) == (200, "3")
    form = hidden(html, f"/services/{service}/cancel")
    assert form["lane"] == "low"
    sent = {**form, "reason": "they have left us", "confirm": service}
    click = lambda: asyncio.to_thread(guarded.as_browser, ROOT, f"/services/{service}/cancel", sent)  # noqa: E731
    assert [status for status, _ in await asyncio.gather(click(), click())] == [303, 303]
    rejected = await read_count(guarded.bootstrap, [guarded.names.rejected(service)], 3)
    assert len(rejected) == 3
    assert (await click())[0] == 303
    audits = [audit for audit in await guarded.audits(service, 1) if audit.what == "cancel"]
    assert [(audit.who, audit.reason, audit.after["done"]) for audit in audits] == [("root", "they have left us", 3)]


async def test_a_limit_is_set_for_a_while_once_and_stands_beside_the_service(guarded):
    service = await guarded.service()
    given = await asyncio.to_thread(guarded.form, ROOT, service, "limit")
    form = {**given, "requests_per_second": "2/h", "burst_size": "1", "for": "15m", "reason": "campaign"}
    click = lambda: asyncio.to_thread(guarded.as_browser, ROOT, f"/services/{service}/limit", form)  # noqa: E731
    assert [status for status, _ in await asyncio.gather(click(), click())] == [303, 303]
    await asyncio.to_thread(until, lambda: guarded.line(service)["limit_set"] is not None)
    told = guarded.line(service)["limit_set"]
    assert (told["fields"]["requests_per_second"], told["who"], told["why"]) == ("2/h", "root", "campaign")
    assert 0 < told["until_ms"] - time.time() * 1000 <= 15 * 60_000
    for path in ("/", f"/services/{service}"):
        _, html = await asyncio.to_thread(guarded.as_browser, BOB, path)
        assert "limit set by root until" in html
    shown = await asyncio.to_thread(gate_command, "usage", service, guarded)
    assert f"limit set by root until {shown.partition('limit set by root until ')[2][:8]}" in shown
    assert "campaign" in shown
    back = {**await asyncio.to_thread(guarded.form, ROOT, service, "clear-limit"), "reason": "it is over"}
    assert (await asyncio.to_thread(guarded.as_browser, ROOT, f"/services/{service}/clear-limit", back))[0] == 303
    await asyncio.to_thread(until, lambda: guarded.line(service)["limit_set"] is None)
    assert (await click())[0] == 303, "a tab that was left open"
    audits = await guarded.audits(service, 2)
    assert [(audit.what, audit.result) for audit in audits] == [("set-limit", "done"), ("clear-limit", "done")]


async def test_the_id_of_one_command_is_not_taken_for_another(guarded):
    service = await guarded.service()

    async def take(action: str, **form: str) -> Answered:
        sent = {**form, "id": "the-same", "reason": "x"}
        path = f"/services/{service}/{action}"
        while True:  # it is the same command, however often it is sent
            answer = await asyncio.to_thread(guarded.ask, path, sent, Authorization=f"Bearer {ROOT}")
            if "is under way" not in answer.text:
                return answer

    cancel, limit = await asyncio.gather(
        take("cancel", lane="low", confirm=service),
        take("limit", requests_per_second="2/h", burst_size="1", **{"for": "15m"}),
    )
    assert (cancel.status, "3 of 3 requests" in cancel.text) == (200, True), cancel.text
    assert (limit.status, "limits of" in limit.text) == (200, True), limit.text
    await asyncio.to_thread(until, lambda: guarded.line(service)["limit_set"] is not None)
    again = await take("move", lane="high", to="low")
    assert (again.status, "is of a cancel" in again.text) == (400, True), again.text
    audits = [audit.what for audit in await guarded.audits(service, 2)]
    assert sorted(audits) == ["cancel", "set-limit"]


@pytest.mark.parametrize(
    ("what", "more"),
    [("move", {"lane": "low", "to": "high"}), ("expedite", {"lane": "low"}), ("redrive", {"all": "all"})],
)
async def test_what_waits_or_was_rejected_is_counted_and_then_acted_upon_once(guarded, what, more):
    service = await guarded.service()
    if what == "redrive":
        with_bearer = {"Authorization": f"Bearer {ROOT}"}
        form = {"lane": "low", "reason": "to have some rejected", "confirm": service, "id": uuid.uuid4().hex}
        await asyncio.to_thread(guarded.ask, f"/services/{service}/cancel", form, **with_bearer)
        await read_count(guarded.bootstrap, [guarded.names.rejected(service)], 3)
    given = await asyncio.to_thread(guarded.form, ANN, service, "count")
    counting = {**given, "what": what, **more}
    status, html = await asyncio.to_thread(guarded.as_browser, ANN, f"/services/{service}/count", counting)
    assert (status, f"3 requests of {service} fit" in html) == (200, True)
    sent = {**hidden(html, f"/services/{service}/{what}"), "reason": "the customer waits"}
    assert {name: sent[name] for name in more} == more
    click = lambda: asyncio.to_thread(guarded.as_browser, ANN, f"/services/{service}/{what}", sent)  # noqa: E731
    assert [status for status, _ in await asyncio.gather(click(), click())] == [303, 303]
    assert (await click())[0] == 303, "a reload"
    done = [audit for audit in await guarded.audits(service, 1 + (what == "redrive")) if audit.what == what]
    assert [(audit.who, audit.reason, audit.after["done"]) for audit in done] == [("ann", "the customer waits", 3)]
    await asyncio.to_thread(
        until, lambda: f"{what} by ann: 3 of 3" in guarded.as_browser(BOB, f"/services/{service}")[1]
    )
    abort = {**await asyncio.to_thread(guarded.form, ANN, service, "pause")}
    status, html = await asyncio.to_thread(
        guarded.as_browser, ANN, f"/services/{service}/abort", {**abort, "command": sent["id"], "reason": "too late"}
    )
    assert (status, f"command {sent['id']} is over: done" in html, "; None" in html) == (400, True, False)


def gate_command(command: str, service: str, guarded: "Guarded") -> str:
    where = ["--bootstrap", guarded.bootstrap, "--prefix", guarded.names.prefix]
    done = subprocess.run(
        [sys.executable, "-m", "gate", command, service, *where], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


async def test_a_console_is_killed_in_the_midst_and_the_form_is_sent_to_another(guarded, tmp_path):
    service = await guarded.service()
    (tmp_path / "tokens").write_text(TOKENS)
    options = ("--tokens", str(tmp_path / "tokens"))
    path, headers = f"/services/{service}/pause", {"Cookie": f"gate-token={ANN}", "Sec-Fetch-Site": "same-origin"}

    def sent(url: str, form: dict[str, str]) -> int:
        asked = urllib.request.Request(url + path, urlencode(form).encode(), headers)
        try:
            with urllib.request.build_opener(Stay).open(asked, timeout=60) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return 0  # it is gone

    def script() -> None:
        with consoled(guarded.bootstrap, guarded.names.prefix, *options) as (url, process):
            page = urllib.request.Request(f"{url}/services/{service}", headers=headers)
            with urllib.request.urlopen(page, timeout=60) as answer:
                given = hidden(answer.read().decode(), path)
            form = {**given, "for": "15m", "reason": "the bank is down"}
            clicks = [Thread(target=sent, args=(url, form)) for _ in range(3)]
            for click in clicks:
                click.start()
            until(lambda: guarded.line(service)["state"] == "paused")
            process.kill()
            process.wait(10)
            for click in clicks:
                click.join()
        with consoled(guarded.bootstrap, guarded.names.prefix, *options) as (url, _):
            assert sent(url, form) == 303, "the form of the one is good for the other"
            assert sent(url, {**form, "csrf": "0" * 64}) == 403

    await asyncio.to_thread(script)
    resume = {"reason": "to see what came before", "id": uuid.uuid4().hex}
    bearer = {"Authorization": f"Bearer {ANN}"}
    answer = await asyncio.to_thread(guarded.ask, f"/services/{service}/resume", resume, **bearer)
    assert answer.status == 200
    assert [audit.what for audit in await guarded.audits(service, 2)] == ["pause", "resume"]


def test_a_page_says_nothing_that_its_address_makes_up(guarded):
    for query in ("said=all+is+well", "done=all+is+well"):
        status, html = guarded.as_browser(ANN, f"/services/x?{query}")
        assert (status, "all is well" in html) == (200, False)


@pytest.mark.parametrize(("network", "status"), [("127.0.0.0/8", 200), ("10.0.0.0/8", 401)])
def test_a_proxy_is_known_by_its_connection_and_not_by_what_it_forwards(guarded, network, status):
    named = {"X-Forwarded-User": "carol", "X-Forwarded-For": "10.1.2.3"}
    with consoled(guarded.bootstrap, guarded.names.prefix, "--trusted-proxy", network) as (url, _):
        assert httpx.get(f"{url}/v1/pressure", headers=named, timeout=60).status_code == status


async def test_a_program_acts_by_its_token_alone(guarded):
    service = await guarded.service()
    form = {"for": "15m", "reason": "deploy", "id": uuid.uuid4().hex}
    headers = {"Authorization": f"Bearer {ANN}"}
    answer = await asyncio.to_thread(guarded.ask, f"/services/{service}/pause", form, **headers)
    assert json.loads(answer.text) == {"command": form["id"], "done": f"{service} is paused for 15m", "fits": None}
    unknown = await asyncio.to_thread(guarded.ask, "/services/nobody/pause", form, **headers)
    assert (unknown.status, json.loads(unknown.text)["error"].startswith("there is no service 'nobody'")) == (409, True)


async def test_somebody_on_call_pauses_by_the_keyboard(guarded, browser):
    service = await guarded.service()

    def script() -> None:
        with browser.page(guarded.url) as page:
            page.size(390)
            page.open(f"/services/{service}")
            page.until("document.querySelector('[name=token]')")
            page.run("document.querySelector('[name=token]').focus()")
            page.call("Input.insertText", text=ANN)
            page.key("Enter", "\r")
            page.until("document.querySelector('.actions')")
            assert page.run("document.documentElement.scrollWidth") <= 390
            for _ in range(40):
                page.key("Tab")
                if page.run("document.activeElement?.name === 'reason'"):
                    break
            page.call("Input.insertText", text="the bank is down")
            page.key("Tab")
            assert page.run("document.activeElement.innerText") == "Pause"
            page.key("Enter", "\r")
            page.until("document.querySelector('.said')?.innerText.includes('is paused for 15m')")
            page.until("document.querySelector('main [role=status]').innerText.includes('by ann: the bank is down')")
            assert page.foreign == []
            assert [error for error in page.errors if "401" not in error] == []

    await asyncio.to_thread(script)
    assert len(await guarded.commands(service)) == 1
    assert time.time() * 1000 < (await guarded.commands(service))[0].until


@pytest.mark.parametrize(
    ("topic", "schema"),
    [("usage", "Usage"), ("control", "Command"), ("answers", "Answer"), ("audit", "Audit"), ("policies", "Published"),
     ("alerts", ""), ("history", "History")],
)  # fmt: skip
async def test_all_that_flowed_fits_the_schemas(guarded, topic, schema):
    await guarded.service()
    form = {"for": "15m", "reason": "to have some", "id": uuid.uuid4().hex, "requests_per_second": "3/h"}
    service = (await Log(guarded.bootstrap, guarded.names).read(guarded.names.usage))[-1].key.decode()
    bearer = {"Authorization": f"Bearer {ROOT}"}
    await asyncio.to_thread(guarded.ask, f"/services/{service}/limit", form, **bearer)
    document = json.loads(Path("docs/reference/asyncapi.json").read_text())
    there = await read(guarded.bootstrap, [getattr(guarded.names, topic)], bool, deadline=120.0)
    assert there
    for record in there:
        kind = schema or "Alert" + "".join(
            part.capitalize()
            for part in dict(record.headers)["ce_type"].decode().removeprefix("gate.").replace("_", ".").split(".")
        )
        jsonschema.validate(json.loads(record.value), {**document, "$ref": f"#/components/schemas/{kind}"})


def test_what_is_answered_under_v1_fits_the_schemas(guarded):
    document = json.loads(Path("docs/reference/openapi.json").read_text())
    for path in ("/v1/usage", "/v1/policy", "/v1/pressure"):
        answer = json.loads(guarded.ask(path, Authorization=f"Bearer {BOB}").text)
        said = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(answer, {**document, **said})
    refused = guarded.ask("/v1/requests/nobody", Authorization=f"Bearer {BOB}")
    assert refused.status == 404
    jsonschema.validate(json.loads(refused.text), {**document, "$ref": "#/components/schemas/Problem"})
