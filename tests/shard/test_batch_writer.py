"""What a batch writes, in which order, and what is left of it where a call fails."""

import pytest

from gate.protocol.headers import parse_stamp
from gate.shard.records import CommittedOffset, Outgoing, Partition
from tests.shard.memory import ADMITS, Kafka, Session, fetched, running, until

REQUESTS = Partition("gate.requests.pay", 0)
ALERTS = Partition("gate.alerts", 0)

PARKS = "services: {pay: {requests_per_second: 1/h, burst_size: 2, window_limit: 1000, max_delay: 30d}}"
REJECTS = "services: {pay: {requests_per_second: 1/h, burst_size: 2, overflow: reject}}"
HOLDS = "services: {pay: {requests_per_second: 1/h, burst_size: 2, overflow: hold}}"


async def offer(shard, around, *offsets):
    """Bring requests, and return the calls that their batch made."""
    await until(lambda: shard.ready)
    await until(lambda: REQUESTS in around.source.followed)
    around.kafka.calls.clear()
    commits = around.observer.commits
    shard._reader.buffer.put(REQUESTS, fetched(*offsets))
    await until(lambda: around.observer.commits > commits)
    return list(around.kafka.calls)


@pytest.mark.parametrize(
    ("policy", "calls"),
    [
        # outputs, state and the group's offset in one: nobody sees one without the others
        (ADMITS, ["begin", "produce admitted.pay state offsets", "commit"]),
        (REJECTS, ["begin", "produce admitted.pay alerts rejected.pay state offsets", "commit"]),
        (HOLDS, ["begin", "produce admitted.pay alerts state offsets", "commit"]),
        # the state says where the parked ones lie, so they are there first
        (PARKS, ["begin", "produce admitted.pay delayed.pay", "produce alerts state offsets", "commit"]),
    ],
)
async def test_the_calls_of_a_batch(policy, calls):
    async with running(Kafka(), policy) as (shard, around):
        assert await offer(shard, around, 0, 1, 2, 3) == calls


@pytest.mark.parametrize(
    ("policy", "calls"),
    [
        # what is admitted counts before it is out; the offset comes last, or a crash would lose what is not out yet
        (ADMITS, ["begin", "produce state", "produce admitted.pay", "produce offsets", "commit"]),
        (PARKS, ["begin", "produce delayed.pay", "produce state", "produce admitted.pay alerts", "produce offsets",
                 "commit"]),
    ],
)  # fmt: skip
async def test_the_order_without_transactions(policy, calls):
    async with running(Kafka(atomic=False), policy) as (shard, around):
        assert await offer(shard, around, 0, 1, 2, 3) == calls


@pytest.mark.parametrize("call", ["produce admitted.pay delayed.pay", "produce alerts state offsets", "commit"])
async def test_a_batch_that_fails_is_decided_anew_and_nothing_of_it_is_there(call):
    kafka = Kafka()
    async with running(kafka, PARKS) as (shard, around):
        await until(lambda: shard.ready)
        kafka.fail[call] = 1
        shard._reader.buffer.put(REQUESTS, fetched(0, 1, 2))
        await until(lambda: around.observer.failures)
        assert not kafka.ids("gate.admitted.pay")
        assert not kafka.ids("gate.delayed.pay")
        await until(lambda: shard.ready)
        assert around.source.followed[REQUESTS] is None, "it is read from where the last commit was"
        await offer(shard, around, 0, 1, 2)
    assert kafka.ids("gate.admitted.pay") == [f"gate.requests.pay-0@{n}" for n in (0, 1)]
    assert kafka.ids("gate.delayed.pay") == ["gate.requests.pay-0@2"]
    assert kafka.marks[REQUESTS].offset == 3
    assert [str(error) for error in around.observer.failures] == [f"{call} failed"]


async def test_the_offset_of_a_batch_carries_the_time_by_which_it_was_decided():
    kafka = Kafka()
    async with running(kafka) as (shard, around):
        await offer(shard, around, 0, 1)
    (at,) = {parse_stamp(stamp).at_ms for stamp in kafka.stamps("gate.admitted.pay")}
    assert kafka.marks[REQUESTS] == CommittedOffset(2, at)


async def test_a_session_that_is_spent_begins_no_transaction_to_correct_offsets(monkeypatch):
    kafka = Kafka()
    async with running(kafka) as (shard, around):
        await offer(shard, around, 0, 1)
    kafka.marks[REQUESTS] = CommittedOffset(0)  # a broker has lost what was committed
    kafka.calls.clear()
    sessions = []

    def spent(session):
        if session not in sessions:
            sessions.append(session)
        return "EndTxn was sent again" if session is sessions[0] else None

    monkeypatch.setattr(Session, "spent", property(spent), raising=False)
    async with running(kafka) as (shard, around):
        await until(lambda: kafka.marks[REQUESTS].offset == 2)
    first, second = (" ".join(calls) for calls in split(kafka.calls, "claim")[1:])
    assert "offsets" not in first
    assert "offsets" in second


def split(calls, at):
    """Return parts of a list, each but the first of which begins with `at`."""
    parts = [[]]
    for call in calls:
        if call == at:
            parts.append([])
        parts[-1].append(call)
    return parts


async def test_an_alert_is_ended_once_however_often_that_is_asked_for_and_by_whichever_owner():
    """The end may not be readable yet as the topic is read again: the state knows."""
    kafka, end = Kafka(), Outgoing(b"", b"{}", None, [])
    for ends in ({3: end, 9: end}, {3: end, 9: end, 11: end}):
        async with running(kafka) as (shard, around):
            await until(lambda: shard.is_sound)
            if 11 not in ends:
                assert shard.alerts_begin is None
            written = len(kafka.logs.get(ALERTS, ()))
            shard.end_alerts(ends, list(ends), 3)
            await until(lambda: len(kafka.logs.get(ALERTS, ())) > written)  # noqa: B023
            shard.end_alerts(ends, list(ends), 3)
            await offer(shard, around, len(ends))
    assert len(kafka.logs[ALERTS]) == 3
    async with running(kafka) as (shard, _):
        await until(lambda: shard.is_sound)
        assert shard.alerts_begin == 3
