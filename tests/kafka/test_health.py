"""A gate is away only where it decides nothing at all; a shard that waits is told of."""

from dataclasses import dataclass

from gate.kafka.health import Health, health_of
from gate.shard.records import Blocked

AWAY = "broker 2 did not answer EndTxn for 3.1 s"


@dataclass
class Owned:
    """A shard."""

    why: str | None = None
    wholly: bool = True
    ready: bool = True
    failures: int = 0
    serves: bool = True

    def hindered(self) -> Blocked | None:
        return None if self.why is None else Blocked(self.why, self.wholly)


def new() -> Owned:
    return Owned("is being taken over", ready=False)


def test_a_gate_that_takes_over_its_first_shards_is_not_ready_until_all_were_tried():
    taken: set[int] = set()
    for _ in range(2):
        found = health_of({0: Owned(), 1: new()}, taken)
        assert found == Health({"shard 1": "is being taken over"})
    failed = Owned("failed 1 times: no", ready=False, failures=1)
    assert health_of({0: Owned(), 1: failed}, taken) == Health({}, {"shard 1": "failed 1 times: no"})
    assert health_of({0: Owned(), 1: Owned(), 2: new()}, taken) == Health({}, {"shard 2": "is being taken over"})


def test_some_shards_that_wait_take_nothing_from_the_others():
    assert health_of({0: Owned(AWAY), 1: Owned()}, {0, 1}) == Health({}, {"shard 0": AWAY})
    assert health_of({0: Owned(AWAY), 1: Owned(AWAY)}, {0, 1}) == Health({"shard 0": AWAY, "shard 1": AWAY})


def test_a_shard_that_decides_about_some_of_its_services_is_not_away():
    assert health_of({0: Owned(AWAY, wholly=False)}, {0}) == Health({}, {"shard 0": AWAY})


def test_shards_without_services_do_not_make_a_gate_ready():
    assert health_of({0: Owned(AWAY), 1: Owned(serves=False)}, {0, 1}) == Health({"shard 0": AWAY})
    assert health_of({0: Owned(AWAY, serves=False), 1: Owned(serves=False)}, {0, 1}) == Health({}, {"shard 0": AWAY})


def test_a_gate_to_which_nothing_is_left_is_ready_to_take_over():
    assert health_of({}, set()) == Health({})
