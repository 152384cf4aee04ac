"""From decisions to records: key, value and headers untouched, dated by the decision, one stamp, the right place."""

from dataclasses import dataclass, replace
from itertools import accumulate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gate.admission.model import MS, Decision, Pull, Reason, Run, Verdict
from gate.protocol.headers import Malformed, parse_stamp
from gate.protocol.topics import Names
from gate.shard.forwarding import Refusal
from gate.shard.records import Outgoing, Partition
from gate.shard.routing import Batch, PartitionSlice, RefusedRequest, Topics, read_runs

TOPICS = Topics.of(Names(), "pay")
AT = 1_764_000_000_123
NOW = AT * MS


@dataclass
class Rec:
    offset: int
    headers: list[tuple[str, bytes | None]]
    timestamp: int = 7
    key: bytes | None = b"k"
    value: bytes | None = b"v"


def piece(partition: int, first: int, *headers: list[tuple[str, bytes | None]]) -> PartitionSlice:
    return PartitionSlice(
        partition, first, [Rec(100 * partition + i, h) for i, h in enumerate(headers)], 100 * partition + 99
    )


def stamps(records) -> list:
    return [parse_stamp(dict(r.headers)["gate"]) for r in records]


def route(
    batch: Batch, policy: str, pieces: list[PartitionSlice], decisions: list[Decision]
) -> list[tuple[Partition, int]]:
    return batch.route(TOPICS, policy, pieces, decisions, clean=read_runs(pieces).clean)


def sent(batch: Batch, topic: str, partition: int) -> list[Outgoing]:
    return [Outgoing(*record) for record in batch.outputs[Partition(topic, partition)]]


def test_like_requests_make_one_run_across_partitions():
    plain: list = []
    reading = read_runs([piece(0, 0, plain, plain), piece(1, 2, plain, [("trace", b"x")])])
    assert reading.runs == [Run(0, 4)]
    assert reading.refused == []


OPTIONS: list = [[], [("trace", b"x")], [("gate-tenant", b"a")], [("gate-cost", b"2")], [("gate-cost", b"NaN")]]


@given(st.lists(st.lists(st.sampled_from(OPTIONS), max_size=5), max_size=6))
@example([[OPTIONS[2]], [], [OPTIONS[2]]])
def test_partitions_without_a_wish_are_read_at_once_and_to_the_same_end(parts):
    firsts = accumulate(map(len, parts), initial=0)
    pieces = [piece(number, first, *part) for number, (part, first) in enumerate(zip(parts, firsts, strict=False))]
    one_by_one = dict.fromkeys(range(len(parts)), lambda _: None)  # each is judged, and passes
    assert read_runs(pieces) == read_runs(pieces, one_by_one)


def test_a_run_ends_where_wishes_change_and_at_what_cannot_be_read():
    acme = [("gate-tenant", b"acme"), ("gate-cost", b"3"), ("gate-deadline", b"1764000001000")]
    bad = [("gate-cost", b"NaN")]
    reading = read_runs([piece(0, 0, [], acme, acme, bad, [], bad), piece(1, 6, bad, [], [])])
    assert reading.runs == [
        Run(0, 1),
        Run(1, 2, tenant="acme", cost=3, deadline=1_764_000_001_000 * MS),
        Run(4, 1),
        Run(7, 2),
    ]
    assert [wish.index for wish in reading.refused] == [3, 5, 6]


def test_admitted_requests_keep_everything_and_get_one_stamp():
    batch = Batch(NOW)
    old = [("trace", b"x"), ("gate", b"forged"), ("retry-after", b"9"), ("gate-not-before", b"9"), ("none", None)]
    pieces = [piece(2, 0, old)]
    assert route(batch, "abc123", pieces, [Decision(0, 1, Verdict.ADMITTED)]) == []
    (record,) = sent(batch, "gate.admitted.pay", 2)
    assert (record.key, record.value, record.timestamp) == (b"k", b"v", AT)
    assert record.headers == [
        ("trace", b"x"),
        ("none", None),
        ("gate", b'admitted;id="gate.requests.pay-2@200";at=1764000000123;attempt=1;policy="abc123";created=7'),
    ]


