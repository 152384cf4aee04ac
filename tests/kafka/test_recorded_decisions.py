"""Decisions are read back from a shard's outputs in the order in which it made them, from whatever partitions."""

import random
from collections.abc import Iterator, Mapping, Sequence

import pytest

from gate.admission.replay import replay
from gate.kafka.aio.reader import LATEST
from gate.kafka.recorded_decisions import disagreements, recorded_decisions
from gate.policy import parse_policy
from gate.protocol.headers import PRIORITY, TENANT
from gate.shard.records import Fetched, Partition
from gate.units import MS
from tests.shard.memory import NOW, Kafka, Stored, running, stored, until

POLICY = """
services:
  pay:
    requests_per_second: 30
    burst_size: 10
    window_size: 3s
    overflow: delay
    max_delay: 2s
    priorities: {interactive: 6, batch: 1}
    tenants: {default: {requests_per_second: 20, burst_size: 5}, acme: {requests_per_second: 10, burst_size: 5}}
"""
BATCHES = 20


class Logs:
    """The reader's side of logs in memory."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka

    async def offsets(self, places: Sequence[Partition], at: int) -> Mapping[Partition, int]:
        return {place: len(self._kafka.logs.get(place, ())) if at == LATEST else 0 for place in places}

    async def fetch_one(self, place: Partition, position: int, *_: object, **__: object) -> Fetched:
        log = self._kafka.logs[place]
        records = [stored(offset, log[offset]) for offset in range(position, len(log))]
        return Fetched(records, len(log), 100)


def requests(rng: random.Random) -> Iterator[Fetched]:
    """Yield for ever what comes of two partitions: one tenant in each, lanes at random."""
    ends = [0, 0]
    while True:
        for number, tenant in enumerate((b"zeta", b"acme")):
            count = rng.choice([5, 5, rng.randint(1, 6)])
            first, ends[number] = ends[number], ends[number] + count
            lanes = rng.choices([b"interactive", b"batch"], k=count)
            records = [
                Stored(offset, NOW // MS, b"k", b"v", ((TENANT, tenant), (PRIORITY, lane)))
                for offset, lane in enumerate(lanes, first)
            ]
            yield Fetched(records, ends[number], 100 * rng.randint(1, 20))


@pytest.mark.parametrize("seed", range(12))
async def test_an_engine_that_is_given_the_recording_decides_as_the_gate_did(seed):
    rng, kafka = random.Random(seed), Kafka()
    places = [Partition("gate.requests.pay", number) for number in range(2)]
    coming, came = requests(rng), 0
    async with running(kafka, POLICY, requests={"pay": 2}) as (shard, around):
        await until(lambda: shard.ready and set(places) <= around.source.followed.keys())
        for _ in range(BATCHES):
            for place in places:
                what = next(coming)
                came += len(what.records)
                around.source.put(place, what)
            await until(lambda: len(decided(kafka)) == came)  # noqa: B023
            around.advance(rng.choice([0.1, 0.15, 0.3, 0.02]))
            shard.heed()

        def ended() -> bool:
            around.advance(0.01)
            shard.heed()
            return len(kafka.ids("gate.admitted.pay")) + len(kafka.ids("gate.rejected.pay")) == came

        await until(ended)
    told = await recorded_decisions(Logs(kafka), kafka.names, "pay", lambda _: 2, 0, NOW // MS + 60_000, 10_000)
    assert len(told.decisions) == came
    played = replay("pay", parse_policy(POLICY), told.requests, told.moments)
    assert disagreements(told, played) == []


def decided(kafka: Kafka) -> set[str]:
    """Return the ids of requests of which anything is known."""
    return {one for kind in ("admitted", "delayed", "rejected") for one in kafka.ids(f"gate.{kind}.pay")}
