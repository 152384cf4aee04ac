"""Whatever a producer has put into a batch: each record is told once, at its own offset, and none stops the others."""

import random
import sys
import tracemalloc
from itertools import chain

import pytest
import zstandard
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.kafka.aio.batches import records_of
from gate.kafka.aio.decoding import decode
from gate.kafka.aio.single_records import FEW_HEADERS, MOST_HEADERS, MOST_SKIPPED, MOST_UNPACKED
from gate.kafka.aio.unpacked_stream import varint as read_varint
from gate.kafka.aio.unpacking import GZIP, LZ4, SNAPPY, ZSTD, UnreadableError, unpacked
from gate.protocol.headers import FAULT, Malformed, read_options
from gate.shard.buffer import FetchBuffer, MemoryPool
from gate.shard.records import Fetched, Partition, Sliced
from tests.hostile.encoding import zstd_of_runs
from tests.kafka.raw import Rec, batch, record, varint

CODECS = {"none": 0, "gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}
codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


def read(raw: bytes, start: int = 0):
    return list(chain.from_iterable(records_of(memoryview(raw), start)))


def offsets(records) -> list[int]:
    return [record.offset for record in records]


@codecs
def test_ordinary_records_are_as_they_were_written(codec):
    builder = DefaultRecordBatchBuilder(
        2, codec, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=0, batch_size=1 << 20
    )
    for i in range(700):
        builder.append(i, 1_000 + i, b"k%d" % i if i % 3 else None, b"v" * i, [("a", b"b"), ("ü", None)])
    found = read(bytes(builder.build()))
    assert [(r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in found] == [
        (i, 1_000 + i, b"k%d" % i if i % 3 else None, b"v" * i, [("a", b"b"), ("ü", None)]) for i in range(700)
    ]
    assert offsets(read(batch([Rec()] * 700, codec=codec), 650)) == list(range(650, 700))


@codecs
def test_the_offsets_of_a_whole_batch_are_proven_whatever_it_claims(codec):
    raw = batch([Rec(delta=d) for d in (0, 500_000, 7, 7, -3)], base=90, codec=codec)
    assert offsets(read(raw)) == [90, 91, 92, 93, 94]
    assert offsets(read(raw, 92)) == [92, 93, 94]


@codecs
def test_what_compaction_has_left_keeps_its_offsets(codec):
    raw = batch([Rec(delta=d) for d in (1, 4, 9)], base=100, last_delta=11, codec=codec)
    assert offsets(read(raw)) == [101, 104, 109]


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=40), st.integers(0, 30))
def test_forged_offsets_that_compaction_has_thinned_out_ascend_within_their_batch(deltas, gone):
    raw = batch([Rec(delta=d) for d in deltas], base=1_000, last_delta=len(deltas) - 1 + gone)
    found = offsets(read(raw))
    assert len(found) == len(deltas)
    assert found == sorted(set(found))
    assert set(found) <= set(range(1_000, 1_000 + len(deltas) + gone))


@codecs
def test_a_header_whose_name_is_no_text_spoils_no_other_record(codec):
    records = [Rec(value=b"%d" % i) for i in range(300)]
    records[140] = Rec(key=b"k", value=b"140", headers=[(b"good", b"1"), (b"\xff\xfe", b"2")])
    found = read(batch(records, codec=codec))
    assert offsets(found) == list(range(300))
    assert [r.value for r in found] == [b"%d" % i for i in range(300)]
    assert [i for i, r in enumerate(found) if FAULT in dict(r.headers)] == [140]
    assert read_options(found[140].headers) == Malformed("", "header name 0xfffe is not UTF-8; left out here")
    assert ("good", b"1") in found[140].headers
    assert found[140].key == b"k"


@pytest.mark.parametrize("codec", [c for c in CODECS.values() if c not in {0, SNAPPY}])
def test_a_bomb_is_told_without_being_kept(codec):
    """3 MB of zeros each in few bytes: no more than a slice is unpacked at a time."""
    raw = batch([Rec(key=b"k", value=bytes(3 << 20)) for _ in range(40)], codec=codec)
    tracemalloc.start()
    try:
        sizes = [len(r.value or b"") for records in records_of(memoryview(raw), 0) for r in records]
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
    assert sizes == [3 << 20] * 40


