"""What is learnt from a refused output: who is to blame, by name or by halves, and what waits where nobody can be."""

import pytest

from gate.protocol.headers import ERROR, Stamp
from gate.protocol.topics import Names
from gate.shard.blame import FIRST_WAIT, LONGEST_WAIT, Blame, Level
from gate.shard.records import Outgoing, Partition
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
    blame = Blame(Names())
    blame.learn(refusal(ADMITTED, [out(i) for i in range(10, 20)], 4, 7), 0.0)
    assert {offset: (s.why, s.level) for offset, s in blame.condemned[REQUESTS].items()} == {
        14: ("no 4", Level.WHOLE),
        17: ("no 7", Level.WHOLE),
    }
    assert not blame.closed


def test_who_is_not_named_is_found_by_halves():
    blame, culprit, looks = Blame(Names()), 70, 0
    left = list(range(100))
    while REQUESTS not in blame.condemned:
        records = [out(i) for i in left[: blame.rooms.get(REQUESTS, 4_000)]]
        if any(record is not None and f"@{culprit}".encode() in record.headers[0][1] for record in records):
            looks += 1
            alone = [0] if len(records) == 1 else []
            blame.learn(refusal(ADMITTED, records, *alone), 0.0)
        else:
            left = left[len(records) :]
            blame.committed([ADMITTED])
    assert list(blame.condemned[REQUESTS]) == [culprit]
    assert looks < 20


def test_fresh_and_parked_ones_are_told_apart():
    blame = Blame(Names())
    blame.learn(refusal(ADMITTED, [out(1), out(2, attempt=2)]), 0.0)
    assert (blame.rooms, blame.pulls) == ({REQUESTS: 1}, {"pay": 0}), "one of each can't be told apart but alone"
    blame.committed([ADMITTED])
    assert blame.pulls == {"pay": 1}


def test_a_rejection_that_is_refused_loses_more_and_more_and_then_waits():
    blame = Blame(Names())
    record = out(5, "rejected", reason="malformed")
    for level in (Level.WITHOUT_VALUE, Level.BARE):
        blame.learn(refusal(REJECTED, [record], 0), 0.0)
        assert blame.condemned[REQUESTS][5] == ("gate-cost is odd", level, "malformed")
    blame.learn(refusal(REJECTED, [record], 0), 0.0)
    assert blame.closed[REJECTED].until == FIRST_WAIT


def test_what_takes_nothing_waits_ever_longer_and_is_open_once_it_takes_something():
    blame, now, waits = Blame(Names()), 0.0, []
    for _ in range(8):
        blame.learn(OutputError(ADMITTED, "this gate may not write there"), now)
        waits.append(blame.closed[ADMITTED].until - now)
        assert [output for output, _ in blame.waiting(now)] == [ADMITTED]
        assert blame.wakes_at(now) == blame.closed[ADMITTED].until
        now = blame.closed[ADMITTED].until
        assert not list(blame.waiting(now))
    assert waits[:4] == [5.0, 10.0, 20.0, 40.0]
    assert max(waits) == LONGEST_WAIT
    assert not blame.closed[ADMITTED].halts
    blame.committed([ADMITTED])
    assert not blame.closed


def test_refused_before_its_time_it_was_what_is_parked_that_went_there():
    blame = Blame(Names())
    blame.learn(OutputError(ADMITTED, "no"), 0.0)
    blame.learn(OutputError(ADMITTED, "no"), 1.0)
    assert blame.closed[ADMITTED].halts
    assert blame.service_of(ADMITTED) == "pay"


def test_a_batch_that_is_too_large_is_nobodys_fault():
    blame = Blame(Names())
    blame.learn(BatchTooLargeError(ADMITTED, 900_000), 0.0)
    assert (blame.closed, blame.condemned, blame.rooms) == ({}, {}, {})


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
