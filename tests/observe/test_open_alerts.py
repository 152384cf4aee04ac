"""What the alerts topic tells is open, however it came there, and how it ends."""

import json

import pytest

from gate.observe import alerts
from gate.observe.open_alerts import LONGEST_NAME, LONGEST_REMEDY, MOST_OPEN, OpenAlerts

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


@pytest.mark.parametrize(
    "forged",
    [
        {"since": "2025-11-24T22:58:43.456"},
        {"since": "0001-01-01T00:00:00+14:00"},
        {"since": "9999-12-31T23:59:59-14:00"},
        {"topic": "x" * (LONGEST_NAME + 1)},
        {"gate": "x" * (LONGEST_NAME + 1)},
    ],
    ids=lambda forged: str(forged)[:40],
)
def test_what_no_gate_can_have_written_is_passed_over(forged):
    """Whoever may write to the topic could else keep all other alerts from ending, or a shard from going on."""
    good = alerts.partition_waiting(**WHERE, **WHY, at=AT, gate="a:1")
    bad = good._replace(value=json.dumps(json.loads(good.value) | {"offset": 8} | forged).encode())
    assert [one.at for one in taken(bad, good)] == [1]


def test_the_end_of_an_alert_is_no_larger_than_a_batch_takes():
    long = alerts.partition_waiting(**WHERE, reason="no", remedy="x" * 2_000_000, at=AT, gate="a:1")
    (one,) = taken(long)
    assert len(one.end("over", AT, "c:1", "gate").value) < LONGEST_REMEDY + 1_000


def test_of_more_alerts_than_anybody_can_look_at_the_oldest_are_forgotten():
    known = taken(*(alerts.shard_failed(number, "no", 3, AT) for number in range(MOST_OPEN + 3)))
    assert (len(known), known.forgotten, known.begins(0)) == (MOST_OPEN, 3, 3)
