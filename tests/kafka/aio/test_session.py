"""A batch is filled the same way by the quick path and by what aiokafka documents."""

import asyncio
import re
from types import SimpleNamespace

import pytest
from aiokafka.errors import InvalidTxnState, TopicAuthorizationFailedError
from aiokafka.producer.message_accumulator import BatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from gate.kafka.aio import session
from gate.kafka.aio.compat.producers import fill
from gate.kafka.aio.decoding import decode
from gate.kafka.aio.public_sending import fill as fill_publicly
from gate.kafka.aio.session import KafkaSession
from gate.shard.records import Outgoing, Partition
from gate.shard.refusals import OutputError

texts = st.text("abcgé-", max_size=8)
maybe = st.none() | st.binary(max_size=40)
records = st.lists(
    st.tuples(maybe, maybe, st.integers(0, 2**41), st.lists(st.tuples(texts, maybe), max_size=4)),
    min_size=1,
    max_size=12,
)


def built(fills, batch, start: int = 0, size: int = 1_000_000) -> tuple[int, bytes]:
    builder = BatchBuilder(size, 0)
    count = fills(builder, batch, start)
    assert builder.record_count() == count
    return count, bytes(builder._build())


@given(records, st.integers(0, 11), st.sampled_from([1, 90, 200, 1_000_000]))
def test_both_ways_make_the_same_bytes(batch, start, size):
    start = min(start, len(batch) - 1)
    assert built(fill, batch, start, size) == built(fill_publicly, batch, start, size)


@given(records)
def test_what_is_filled_can_be_read(batch):
    _, raw = built(fill, [Outgoing(*record) for record in batch])
    back = [(r.key, r.value, r.timestamp, r.headers) for r in decode(raw, [], 0).records]
    assert back == [(key, value, timestamp, headers) for key, value, timestamp, headers in batch]


def test_a_first_record_always_fits():
    huge = Outgoing(None, b"x" * 5_000, 1, [])
    assert built(fill, [huge, huge], 0, 100)[0] == 1


async def test_what_a_call_meets_on_its_way_is_told_only_when_it_takes_long(monkeypatch):
    """A broker that hands over, or a connection that breaks, is no reason for a gate to say that it does not decide."""
    made = KafkaSession("gate-0", "gate", Partition("gate.state", 0), never, never, deadline=60.0)
    made._client.asked.failed("broker 2 can't be connected to")
    assert made.awaits is None
    async with made._within("writing a batch"):
        made._client.asked.failed("broker 2 can't be connected to")
        assert made.awaits is None
        monkeypatch.setattr(session, "LONG", 0.0)
        assert re.fullmatch(r"writing a batch has taken \d+\.\d s; broker 2 can't be connected to", made.awaits), (
            made.awaits
        )
    assert made.awaits is None, "it is over"
    await made.discard()


async def test_what_is_read_one_by_one_later_is_written_in_small_batches(monkeypatch):
    """A broker sends no less than a batch to who wants one record of it."""
    made = KafkaSession("gate-0", "gate", Partition("gate.state", 0), never, never, deadline=60.0)
    sent = {"gate.delayed.pay": [], "gate.admitted.pay": []}

    async def send(builder, topic, *, partition):
        sent[topic].append(bytes(builder._build()))
        answer = asyncio.get_running_loop().create_future()
        answer.set_result(SimpleNamespace(offset=len(sent[topic]) * 10_000, timestamp_type=0))
        return answer

    monkeypatch.setattr(made._producer, "send_batch", send)
    made.scatter({"gate.delayed.pay"})
    records = [Outgoing(None, bytes(200), 1, [])] * 1_000 + [Outgoing(None, bytes(100_000), 1, [])]
    for topic in sent:
        assert len((await made._send(Partition(topic, 0), records)).offsets) == len(records)
    assert len(sent["gate.admitted.pay"]) == 1
    assert max(map(len, sent["gate.delayed.pay"][:-1])) <= session.SCATTERED_BYTES
    assert len(sent["gate.delayed.pay"]) == 5, "one that is larger goes alone"
    await made.discard()


async def never(*_):
    raise AssertionError


async def test_an_output_that_may_not_be_written_is_named_whatever_else_fails_with_it(monkeypatch):
    """The coordinator adds no partition where one is denied, so that the others may fail as not being added."""
    state, denied = Partition("gate.state", 0), Partition("gate.admitted.pay", 0)
    why = {state: InvalidTxnState(), denied: TopicAuthorizationFailedError({denied.topic})}
    made = KafkaSession("gate-0", "gate", state, never, never, deadline=60.0)
    made._topics = frozenset((state.topic, denied.topic))

    async def fail(partition, _):
        raise why[partition]

    async def taken(_):
        pass

    monkeypatch.setattr(made, "_send", fail)
    monkeypatch.setattr(made._sending, "expect", taken)
    with pytest.raises(OutputError) as raised:
        await made.produce({state: [], denied: []})
    assert raised.value.partition == denied
    await made.discard()