@pytest.mark.parametrize("codec", [c for c in CODECS.values() if c not in {0, SNAPPY}])
def test_a_record_too_large_to_unpack_is_told_with_what_fits(codec):
    large = Rec(key=b"k", value=bytes(MOST_UNPACKED), headers=[(b"gate-tenant", b"t")])
    found = read(batch([Rec(value=b"1"), large, Rec(value=b"3")], codec=codec))
    assert [(r.offset, r.key, r.value) for r in found] == [(0, None, b"1"), (1, b"k", None), (2, None, b"3")]
    fault = read_options(found[1].headers)
    assert isinstance(fault, Malformed)
    assert fault.reason == "unforwardable"
    assert "at most 4194304 are carried" in fault.why


@codecs
def test_a_million_records_are_taken_apart_slice_by_slice(codec):
    raw = batch([Rec()] * 200_000, codec=codec)
    slices = records_of(memoryview(raw), 0)
    assert len(next(slices)) <= 128
    assert sum(map(len, slices)) + 128 >= 200_000


@codecs
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_batch_that_breaks_off_still_tells_each_of_its_offsets(codec, keep):
    raw = bytearray(batch([Rec(value=b"%d" % (i * i)) for i in range(500)], codec=codec))
    cut = bytes(raw[: 61 + int((len(raw) - 61) * keep)])
    found = read(cut)
    assert offsets(found) == list(range(500))
    faults = [i for i, r in enumerate(found) if FAULT in dict(r.headers)]
    assert faults
    assert faults == list(range(faults[0], 500))


def test_many_headers_are_carried():
    found = read(batch([Rec(headers=[(b"", b"")] * 60_000)]))
    assert len(found[0].headers) == 60_000


@given(st.binary(max_size=300), st.integers(1, 20), st.sampled_from(sorted(CODECS.values())))
def test_no_bytes_are_a_surprise(garbage, count, codec):
    raw = batch([], count=count, codec=0, body=garbage, attributes=codec, last_delta=count - 1)
    assert offsets(read(raw)) == list(range(count))


def test_varints():
    for n in 0, 1, -1, 63, 64, 300, -(2**31), 2**31 - 1, 2**62:
        assert read_varint(memoryview(varint(n)), 0) == (n, len(varint(n)))


def test_a_window_that_wants_much_memory_gets_little():
    """A zstd frame of a few KB may ask for a window of 128 MiB, and fill it."""
    params = zstandard.ZstdCompressionParameters(window_log=27, compression_level=1)
    small = zstandard.ZstdCompressor(compression_params=params).compress(b"x" * 100_000)
    assert b"".join(unpacked(ZSTD, memoryview(small))) == b"x" * 100_000
    stream = zstandard.ZstdCompressor(compression_params=params).compressobj()
    large = stream.compress(bytes(64 << 20)) + stream.flush()
    with pytest.raises(UnreadableError, match="window"):
        sum(map(len, unpacked(ZSTD, memoryview(large))))


