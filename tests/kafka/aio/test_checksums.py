"""A batch that was changed on its way is found, whoever computes the checksum."""

import pytest
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from gate.kafka.aio import checksums
from gate.kafka.aio.decoding import CorruptBatchError, decode
from tests.kafka.raw import Rec, batch

RAW = batch([Rec(b"k", b"v" * 100, [(b"a", b"b")])] * 20)


@given(st.binary(max_size=300))
def test_it_is_the_checksum_that_kafka_means(data):
    for some in (data, data * (1 + checksums.CHUNK // max(1, len(data))), b""):
        assert checksums.crc32c(memoryview(some)) == calc_crc32c(some)
    assert checksums.crc32c(memoryview(b"123456789")) == 0xE3069283


@pytest.mark.parametrize("own", [checksums.crc32c, calc_crc32c], ids=["quick", "aiokafka's"])
@pytest.mark.parametrize("at", [17, 21, 60, len(RAW) - 1], ids=["checksum", "attributes", "count", "last byte"])
def test_one_bit_is_enough(monkeypatch, own, at):
    monkeypatch.setattr(checksums, "crc32c", own)
    assert len([*decode(RAW, [], 0).records]) == 20
    changed = bytearray(RAW)
    changed[at] ^= 0x40
    with pytest.raises(CorruptBatchError, match="offset 0"):
        decode(bytes(changed), [], 0)
