"""What is learnt from a refused output: who is to blame, by name or by halves, and what waits where nobody can be."""

import pytest

from gate.protocol.headers import ERROR, Stamp
from gate.protocol.topics import Names
from gate.shard.records import Outgoing, Partition
from gate.shard.refusal_history import FIRST_WAIT, LONGEST_WAIT, RefusalHistory, RejectionLevel
from gate.shard.refusals import BatchTooLargeError, Faulty, OutputError, RecordsRefusedError, refused

REQUESTS, DELAYED = Partition("gate.requests.pay", 3), Partition("gate.delayed.pay", 3)
ADMITTED, REJECTED = Partition("gate.admitted.pay", 3), Partition("gate.rejected.pay", 3)


def out(offset: int, verdict: str = "admitted", attempt: int = 1, reason: str | None = None) -> Outgoing:
    stamp = Stamp(verdict, f"gate.requests.pay-3@{offset}", 1, attempt, "p", reason).encode()
    errors = [(ERROR, b"gate-cost is odd")] if reason else []
    return Outgoing(b"k", b"v", 1, [("gate", stamp), *errors])


def refusal(partition: Partition, records: list[Outgoing], *faulty: int, first: int = 0) -> RecordsRefusedError:
    error = RecordsRefusedError(partition, "no", first, len(records) - first, [Faulty(i, f"no {i}") for i in faulty])
    error.records = records
    return error


def test_whom_the_broker_names_is_rejected_by_its_own_cause():
    refusals = RefusalHistory(Names())
    refusals.learn(refusal(ADMITTED, [out(i) for i in range(10, 20)], 4, 7), 0.0)
    assert {offset: (s.why, s.level) for offset, s in refusals.condemned[REQUESTS].items()} == {
        14: ("no 4", RejectionLevel.WHOLE),
        17: ("no 7", RejectionLevel.WHOLE),
    }
    assert not refusals.closed


def test_who_is_not_named_is_found_by_halves():
    refusals, culprit, looks = RefusalHistory(Names()), 70, 0
    left = list(range(100))
    while REQUESTS not in refusals.condemned:
        records = [out(i) for i in left[: refusals.rooms.get(REQUESTS, 4_000)]]
        if any(record is not None and f"@{culprit}".encode() in record.headers[0][1] for record in records):
            looks += 1
            alone = [0] if len(records) == 1 else []
            refusals.learn(refusal(ADMITTED, records, *alone), 0.0)
        else:
            left = left[len(records) :]
            refusals.committed([ADMITTED])
    assert list(refusals.condemned[REQUESTS]) == [culprit]
    assert looks < 20


def test_fresh_and_parked_ones_are_told_apart():
    refusals = RefusalHistory(Names())
    refusals.learn(refusal(ADMITTED, [out(1), out(2, attempt=2)]), 0.0)
    assert (refusals.rooms, refusals.pulls) == ({REQUESTS: 1}, {"pay": 0}), "one of each can't be told apart but alone"
    refusals.committed([ADMITTED])
    assert refusals.pulls == {"pay": 1}


def test_a_rejection_that_is_refused_loses_more_and_more_and_then_waits():
    refusals = RefusalHistory(Names())
    record = out(5, "rejected", reason="malformed")
    for level in (RejectionLevel.WITHOUT_VALUE, RejectionLevel.BARE):
        refusals.learn(refusal(REJECTED, [record], 0), 0.0)
        assert refusals.condemned[REQUESTS][5] == ("gate-cost is odd", level, "malformed", "")
    refusals.learn(refusal(REJECTED, [record], 0), 0.0)
    assert refusals.closed[REJECTED].until_seconds == FIRST_WAIT


def test_what_takes_nothing_waits_ever_longer_and_is_open_once_it_takes_something():
    refusals, now, waits = RefusalHistory(Names()), 0.0, []
    for _ in range(8):
        refusals.learn(OutputError(ADMITTED, "this gate may not write there"), now)
        waits.append(refusals.closed[ADMITTED].until_seconds - now)
        assert [output for output, _ in refusals.waiting(now)] == [ADMITTED]
        assert refusals.wakes_at(now) == refusals.closed[ADMITTED].until_seconds
        now = refusals.closed[ADMITTED].until_seconds
        assert not list(refusals.waiting(now))
    assert waits[:4] == [5.0, 10.0, 20.0, 40.0]
    assert max(waits) == LONGEST_WAIT
    assert not refusals.closed[ADMITTED].halts
    refusals.committed([ADMITTED])
    assert not refusals.closed


def test_refused_before_its_time_it_was_what_is_parked_that_went_there():
    refusals = RefusalHistory(Names())
    refusals.learn(OutputError(ADMITTED, "no"), 0.0)
    refusals.learn(OutputError(ADMITTED, "no"), 1.0)
    assert refusals.closed[ADMITTED].halts
    assert refusals.service_of(ADMITTED) == "pay"


def test_a_batch_that_is_too_large_is_nobodys_fault():
    refusals = RefusalHistory(Names())
    refusals.learn(BatchTooLargeError(ADMITTED, 900_000), 0.0)
    assert (refusals.closed, refusals.condemned, refusals.rooms) == ({}, {}, {})


@pytest.mark.parametrize(
    ("code", "records", "count", "kind"),
    [
        (10, (), 5, BatchTooLargeError),
        (10, (), 1, RecordsRefusedError),
        (87, ((2, "no key"),), 5, RecordsRefusedError),
        (-1, (), 5, RecordsRefusedError),
        (47, (), 5, type(None)),  # fenced
        (19, (), 5, type(None)),
    ],
)
def test_what_a_broker_answers(code, records, count, kind):
    error = refused(ADMITTED, code, records, "", 10, count, 999)
    assert type(error) is kind
    if isinstance(error, RecordsRefusedError):
        assert [place for place, _ in error.faulty] == [12] * len(records) or ([10] if count == 1 else [])
