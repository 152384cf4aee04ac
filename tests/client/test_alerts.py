"""Alerts on a real broker: to whom, in which order, and what a receiver that is down misses."""

import asyncio
import io
import json

import pytest

from gate.admission.model import EventKind
from gate.client._alert_sinks import Webhook
from gate.client._alerts import Alerts, Console, Pauses
from tests.client.receivers import breach

QUICK = Pauses(first=0.001, longest=0.01)


@pytest.fixture
async def alerts(log):
    """Write alerts, as the gate does."""
    await log.create(log.names.alerts)

    async def write(*records):
        for record in records:
            await log.write(log.names.alerts, record.value, key=record.key, headers=list(record.headers))

    return write


@pytest.fixture
def program(bootstrap, names, prefix):
    def make(*sinks, **options):
        made = Alerts(bootstrap, prefix=names.prefix, group_id=f"{prefix}-alerts", **options)
        for sink in sinks:
            made.add(sink, pauses=QUICK)
        return made

    return make


@pytest.fixture
def committed(log, prefix):
    async def read(name):
        try:
            return await log.committed(f"{prefix}-alerts.{name}", log.names.alerts)
        except KeyError:  # the broker does not know the group yet
            return None

    return read


async def test_alerts_are_printed_for_people(alerts, program, start, until):
    out = io.StringIO()
    start(program(Console(file=out)))
    await alerts(breach(), breach(kind=EventKind.RESOLVED, backlog=0, eta_seconds=None))
    await until(lambda: out.getvalue().count("\n") == 2)
    known = "window (payments.window.60s), 12 refused, 180.5/s offered"
    assert out.getvalue().splitlines() == [
        f"2025-11-24T22:58:43.456Z  gate.breach.opened  payments  {known}, 12 waiting, the last one in 42 s",
        f"2025-11-24T22:58:43.456Z  gate.breach.resolved  payments  {known}, 0 waiting",
    ]


async def test_alerts_are_printed_as_cloudevents(alerts, program, start, until):
    out = io.StringIO()
    start(program(Console(as_json=True, file=out)))
    await alerts(breach())
    await until(lambda: out.getvalue().endswith("\n"))
    event = json.loads(out.getvalue())
    assert (event["specversion"], event["type"], event["data"]["refused"]) == ("1.0", "gate.breach.opened", 12)


async def test_handlers_get_what_they_asked_for(alerts, program, start, until):
    consumer, got = program(), {"page": [], "count": [], "any": []}

    @consumer.on("gate.breach.opened", service="pay*")
    async def page(alert):
        got["page"].append((alert.type, alert.service))

    @consumer.on("gate.breach.opened", "gate.breach.resolved")
    def count(alert):
        got["count"].append(alert.type.removeprefix("gate.breach."))

    consumer.on(name="any")(lambda alert: got["any"].append(alert.id))
    start(consumer)
    await alerts(*[breach(service, kind) for service in ("payments", "search") for kind in EventKind])
    await until(lambda: len(got["any"]) == 8 and len(got["count"]) == 4 and got["page"])
    assert got["page"] == [("gate.breach.opened", "payments")]
    assert got["count"] == ["opened", "resolved"] * 2
    assert len(set(got["any"])) == 8


async def test_a_webhook_gets_each_alert_once_and_in_order(alerts, program, receiver, start, until, committed):
    await alerts(*[breach(service) for service in "abc"])
    start(program(Webhook(receiver.url)))
    await until(lambda: len(receiver.got) == 3)
    assert [alert["subject"] for _, alert in receiver.got] == ["a", "b", "c"]
    assert receiver.headers[0]["content-type"] == "application/cloudevents+json"

    async def all_are_committed():
        return await committed("webhook") == 3

    await until(all_are_committed)


