"""What stands is told once, alerted when it lasts, and told again when it goes on."""

import json
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from gate.kafka.aio.fencing import OtherOwnerError
from gate.kafka.reporting import LOUD_AFTER, LOUD_SECONDS, Reporter
from gate.observe.http import Board
from gate.observe.metrics import Metrics
from gate.shard.stalled_partitions import ALERT_AFTER, ALERT_EVERY, SECOND, StalledPartition

AT = 1_764_025_123_456_000_000
HERE = StalledPartition("gate.requests.pay", 3, 1207, AT, "gate.rejected.pay is read-only", "allow Write on it", "pay")
THERE = StalledPartition("gate.requests.pay", 4, 9, AT, "gate.rejected.pay is read-only", "allow Write on it", "pay")


@pytest.fixture
def gate():
    """A reporter whose clock is `now`, and shows `step` more; what it alerts goes to `sent`."""
    told = SimpleNamespace(now=AT, step=0, sent=[], board=Board(), registry=CollectorRegistry())
    told.reporter = Reporter(
        Metrics(told.registry, "1"), told.board, "gate", 10.0, lambda: told.now + told.step, lambda: told.now
    )
    told.reporter.notify = lambda record: told.sent.append(
        (dict(record.headers)["ce_type"].decode(), json.loads(record.value)["partition"])
    )
    return told


def gauge(gate, shard):
    series = f'gate_shard_waiting{{shard="{shard}"}} '
    return [float(line.removeprefix(series)) for line in generate_latest(gate.registry).decode().splitlines()
            if line.startswith(series)]  # fmt: skip


def test_it_is_shown_as_long_as_it_lasts_and_logged_once(gate):
    with capture_logs() as log:
        for _ in range(3):
            gate.reporter.waiting(5, [HERE])
        assert [(line["event"], line["partition"], line["offset"], line["remedy"]) for line in log] == [
            ("a partition waits", 3, 1207, "allow Write on it")
        ]
        assert gate.board.waiting == [HERE.as_json()]
        assert gauge(gate, 5) == [1]
        gate.now += 7 * SECOND
        gate.reporter.waiting(5, [])
    assert [(line["event"], line.get("seconds")) for line in log[1:]] == [("a partition goes on", 7.0)]
    assert gate.board.waiting == []
    assert gauge(gate, 5) == [0]
    assert gate.sent == [], "it was soon over"


def test_what_lasts_is_alerted(gate):
    gate.reporter.waiting(5, [HERE])
    gate.now += ALERT_AFTER - 1
    gate.reporter.remind()
    assert gate.sent == []
    gate.now += 1
    gate.reporter.remind()
    gate.reporter.remind()
    gate.reporter.waiting(5, [HERE])
    assert gate.sent == [("gate.partition.waiting", 3)]
    gate.now += ALERT_EVERY
    gate.reporter.remind()
    gate.reporter.waiting(5, [THERE])
    gate.reporter.waiting(5, [])
    assert gate.sent == [("gate.partition.waiting", 3)] * 2, "its end is told by who owns the shard then"


def test_each_watcher_tells_of_its_own(gate):
    gate.reporter.waiting(5, [HERE], "outputs")
    gate.reporter.waiting(5, [HERE, THERE], "transactions")
    assert [one["partition"] for one in gate.board.waiting] == [3, 4]
    assert gauge(gate, 5) == [2]
    gate.reporter.waiting(5, [], "outputs")
    assert [one["partition"] for one in gate.board.waiting] == [3, 4]
    gate.reporter.waiting(5, [], "transactions")
    assert gate.board.waiting == []


def test_a_shard_that_was_given_up_is_its_next_owners(gate):
    gate.reporter.waiting(5, [HERE])
    gate.now += ALERT_AFTER
    with capture_logs() as log:
        gate.reporter.given_up(5)
        gate.reporter.given_up(6)
        gate.reporter.remind()
    assert (log, gate.sent, gate.board.waiting, gauge(gate, 5)) == ([], [], [], [])


def test_words_may_change_while_it_waits(gate):
    gate.reporter.waiting(5, [HERE])
    other = StalledPartition(*HERE.place, AT, "gate.rejected.pay is away", "bring it back", "pay")
    with capture_logs() as log:
        gate.reporter.waiting(5, [other])
    assert gate.board.waiting == [other.as_json()]
    assert log == []


def test_the_end_of_an_alert_is_left_to_who_owns_the_shard_then(gate):
    sent = []
    gate.reporter.notify = lambda record: sent.append((dict(record.headers)["ce_type"], json.loads(record.value)))
    gate.reporter.failed(5, ConnectionError("no"), LOUD_AFTER, LOUD_SECONDS)
    gate.reporter.given_up(4)
    gate.reporter.given_up(5)
    gate.reporter.given_up(5)
    gate.reporter.failed(5, ConnectionError("no"), LOUD_AFTER, LOUD_SECONDS)
    gate.reporter.advances(5)
    assert [(kind, told["shard"], told["gate"]) for kind, told in sent] == [
        (b"gate.shard.failed", 5, gate.reporter.name)
    ] * 2


def test_a_look_that_began_before_its_shard_was_given_up_tells_of_it_no_more(gate):
    gate.reporter.taken(5)
    assert gauge(gate, 5) == [0]
    gate.reporter.given_up(5)
    with capture_logs() as log:
        gate.reporter.waiting(5, [HERE], "transactions")
        gate.reporter.waiting(5, [], "transactions")
    assert (log, gate.board.waiting, gauge(gate, 5)) == ([], [], [])
    gate.reporter.taken(5)
    gate.reporter.waiting(5, [HERE], "transactions")
    assert gauge(gate, 5) == [1]


@pytest.mark.parametrize("step", [-3_600 * SECOND, 3_600 * SECOND])
def test_a_step_of_the_clock_neither_silences_nor_hurries_an_alert(gate, step):
    gate.reporter.waiting(5, [HERE])
    gate.step = step
    gate.now += ALERT_AFTER - 1
    gate.reporter.remind()
    assert gate.sent == []
    gate.now += 1
    gate.reporter.remind()
    assert gate.sent == [("gate.partition.waiting", 3)]
    gate.step = 0
    gate.now += ALERT_EVERY
    gate.reporter.remind()
    assert len(gate.sent) == 2


def test_that_another_owner_begins_is_no_fault_unless_it_happens_again(gate):
    with capture_logs() as log:
        for failures in (1, 2):
            gate.reporter.failed(5, OtherOwnerError("gate-5 is fenced off"), failures, 1.0)
        gate.reporter.failed(5, ConnectionError("no"), 1, 1.0)
    assert [line["log_level"] for line in log] == ["info", "warning", "warning"]
