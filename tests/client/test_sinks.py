"""Each sink before the real thing: an HTTP server, an SMTP server, an Alertmanager."""

import asyncio
import base64
import contextlib
import email
import email.policy
import hashlib
import hmac
import json
import shutil
import subprocess
import time
import urllib.request

import pytest
import stamina
from aiosmtpd.controller import Controller

from gate.admission.model import EventKind
from gate.client._alert_sinks import Alertmanager, Mail, RefusedError, Slack, Webhook
from gate.client._alert_sinks.alertmanager import _NAMES
from gate.client._alert_sinks.receiver import Receiver, ReceiverError
from gate.client._alert_sinks.webhook import verify
from gate.client._delivery import Pauses, Subscription
from gate.kafka.local.config import free_port
from gate.observe.alerts import clock_skewed, partition_resumed, partition_waiting, policy_refused, shard_failed
from gate.protocol import alert_types
from tests.client.receivers import SINCE, alert_of, breach

ALERT = alert_of(breach())
QUICK = Pauses(first=0.001, longest=0.01)


@pytest.fixture
async def webhook(receiver):
    sink = Webhook(receiver.url, secret="k")
    yield Subscription("webhook", sink, pauses=QUICK)
    await sink.aclose()


def test_a_partition_that_stands_is_one_alert_until_it_goes_on():
    what = {"service": "pay", "topic": "gate.requests.pay", "partition": 3, "offset": 7, "shard": 1, "since": SINCE}
    said = {"reason": "a transaction is open", "remedy": "end it"}
    waiting, resumed = (
        Alertmanager("http://nowhere.invalid")._entry(alert_of(make(**what, **said, at=SINCE + at)))
        for make, at in ((partition_waiting, 60 * 10**9), (partition_resumed, 90 * 10**9))
    )
    assert waiting["labels"] == resumed["labels"]
    assert waiting["labels"] == {
        "alertname": "GatePartitionWaiting",
        "gate": "gate",
        "service": "pay",
        "shard": "1",
        "topic": "gate.requests.pay",
        "partition": "3",
    }
    assert waiting["annotations"]["summary"] == "gate.requests.pay-3 at offset 7 stands: a transaction is open; end it"
    mails = [Mail("nowhere.invalid", to=["a@b"])._message(alert_of(make(**what, **said, at=SINCE + 10**9)))
             for make in (partition_waiting, partition_resumed)]  # fmt: skip
    assert [mail["Subject"] for mail in mails] == [
        "[gate] pay has a partition that stands",
        "[gate] pay has a partition that goes on again",
    ]
    assert mails[0]["References"] == mails[1]["References"], "one thread"
    assert waiting["startsAt"] == resumed["startsAt"]
    assert resumed["endsAt"] < waiting["endsAt"]
    assert "goes on" in resumed["annotations"]["summary"]


# Receivers that take their time


@contextlib.asynccontextmanager
async def receiving(answer):
    """A server that reads a post and lets `answer` write; its URL, and how many bytes went out."""
    sent, tasks = [], []

    async def take(reader, writer):
        tasks.append(asyncio.current_task())
        try:
            await reader.readuntil(b"\r\n\r\n")
            async for piece in answer():
                writer.write(piece)
                sent.append(len(piece))
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", sent
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


async def dripping_head():
    yield b"HTTP/1.1 200 OK\r\n"
    while True:
        yield b"x: y\r\n"
        await asyncio.sleep(0.05)


async def silence():
    await asyncio.sleep(3600)
    yield b""


@pytest.mark.parametrize("answer", [dripping_head, silence])
async def test_a_post_has_a_deadline_as_a_whole(answer):
    async with receiving(answer) as (url, _), asyncio.timeout(5):
        receiver = Receiver("the webhook", url, seconds=0.3)
        with pytest.raises(ReceiverError, match=r"^the webhook has not answered within 0.3 s$"):
            await receiver.post(b"{}", {})
        await receiver.aclose()


