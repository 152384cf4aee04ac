import sys
from dataclasses import dataclass, field

import pytest

from gate.protocol.feedback import BackOff, Done, Failed, Heard
from gate.protocol.headers import Stamp
from gate.shard.failed_jobs import (
    STAGES,
    DeadLetter,
    Retry,
    follow,
    home_of,
    paused_until,
    stage_of,
    unfit,
    waits_until,
)
from gate.shard.records import Outgoing

NOW = 1_764_025_123_456
STAMP = Stamp("admitted", "gate.requests.payments-3@5", NOW - 60_000, 2, "9f2c01").encode()


@dataclass(frozen=True)
class Admitted:
    headers: list = field(default_factory=lambda: [("gate", STAMP), ("x", b"1")])
    offset: int = 17
    timestamp: int = NOW - 60_000
    key: bytes | None = b"k"
    value: bytes | None = b"v"


RETRIED = [("gate", STAMP), ("gate-job-id", b"gate.requests.payments-1@2"), ("gate-job-attempt", b"4"),
           ("gate-job-group", b"g")]  # fmt: skip


def test_a_failed_job_comes_back_as_it_was_with_its_id_its_next_attempt_and_its_group():
    headers = [("retry-after", b"9"), ("gate-cost", b"2"), ("x", b"1"), ("gate-not-before", b"1"), ("gate", STAMP),
               ("gate-start", b"%d" % (NOW - 90_000))]  # fmt: skip
    outcome = Failed(group="g", attempt=1, error="no", retry_after=4.0, cost=7)
    assert follow(outcome, Admitted(headers), NOW - 1_000, NOW) == Retry(
        0,
        NOW + 3_000,
        Outgoing(
            b"k", b"v", NOW,
            [
                ("retry-after", b"9"),  # the producer's own
                ("x", b"1"),
                ("gate-job-id", b"gate.requests.payments-3@5"),
                ("gate-job-attempt", b"2"),
                ("gate-job-group", b"g"),
                ("gate-cost", b"7"),
                ("gate-start", b"%d" % (NOW + 3_000)),
            ],
        ),
    )  # fmt: skip
    kept = follow(outcome, Admitted(headers), NOW - 1_000, NOW, scheduled=False)
    assert kept.stage == 3  # it waits there, among those that wait about equally long
    assert kept.record.headers[-1] == ("gate-job-not-before", b"%d" % (NOW + 3_000))


def test_a_retry_keeps_the_id_of_the_first_request_and_its_cost():
    headers = [*RETRIED, ("gate-cost", b"2")]
    retry = follow(Failed(group="g", attempt=4, error="", retry_after=0.0), Admitted(headers), NOW + 9_000, NOW)
    assert retry == Retry(
        0,
        NOW,  # a worker's clock that is ahead delays nothing
        Outgoing(
            b"k", b"v", NOW,
            [
                ("gate-cost", b"2"),
                ("gate-job-id", b"gate.requests.payments-1@2"),
                ("gate-job-attempt", b"5"),
                ("gate-job-group", b"g"),
            ],
        ),
    )  # fmt: skip


def test_a_job_given_up_is_one_with_an_error_of_bounded_length():
    dead = follow(Failed(group="g", attempt=7, error="x" * 2000), Admitted(), NOW, NOW)
    assert dead == DeadLetter("x" * 1000, 7)


def test_after_a_back_off_the_attempt_has_not_counted():
    outcome = BackOff(group="g", attempt=1, seconds=30)
    retry = follow(outcome, Admitted(), NOW, NOW)
    assert (retry.stage, retry.due_ms, dict(retry.record.headers)["gate-job-attempt"]) == (0, NOW, b"1")
    assert follow(outcome, Admitted(), NOW, NOW, waits_out=True).due_ms == NOW + 30_000
    put_off = Admitted([*RETRIED, ("gate-job-backoffs", b"3")])
    for told, count in (
        (BackOff(group="g", attempt=4, seconds=1), b"4"),
        (Failed(group="g", attempt=4, error="", retry_after=1), b"3"),
    ):
        assert dict(follow(told, put_off, NOW, NOW).record.headers)["gate-job-backoffs"] == count


def test_a_back_off_is_an_hour_at_most_and_counts_from_when_it_was_told():
    assert paused_until(BackOff(group="g", attempt=1, seconds=1e300), NOW + 10**9, NOW) == NOW + 3_600_000
    assert paused_until(BackOff(group="g", attempt=1, seconds=2), NOW - 5_000, NOW) == NOW - 3_000


@pytest.mark.parametrize(
    ("outcome", "record", "kind"),
    [
        (Failed(group="g", attempt=1, error=""), Admitted(), None),
        (Done(group="g", attempt=1), Admitted(), None),
        (Failed(group="g", attempt=4, error=""), Admitted(RETRIED), None),
        (Failed(group="h", attempt=4, error=""), Admitted(RETRIED), "group"),
        (Failed(group="g", attempt=1, error=""), Admitted(RETRIED), "attempt"),
        (Failed(group="g", attempt=2, error=""), Admitted(), "attempt"),
        (Failed(group="g", attempt=1, error=""), None, "missing"),
        (Failed(group="g", attempt=1, error=""), Admitted([]), "missing"),
        (Failed(group="g", attempt=1, error=""), Admitted([("gate", b"rejected" + STAMP[8:])]), "missing"),
    ],
)
def test_what_does_not_fit_the_admitted_request_is_told_apart(outcome, record, kind):
    ignored = unfit(Heard(17, outcome), record)
    assert (ignored and ignored.kind) == kind


def test_stages_hold_what_waits_about_equally_long():
    assert [stage_of(seconds) for seconds in (0, 0.5, 0.6, 1, 2, 30, 3600, 7 * 86400, 1e300, sys.float_info.max)] == [
        0, 0, 1, 1, 2, 6, 13, STAGES - 1, STAGES - 1, STAGES - 1,
    ]  # fmt: skip
    assert STAGES == 22


@pytest.mark.parametrize(
    ("not_before", "timestamp", "at"),
    [
        (None, NOW, 0),
        (b"junk", NOW, 0),
        (b"%d" % (NOW + 5), NOW, NOW + 5),
        (b"9" * 18, NOW, NOW + 7 * 86_400_000),  # by whatever clock
        (b"9" * 400, NOW, 0),
    ],
)
def test_a_waiting_job_is_due_at_its_time_or_in_a_week(not_before, timestamp, at):
    assert waits_until(Admitted([("gate-job-not-before", not_before)], timestamp=timestamp)) == at


def test_a_retry_goes_where_the_job_began():
    assert home_of(RETRIED, 12) == 1
    assert home_of([("gate-job-id", b"gate.requests.a-b-11@5")], 12) == 11
    assert home_of([("gate-job-id", b"gate.requests.a-b-11@5")], 2) == 1
    for odd in (b"", b"-@", b"x-\xff@1", b"x-" + b"9" * 300 + b"@1", None):
        assert home_of([("gate-job-id", odd)], 12) == 0
