"""What consumers read beside the requests: whatever a stranger has written there costs a bounded amount of memory."""

import tracemalloc
from itertools import chain
from types import SimpleNamespace

import pytest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import DefaultRecordBatch
from structlog.testing import capture_logs

from gate.kafka.aio import public_skip_unreadable
from gate.kafka.aio.decoding import views
from gate.kafka.aio.skip_unreadable import _Records
from gate.kafka.aio.unpacking import GZIP, LZ4, SNAPPY, ZSTD
from tests.hostile.encoding import zeros
from tests.kafka.raw import Rec, batch

CODECS = {"none": 0, "gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}
HUGE = 200 << 20  # bytes, which take some KB


def private(raw: bytes):
    """Return what a consumer reads on the private path."""
    records = _Records(raw)
    records.place = "gate.history-0"
    while records.has_next():
        for record in records.next_batch():
            yield record.offset, record.key, len(record.value or b"")


def public(raw: bytes):
    """Return what a consumer reads on the public path."""
    answer = SimpleNamespace(topics=[("gate.history", [(0, 0, 9, 9, 0, [], -1, raw)])])
    public_skip_unreadable.readable(FetchRequest(0, 0, 0, 0, []), answer)
    ((_, (partition,)),) = answer.topics
    for record in chain.from_iterable(map(DefaultRecordBatch, views(partition[-1]))):
        yield record.offset, record.key, len(record.value or b"")


@pytest.mark.parametrize("read", [private, public])
def test_a_batch_that_unpacks_to_hundreds_of_megabytes_is_passed_over_without_being_kept(read):
    bomb = batch([], base=1, count=2, body=zeros([(b"a", HUGE), (b"b", HUGE)]), attributes=ZSTD, last_delta=1)
    raw = batch([Rec(b"k", b"0")], codec=ZSTD) + bomb + batch([Rec(b"k", b"22")], base=3, codec=ZSTD)
    tracemalloc.start()
    try:
        with capture_logs() as logs:
            found = list(read(raw))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == [(0, b"k", 1), (3, b"k", 2)]
    assert peak < HUGE // 2
    assert [line["event"] for line in logs] == ["a record that can't be read is passed over"], logs
    assert (logs[0]["offset"], logs[0]["records"]) == (1, 2)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_what_is_large_and_can_be_carried_is_read(codec):
    records = [Rec(b"%d" % i, bytes(600_000)) for i in range(12)]
    assert list(private(batch(records, codec=codec))) == [(i, b"%d" % i, 600_000) for i in range(12)]
    assert list(public(batch(records, codec=codec))) == [(i, b"%d" % i, 600_000) for i in range(12)]


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("read", [private, public])
def test_one_record_that_cant_be_read_is_told_once_with_its_place(read, codec):
    poisoned = Rec(b"k", b"1", headers=[(b"\xff", b"x")])
    with capture_logs() as logs:
        found = list(read(batch([Rec(b"k", b""), poisoned, Rec(b"k", b"22")], codec=codec)))
    assert found == [(0, b"k", 0), (2, b"k", 2)]
    assert [(line["partition"], line["offset"]) for line in logs] == [("gate.history-0", 1)]