@pytest.mark.parametrize("length", [b"content-length: 1000000000000", b"transfer-encoding: chunked"])
@pytest.mark.parametrize(
    ("status", "error"), [(b"200 OK", None), (b"500 No", ReceiverError), (b"400 No", RefusedError)]
)
async def test_of_an_endless_answer_only_the_head_counts(length, status, error):
    async def endless():
        yield b"HTTP/1.1 " + status + b"\r\n" + length + b"\r\n\r\n"
        while True:
            yield b"8000\r\n" + b"x" * 0x8000 + b"\r\n"

    async with receiving(endless) as (url, sent), asyncio.timeout(5):
        receiver = Receiver("the webhook", url, seconds=3)
        with pytest.raises(error) if error else contextlib.nullcontext():
            await receiver.post(b"{}", {})
        await receiver.aclose()
        assert sum(sent) < 16 << 20


async def test_what_was_taken_counts_as_taken_though_the_rest_drips():
    async def dripping():
        yield b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        while True:
            yield b"1\r\nx\r\n"
            await asyncio.sleep(0.05)

    async with receiving(dripping) as (url, _), asyncio.timeout(5):
        receiver = Receiver("the webhook", url, seconds=3)
        await receiver.post(b"{}", {})
        await receiver.aclose()


# Whether to try again


@pytest.mark.parametrize("status", [301, 401, 404, 408, 429, 500, 503])
async def test_posting_goes_on_until_the_alert_is_taken(receiver, webhook, status):
    receiver.answers = [(status, {})] * 3
    await webhook.deliver(ALERT)
    assert [status for status, _ in receiver.got] == [status] * 3 + [204]


@pytest.mark.parametrize("status", [400, 413, 415, 422])
async def test_an_alert_called_wrong_is_left_out(receiver, webhook, status):
    receiver.answers = [(status, {"retry-after": "1"})]
    await webhook.deliver(ALERT)
    assert [status for status, _ in receiver.got] == [status]


async def test_a_receiver_may_say_when_to_come_back(receiver, webhook):
    pauses = []
    hooks = stamina.instrumentation.get_on_retry_hooks()
    stamina.instrumentation.set_on_retry_hooks([lambda details: pauses.append(details.wait_for)])
    try:
        receiver.answers = [(429, {"retry-after": "1"}), (503, {"retry-after": "soon"})]
        await webhook.deliver(ALERT)
    finally:
        stamina.instrumentation.set_on_retry_hooks(hooks)
    assert pauses[0] == 1.0
    assert pauses[1] < 0.1
    assert len(receiver.got) == 3


async def test_secrets_are_not_logged(receiver, webhook, caplog):
    receiver.answers = [(500, {}), (400, {})]
    await webhook.deliver(ALERT)
    receiver.server.server_close()
    lost = Subscription("lost", Slack(receiver.url.replace("127.0.0.1", "127.0.0.1.invalid")), attempts=1)
    await lost.deliver(ALERT)
    await lost.sink.aclose()
    told = caplog.text
    assert "the webhook answered 500" in told
    assert "can't be reached: ConnectError" in told
    assert "secret" not in told


# Webhook


async def test_a_post_is_signed_and_says_which_alert_it_is(receiver, webhook):
    receiver.answers = [(503, {})]
    await webhook.deliver(ALERT)
    first, second = ({name.lower(): value for name, value in headers.items()} for headers in receiver.headers)
    assert first["webhook-id"] == second["webhook-id"] == ALERT.id == f"gate/payments/opened/{SINCE}"
    assert second["idempotency-key"] == f'"{ALERT.id}"'
    body, at = receiver.bodies[1], int(second["webhook-timestamp"])
    assert verify("k", second, body)
    assert not verify("other", second, body)
    assert not verify("k", second, body + b" ")
    assert not verify("k", second, body, now=at + 301)
    assert not verify("k", {**second, "webhook-id": "x"}, body)
    assert not verify("k", {}, body)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("webhook-timestamp", "9" * 400),
        ("webhook-timestamp", "1" * 5_000),
        ("webhook-timestamp", "١٦١٤٢٦٥٣٣٠"),
        ("webhook-timestamp", "\ud800"),
        ("webhook-id", "\ud800"),
        ("webhook-signature", "\ud800"),
        ("webhook-signature", "v1,\udcff v1,Ü"),
    ],
)
def test_whatever_stands_in_the_headers_the_answer_is_no(name, value):
    headers = {"webhook-id": "a", "webhook-timestamp": "1614265330", "webhook-signature": "v1,x"} | {name: value}
    assert not verify("k", headers, b"{}", now=1614265330.0)


