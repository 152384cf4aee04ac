import random

import pytest

from gate.client import _completed_offsets as completed_offsets
from gate.client._offsets import Offsets


@pytest.mark.parametrize(
    ("base", "runs", "text"),
    [
        (7, [], ""),
        (7, [range(8, 9)], "done:1+1"),
        (7, [range(8, 11), range(13, 23)], "done:1+3,2+10"),
        (2**62, [range(2**62 + 5, 2**62 + 6)], "done:5+1"),
    ],
)
def test_runs_are_noted_and_read(base, runs, text):
    assert completed_offsets.encode(base, runs) == text
    assert completed_offsets.decode(base, text) == runs


@pytest.mark.parametrize("text", [None, "", "x", "done:", "done:1", "done:1+", "done:-1+2", "done:1+2,", "done:1+2;3"])
def test_other_metadata_says_nothing(text):
    assert completed_offsets.decode(7, text) == []


def test_what_does_not_fit_is_left_out():
    runs = [range(i, i + 1) for i in range(10**6, 10**6 + 20_000, 2)]
    text = completed_offsets.encode(0, runs)
    assert len(text) <= 4_000
    known = completed_offsets.decode(0, text)
    assert known == runs[: len(known)]
    assert len(known) > 900


@pytest.mark.parametrize("seed", range(200))
def test_the_next_reader_does_exactly_what_was_not_done(seed):
    rng = random.Random(seed)
    records = sorted(rng.sample(range(100, 400), rng.randrange(1, 120)))  # transactions leave gaps
    before = Offsets()
    for offset in records:
        before.start(offset)
    done = set(rng.sample(records, rng.randrange(len(records) + 1)))
    for offset in rng.sample(sorted(done), len(done)):
        before.done(offset)
    offset, metadata = before.mark() or (0, "")
    after = Offsets(completed_offsets.decode(offset, metadata))
    again = {record for record in records if record >= offset and after.start(record)}
    assert again == set(records) - done
    for record in again:
        after.done(record)
    assert after.committable == (records[-1] + 1 if records[-1] >= offset else None)


@pytest.mark.parametrize(
    ("base", "done", "more", "expected"),
    [
        (5, [], [], (5, [])),
        (5, [], [5], (6, [])),
        (5, [range(6, 9)], [5], (9, [])),
        (5, [range(7, 9)], [5], (6, [range(7, 9)])),  # offset 6 may hold no record, or one that is not done
        (5, [range(7, 9)], [12, 9, 3, 8], (5, [range(7, 10), range(12, 13)])),
        (5, [], [3, 4], (5, [])),
    ],
)
def test_what_was_done_besides_is_added_to_what_is_committed(base, done, more, expected):
    offset, text = completed_offsets.extend(base, completed_offsets.encode(base, done), more)
    assert (offset, completed_offsets.decode(offset, text)) == expected
