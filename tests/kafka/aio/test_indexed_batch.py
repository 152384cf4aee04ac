"""A record that is read alone is the one that is there when all of its batch is taken apart."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.kafka.aio.batches import LARGE_BATCH, records_of
from gate.kafka.aio.indexed_batch import IndexedBatch
from gate.kafka.aio.single_records import UNREADABLE
from tests.kafka.raw import Rec, batch

CODECS = [0, 1, 2, 3, 4]
LOG_APPEND_TIME = 0x08
TRANSACTIONAL = 0x10
some_bytes = st.one_of(st.none(), st.binary(max_size=200))
names = st.one_of(st.sampled_from([b"gate-start", b"", "ü".encode(), b"\xff\xfe"]), st.binary(max_size=10))
recs = st.builds(
    Rec,
    key=some_bytes,
    value=st.one_of(some_bytes, st.integers(60, 20_000).map(bytes)),
    headers=st.lists(st.tuples(names, some_bytes), max_size=4),
    delta=st.one_of(st.none(), st.integers(-5, 50)),
    later=st.integers(0, 1 << 40),
    extra=st.sampled_from([b"", b"", b"", b"x"]),
)


def shown(record):
    return record.offset, record.timestamp, record.key, record.value, list(record.headers)


def whole(raw):
    return {record.offset: shown(record) for record in chain.from_iterable(records_of(memoryview(raw), 0))}


def alone(indexed, offset):
    """Return the record, None where it can't be told alone."""
    try:
        return shown(indexed.record(offset))
    except UNREADABLE:
        return None


@given(
    st.lists(recs, min_size=1, max_size=30),
    st.integers(0, 1 << 50),
    st.sampled_from(CODECS),
    st.sampled_from([0, LOG_APPEND_TIME, TRANSACTIONAL]),
    st.randoms(use_true_random=False),
)
def test_it_is_what_all_of_the_batch_tells_whatever_is_in_it(records, base, codec, attributes, random):
    raw = batch(records, base=base, codec=codec, attributes=attributes)
    expected, indexed = whole(raw), IndexedBatch(memoryview(raw))
    offsets = list(expected)
    random.shuffle(offsets)
    for offset in offsets:
        assert alone(indexed, offset) in (None, expected[offset])


@pytest.mark.parametrize("codec", CODECS)
def test_ordinary_records_are_told_alone(codec):
    records = [
        Rec(key=b"k" * (n % 3) or None, value=bytes(n * n), headers=[(b"gate-start", b"%d" % n)]) for n in range(130)
    ]
    raw = batch(records, base=70, codec=codec)
    expected, indexed = whole(raw), IndexedBatch(memoryview(raw))
    assert {offset: alone(indexed, offset) for offset in reversed(expected)} == expected
    assert alone(indexed, 69) is None
    assert alone(indexed, 200) is None


@given(st.binary(max_size=300), st.integers(1, 20), st.sampled_from(CODECS))
def test_no_bytes_are_a_surprise(garbage, count, codec):
    raw = batch([], count=count, codec=0, body=garbage, attributes=codec, last_delta=count - 1)
    expected, indexed = whole(raw), IndexedBatch(memoryview(raw))
    for offset in range(count):
        assert alone(indexed, offset) in (None, expected[offset])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "given_batch",
    [
        {"records": [Rec(delta=d) for d in (1, 4, 9)], "last_delta": 11},  # compacted
        {"records": [Rec(value=bytes(LARGE_BATCH)), Rec()]},
    ],
    ids=["thinned out", "large"],
)
def test_what_has_no_index_is_left_to_who_takes_all_of_it_apart(given_batch, codec):
    raw = batch(**given_batch, codec=codec)
    indexed = IndexedBatch(memoryview(raw))
    assert [alone(indexed, offset) for offset in whole(raw)] == [None] * len(whole(raw))
    assert indexed.memory < LARGE_BATCH