def test_delayed_requests_carry_their_own_times_and_are_told_apart_by_place():
    batch = Batch(NOW)
    pieces = [piece(0, 0, [], []), piece(1, 2, [])]
    times = (NOW + 1, NOW + 1_500 * MS, NOW + 2_000 * MS)
    parked = route(batch, "p", pieces, [Decision(0, 3, Verdict.DELAYED, Reason.RATE, "pay.rate", times)])
    assert parked == [
        (Partition("gate.delayed.pay", 0), 0),
        (Partition("gate.delayed.pay", 0), 1),
        (Partition("gate.delayed.pay", 1), 0),
    ]
    first, second = sent(batch, "gate.delayed.pay", 0)
    assert dict(first.headers)["gate-not-before"] == b"1764000000124"
    assert dict(first.headers)["retry-after"] == b"1"
    assert dict(second.headers)["retry-after"] == b"2"
    assert stamps([first])[0].reason == "rate"
    assert stamps([first])[0].limit == "pay.rate"


def test_what_can_never_go_has_no_time():
    batch = Batch(NOW)
    route(batch, "p", [piece(0, 0, [])], [Decision(0, 1, Verdict.REJECTED, Reason.NEVER, "pay.rate")])
    (record,) = sent(batch, "gate.rejected.pay", 0)
    assert [name for name, _ in record.headers] == ["gate"]


def test_held_requests_go_nowhere():
    batch = Batch(NOW)
    decisions = [Decision(0, 1, Verdict.ADMITTED), Decision(1, 1, Verdict.HELD, Reason.RATE, "pay.rate")]
    route(batch, "p", [piece(0, 0, [], [])], decisions)
    assert [len(out) for out in batch.outputs.values()] == [1]


def test_malformed_requests_say_what_is_wrong():
    batch = Batch(NOW)
    pieces = [piece(0, 0, [("gate-cost", b"0")])]
    batch.refuse(TOPICS, "p", pieces, read_runs(pieces).refused)
    (record,) = sent(batch, "gate.rejected.pay", 0)
    assert stamps([record])[0].reason == "malformed"
    assert b"gate-cost" in dict(record.headers)["gate-error"]


def test_a_released_request_keeps_its_id_and_counts_its_attempt():
    batch = Batch(NOW)
    parked = Batch(NOW - 5_000 * MS)
    route(
        parked,
        "p",
        [piece(3, 0, [("trace", b"x")])],
        [Decision(0, 1, Verdict.DELAYED, Reason.RATE, "pay.rate", (NOW,))],
    )
    (waiting,) = sent(parked, "gate.delayed.pay", 3)
    assert waiting.timestamp == AT - 5_000
    held = Rec(41, list(waiting.headers), waiting.timestamp)
    batch.release(TOPICS, "q", Pull(3, 41, 1, Verdict.ADMITTED), [held])
    (record,) = sent(batch, "gate.admitted.pay", 3)
    assert record.timestamp == AT
    assert record.headers == [
        ("trace", b"x"),
        ("gate", b'admitted;id="gate.requests.pay-3@300";at=1764000000123;attempt=2;policy="q";created=7'),
    ]


@pytest.mark.parametrize("clean", [True, False])
def test_the_time_of_the_decision_dates_every_record_and_the_producers_stands_in_the_stamp(clean):
    batch = Batch(NOW)
    times = [7, 0, 10**15 - 1, 10**15, -1, -5]  # ms; the last three no stamp can hold
    mark = [] if clean else [("gate", b"forged"), ("retry-after", b"1")]
    pieces = [PartitionSlice(0, 0, [Rec(i, mark, time) for i, time in enumerate(times)], 6)]
    dues = tuple(NOW + MS for _ in times)
    decisions = [[Decision(0, 6, Verdict.ADMITTED)], [Decision(0, 6, Verdict.DELAYED, Reason.RATE, "x", dues)]]
    for decision in decisions:
        batch.route(TOPICS, "p", pieces, decision, clean=clean)
    batch.refuse(TOPICS, "p", pieces, [RefusedRequest(i, Refusal(Malformed("gate-cost", "is odd"))) for i in range(6)])
    for topic in TOPICS.decided:
        records = sent(batch, topic, 0)
        assert [r.timestamp for r in records] == [AT] * 6
        assert [stamp.created_ms for stamp in stamps(records)] == [7, 0, 10**15 - 1, None, None, None]


