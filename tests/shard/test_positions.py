"""From where a partition is read, by what the state and the group say; the state counts more."""

import pytest

from gate.admission.state import encode
from gate.protocol.topics import Names
from gate.shard.positions import OFFSETS_KIND, Position, Positions, PositionsRecord
from gate.shard.records import CommittedOffset, Partition
from gate.units import MS
from tests.sim.log import Stored

HERE = Partition("gate.requests.pay", 0)
SINCE_MS = 1_000


def positions(known=None, mark=None, since_ms=SINCE_MS):
    found = Positions(Names(), {} if mark is None else {HERE: mark}, since_ms * MS)
    if known is not None:
        found.restore("pay", f"{OFFSETS_KIND}/pay", encode(PositionsRecord({0: known}), 2))
    return found


@pytest.mark.parametrize(
    ("known", "mark", "since_ms", "start"),
    [
        (None, None, SINCE_MS, None),  # new to both: from its beginning
        (Position(7), None, SINCE_MS, 7),  # the group's offsets have expired
        (Position(7), CommittedOffset(5, SINCE_MS), SINCE_MS, 7),  # the broker lost the one, and not the other
        (Position(7), CommittedOffset(9, SINCE_MS), SINCE_MS, 7),
        (None, CommittedOffset(5, SINCE_MS), SINCE_MS, None),  # claims to have come with a position, and did not
        (None, CommittedOffset(5, SINCE_MS - 1), SINCE_MS, 5),  # from before there were positions
        (None, CommittedOffset(5, 0), SINCE_MS, 5),  # committed without the state, as at_least_once does
        (None, CommittedOffset(5, SINCE_MS), 0, 5),  # no positions are kept at all
    ],
)
def test_where_reading_begins(known, mark, since_ms, start):
    assert positions(known, mark, since_ms).start("pay", HERE) == start


@pytest.mark.parametrize(
    ("known", "mark", "right"),
    [
        (Position(7), CommittedOffset(7), {}),
        (Position(7), CommittedOffset(5), {HERE: CommittedOffset(7, 2)}),
        (Position(7), None, {HERE: CommittedOffset(7, 2)}),
        (None, CommittedOffset(5), {}),  # nothing is known better
    ],
)
def test_what_the_group_is_told_where_it_is_wrong(known, mark, right):
    assert positions(known, mark).wrong([HERE], 2 * MS) == right


def test_a_position_says_by_what_the_last_request_is_known_again():
    known = positions()
    known.advance("pay", 0, [Stored(4, 11, b"k", b"v", ()), Stored(6, 12, b"k", b"v", ())], 7)
    known.advance("pay", 0, [], 9)  # a marker of a transaction lay behind it
    successor = Positions(Names(), {}, SINCE_MS * MS)
    successor.restore("pay", f"{OFFSETS_KIND}/pay", known.record("pay"))
    assert successor.unmarked("pay", HERE) == Position(9, 6, 12)


@pytest.mark.parametrize("mark", [None, CommittedOffset(3)])
def test_only_without_a_committed_offset_is_it_asked_whether_the_topic_was_made_anew(mark):
    known = positions(Position(7, 6, 12), mark)
    assert (known.unmarked("pay", HERE) is None) is (mark is not None)
    known.forget(HERE)  # it is gone: one that comes under its name is to be looked at
    assert known.unmarked("pay", HERE) == Position(7, 6, 12)
    known.drop("pay", HERE)
    assert known.start("pay", HERE) is None
