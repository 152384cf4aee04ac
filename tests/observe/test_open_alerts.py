"""What the alerts topic tells is open, however it came there, and how it ends."""

import json

from gate.observe import alerts
from gate.observe.open_alerts import OpenAlerts

AT = 1_764_025_123_456_000_000
WHERE = {"service": "pay", "topic": "gate.requests.pay", "partition": 3, "offset": 7, "shard": 1, "since": AT}
WHY = {"reason": "no room", "remedy": "make some"}


def taken(*records: alerts.AlertRecord) -> OpenAlerts:
    known = OpenAlerts()
    for offset, record in enumerate(records):
        known.take(offset, dict(record.headers), record.value)
    return known


def test_what_begins_is_open_until_it_ends_and_told_again_it_is_the_same():
    failed = alerts.shard_failed(3, "no", 3, AT, gate="a:1")
    waiting = alerts.partition_waiting(**WHERE, **WHY, at=AT, gate="a:1")
    again = alerts.partition_waiting(**WHERE, **WHY, at=AT + 300, gate="b:1")
    refused = alerts.policy_refused("p.yaml", "1", "x", AT, gate="a:1")
    other = alerts.policy_refused("p.yaml", "1", "x", AT, gate="b:1")
    known = taken(failed, waiting, again, refused, other)
    assert [(one.at, one.shard, one.gate) for one in known] == [
        (0, 3, "a:1"),
        (1, 1, "a:1"),
        (3, -1, "a:1"),
        (4, -1, "b:1"),
    ]
    assert known.begins(99) == 0
    ends = [one.end("over", AT + 1, "c:1", "gate") for one in known]
    for offset, end in enumerate(ends):
        known.take(5 + offset, dict(end.headers), end.value)
    assert (len(known), known.begins(99)) == (0, 99)


def test_an_end_tells_who_has_found_it_and_has_the_same_id_whoever_that_is():
    failed, waiting, refused = taken(
        alerts.shard_failed(3, "no", 3, AT, gate="a:1"),
        alerts.partition_waiting(**WHERE, **WHY, at=AT + 60, gate="a:1"),
        alerts.policy_refused("p.yaml", "1", "x", AT, gate="a:1"),
    )
    end = failed.end("over", AT + 1, "c:1", "gate")
    assert dict(end.headers)["ce_id"] == dict(failed.end("why", AT + 9, "d:1", "gate").headers)["ce_id"]
    assert {key: json.loads(end.value)[key] for key in ("shard", "gate", "reason")} == {
        "shard": 3, "gate": "c:1", "reason": "over",
    }  # fmt: skip
    told = json.loads(waiting.end("it goes on", AT + 99, "c:1", "gate").value)
    assert told == {
        **WHERE,
        "since": "2025-11-24T22:58:43.456Z",
        "reason": "it goes on",
        "remedy": "make some",
        "gate": "c:1",
    }
    told = json.loads(refused.end("gone", AT + 99, "c:1", "gate").value)
    assert (told["gate"], told["policy_file"]) == ("a:1", "p.yaml"), "of whom it was told, or nobody could pair them"


def test_what_is_no_alert_of_ours_is_passed_over():
    known = OpenAlerts()
    known.take(0, {}, None)
    known.take(1, {"ce_type": None}, b"{}")
    known.take(2, {"ce_type": b"gate.shard.failed"}, b"{")
    known.take(3, {"ce_type": b"gate.shard.failed"}, b'{"shard": "3"}')
    known.take(4, {"ce_type": b"gate.breach.opened"}, b'{"service": "pay"}')
    known.take(5, {"ce_type": b"gate.shard.recovered"}, b'{"shard": 3}')
    assert len(known) == 0