@pytest.mark.parametrize("secret", ["", "whsec_"])
def test_an_empty_secret_signs_nothing(secret):
    digest = hmac.digest(b"", b"a.1614265330.{}", hashlib.sha256)
    signature = "v1," + base64.b64encode(digest).decode()
    headers = {"webhook-id": "a", "webhook-timestamp": "1614265330", "webhook-signature": signature}
    assert not verify(secret, headers, b"{}", now=1614265330)
    with pytest.raises(ValueError, match="empty"):
        Webhook("http://nowhere.invalid", secret=secret)


def test_the_signature_is_that_of_the_specification():
    """The example of standardwebhooks.com's own test suite."""
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    assert verify(secret, headers, body, now=1614265330)


async def test_an_id_that_no_header_can_hold_is_escaped(receiver):
    sink = Webhook(receiver.url)
    await sink.deliver(alert_of(policy_refused("Ü\n.yaml", "9f2c01", "no", SINCE)))
    await sink.aclose()
    assert receiver.headers[0]["webhook-id"].startswith("gate/policy/%C3%9C%0A.yaml/")


def test_a_clock_that_is_off_is_known_to_all_receivers():
    alert = alert_of(clock_skewed("node-3", 5.04, SINCE))
    entry = Alertmanager("http://nowhere.invalid")._entry(alert)
    assert entry["labels"] == {"alertname": "GateClockSkewed", "gate": "gate", "host": "node-3"}
    assert entry["annotations"]["summary"] == "host node-3, clock is off by 5.0 s"
    mail = Mail("nowhere.invalid", to=["a@b"])._message(alert)
    assert (mail["Subject"], mail["References"]) == ("[gate] gate has a host whose clock is off", None)


def test_every_type_that_gates_write_has_words_of_its_own():
    types = {value for name, value in vars(alert_types).items() if name.isupper()}
    assert len(types) == 12
    assert types == set(_NAMES)


# Chat


async def test_a_chat_gets_a_line_that_mentions_nobody(receiver):
    sink = Slack(receiver.url)
    for alert in (ALERT, alert_of(policy_refused("p.yaml", "9f2c01", "<!channel> & more", SINCE))):
        await sink.deliver(alert)
    await sink.aclose()
    assert [body["text"] for _, body in receiver.got] == [
        f"*payments* :red_circle: over its limit: {ALERT.summary()}",
        "*gate* :warning: gate.policy.refused: &lt;!channel&gt; &amp; more",
    ]


# Mail


class Mailbox:
    def __init__(self):
        self.mails, self.answers = [], []

    async def handle_DATA(self, server, session, envelope):  # noqa: N802 - aiosmtpd's
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return self.answers.pop(0) if self.answers else "250 OK"


@pytest.fixture
def mailbox():
    box = Mailbox()
    controller = Controller(box, hostname="127.0.0.1", port=free_port())
    controller.start()
    box.port = controller.port
    yield box
    controller.stop()


async def test_a_breach_is_a_thread_of_mails(mailbox):
    sink = Mail("127.0.0.1", mailbox.port, to=["ops@example.com", "boss@example.com"], sender="gate@example.com")
    for kind in (EventKind.OPENED, EventKind.RESOLVED):
        await sink.deliver(alert_of(breach(kind=kind)))
    await sink.deliver(ALERT)
    assert mailbox.mails[0][:2] == ("gate@example.com", ["ops@example.com", "boss@example.com"])
    opened, resolved, again = (
        email.message_from_bytes(content, policy=email.policy.default) for *_, content in mailbox.mails
    )
    assert opened["subject"] == "[gate] payments over its limit"
    assert resolved["subject"] == "[gate] payments within its limits again"
    assert opened["date"].datetime == ALERT.time.replace(microsecond=0)
    assert opened["message-id"] == again["message-id"] != resolved["message-id"]
    assert opened["references"] == resolved["references"]
    text = opened.get_content()
    assert "window (payments.window.60s), 12 refused" in text
    assert json.loads(text.splitlines()[-1])["id"] == ALERT.id


