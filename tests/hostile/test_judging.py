"""The judge of hostile runs finds what it is there to find."""

from collections.abc import Sequence

from tests.hostile.decoding import Header, batches
from tests.hostile.encoding import Codec, Headers, RawBatch, RawRecord
from tests.hostile.judging import Judge, Pause, longest, pauses, taken_over
from tests.hostile.kinds import KINDS, shots

REQUESTS = "hostile.requests.bad-plain"


def batch(records: Sequence[RawRecord], base: int = 0, codec: Codec = Codec.NONE) -> Header:
    (found,) = batches(RawBatch(records, 1_000, codec, base_offset=base).encode())
    return found


def stamped(
    verdict: str, offset: int, *, value: bytes | None = b"v", key: bytes = b"k", more: Headers = ()
) -> RawRecord:
    stamp = f'{verdict};id="{REQUESTS}-0@{offset}";at=1000;attempt=1;policy="p"'.encode()
    return RawRecord(key, value, ((b"trace", b"1"), *more, (b"gate", stamp)))


def judged(*ends: RawRecord, verdict: str = "admitted", plainly: bool = False, offsets: int = 2) -> list[str]:
    judge = Judge(plainly=plainly)
    asked = [RawRecord(b"k", b"v", ((b"trace", b"1"),)) for _ in range(offsets)]
    judge.request(REQUESTS, 0, batch(asked), 0, innocent=False)
    judge.end(verdict, 0, batch(ends), admitted=verdict == "admitted")
    return [line.split(":")[0] for line in judge.problems() if not line.startswith("  ")]


def test_each_ended_once_is_no_problem():
    both = stamped("admitted", 0), stamped("admitted", 1)
    assert judged(*both) == []
    assert judged(*both, plainly=True) == []


def test_what_is_lost_twice_or_unknown_is_told():
    assert judged(stamped("admitted", 0)) == ["lost"]
    assert judged(stamped("admitted", 0), stamped("admitted", 0), stamped("admitted", 1)) == ["twice"]
    assert judged(*(stamped("admitted", i) for i in (0, 1, 7))) == ["unknown"]
    assert judged(*(stamped("admitted", i) for i in (0, 0, 7)), plainly=True) == ["lost", "twice", "unknown"]


def test_stamps_that_are_forged_or_double_are_told():
    forged = stamped("admitted", 1, more=((b"gate", b"admitted"),))
    assert judged(stamped("admitted", 0), forged) == ["lost", "stamp"]
    assert judged(stamped("admitted", 0), stamped("delayed", 1)) == ["lost", "stamp"]


def test_a_request_that_ends_as_another_one_is_told():
    assert judged(stamped("admitted", 0), stamped("admitted", 1, key=b"other")) == ["content"]
    assert judged(stamped("admitted", 0), stamped("admitted", 1, more=((b"new", b""),))) == ["content"]
    assert judged(stamped("admitted", 0), stamped("admitted", 1, value=None)) == ["content"]


def test_a_rejected_request_may_leave_its_value_out():
    refused = stamped("rejected", 0), stamped("rejected", 1, value=None)
    assert judged(*refused, verdict="rejected") == []
    assert judged(refused[0], stamped("rejected", 1, value=b"w"), verdict="rejected") == ["content"]


def test_a_deleted_part_of_a_batch_is_not_waited_for():
    judge = Judge()
    judge.request(REQUESTS, 0, batch([RawRecord(b"k")] * 5), 3, innocent=False)
    assert [place[-2:] for place in judge.unended()] == [b"@3", b"@4"]


def test_a_pause_counts_from_when_something_waited():
    assert pauses([(0, 10), (5, 10), (900, 1_000), (900, 2_000)]) == [
        Pause(0, 10), Pause(900, 1_000), Pause(1_000, 2_000),
    ]  # fmt: skip
    found = [Pause(0, 10), Pause(900, 1_000), Pause(1_000, 2_000)]
    assert longest(found, 0, 1_000) == 100
    assert longest(found, 0, 3_000) == 1_000
    assert longest(found, 0, 3_000, [(1_300, 2_500)]) == 300
    assert longest(found, 0, 3_000, [(900, 2_500)]) == 10


def test_a_take_over_ends_with_the_next_decision():
    assert taken_over({0: [5, 50, 90], 1: [5]}, 50, [0, 1]) == {0: 40, 1: None}


def test_a_kind_is_the_same_whatever_else_is_sent():
    everything = list(shots(3, 400, 10**12))
    assert {shot.kind for shot in everything} == set(KINDS)
    for kind in ("plain", "deltas", "fields", "forms", "stamps"):
        alone = list(shots(3, 4_000, 10**12, [kind]))
        mine = [shot for shot in everything if shot.kind == kind]
        assert mine
        for one, other in zip(mine, alone, strict=False):
            assert (one.topic, one.partition, one.batch.encode()) == (
                other.topic,
                other.partition,
                other.batch.encode(),
            )