async def test_a_sink_that_is_down_holds_up_nobody_and_loses_nothing(
    alerts, program, receiver, start, until, committed
):
    receiver.answers = [(503, {})] * 100_000
    out = io.StringIO()
    carrying = program(Console(file=out), Webhook(receiver.url))
    run = start(carrying)
    await alerts(*[breach(service) for service in "abc"])
    await until(lambda: out.getvalue().count("\n") == 3 and len(receiver.got) > 5)

    async def the_others_are_committed():
        return await committed("console") == 3

    await until(the_others_are_committed)
    carrying.stop()
    carrying.stop()
    await asyncio.wait_for(run, 20)
    assert await committed("webhook") == 0
    assert receiver.taken == []
    receiver.answers.clear()
    out.truncate(0)
    start(program(Console(file=out), Webhook(receiver.url)))
    await until(lambda: len(receiver.taken) == 3)
    assert len(set(receiver.taken)) == 3
    assert out.getvalue() == ""


async def test_a_new_group_gets_what_comes_from_then_on_even_after_a_crash(
    alerts, program, receiver, start, until, committed
):
    await alerts(breach("old"))
    receiver.answers = [(503, {})] * 100_000
    run = asyncio.create_task(program(Webhook(receiver.url), from_beginning=False).run())

    async def it_listens():
        return await committed("webhook") == 1

    await until(it_listens)
    await alerts(breach("new"))
    await until(lambda: receiver.got)
    run.cancel()  # no orderly stop, and nothing was delivered
    await asyncio.wait([run])
    receiver.answers.clear()
    start(program(Webhook(receiver.url), from_beginning=False))
    await until(lambda: receiver.taken)
    assert receiver.taken == [f"gate/new/opened/{1_764_025_122_456_000_000}"]


async def test_a_handler_that_fails_is_called_again_or_given_up(alerts, program, start, until, committed, caplog):
    consumer, calls, later = program(), [], []

    @consumer.on(attempts=2)
    def fails(alert):
        calls.append(alert.service)
        raise SystemExit("no") if alert.service == "a" else ZeroDivisionError

    @consumer.on("gate.breach.*")
    async def fails_once(alert):
        later.append(alert.service)
        if len(later) == 1:
            raise OSError("not yet")

    start(consumer)
    await alerts(breach("a"), breach("b"))
    await until(lambda: len(calls) == 4 and len(later) == 3)
    assert calls == ["a", "a", "b", "b"]
    assert later == ["a", "a", "b"]

    async def both_are_committed():
        return (await committed("fails"), await committed("fails_once")) == (2, 2)

    await until(both_are_committed)
    told = caplog.text
    assert "RuntimeError: the handler called sys.exit('no')" in told
    assert told.count("alert left out") == 2


async def test_what_is_no_alert_is_passed_over(alerts, program, start, until, log, committed):
    out = io.StringIO()
    start(program(Console(file=out)))
    topic = log.names.alerts
    await log.write(topic, b"junk", None, key=b"k")
    await log.write(topic, b"junk", headers=[("ce_id", b"1"), ("ce_time", b"\xff")])
    await log.write(topic, b"{}", headers=[pair for pair in breach().headers if pair[0] != "ce_id"])
    for data in (b"[]", b"\xff", b"{"):
        await log.write(topic, data, headers=list(breach().headers))
    await alerts(breach())
    await until(out.getvalue)
    assert out.getvalue().count("\n") == 1

    async def all_are_committed():
        return await committed("console") == 8

    await until(all_are_committed)


async def test_a_foreign_event_is_printed_with_what_it_has(alerts, program, start, until, log):
    out = io.StringIO()
    start(program(Console(file=out)))
    told = {"id": b"1", "source": b"/x", "type": b"other", "specversion": b"1.0", "time": b"2025-11-24T23:00:00+01:00"}
    headers = [(f"ce_{name}", value) for name, value in told.items()]
    data = b'{"refused": "many", "eta_seconds": {}, "reason": "\\u001b[31mred", "since": "noon"}'
    await log.write(log.names.alerts, data, headers=[*headers, ("content-type", b"application/json")])
    await until(out.getvalue)
    assert out.getvalue() == "2025-11-24T22:00:00.000Z  other  -  \\x1b[31mred\n"


def test_what_makes_no_sense_is_told():
    consumer = Alerts("localhost:9092")
    with pytest.raises(ValueError, match="nobody is to get alerts"):
        consumer.main()
    consumer.add(Console())
    with pytest.raises(ValueError, match="a handler or sink 'console' already"):
        consumer.add(Console())
    with pytest.raises(ValueError, match="'<lambda>' can't name a handler"):
        consumer.on()(lambda alert: None)
