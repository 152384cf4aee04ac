import json
from dataclasses import replace

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event

from gate.admission.model import Event, EventKind, Reason
from gate.observe import alerts

AT = 1_764_025_123_456_789_000
EVENT = Event(
    kind=EventKind.OPENED,
    service="payments",
    limit="payments.window.60s",
    reason=Reason.WINDOW,
    at=AT,
    since=AT - 1_000_000_000,
    refused=12,
    offered_per_second=180.5,
    backlog=12,
    eta_seconds=None,
    usage=1.0,
    policy="9f2c01",
)


def test_an_alert_is_a_cloudevent_in_binary_mode():
    alert = alerts.of_event(EVENT)
    assert alert.key == b"payments"
    assert dict(alert.headers) == {
        "ce_id": b"gate/payments/opened/1764025122456789000",
        "ce_source": b"/gate/services/payments",
        "ce_type": b"gate.breach.opened",
        "ce_specversion": b"1.0",
        "ce_time": b"2025-11-24T22:58:43.456000Z",
        "ce_subject": b"payments",
        "content-type": b"application/json",
    }
    assert json.loads(alert.value) == {
        "service": "payments",
        "limit": "payments.window.60s",
        "reason": "window",
        "at": "2025-11-24T22:58:43.456Z",
        "since": "2025-11-24T22:58:42.456Z",
        "refused": 12,
        "offered_per_second": 180.5,
        "backlog": 12,
        "eta_seconds": None,
        "usage": 1.0,
        "policy": "9f2c01",
    }


def test_the_library_reads_it_back():
    alert = alerts.of_event(EVENT)
    event = from_kafka_event(KafkaMessage(dict(alert.headers), alert.key, alert.value))
    assert event.get_type() == "gate.breach.opened"
    assert event.get_data()["refused"] == 12


@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        (EventKind.OPENED, b"gate.breach.opened"),
        (EventKind.ONGOING, b"gate.breach.ongoing"),
        (EventKind.RESOLVED, b"gate.breach.resolved"),
        (EventKind.NEAR_LIMIT, b"gate.near_limit"),
    ],
)
def test_each_kind_has_its_type(kind, type_):
    assert dict(alerts.of_event(replace(EVENT, kind=kind)).headers)["ce_type"] == type_


def id_of(event, prefix="gate"):
    return dict(alerts.of_event(event, prefix).headers)["ce_id"]


def test_ids_are_stable_and_tell_events_apart():
    later = replace(EVENT, at=AT + 1, refused=99, backlog=0)
    assert id_of(EVENT) == id_of(later)
    ongoing = replace(EVENT, kind=EventKind.ONGOING)
    different = [
        EVENT,
        ongoing,
        replace(ongoing, at=AT + 1),
        replace(EVENT, kind=EventKind.RESOLVED),
        replace(EVENT, since=AT),
        replace(EVENT, service="reports"),
    ]
    assert len({id_of(event) for event in different} | {id_of(EVENT, "other")}) == len(different) + 1


def test_the_gates_own_troubles_are_alerts_too():
    refused = alerts.policy_refused("policy.yaml", "9f2c01", "line 3: no such field", AT)
    failed = alerts.shard_failed(3, "broker gone", 2, AT, gate="a:1")
    assert (dict(refused.headers)["ce_type"], dict(failed.headers)["ce_type"]) == (
        b"gate.policy.refused",
        b"gate.shard.failed",
    )
    assert json.loads(refused.value)["reason"] == "line 3: no such field"
    assert json.loads(failed.value) == {
        "service": "",
        "shard": 3,
        "gate": "a:1",
        "reason": "broker gone",
        "failures": 2,
        "since": "2025-11-24T22:58:43.456Z",
    }


def test_a_partition_that_stands_is_told_with_what_to_do():
    what = {"service": "pay", "topic": "gate.requests.pay", "partition": 3, "offset": 7, "shard": 1}
    waiting = alerts.partition_waiting(**what, since=AT, reason="no room", remedy="make some", at=AT + 60)
    resumed = alerts.partition_resumed(**what, since=AT, reason="no room", remedy="make some", at=AT + 90)
    assert [dict(one.headers)["ce_type"] for one in (waiting, resumed)] == [
        b"gate.partition.waiting",
        b"gate.partition.resumed",
    ]
    assert waiting.key == b"pay"
    told = {**what, "since": "2025-11-24T22:58:43.456Z", "reason": "no room", "remedy": "make some"}
    assert json.loads(waiting.value) == told
    again = alerts.partition_waiting(**what, since=AT, reason="no room", remedy="make some", at=AT + 300)
    assert len({dict(one.headers)["ce_id"] for one in (waiting, resumed, again)}) == 3


def test_no_alert_is_larger_than_a_broker_takes():
    """It is tried again until it is taken, and what comes after it waits: a policy of many services has many faults."""
    long = "services.x: no such field; " * 100_000
    assert len(alerts.policy_refused("p.yaml", "1", long, AT).value) < 100_000
    assert len(alerts.shard_failed(3, long, 3, AT).value) < 100_000
