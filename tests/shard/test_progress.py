"""Failures count until requests advance, and an idle shard's do not count for ever."""

from aiokafka.errors import InvalidTxnState, KafkaError

from gate.shard.progress import RESTED, Progress
from gate.units import MS


class Observer:
    def __init__(self) -> None:
        self.told: list[tuple] = []

    def failed(self, shard, error, failures, stuck) -> None:
        self.told.append(("failed", failures, stuck))

    def advances(self, shard) -> None:
        self.told.append(("advances",))


def progress() -> tuple[Progress, list[int], list[tuple]]:
    clock, observer = [0], Observer()
    return Progress(3, observer, lambda: clock[0]), clock, observer.told


def test_a_shard_that_takes_over_and_fails_again_and_again_is_counted():
    shard, clock, told = progress()
    for _ in range(239):
        shard.rests(None)  # there is nothing in the buffer yet
        clock[0] += 300 * MS
        shard.works()
        shard.failed(ValueError("bad"))
    assert told[-1][:2] == ("failed", 239)
    assert told[-1][2] > 60
    assert ("advances",) not in told


def test_requests_that_advance_end_it_and_are_told_once():
    shard, _, told = progress()
    shard.advanced()
    assert told == [], "nothing had failed"
    shard.failed(ValueError("bad"))
    shard.advanced()
    shard.advanced()
    assert told == [("failed", 1, 0.0), ("advances",)]
    assert shard.failures == 0


def test_some_seconds_without_anything_to_do_are_as_good():
    shard, clock, told = progress()
    assert shard.rests(None) is None
    shard.failed(ValueError("a broker restarts"))
    shard.works()
    assert shard.rests(None) == RESTED / 1e9, "looked at again, though nothing else will wake it"
    assert shard.rests(1.0) == 1.0
    clock[0] += RESTED + 1
    assert shard.rests(None) is None
    assert told[-1] == ("advances",)


def test_an_error_that_says_nothing_tells_its_cause():
    shard, _, _ = progress()
    unexpected = KafkaError("Unexpected error during batch delivery")
    unexpected.__cause__ = InvalidTxnState()
    shard.failed(unexpected)
    assert shard.why.endswith("batch delivery: [Error 48] InvalidTxnState")
    shard.failed(TimeoutError())
    assert shard.why == "TimeoutError"
