"""The bytes of fetch requests and answers are those of aiokafka, which makes them from the protocol's description."""

from io import BytesIO

import pytest
from aiokafka import errors
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v4, FetchRequest_v10, FetchResponse_v10
from hypothesis import given
from hypothesis import strategies as st

from gate.kafka.aio.fetch import Answer, Answers, Fetch, answers_of
from gate.shard.records import Partition

ints = st.integers(-(2**31), 2**31 - 1)
longs = st.integers(-(2**63), 2**63 - 1)
names = st.text(max_size=20).filter(lambda name: name.isprintable())
wanted = st.lists(st.tuples(names, st.lists(st.tuples(ints, longs, ints), max_size=4)), max_size=6)
said = st.tuples(
    ints, st.integers(-2, 100), longs, longs, longs,
    st.none() | st.lists(st.tuples(longs, longs), max_size=3),
    st.none() | st.binary(max_size=40),
)  # fmt: skip
answered = st.lists(st.tuples(names, st.lists(said, max_size=4)), max_size=6)


@given(wanted, ints, ints, ints, st.sampled_from((0, 1)))
def test_a_request_is_byte_for_byte_that_of_aiokafka(topics, wait, least, most, isolation):
    ours, theirs = Fetch(wait, least, most, isolation, topics), FetchRequest(wait, least, most, isolation, topics)
    for version in {FetchRequest_v4, FetchRequest_v10} & set(FetchRequest._CLASSES):
        assert ours.build(version).encode() == theirs.build(version).encode()


@pytest.mark.parametrize(("most", "version"), [(17, 10), (11, 10), (10, 10), (4, 4)])
def test_the_newest_form_that_we_know_is_taken_whatever_aiokafka_would_ask_for(most, version):
    """aiokafka 0.13 asks for version 4, though it has the others."""
    assert version == Fetch(0, 0, 0, 0, []).prepare({1: (4, most)}).API_VERSION


@given(answered, st.binary(max_size=8))
def test_of_an_answer_all_is_read_that_says_something(topics, before):
    encoded = FetchResponse_v10(7, 0, 9, topics).encode()
    data = BytesIO(before + encoded)
    data.seek(len(before))  # behind the header
    assert list(answers_of(Answers.decode(data))) == [
        Answer(Partition(topic, number), code, aborted or [], batches or None)
        for topic, partitions in topics
        for number, code, _, _, _, aborted, batches in partitions
        if code or batches
    ]


def test_a_request_that_is_refused_as_a_whole_is_an_error():
    refused = Answers.decode(BytesIO(FetchResponse_v10(0, 70, 0, []).encode()))
    with pytest.raises(errors.KafkaError):
        list(answers_of(refused))


@given(answered)
def test_older_answers_are_read_as_aiokafka_reads_them(topics):
    class Older:
        pass

    response = Older()
    response.topics = topics
    assert list(answers_of(response)) == [
        Answer(Partition(topic, p[0]), p[1], p[5] or (), p[6] or None)
        for topic, partitions in topics
        for p in partitions
    ]