def test_what_waited_keeps_its_producers_timestamp_whenever_it_is_decided_anew():
    parked, batch = Batch(NOW), Batch(NOW + 9 * MS)
    pieces = [PartitionSlice(0, 0, [Rec(0, [], 7), Rec(1, [], -1)], 2)]
    delayed = Decision(0, 2, Verdict.DELAYED, Reason.TENANT, "pay.tenant.;created=5", (NOW + MS, NOW + MS))
    parked.route(TOPICS, "p", pieces, [delayed], clean=True)
    held = [Rec(40 + i, r.headers, r.timestamp) for i, r in enumerate(sent(parked, "gate.delayed.pay", 0))]
    batch.release(TOPICS, "q", Pull(0, 40, 2, Verdict.ADMITTED), held)
    batch.route(
        TOPICS, "q", [PartitionSlice(0, 0, held, 42, returned=True)], [Decision(0, 2, Verdict.ADMITTED)], clean=True
    )
    records = sent(batch, "gate.admitted.pay", 0)
    assert [(r.timestamp, stamp.created_ms) for r, stamp in zip(records, stamps(records), strict=True)] == [
        (AT + 9, 7),
        (AT + 9, None),
    ] * 2


def test_what_an_earlier_version_parked_bears_its_producers_timestamp_itself():
    batch = Batch(NOW)
    old = b'delayed;id="gate.requests.pay-3@300";at=1764000000000;attempt=1;policy="p";reason=rate;limit="pay.rate"'
    batch.release(TOPICS, "q", Pull(3, 41, 1, Verdict.ADMITTED), [Rec(41, [("gate", old)], 1_763_000_000_000)])
    (record,) = sent(batch, "gate.admitted.pay", 3)
    assert (record.timestamp, stamps([record])[0].created_ms) == (AT, 1_763_000_000_000)


@pytest.mark.parametrize("more", [[], [("gate-tenant", b"acme")], [("gate", b"forged"), ("gate-not-before", b"1")]])
def test_a_producers_own_retry_after_stays_and_the_gates_goes_with_its_stamp(more):
    own = [("retry-after", b"30"), ("x", b"1")]
    now, later, at_once = Batch(NOW), Batch(NOW), Batch(NOW)
    pieces = [piece(0, 0, [*own, *more])]
    route(at_once, "p", pieces, [Decision(0, 1, Verdict.ADMITTED)])
    kept = [*own, *(header for header in more if header[0] == "gate-tenant")]
    (record,) = sent(at_once, "gate.admitted.pay", 0)
    assert record.headers[:-1] == kept
    route(now, "p", pieces, [Decision(0, 1, Verdict.DELAYED, Reason.RATE, "x", (NOW + 1_500 * MS,))])
    (waiting,) = sent(now, "gate.delayed.pay", 0)
    assert [name for name, _ in waiting.headers[len(kept) :]] == ["gate", "retry-after", "gate-not-before"]
    assert dict(waiting.headers)["retry-after"] == b"2"  # the last one counts, as with Kafka's `lastHeader`
    later.release(TOPICS, "p", Pull(0, 7, 1, Verdict.ADMITTED), [Rec(7, waiting.headers, waiting.timestamp)])
    (record,) = sent(later, "gate.admitted.pay", 0)
    assert record.headers[:-1] == kept
    assert record.headers[-1][0] == "gate"


def test_a_foreign_record_in_the_delayed_topic_is_named_by_its_place():
    batch = Batch(NOW)
    batch.release(TOPICS, "q", Pull(0, 5, 1, Verdict.REJECTED, Reason.DEADLINE, "x"), [Rec(5, [])])
    (record,) = sent(batch, "gate.rejected.pay", 0)
    assert stamps([record])[0].id == "gate.delayed.pay-0@5"
    assert stamps([record])[0].created_ms == 7


def test_stamps_are_the_same_whether_headers_were_looked_at_or_not():
    quick, careful = Batch(NOW), Batch(NOW)
    pieces = [piece(1, 0, [("a", b"1")], [])]
    decisions = [Decision(0, 2, Verdict.ADMITTED, Reason.RATE, "pay.rate")]
    quick.route(TOPICS, "p", pieces, decisions, clean=True)
    careful.route(TOPICS, "p", pieces, decisions, clean=False)
    assert sent(quick, "gate.admitted.pay", 1) == sent(careful, "gate.admitted.pay", 1)
    assert [record.headers for record in pieces[0].records] == [[("a", b"1")], []]  # the input is left alone


@pytest.mark.parametrize("headers", [[], [("gate-lane", b"fast")]])
@pytest.mark.parametrize("judged", [False, True])
def test_each_fresh_request_is_shown_once_whatever_is_read_of_it(headers, judged):
    count = 1_000
    first = piece(0, 0, *[headers] * count)
    retried = replace(piece(0, count, headers), homes=1)
    shown = []
    judges = {first.source: lambda _: None} if judged else {}
    reading = read_runs([first, retried], judges, shown.extend)
    assert shown == first.records
    assert reading == read_runs([first, retried], judges)