async def test_a_mail_server_that_is_busy_is_tried_again_and_one_that_refuses_is_not(mailbox):
    sink = Subscription("mail", Mail("127.0.0.1", mailbox.port, to=["ops@example.com"]), pauses=QUICK)
    mailbox.answers = ["451 busy", "250 OK", "554 spam"]
    await sink.deliver(ALERT)
    assert len(mailbox.mails) == 2
    with pytest.raises(RefusedError, match="554"):
        await sink.sink.deliver(ALERT)


async def test_a_line_break_adds_no_header(mailbox):
    sink = Mail("127.0.0.1", mailbox.port, to=["ops@example.com"])
    await sink.deliver(alert_of(breach("a\r\nBcc: all@example.com", limit="x")))
    mail = email.message_from_bytes(mailbox.mails[0][2], policy=email.policy.default)
    assert mail["bcc"] is None
    assert "\\r\\n" in mail["subject"]


def test_a_mail_sink_tells_what_makes_no_sense():
    with pytest.raises(ValueError, match="nobody"):
        Mail("localhost", to=[])
    with pytest.raises(ValueError, match="over TLS only"):
        Mail("localhost", to=["a@b"], user="u", password="p")


# Alertmanager


@pytest.fixture
def alertmanager(tmp_path, receiver):
    """Start a real one, that tells the receiver at once; its URL."""
    program = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if program is None:
        pytest.skip("there is no Alertmanager on PATH: `make test-tools` installs it where apt is")
    config = tmp_path / "alertmanager.yml"
    config.write_text(
        "route: {receiver: here, group_by: [alertname, service], group_wait: 50ms, group_interval: 100ms}\n"
        f"receivers: [{{name: here, webhook_configs: [{{url: '{receiver.url}', send_resolved: true}}]}}]\n"
    )
    url = f"http://127.0.0.1:{free_port()}"
    options = [f"--config.file={config}", f"--storage.path={tmp_path}/data", "--cluster.listen-address="]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, *options, f"--web.listen-address={url.removeprefix('http://')}"], stdout=log, stderr=log
        )
    yield url
    process.kill()
    process.wait(10)


async def test_an_alertmanager_gets_a_breach_from_beginning_to_end(alertmanager, receiver, until):
    sink = Alertmanager(alertmanager)
    delivering = Subscription("alertmanager", sink, pauses=QUICK)
    since = time.time_ns() - 5 * 10**9
    for kind in (EventKind.OPENED, EventKind.ONGOING):
        await delivering.deliver(alert_of(breach(kind=kind, since=since, at=since + 10**9)))  # it may not be up yet
    await delivering.deliver(alert_of(policy_refused("p.yaml", "9f2c01", "line 3: no such field", since)))
    await delivering.deliver(alert_of(shard_failed(3, "broken", 3, since)))

    def notified(status):
        return [a for _, body in receiver.got for a in body["alerts"] if a["status"] == status]

    await until(lambda: len(notified("firing")) >= 3)
    firing = {alert["labels"]["alertname"]: alert for alert in notified("firing")}
    assert {name: alert["labels"] for name, alert in firing.items()} == {
        "GateBreach": {
            "alertname": "GateBreach",
            "gate": "gate",
            "service": "payments",
            "limit": "payments.window.60s",
            "reason": "window",
        },
        "GatePolicyRefused": {"alertname": "GatePolicyRefused", "gate": "gate", "policy_file": "p.yaml"},
        "GateShardFailed": {"alertname": "GateShardFailed", "gate": "gate", "shard": "3"},
    }
    assert "12 waiting" in firing["GateBreach"]["annotations"]["summary"]
    with urllib.request.urlopen(f"{alertmanager}/api/v2/alerts") as answer:
        assert len(json.load(answer)) == 3  # opened and ongoing are one
    await delivering.deliver(alert_of(breach(kind=EventKind.RESOLVED, since=since, at=since + 4 * 10**9)))
    await until(lambda: notified("resolved"))
    assert notified("resolved")[0]["fingerprint"] == firing["GateBreach"]["fingerprint"]
    await sink.aclose()
