"""Reading what workers tell of: what is committed is found, however long a broker hides it; what was made up is not."""

import asyncio

import pytest
from aiokafka import errors

from gate.kafka import admitted_reader as admitted
from gate.kafka import delayed_reader as parked
from gate.kafka.admitted_reader import AdmittedReader
from gate.kafka.aio.reader import EARLIEST
from gate.shard.records import Fetched, Partition
from tests.shard.test_buffer import Rec

HERE = Partition("gate.admitted.pay", 0)
STEP = 0.5  # seconds that pass at each look at the log's bounds


class Log:
    """A partition with `end` records whose leader shows them up to `shown` and, of these, as committed up to `stable`.

    Either is a list of what it answers at one look at the bounds after the other; the last one stays.
    """

    def __init__(self, end, *, shown=(), stable=(), first=0):
        self.end, self.first = end, first
        self._stable = [*stable]
        self.clock = 0.0
        self.show(shown)

    def show(self, answers):
        self._shown, self.looks = [*answers], 0

    def _now(self, answers):
        return answers[min(self.looks, len(answers) - 1)] if answers else self.end

    async def offsets(self, partitions, which, *, committed=True):
        if which == EARLIEST:
            return dict.fromkeys(partitions, self.first)
        assert not committed
        end = self._now(self._shown)
        self.looks += 1
        self.clock += STEP
        return dict.fromkeys(partitions, end)

    async def fetch_one(self, partition, offset, *, wait_ms, partition_bytes, committed):
        assert committed, "what is not committed may never have been"
        await asyncio.sleep(0)
        end = min(self._now(self._shown), self._now(self._stable))
        if offset < self.first or offset > self._now(self._shown):
            raise errors.OffsetOutOfRangeError
        return None if offset >= end else Fetched([Rec(at) for at in range(offset, end)], end, 100 * (end - offset))

    def refresh(self):
        pass


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(admitted, "BACKOFF", 0)


def read(log, *offsets):
    async def one_after_the_other(reader):
        return [await reader.read(HERE, offset) for offset in offsets]

    found = asyncio.run(one_after_the_other(AdmittedReader(log, lambda: log.clock)))
    return [None if record is None else record.offset for record in found]


LOOKS = int(parked.SETTLED / STEP)  # that are as long as it takes to prove that a log ends


@pytest.mark.parametrize(
    ("shown", "stable"),
    [
        ([0] * (LOOKS // 2) + [100], [0] * (2 * LOOKS) + [100]),
        ([100], [50] * (2 * LOOKS) + [100]),
        ([0, 100] * LOOKS + [100], [0] * (2 * LOOKS) + [100]),
    ],
    ids=["behind the end, then in an open transaction", "in an open transaction", "now and then behind the end"],
)
def test_what_the_log_holds_is_waited_for(shown, stable):
    """Only who sees the log end before a place all the time has proof that nothing is there."""
    assert read(Log(100, shown=shown, stable=stable), 60) == [60]


def test_a_place_that_was_made_up_is_given_up_once_the_log_is_proven_to_end_before_it():
    log = Log(100)
    assert read(log, 100) == [None]
    assert parked.SETTLED <= log.clock <= parked.SETTLED + 3 * STEP


def test_one_proof_serves_for_all_that_lies_behind_it():
    log = Log(100)
    assert read(log, 1_000, 100, 5_000) == [None, None, None]
    assert log.looks <= LOOKS + 4


def test_a_proof_is_void_once_the_log_has_grown():
    """A new leader may show the very end that was proven once, long after the log went on behind it."""
    log = Log(200, shown=[100])

    async def later():
        reader = AdmittedReader(log, lambda: log.clock)
        assert await reader.read(HERE, 150) is None
        log.show([200])
        assert (await reader.read(HERE, 190)).offset == 190
        log.show([100] * 5 + [200])
        return (await reader.read(HERE, 150)).offset

    assert asyncio.run(later()) == 150


def test_what_lies_before_the_beginning_is_gone():
    assert read(Log(100, first=60), 50, 60) == [None, 60]


def test_no_answer_in_time_is_an_error_that_names_the_request(monkeypatch):
    monkeypatch.setattr(admitted, "DEADLINE", 0.05)
    with pytest.raises(TimeoutError, match=r"gate\.admitted\.pay-0@60"):
        read(Log(100, stable=[50]), 60)
