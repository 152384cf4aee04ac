"""What goes back: which records are meant, and what becomes of them."""

import pytest

from gate.protocol.control import Redrive, Selection
from gate.protocol.headers import Stamp, job_id
from gate.protocol.topics import Names
from gate.shard.records import Partition
from gate.shard.redrives import as_request, fits, next_place, refuse_source
from tests.sim.log import Stored

NAMES = Names()
REJECTED = Partition("gate.rejected.pay", 3)
FIRST = "gate.requests.pay-3@5"
STAMP = Stamp("rejected", FIRST, 1_764_000_000_000, 2, "9f2c01", reason="rate").encode()


def record(*headers, offset=17, timestamp=1_764_000_000_000, key=b"k", value=b"v"):
    return Stored(offset, timestamp, key, value, headers)


def test_all_is_as_it_was_but_what_the_gate_has_said_of_it():
    own = [("gate-tenant", b"acme"), ("gate-cost", b"3"), ("retry-after", b"their own"), ("x", b"\xff"), ("x", None)]
    attempts = [("gate-job-attempt", b"4"), ("gate-job-group", b"workers")]
    said = [("gate", STAMP), ("retry-after", b"9"), ("gate-not-before", b"1"), ("gate-error", b"no"),
            ("gate-error-attempts", b"4")]  # fmt: skip
    back = as_request(record(*own, *attempts, *said), REJECTED, NAMES, "pay")
    assert (back.key, back.value) == (b"k", b"v")
    assert back.headers == [*own, *attempts, ("gate-job-id", FIRST.encode())]
    again = as_request(record(*own, ("gate-job-id", b"the-first-1@2"), ("gate", STAMP)), REJECTED, NAMES, "pay")
    assert job_id(again.headers) == "the-first-1@2"


@pytest.mark.parametrize("topic", ["elsewhere", "gate.requests.pay", "gate.rejected.other"])
def test_what_others_claim_of_jobs_is_not_believed(topic):
    claims = record(("gate-job-id", b"x-1@2"), ("gate-job-attempt", b"9"), ("gate", STAMP), ("gate-error", b"theirs"))
    back = as_request(claims, Partition(topic, 2), NAMES, "pay")
    assert back.headers == [("gate-error", b"theirs"), ("gate-job-id", b"%b-2@17" % topic.encode())]


def test_what_was_cut_short_stays_where_it_is():
    why = b"it takes 9 bytes; its value is left out here (2000 bytes)"
    assert as_request(record(("gate", STAMP), ("gate-error", why), value=None), REJECTED, NAMES, "pay") is None
    assert as_request(record(("gate", STAMP), ("gate-error", b"why"), value=None), REJECTED, NAMES, "pay") is not None


@pytest.mark.parametrize(
    ("selection", "meant"),
    [
        ({"all": True}, True),
        ({"id": FIRST}, True),
        ({"id": "gate.rejected.pay-3@17"}, True),
        ({"id": "gate.requests.pay-3@6"}, False),
        ({"producer_id": "order"}, True),
        ({"producer_id": "other"}, False),
        ({"key": "k"}, True),
        ({"key": ""}, False),
        ({"tenant": "acme", "lane": "low"}, True),
        ({"tenant": ""}, False),
        ({"lane": "high"}, False),
        ({"older_than_ms": 1_000}, True),
        ({"older_than_ms": 10_000}, False),
        ({"deadline_before_ms": 1_764_000_002_000}, True),
        ({"deadline_before_ms": 1_764_000_001_000}, False),
    ],
)
def test_a_filter_means_what_fits_all_that_it_says(selection, meant):
    found = record(
        ("gate-id", b"order"), ("gate-tenant", b"acme"), ("gate-priority", b"low"),
        ("gate-deadline", b"1764000001000"), ("gate", STAMP),
    )  # fmt: skip
    command = Redrive("pay", Selection(**selection))
    assert fits(command, 1_764_000_005_000, found, REJECTED) is meant
    assert not fits(Redrive("pay", Selection(all=True), since_ms=1_764_000_000_001), 0, found, REJECTED)
    assert not fits(Redrive("pay", Selection(all=True), until_ms=1_764_000_000_000), 0, found, REJECTED)


def test_partitions_are_gone_through_one_after_the_other():
    extents = {0: (5, 5), 1: (3, 9), 2: (0, 0), 4: (7, 8)}
    assert next_place(extents, (-9, 0)) == (1, 3)
    assert next_place(extents, (1, 8)) == (1, 8)
    assert next_place(extents, (1, 9)) == (4, 7)
    assert next_place(extents, (4, 8)) is None


def test_what_waits_or_is_no_request_is_not_put_back():
    for topic in ("gate.delayed.pay", "gate.retries.other"):
        assert refuse_source(topic, NAMES) == f"what is in {topic} waits yet"
    for topic in (
        "gate.state", "gate.state.2", "gate.control", "gate.audit", "gate.feedback.pay", "gate.results.pay",
        "gate.leases", "gate.leases.2", "gate.grants", "gate.policies", "gate.history", "__consumer_offsets",
        "__transaction_state",
    ):  # fmt: skip
        assert refuse_source(topic, NAMES) == f"{topic} holds no requests"
    for topic in ("gate.rejected.pay", "gate.admitted.pay", "gate.requests.other", "elsewhere"):
        assert refuse_source(topic, NAMES) is None
