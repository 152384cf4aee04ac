from dataclasses import dataclass, field

import pytest

from gate.protocol.feedback import BackOff, Done, Failed, Heard, Ignored, read
from gate.protocol.headers import Stamp
from gate.protocol.topics import Names
from gate.shard.feedback_actions import FeedbackBatch, FeedbackEntry, act
from gate.shard.feedback_state import FeedbackState
from gate.shard.records import Partition
from gate.shard.refusal_history import Rejection, RejectionLevel
from gate.shard.routing import Batch, Topics
from gate.shard.topic_limits import UNKNOWN, TopicLimit

MS = 1_000_000
NOW = 1_764_025_123_456
STAMP = Stamp("admitted", "gate.requests.payments-3@5", NOW - 60_000, 1, "9f2c01").encode()
TOPICS = Topics.of(Names(), "payments")
FEEDBACK = Partition(TOPICS.feedback, 3)
REJECTED = Partition(TOPICS.rejected, 3)
FAILED = Failed(group="g", attempt=1, error="no", retry_after=4.0)
GIVEN_UP = Failed(group="g", attempt=1, error="no")


@dataclass(frozen=True)
class Admitted:
    headers: list = field(default_factory=lambda: [("gate", STAMP), ("x", b"1"), ("gate-error", b"older")])
    offset: int = 17
    timestamp: int = NOW - 60_000
    key: bytes | None = b"k"
    value: bytes | None = b"v"


def hear(
    *outcomes,
    record=Admitted(),
    feedback=None,
    stages=22,
    rejections=None,
    limits=None,
    waits_out=False,
    scheduled=True,
):
    feedback = FeedbackState(Names()) if feedback is None else feedback
    batch = Batch(NOW * MS, limit=lambda topic: (limits or {}).get(topic, UNKNOWN))
    entries = [
        FeedbackEntry(outcome if isinstance(outcome, Ignored) else Heard(17, outcome), 40 + index, NOW, record)
        for index, outcome in enumerate(outcomes)
    ]
    part = FeedbackBatch("payments", FEEDBACK, entries, 99, stages)
    followed = act(part, TOPICS, feedback, batch, rejections or {}, waits_out=waits_out, scheduled=scheduled)
    return batch.outputs, followed, feedback


def test_a_failed_job_goes_to_where_it_waits():
    outputs, followed, feedback = hear(FAILED)
    ((place, (retry,)),) = outputs.items()
    assert place == Partition(TOPICS.retries, 0)
    assert (retry.key, retry.value, dict(retry.headers)["gate-job-attempt"]) == (b"k", b"v", b"2")
    assert followed.counts == {"retry": 1}
    assert feedback.start(FEEDBACK) == 99


def test_done_at_a_place_ends_what_runs_there_whoever_tells():
    """As it stands on the wire: the key is the admitted record's place, and nothing else needs to be known."""
    running = Stamp("admitted", "gate.requests.payments-3@5", NOW, 1, "9f2c01", running=True).encode()
    said = read(b"gate.admitted.payments-3@17", b'{"outcome": "done"}', TOPICS.admitted, 3)
    assert said == Heard(17, Done())
    for done in (Done(), Done(group="g"), Done(group="g", attempt=1, settled=4)):
        outputs, followed, _ = hear(done, record=Admitted([("gate", running), ("gate-job-group", b"g")]))
        assert (outputs, followed.done, followed.counts["done"]) == ({}, ["gate.requests.payments-3@5"], 1)
    others = hear(Done(group="other"), record=Admitted([("gate", running), ("gate-job-group", b"g")]))[1]
    assert (others.done, list(others.counts)) == ([], ["group"])
    assert hear(Done(), record=Admitted([("gate", STAMP)]))[1].done == []  # it does not count


def test_where_it_waits_there_and_there_are_fewer_partitions_it_waits_in_the_last_one():
    assert list(hear(FAILED, scheduled=False)[0]) == [Partition(TOPICS.retries, 3)]
    assert list(hear(FAILED, stages=2, scheduled=False)[0]) == [Partition(TOPICS.retries, 1)]


def test_the_same_told_again_has_no_second_consequence_also_for_a_successor():
    outputs, followed, feedback = hear(
        FAILED, FAILED, GIVEN_UP, Failed(group="h", attempt=1, error="", retry_after=4.0)
    )
    assert [len(records) for records in outputs.values()] == [2]  # one for each group
    assert followed.counts == {"retry": 2, "repeated": 2}
    successor = FeedbackState(Names())
    assert all(successor.restore(key, value) for key, value in feedback.changes().items())
    outputs, followed, _ = hear(FAILED, feedback=successor)
    assert (outputs, followed.counts) == ({}, {"repeated": 1})


