"""A broker that does not take some records: each such request ends by itself, and planted bugs are found."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Final
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.shard import routing
from gate.shard.records import Partition
from gate.shard.refusal_history import RefusalHistory, RejectionLevel
from tests.sim import picky, scenario
from tests.sim.log import Broker
from tests.sim.world import Result, play

HOURS: Final = 0.3
SEEDS: Final = 40
REFUSED_EVERYWHERE: Final = (2, 7, 12, 35)  # these have it all; the others are tried when they no longer do

KINDS: Final = st.sets(st.sampled_from(("admitted", "delayed")), min_size=1).map(sorted).map(tuple)
PARTS: Final = st.sampled_from((0, 20, 100, 400, 1_000))
REFUSALS: Final = st.builds(picky.Picky, st.integers(0, 2**31), PARTS, KINDS, PARTS, st.booleans())


def run(seed: int, refusals: picky.Picky | None = None) -> Result:
    return play(replace(scenario.draw(seed, HOURS), picky=refusals or picky.draw(seed)))


@pytest.mark.slow
@given(st.integers(0, 2**31), REFUSALS)
@settings(max_examples=40, derandomize=True)
def test_whatever_a_broker_refuses_every_promise_holds(seed, refusals):
    assert run(seed, refusals).problems == ()


def test_requests_are_refused_at_every_place():
    """Else the test above would show nothing."""
    refused: set[tuple[str, bool, bool]] = set()
    produce = Broker.produce

    def watch(self: Broker, name: str, epoch: int, outputs: Mapping[Partition, Any]) -> Any:
        for partition, records in outputs.items():
            for key, value, _, headers in records:
                if self.picky.refuses(partition, key, value):
                    again = any(b";attempt=2;" in (value or b"") for name, value in headers if name == "gate")
                    refused.add((partition.topic.split(".")[1], again, self.picky.names))
        return produce(self, name, epoch, outputs)

    every = {
        (kind, again, named)
        for kind in ("admitted", "delayed", "rejected")
        for again in (False, True)
        for named in (False, True)
        if (kind, again) != ("delayed", True)  # what waits is not parked again
    }
    with mock.patch.object(Broker, "produce", watch):
        for seed in (*REFUSED_EVERYWHERE, *range(SEEDS)):
            run(seed)
            if refused >= every:
                break
    assert refused == every


# -- planted bugs ------------------------------------------------------------------------------------------------------

Plant = Callable[[], AbstractContextManager[Any]]


def _culprit_forgotten() -> AbstractContextManager[Any]:
    """What the broker names is not remembered."""
    return mock.patch.object(RefusalHistory, "_condemn")


def _never_halved() -> AbstractContextManager[Any]:
    """Where the broker names nobody, the same batch is tried again."""
    return mock.patch.object(RefusalHistory, "_halve")


@contextmanager
def _neighbour_condemned() -> Iterator[None]:
    """It is the next request that is rejected, too."""
    condemn = RefusalHistory._condemn

    def both(self: RefusalHistory, error: Any, record: Any, why: str, now: float) -> None:
        condemn(self, error, record, why, now)
        for rejections in self.condemned.values():
            for offset, rejection in list(rejections.items()):
                if rejection.why == why:
                    rejections.setdefault(offset + 1, rejection._replace(why="next to it"))

    with mock.patch.object(RefusalHistory, "_condemn", both):
        yield


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """What was learnt before is forgotten with each new refusal."""
    learn = RefusalHistory.learn

    def only(self: RefusalHistory, error: Any, now: float) -> None:
        self.condemned.clear()
        learn(self, error, now)

    with mock.patch.object(RefusalHistory, "learn", only):
        yield


@contextmanager
def _always_whole() -> Iterator[None]:
    """A rejected request is written with its value, whatever was learnt."""
    rejected = routing.rejected

    def whole(record: Any, at: int, headers: Any, refusal: Any, *rest: Any) -> Any:
        return rejected(record, at, headers, replace(refusal, level=RejectionLevel.WHOLE), *rest)

    with mock.patch.object(routing, "rejected", whole):
        yield


@contextmanager
def _never_whole() -> Iterator[None]:
    """A rejected request is written without its value, though nobody minds that."""
    rejected = routing.rejected

    def bare(record: Any, at: int, headers: Any, refusal: Any, *rest: Any) -> Any:
        return rejected(record, at, headers, replace(refusal, level=RejectionLevel.WITHOUT_VALUE), *rest)

    with mock.patch.object(routing, "rejected", bare):
        yield


PLANTS: Final[tuple[Plant, ...]] = (
    _culprit_forgotten, _never_halved, _neighbour_condemned, _one_at_a_time, _always_whole, _never_whole,
)  # fmt: skip


# A seed that finds it, where the first one comes late
SOONER: Final[Mapping[Plant, int]] = {_never_halved: 28, _one_at_a_time: 10}


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__.strip("_"))
def test_a_planted_bug_is_found(plant):
    """Within seeds that all pass without it."""
    sooner = SOONER.get(plant, 0)
    with plant():
        assert any(run(seed).problems for seed in sorted(range(SEEDS), key=lambda seed: (seed != sooner, seed)))
