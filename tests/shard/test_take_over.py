"""What a new owner does before it decides anything: in which order, and what it makes of what it finds."""

import asyncio

import pytest

from gate.admission.model import Pull, Verdict
from gate.protocol.headers import parse_stamp
from gate.shard.changelog_records import (
    FORMAT,
    LEAVING_KEY,
    META_KEY,
    ClosedGeneration,
    Meta,
    StateClosedError,
    StateMismatchError,
    encode_leaving,
    encode_meta,
)
from gate.shard.records import CommittedOffset, Partition
from gate.units import MS
from tests.shard.memory import NOW, SHARDS, Kafka, fetched, running, until

REQUESTS, DELAYED = Partition("gate.requests.pay", 0), Partition("gate.delayed.pay", 0)
PARKS = "services: {pay: {requests_per_second: 1/h, burst_size: 2, window_limit: 1000, max_delay: 30d}}"


def writes(calls):
    return [call for call in calls if call.startswith(("produce", "commit"))]


@pytest.mark.parametrize("atomic", [True, False])
async def test_membership_is_proven_before_the_predecessor_is_fenced_and_the_clock_is_set_before_anything_else(atomic):
    async with running(Kafka(atomic=atomic)) as (shard, around):
        await until(lambda: shard.ready)
        assert around.kafka.calls[:4] == ["confirm", "claim", "begin", "produce state"]
        calls = around.kafka.calls
        assert set(calls[: calls.index("commit")]) == {"confirm", "claim", "begin", "produce state"}


async def test_who_is_no_member_fences_nobody():
    async with running(Kafka(), unconfirmed=2) as (shard, around):
        await until(lambda: len(around.observer.failures) == 2)
        assert "claim" not in around.kafka.calls
        assert not shard.ready
        await until(lambda: shard.ready)
    assert [str(error) for error in around.observer.failures] == ["not a member"] * 2


async def test_who_is_told_to_stop_while_it_proves_itself_fences_nobody():
    """Its shard has another owner, who may be at work."""
    async with running(Kafka()) as (shard, around):
        confirming, go_on = asyncio.Event(), asyncio.Event()

        async def confirm(_):
            confirming.set()
            await go_on.wait()

        around.confirm = confirm
        await confirming.wait()
        stopping = asyncio.create_task(shard.stop(5.0))
        await until(lambda: shard.stopping)
        go_on.set()
        await stopping
        assert "claim" not in around.kafka.calls


@pytest.mark.parametrize(
    ("meta", "error", "said"),
    [
        (Meta(FORMAT, SHARDS + 1), StateMismatchError, "divides services onto 5 shards"),
        (Meta(FORMAT + 1, SHARDS), StateMismatchError, f"a newer gate .format {FORMAT + 1}"),
        (Meta(FORMAT, SHARDS, closed=ClosedGeneration(2, 8)), StateClosedError, "moves it to generation 2 .8 shards"),
    ],
)
async def test_a_state_that_is_not_to_be_decided_by_is_left_as_it_is(meta, error, said):
    kafka = Kafka(state={META_KEY: encode_meta(meta)})
    async with running(kafka) as (shard, around):
        await until(lambda: around.observer.failures)
        with pytest.raises(error, match=said):
            raise around.observer.failures[0]
        assert not shard.ready
        assert around.was_closed is (meta.closed is not None)
    assert not writes(kafka.calls)


async def test_damaged_state_is_named_and_nothing_is_decided_by_the_rest_of_it():
    kafka = Kafka(state={META_KEY: encode_meta(Meta(FORMAT, SHARDS)), "service/pay": b"\x02damaged"})
    async with running(kafka) as (shard, around):
        await until(lambda: around.observer.failures)
        assert "the state of pay" in str(around.observer.failures[0])
        assert not shard.ready
        assert not around.source.followed


async def test_a_successor_decides_no_earlier_than_its_predecessor():
    """Its clock may be behind; a window that is counted by it would let more through."""
    ahead = NOW + 3_600_000 * MS
    kafka = Kafka(state={META_KEY: encode_meta(Meta(FORMAT, SHARDS, at=ahead, since=1))})
    async with running(kafka) as (_, around):
        await until(lambda: REQUESTS in around.source.followed)
        around.source.put(REQUESTS, fetched(0))
        await until(lambda: kafka.ids("gate.admitted.pay"))
    (stamp,) = kafka.stamps("gate.admitted.pay")
    assert parse_stamp(stamp).at_ms > ahead // MS


async def test_what_was_used_and_what_is_parked_is_known_to_the_successor():
    kafka = Kafka()
    async with running(kafka, PARKS) as (shard, around):
        await until(lambda: REQUESTS in around.source.followed)
        around.source.put(REQUESTS, fetched(0, 1, 2, 3))
        await until(lambda: len(kafka.ids("gate.delayed.pay")) == 2)
    async with running(kafka, PARKS) as (shard, around):
        await until(lambda: REQUESTS in around.source.followed)
        assert around.source.followed[REQUESTS] == 4
        around.source.put(REQUESTS, fetched(4))
        await until(lambda: len(kafka.ids("gate.delayed.pay")) == 3)
        assert shard._state.lowest() == {DELAYED: 0}
    assert len(kafka.ids("gate.admitted.pay")) == 2


@pytest.mark.parametrize(("since", "start"), [(0, 5), (1, None)])
async def test_an_offset_that_claims_to_have_come_with_a_position_and_did_not_is_not_believed(since, start):
    meta = Meta(FORMAT, SHARDS, since=since)
    kafka = Kafka(state={META_KEY: encode_meta(meta)}, marks={REQUESTS: CommittedOffset(5, NOW // MS if since else 0)})
    async with running(kafka) as (_, around):
        await until(lambda: REQUESTS in around.source.followed)
        assert around.source.followed[REQUESTS] == start


async def test_without_transactions_what_was_on_its_way_out_is_decided_anew():
    """The predecessor had taken it off the delayed topic; whether it is out, nobody knows."""
    kafka = Kafka(atomic=False)
    async with running(kafka, PARKS) as (shard, around):
        await until(lambda: REQUESTS in around.source.followed)
        around.source.put(REQUESTS, fetched(0, 1, 2))
        await until(lambda: kafka.ids("gate.delayed.pay"))
    kafka.state[LEAVING_KEY] = encode_leaving([("pay", Pull(0, 0, 1, Verdict.ADMITTED))])
    async with running(kafka, PARKS) as (shard, _):
        await until(lambda: LEAVING_KEY not in kafka.state and shard.ready)
    assert kafka.ids("gate.delayed.pay") == ["gate.requests.pay-0@2"] * 2, "it is charged again, so it waits again"
    assert kafka.ids("gate.admitted.pay") == [f"gate.requests.pay-0@{n}" for n in (0, 1)]