def calls(raw: bytes) -> int:
    """Return how many calls of functions it takes to read a batch: what costs time, whatever the machine."""
    count = 0

    def note(*_: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(note)
    try:
        read(raw)
    finally:
        sys.setprofile(None)
    return count


def crowd(number: int, name: bytes = b"", index: int = 0) -> bytes:
    """Return a record of many headers, some bytes each."""
    one = varint(len(name)) + name + varint(-1)
    body = b"\0" + varint(0) + varint(index) + varint(1) + b"k" + varint(-1) + varint(number) + one * number
    return varint(len(body)) + body


@pytest.mark.parametrize("name", [b"", b"\xff"], ids=["empty", "no text"])
@pytest.mark.parametrize("number", [50_000, 800_000, 3_000_000])
def test_no_number_of_headers_holds_anybody_up(number, name):
    """Kilobytes that unpack to millions of headers: read one by one, they took twenty seconds."""
    raw = batch([], count=2, last_delta=1, codec=GZIP, body=crowd(number, name) + crowd(0, index=1))
    found = read(raw)
    assert [(r.offset, r.key) for r in found] == [(0, b"k"), (1, b"k")]
    assert (FAULT in dict(found[0].headers)) == (number > MOST_HEADERS or bool(name))
    assert FAULT not in dict(found[1].headers)
    assert len(found[0].headers) in {1, number}
    assert calls(raw) < 5_000 + number // 8


def test_many_names_that_are_no_text_are_left_out_together():
    raw = batch([Rec(headers=[(b"good", b""), *[(b"\xff", None)] * FEW_HEADERS]), Rec()])
    fault = read_options(read(raw)[0].headers)
    assert isinstance(fault, Malformed)
    assert "1001 headers" in fault.why
    assert FAULT not in dict(read(raw)[1].headers)


def test_a_record_that_unpacks_to_gigabytes_is_not_unpacked():
    size = 1 << 30
    head = b"\0" + varint(0) + varint(0) + varint(-1) + varint(size)
    body = zstd_of_runs([varint(len(head) + size + 1) + head, size, b"\0"])
    assert size > MOST_SKIPPED
    (found,) = read(batch([], count=1, body=body, attributes=ZSTD, last_delta=0))
    fault = read_options(found.headers)
    assert isinstance(fault, Malformed)
    assert f"unpacks to {size + len(head) + 1} bytes" in fault.why


def taken(raw: bytes, weight: int) -> list[int]:
    """Return how many records are taken at a time of what a broker sends."""
    box, place = FetchBuffer(1 << 20, MemoryPool(1 << 20, 10), lambda: None), Partition("gate.requests.x", 0)
    box.put(place, decode(raw, [], 0))
    counts = []
    while (found := box.take(place, 4_000, weight)) is not None:
        counts.append(len(found[0]))
    return counts


@pytest.mark.parametrize("where", ["key", "value", "header", "name", "headers", "too large"])
def test_whatever_part_of_it_grows_no_more_is_taken_than_has_room(where):
    """Behind a hundred small ones, which make believe that all are small."""
    size = 1_000_000
    large = {
        "key": Rec(key=bytes(size)),
        "value": Rec(value=bytes(size)),
        "header": Rec(headers=[(b"a", bytes(size))]),
        "name": Rec(headers=[(bytes(size), b"")]),
        "headers": Rec(headers=[(b"", None)] * 20_000),
        "too large": Rec(value=bytes(MOST_UNPACKED)),
    }[where]
    counts = taken(batch([*[Rec()] * 300, *[large] * 12], codec=ZSTD), weight=4_000_000)
    assert sum(counts) == 312
    assert max(counts[1:], default=0) <= 4
    assert counts[0] <= 304


def largest_of(raw: bytes) -> int:
    """Return how large a record of a batch may be, as far as is told by when all are taken."""
    box, place = FetchBuffer(1 << 20, MemoryPool(1 << 20, 10), lambda: None), Partition("gate.requests.x", 0)
    box.put(place, decode(raw, [], 0))
    largest = 0
    while box.take(place, 1_000) is not None:
        largest = max(largest, box.largest)
    return largest


@codecs
@given(st.lists(st.tuples(st.integers(0, 3_000), st.integers(0, 300), st.integers(0, 3)), min_size=1, max_size=300))
@settings(max_examples=20)
def test_no_record_is_larger_than_is_told(codec, sizes):
    records = [Rec(bytes(key), bytes(value), [(b"a", b"b")] * headers) for value, key, headers in sizes]
    actual = max(len(record(rec, index)) for index, rec in enumerate(records))
    assert actual <= largest_of(batch(records, codec=codec))


@codecs
@pytest.mark.parametrize("large", [300_000, 1_000_000])
def test_a_large_record_among_small_ones_is_told_of(codec, large):
    records = [*[Rec()] * 1_000, Rec(value=bytes(large)), *[Rec()] * 1_000]
    assert large < largest_of(batch(records, codec=codec)) < large + (80 << 10)


@codecs
def test_a_large_batch_of_small_records_is_told_from_one_of_large_records(codec):
    """Else each of its records would be weighed by itself, as if it could be too large for where it goes."""
    small = [Rec(b"k", random.Random(n).randbytes(100), [(b"a", b"b")]) for n in range(8_000)]
    assert len(batch(small)) > 900_000
    assert largest_of(batch(small, codec=codec)) < len(batch(small)) - 50_000


def test_what_is_taken_apart_a_slice_at_a_time_is_read_once():
    fetched = decode(batch([Rec()] * 300), [], 0)
    assert isinstance(fetched, Fetched)
    assert isinstance(fetched.records, Sliced)
    assert offsets(fetched.records) == list(range(300))
