"""What a batch takes of each service that waits."""

from types import SimpleNamespace

import pytest

from gate.kafka.aio.decoding import decode
from gate.policy import parse_policy
from gate.protocol.topics import Names
from gate.shard.buffer import MemoryPool
from gate.shard.changelog_records import FORMAT, Meta
from gate.shard.reader import BATCH_RECORDS, ShardReader
from gate.shard.records import Fetched, Partition
from gate.shard.refusal_history import RefusalHistory
from gate.shard.state import ShardState
from gate.shard.topic_limits import TopicLimits
from gate.units import MS
from tests.kafka.raw import Rec, batch
from tests.sim.log import Stored

NOW = 1_764_000_000_000 * MS


def test_whoever_sends_much_leaves_the_others_their_part_of_a_batch():
    state = ShardState(Names(), parse_policy("services: {}"), Meta(FORMAT, 16), {}, NOW)
    reader = ShardReader(SimpleNamespace(names=Names(), pool=MemoryPool(1 << 30, 1)), lambda: None, {})
    sent = {"stranger": [3 * BATCH_RECORDS] * 4, "busy": [BATCH_RECORDS], "calm": [5], "other": [7]}
    for service, counts in sent.items():
        state.serve(service, NOW)
        for number, count in enumerate(counts):
            records = [Stored(i, 1, b"k", b"v", ()) for i in range(count)]
            reader.buffer.put(Partition(f"gate.requests.{service}", number), Fetched(records, count, 10 * count))

    taken = {
        service: [len(part[1]) for part in parts]
        for service, parts in reader.take(state, RefusalHistory(Names()), NOW)[0].items()
    }

    assert taken["calm"] == [5]
    assert taken["other"] == [7]
    assert sum(map(sum, taken.values())) == BATCH_RECORDS
    assert abs(sum(taken["busy"]) - sum(taken["stranger"])) <= 1
    assert len(taken["stranger"]) == 4
    assert max(taken["stranger"]) - min(taken["stranger"]) <= 1
    assert (
        sum(len(part[1]) for part in reader.take(state, RefusalHistory(Names()), NOW)[0]["busy"]) == BATCH_RECORDS // 2
    )  # as much as before


@pytest.mark.parametrize("codec", [0, 1, 4])
@pytest.mark.parametrize(
    ("large", "judged"), [([], False), ([Rec(value=bytes(999_500))], True)], ids=["small", "large"]
)
async def test_requests_are_judged_one_by_one_only_where_one_of_them_may_be_too_large(codec, large, judged):
    """A producer fills its batches; that they are large says nothing about the requests in them."""

    async def configs(topics):
        return {topic: {"max.message.bytes": "1000000", "cleanup.policy": "delete"} for topic in topics}

    here = Partition("gate.requests.pay", 0)
    state = ShardState(Names(), parse_policy("services: {pay: {}}"), Meta(FORMAT, 16), {}, NOW)
    state.serve("pay", NOW)
    limits = TopicLimits(configs)
    await limits.refresh(state.outputs("pay"))
    reader = ShardReader(
        SimpleNamespace(names=Names(), pool=MemoryPool(1 << 30, 1), limits=limits), lambda: None, {"pay": 1}
    )
    records = [*[Rec(b"k", bytes(100))] * (0 if large and not codec else 7_000), *large]
    reader.buffer.put(here, decode(batch(records, codec=codec), [], 0))
    found = False
    while reader.buffer.waiting:
        refusals = RefusalHistory(Names())
        taken, retried = reader.take(state, refusals, NOW)
        found |= bool(await reader.judges(state, taken, retried, refusals))
    assert found == judged
