import tracemalloc
from datetime import UTC, datetime

import pytest

from gate.client._jobs.matching import Matching
from gate.client._jobs.ticket import Decision, JobFailedError, Verdict
from gate.protocol.headers import Stamp

TICKETS = 2_000  # measuring takes long; the size is in proportion
T0 = datetime(2026, 1, 31, tzinfo=UTC)


def at(ms, verdict=Verdict.ADMITTED, **fields):
    return Decision(verdict, T0.replace(microsecond=ms * 1000), **fields)


async def test_news_may_come_before_the_acknowledgement():
    matching = Matching()
    with matching.submission():
        assert matching.concerns("a")
        matching.deliver("a", at(1))
        matching.deliver("a", b"result")
        ticket = matching.open("s", "a")
    assert await ticket.decision(0) == at(1)
    assert await ticket.result(0) == b"result"


async def test_news_is_kept_as_long_as_any_submission_that_may_want_it():
    matching = Matching()
    matching.deliver("old", at(1))  # nobody submits
    with matching.submission():
        matching.deliver("a", at(1))
        with matching.submission():
            matching.deliver("b", at(1))
        assert matching._unknown.keys() == {"a", "b"}
        with matching.submission():
            ticket = matching.open("s", "b")
    assert await ticket.decision(0) == at(1)
    assert not matching._unknown
    assert not matching.concerns("a")


async def test_what_a_short_submission_can_not_want_is_dropped_while_others_go_on():
    matching = Matching()
    first = matching.submission()
    first.__enter__()
    matching.deliver("a", at(1))
    second = matching.submission()
    second.__enter__()
    matching.deliver("b", at(1))
    first.__exit__(None, None, None)
    assert matching._unknown.keys() == {"b"}
    second.__exit__(None, None, None)
    assert not matching._unknown


def test_a_failed_submission_leaves_nothing():
    matching = Matching()
    with pytest.raises(OSError), matching.submission():
        matching.deliver("a", at(1))
        raise OSError
    assert not matching._unknown
    assert not matching._under_way


async def test_decisions_are_in_order_however_they_are_read():
    matching = Matching()
    ticket = matching.open("s", "a")
    for decision in (at(5, number=2), at(1, Verdict.DELAYED), at(5, number=2), at(9, attempt=2, number=1)):
        matching.deliver("a", decision)
    assert await ticket.decision() == at(9, attempt=2)
    assert [decision async for decision in ticket] == [at(5, number=2)]


async def test_the_first_result_counts():
    matching = Matching()
    ticket = matching.open("s", "a")
    for result in (b"", b"second", JobFailedError("a", "late", 3)):
        matching.deliver("a", result)
    assert await ticket.result(0) == b""


def test_a_ticket_that_nobody_holds_is_forgotten():
    matching = Matching()
    ticket = matching.open("s", "a")
    assert len(matching) == 1
    del ticket
    assert len(matching) == 0
    assert not matching.concerns("a")


def test_ten_thousand_open_tickets_are_small(capsys):
    """Must hold: 10,000 open tickets cost <= 50 MB. Each here has waited, was admitted and is waited for."""
    matching, headers = Matching(), []
    for n in range(TICKETS):
        request = f"gate.requests.payments-{n % 16}@{n}"
        stamps = [
            Stamp("delayed", request, 1_764_025_123_456 + n, 1, "9f2c01", "rate", "payments.rate"),
            Stamp("admitted", request, 1_764_025_133_456 + n, 2, "9f2c01"),
        ]
        headers.append(
            (request, [[("gate", stamp.encode()), ("gate-not-before", b"1764025133456")] for stamp in stamps])
        )
    tracemalloc.start()
    tickets = []
    for request, news in headers:
        tickets.append(matching.open("payments", request))
        for stamped in news:
            matching.deliver(request, Decision.of(stamped))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(matching) == TICKETS
    with capsys.disabled():
        print(f" 10,000 open tickets: {10_000 * size / TICKETS / 1e6:.1f} MB", end="")
    assert 10_000 * size / TICKETS <= 50 * 10**6 / 2  # leaves as much again for who waits


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ([("gate", b'admitted;id="a-0@1";at=1764025123456;attempt=1;policy="x"')], "admitted"),
        (
            [
                ("gate", b'delayed;id="a-0@1";at=1764025123456;attempt=1;policy="x";reason=rate;limit="p.rate"'),
                ("gate-not-before", b"1764025123999"),
            ],
            "delayed until 2025-11-24T22:58:43.999Z by p.rate",
        ),
        (
            [
                ("gate", b'delayed;id="a-0@1";at=1764025123456;attempt=1;policy="x";reason=paused'),
                ("gate-not-before", b"9007199254740991"),
            ],
            "delayed until 9999-12-31T23:59:59.999Z by paused",
        ),
        (
            [
                ("gate", b'rejected;id="a-0@1";at=1764025123456;attempt=1;policy="x";reason=malformed'),
                ("gate-error", b"gate-cost is '0'"),
            ],
            "rejected by malformed: gate-cost is '0'",
        ),
        (
            [
                ("gate", b'rejected;id="a-0@1";at=1764025123456;attempt=1;policy="x";reason=rate;limit="p.rate"'),
                ("retry-after", b"17"),
            ],
            "rejected by p.rate; try again after 17 s",
        ),
    ],
)
def test_a_decision_says_itself(headers, text):
    assert str(Decision.of(headers)) == text


@pytest.mark.parametrize("headers", [[], [("gate", None)], [("gate", b"junk")], [("gate", b"admitted")]])
def test_what_has_no_stamp_is_no_decision(headers):
    with pytest.raises(ValueError):
        Decision.of(headers)
