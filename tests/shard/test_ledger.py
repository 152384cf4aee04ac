from gate.protocol.topics import Names
from gate.shard.ledger import Ledger
from gate.shard.records import Mark, Partition

FEEDBACK, RETRIES = Partition("gate.feedback.a.b", 3), Partition("gate.retries.a.b", 0)


def test_a_successor_goes_on_where_the_owner_was_and_knows_what_it_was_told():
    ledger = Ledger(Names())
    ledger.advance(FEEDBACK, 17)
    assert ledger.told("a.b", 3).take("g", 5, 0)
    assert ledger.marks(9) == {FEEDBACK: Mark(17, 9)}
    state = ledger.changes()
    assert ledger.changes() == {}
    assert ledger.marks(9) == {}
    ledger.advance(RETRIES, 4)
    state |= ledger.changes()

    after = Ledger(Names())
    assert all(after.restore(key, value) for key, value in state.items())
    assert (after.start(FEEDBACK), after.start(RETRIES)) == (17, 4)
    assert after.start(Partition(FEEDBACK.topic, 0)) is None
    assert not after.told("a.b", 3).take("g", 5, 0)


def test_what_the_state_knows_counts_more_than_the_offsets_of_the_group():
    ledger = Ledger(Names())
    ledger.advance(FEEDBACK, 17)
    ledger.begin({FEEDBACK: Mark(1), RETRIES: Mark(2)})
    assert (ledger.start(FEEDBACK), ledger.start(RETRIES)) == (17, 2)


def test_other_records_of_the_state_are_left_to_others():
    assert not Ledger(Names()).restore("service/a.b", b"")