@pytest.mark.parametrize(("key", "value"), [(b"k", b"v"), (None, b""), (b"k", None), (None, None)])
def test_a_job_given_up_is_written_as_it_was_with_its_error(key, value):
    outputs, followed, _ = hear(GIVEN_UP, record=Admitted(key=key, value=value))
    ((place, (dead,)),) = outputs.items()
    assert place == REJECTED
    assert dead == (
        key, value, NOW, [("gate", STAMP), ("x", b"1"), ("gate-error-attempts", b"1"), ("gate-error", b"no")],
    )  # fmt: skip
    assert followed.counts == {"given-up": 1}


def test_a_dead_letter_that_is_too_large_leaves_its_value_out():
    limits = {TOPICS.rejected: TopicLimit(size=2_000)}
    outputs, _, _ = hear(GIVEN_UP, record=Admitted(value=b"v" * 2_000), limits=limits)
    (dead,) = outputs[REJECTED]
    assert dead.value is None
    assert dict(dead.headers)["gate-error"] == b"no; its value is left out here (2000 bytes)"
    many = [("gate", STAMP), *((f"h{n}", b"") for n in range(60_000))]
    outputs, _, _ = hear(GIVEN_UP, record=Admitted(many), limits=limits)
    (dead,) = outputs[REJECTED]
    assert [name for name, _ in dead.headers] == ["gate", "gate-error"]


def test_a_retry_that_its_topic_does_not_take_is_a_dead_letter_that_says_so():
    limits = {TOPICS.retries: TopicLimit(size=2_000)}
    outputs, followed, _ = hear(FAILED, record=Admitted(value=b"v" * 2_000), limits=limits)
    (dead,) = outputs[REJECTED]
    assert dead.value == b"v" * 2_000
    assert b"can't be tried again: it takes 2" in dict(dead.headers)["gate-error"]
    assert followed.counts == {"given-up": 1}
    limits = {TOPICS.retries: TopicLimit(compacted=True)}
    assert list(hear(FAILED, record=Admitted(key=None), limits=limits)[0]) == [REJECTED]


def test_what_a_broker_has_refused_is_not_tried_in_the_same_way():
    place = Partition("gate.requests.payments", 3)
    outputs, _, _ = hear(FAILED, rejections={place: {5: Rejection("a rule", RejectionLevel.WITHOUT_VALUE)}})
    (dead,) = outputs[REJECTED]
    assert dead.value is None
    assert dict(dead.headers)["gate-error"].startswith(b"it can't be tried again: a rule; its value is left out")


def test_who_wants_to_be_left_alone_is_and_the_job_comes_back():
    outputs, followed, _ = hear(BackOff(group="g", attempt=1, seconds=30))
    assert followed.paused_until_ms == NOW + 30_000
    assert list(outputs) == [Partition(TOPICS.retries, 0)]
    outputs, followed, _ = hear(BackOff(group="g", attempt=1, seconds=10**9), waits_out=True)
    assert followed.paused_until_ms == NOW + 3_600_000
    ((retry,),) = outputs.values()
    assert dict(retry.headers)["gate-start"] == b"%d" % (NOW + 3_600_000)


def test_what_can_not_be_is_counted_by_kind_and_has_no_consequence():
    outputs, followed, feedback = hear(
        Ignored("unreadable", "x"), Failed(group="g", attempt=2, error=""), Done(group="g", attempt=1, settled=17)
    )
    assert outputs == {}
    assert followed.counts == {"unreadable": 1, "attempt": 1, "done": 1}
    assert [(offset, ignored.kind) for offset, ignored in followed.ignored] == [(40, "unreadable"), (41, "attempt")]
    assert feedback.start(FEEDBACK) == 99
    assert hear(FAILED, record=None)[1].counts == {"missing": 1}


def test_a_part_can_be_taken_bit_by_bit():
    entries = [FeedbackEntry(Ignored("place", ""), offset, NOW) for offset in (4, 7, 9)]
    part = FeedbackBatch("payments", FEEDBACK, entries, 12)
    first, rest = part.first(2)
    assert (first.end, len(first.entries), rest.end, len(rest.entries)) == (9, 2, 12, 1)
    assert part.first(3) == (part, None)
