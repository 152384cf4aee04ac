from gate.protocol.topics import Names
from gate.shard.feedback_state import FeedbackState
from gate.shard.records import CommittedOffset, Partition

FEEDBACK, RETRIES = Partition("gate.feedback.a.b", 3), Partition("gate.retries.a.b", 0)


def test_a_successor_goes_on_where_the_owner_was_and_knows_what_it_was_told():
    feedback = FeedbackState(Names())
    feedback.advance(FEEDBACK, 17)
    assert feedback.told("a.b", 3).take("g", 5, 0)
    assert feedback.marks(9) == {FEEDBACK: CommittedOffset(17, 9)}
    state = feedback.changes()
    assert feedback.changes() == {}
    assert feedback.marks(9) == {}
    feedback.advance(RETRIES, 4)
    state |= feedback.changes()

    after = FeedbackState(Names())
    assert all(after.restore(key, value) for key, value in state.items())
    assert (after.start(FEEDBACK), after.start(RETRIES)) == (17, 4)
    assert after.start(Partition(FEEDBACK.topic, 0)) is None
    assert not after.told("a.b", 3).take("g", 5, 0)


def test_what_the_state_knows_counts_more_than_the_offsets_of_the_group():
    feedback = FeedbackState(Names())
    feedback.advance(FEEDBACK, 17)
    feedback.begin({FEEDBACK: CommittedOffset(1), RETRIES: CommittedOffset(2)})
    assert (feedback.start(FEEDBACK), feedback.start(RETRIES)) == (17, 2)


def test_other_records_of_the_state_are_left_to_others():
    assert not FeedbackState(Names()).restore("service/a.b", b"")
