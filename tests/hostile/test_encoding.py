"""The encoder writes what aiokafka reads, and the reader of truth takes places, not claims."""

import pytest
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile.decoding import batches, committed, records
from tests.hostile.encoding import Codec, RawBatch, RawRecord, varint, zeros

texts = st.text(st.characters(codec="utf-8"), max_size=8).map(str.encode)
made = st.lists(
    st.builds(
        RawRecord,
        st.none() | st.binary(max_size=40),
        st.none() | st.binary(max_size=300),
        st.lists(st.tuples(texts, st.none() | st.binary(max_size=9)), max_size=4).map(tuple),
        st.integers(-(2**40), 2**40),
    ),
    min_size=1,
    max_size=8,
)


@given(made, st.sampled_from(Codec), st.integers(0, 2**42), st.integers(0, 2**40))
def test_what_is_encoded_is_read_by_aiokafka_and_by_us(wanted, codec, timestamp, base):
    raw = RawBatch(wanted, timestamp, codec, base_offset=base).encode()
    theirs = [
        (r.offset, r.timestamp, r.key, r.value, tuple((n.encode(), v) for n, v in r.headers))
        for r in MemoryRecords(raw).next_batch()
    ]
    (batch,) = batches(raw)
    assert MemoryRecords(raw).next_batch().validate_crc()
    assert [tuple(record) for record in records(batch)] == theirs
    assert [key for _, _, key, _, _ in theirs] == [record.key for record in wanted]


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_varint_is_read_as_it_was_written(number):
    record = RawRecord(timestamp_delta=number)
    assert record.encode(0)[2 : 2 + len(varint(number))] == varint(number)
    (batch,) = batches(RawBatch([record], 0, newest=0).encode())
    assert next(records(batch)).timestamp == number


def test_forged_deltas_do_not_move_a_record():
    forged = [RawRecord(b"%d" % i, offset_delta=delta) for i, delta in enumerate((500_000, -3, 0, 0))]
    (batch,) = batches(RawBatch(forged, base_offset=70).encode())
    assert [(r.offset, r.key) for r in records(batch)] == [(70, b"0"), (71, b"1"), (72, b"2"), (73, b"3")]


def test_in_a_compacted_batch_deltas_count():
    left = [RawRecord(b"a", offset_delta=1), RawRecord(b"b", offset_delta=6)]
    (batch,) = batches(RawBatch(left, base_offset=70, last_offset_delta=9).encode())
    assert [r.offset for r in records(batch)] == [71, 76]
    assert batch.next_offset == 80


@pytest.mark.parametrize("window_log", [17, 27])
def test_zeros_by_the_megabyte_take_bytes(window_log):
    sizes = [(b"k1", 5_000_000), (None, 0), (b"k3", 131_073)]
    payload = zeros(sizes, window_log)
    assert len(payload) < 1_000
    (batch,) = batches(RawBatch([RawRecord()] * 3, codec=Codec.ZSTD, payload=payload).encode())
    assert [(r.key, r.value) for r in records(batch)] == [(key, bytes(size)) for key, size in sizes]


def test_aborted_records_are_left_out_and_markers_kept():
    def of(producer: int, base: int, *, control: bool = False, key: bytes = b"k") -> bytes:
        bits = 16 | (32 if control else 0)
        return RawBatch([RawRecord(key)], base_offset=base, attributes=bits, producer_id=producer).encode()

    raw = (
        of(1, 0) + of(2, 1)
        + of(1, 2, control=True, key=b"\0\0\0\0") + of(1, 3)
        + of(1, 4, control=True, key=b"\0\0\0\1")
        + RawBatch([RawRecord()], base_offset=5).encode()
    )  # fmt: skip
    assert [b.base for b in committed(raw, [(1, 0)])] == [1, 2, 3, 4, 5]
