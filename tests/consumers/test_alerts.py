import asyncio
import io
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest
import stamina

from consumers.alerts import Alert, AlertConsumer, Console, Webhook
from gate.admission.model import Event, EventKind, Reason
from gate.observe.alerts import of_event

SINCE = 1_764_025_122_456_000_000


def breach(service="payments", kind=EventKind.OPENED, **fields):
    known = {
        "limit": f"{service}.window.60s",
        "reason": Reason.WINDOW,
        "at": SINCE + 1_000_000_000,
        "since": SINCE,
        "refused": 12,
        "offered_per_second": 180.54,
        "backlog": 12,
        "eta_seconds": 42.4,
        "usage": 1.0,
        "policy": "9f2c01",
    }
    return of_event(Event(kind=kind, service=service, **(known | fields)))


class Receiver:
    """A real HTTP server that answers as told, 204 when it was told nothing."""

    def __init__(self):
        self.answers, self.headers, self.got = [], [], []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.headers.append(dict(self.headers))
                status, headers = receiver.answers.pop(0) if receiver.answers else (204, {})
                receiver.got.append((status, json.loads(body)))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?secret=1"

    @property
    def taken(self):
        return [alert["id"] for status, alert in self.got if status < 300]


@pytest.fixture
def receiver():
    receiver = Receiver()
    Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


@pytest.fixture
async def webhook(receiver):
    async with httpx.AsyncClient() as client:
        yield Webhook(receiver.url, client, first_pause=0.001, longest=0.01)


@pytest.fixture
async def alerts(log):
    """Write alerts, as the gate does."""
    await log.create(log.names.alerts)

    async def write(*records):
        for record in records:
            await log.write(log.names.alerts, record.value, key=record.key, headers=list(record.headers))

    return write


@pytest.fixture
def consumer(bootstrap, names, prefix):
    return lambda *sinks: AlertConsumer(bootstrap, sinks, group_id=f"{prefix}-alerts", names=names)


async def test_alerts_are_printed_for_people(alerts, consumer, start, until):
    out = io.StringIO()
    start(consumer(Console(file=out)))
    await alerts(breach(), breach(kind=EventKind.RESOLVED, backlog=0, eta_seconds=None))
    await until(lambda: out.getvalue().count("\n") == 2)
    known = "window (payments.window.60s), 12 refused, 180.5/s offered"
    assert out.getvalue().splitlines() == [
        f"2025-11-24T22:58:43.456Z  gate.breach.opened  payments  {known}, 12 waiting, the last one in 42 s",
        f"2025-11-24T22:58:43.456Z  gate.breach.resolved  payments  {known}, 0 waiting",
    ]


async def test_alerts_are_printed_as_cloudevents(alerts, consumer, start, until):
    out = io.StringIO()
    start(consumer(Console(as_json=True, file=out)))
    await alerts(breach())
    await until(lambda: out.getvalue().endswith("\n"))
    event = json.loads(out.getvalue())
    assert (event["specversion"], event["type"], event["data"]["refused"]) == ("1.0", "gate.breach.opened", 12)


async def test_a_webhook_gets_each_alert_once_and_in_order(
    alerts, consumer, receiver, webhook, start, until, log, prefix
):
    await alerts(*[breach(service) for service in "abc"])
    start(consumer(webhook))
    await until(lambda: len(receiver.got) == 3)
    assert [alert["subject"] for _, alert in receiver.got] == ["a", "b", "c"]
    assert receiver.headers[0]["content-type"] == "application/cloudevents+json"

    async def committed():
        return await log.committed(f"{prefix}-alerts", log.names.alerts) == 3

    await until(committed)


async def test_a_webhook_that_is_down_holds_up_nobody_and_loses_nothing(
    alerts, consumer, receiver, webhook, start, until, log, prefix
):
    receiver.answers = [(503, {})] * 10_000
    out = io.StringIO()
    carrying = consumer(Console(file=out), webhook)
    run = start(carrying)
    await alerts(*[breach(service) for service in "abc"])
    await until(lambda: out.getvalue().count("\n") == 3 and len(receiver.got) > 5)
    carrying.stop()
    carrying.stop()
    await asyncio.wait_for(run, 20)
    assert await log.committed(f"{prefix}-alerts", log.names.alerts) is None
    assert receiver.taken == []
    receiver.answers.clear()
    start(consumer(webhook))
    await until(lambda: len(receiver.taken) == 3)
    assert len(set(receiver.taken)) == 3


async def test_what_is_no_alert_is_passed_over(alerts, consumer, start, until, log, prefix):
    out = io.StringIO()
    start(consumer(Console(file=out)))
    topic = log.names.alerts
    await log.write(topic, b"junk", None, key=b"k")
    await log.write(topic, b"junk", headers=[("ce_id", b"1"), ("ce_time", b"\xff")])
    await log.write(topic, b"{}", headers=[pair for pair in breach().headers if pair[0] != "ce_id"])
    for data in (b"[]", b"\xff", b"{"):
        record = breach()
        await log.write(topic, data, headers=list(record.headers))
    await alerts(breach())
    await until(out.getvalue)
    assert out.getvalue().count("\n") == 1

    async def committed():
        return await log.committed(f"{prefix}-alerts", topic) == 8

    await until(committed)


async def test_a_foreign_event_is_printed_with_what_it_has(alerts, consumer, start, until, log):
    out = io.StringIO()
    start(consumer(Console(file=out)))
    told = {"id": b"1", "source": b"/x", "type": b"other", "specversion": b"1.0", "time": b"2025-11-24T23:00:00+01:00"}
    headers = [(f"ce_{name}", value) for name, value in told.items()]
    data = b'{"refused": "many", "eta_seconds": {}, "reason": "\\u001b[31mred"}'
    await log.write(log.names.alerts, data, headers=[*headers, ("content-type", b"application/json")])
    await until(out.getvalue)
    assert out.getvalue() == "2025-11-24T22:00:00.000Z  other  -  \\x1b[31mred\n"


# The webhook alone


@pytest.fixture
def alert():
    class Record:
        key, value, headers = breach()

    return Alert.of(Record)


@pytest.mark.parametrize("status", [301, 401, 404, 408, 429, 500, 503])
async def test_posting_goes_on_until_the_alert_is_taken(receiver, webhook, alert, status):
    receiver.answers = [(status, {})] * 3
    await webhook.take(alert)
    assert [status for status, _ in receiver.got] == [status] * 3 + [204]


@pytest.mark.parametrize("status", [400, 413, 415, 422])
async def test_an_alert_called_wrong_is_left_out(receiver, webhook, alert, status):
    receiver.answers = [(status, {})]
    await webhook.take(alert)
    assert [status for status, _ in receiver.got] == [status]


async def test_a_webhook_may_say_when_to_come_back(receiver, webhook, alert):
    pauses = []
    hooks = stamina.instrumentation.get_on_retry_hooks()
    stamina.instrumentation.set_on_retry_hooks([lambda details: pauses.append(details.wait_for)])
    try:
        receiver.answers = [(429, {"retry-after": "1"}), (503, {"retry-after": "soon"})]
        await webhook.take(alert)
    finally:
        stamina.instrumentation.set_on_retry_hooks(hooks)
    assert pauses[0] == 1.0
    assert pauses[1] < 0.1
    assert len(receiver.got) == 3


async def test_the_webhooks_secret_is_not_logged(receiver, webhook, alert, capsys):
    receiver.answers = [(500, {}), (400, {})]
    await webhook.take(alert)
    printed = capsys.readouterr()
    assert "the webhook answered 500" in printed.out + printed.err
    assert "secret" not in printed.out + printed.err
