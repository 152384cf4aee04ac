"""What becomes of a shard that waits: for its turn with a large batch, for the end of the last one with a small."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gate.mesh.wire import Report, encode
from gate.policy import parse_policy
from gate.protocol.headers import START
from gate.shard import owner as shard_module
from gate.shard.owner import Shard
from gate.shard.reader import LARGE_BYTES
from gate.shard.records import Blocked, Fetched, Partition
from gate.units import MS
from tests.shard.memory import ADMITS, NOW, Kafka, Session, Stored, Surroundings, fetched, running, until

REQUESTS = Partition("gate.requests.pay", 0)
ADMITTED = "gate.admitted.pay"
LARGE = LARGE_BYTES + 1


@asynccontextmanager
async def ready(policy: str = ADMITS, **options: int) -> AsyncIterator[tuple[Shard, Surroundings, Kafka, Session]]:
    """Run a shard that waits for requests, and forget what was called to get there."""
    kafka = Kafka()
    async with running(kafka, policy, **options) as (shard, around):
        await until(lambda: shard.ready and REQUESTS in around.source.followed)
        kafka.calls.clear()
        yield shard, around, kafka, kafka.sessions[-1]


@pytest.mark.parametrize(("what", "next_call"), [("doubt", "is settled"), ("pause", None)])
async def test_who_is_called_off_while_it_waits_begins_no_batch(what, next_call):
    """Least of all after a doubt: a further transaction would end what the broker has left half-done of the last."""
    async with ready(turns=0) as (shard, around, kafka, _):
        around.source.put(REQUESTS, fetched(0, size=LARGE))
        await around.large.was_asked.wait()
        getattr(shard, what)()
        around.large.release()
        if next_call is None:
            await until(lambda: not around.large.locked())  # its turn is the next one's
            assert not kafka.calls
        else:
            await until(lambda: kafka.calls)
            assert kafka.calls[0] == next_call


async def test_a_doubt_without_cause_costs_no_session():
    """A broker that was stopped as it should be has left nothing half-done."""
    async with ready() as (shard, around, kafka, _):
        shard.doubt()
        around.source.put(REQUESTS, fetched(0))
        await until(lambda: kafka.ids(ADMITTED))
        around.source.put(REQUESTS, fetched(1))
        await until(lambda: len(kafka.ids(ADMITTED)) == 2)
        assert kafka.calls.count("is settled") == 1, "it is looked into once"
        assert "discard" not in kafka.calls


async def test_what_a_broker_has_left_half_done_is_a_further_sessions():
    async with ready() as (shard, around, kafka, _):
        kafka.settled = False
        shard.doubt()
        await until(lambda: "claim" in kafka.calls)
        assert kafka.calls[: kafka.calls.index("claim")] == ["is settled", "discard", "confirm"]
        assert "half-done" in str(around.observer.failures[0])


async def test_a_session_that_has_sent_something_twice_begins_no_further_batch():
    async with ready() as (_, around, kafka, session):
        session.spent = "EndTxn was sent again"
        around.source.put(REQUESTS, fetched(0))
        await until(lambda: "claim" in kafka.calls)
        assert kafka.calls[: kafka.calls.index("claim")] == ["discard", "confirm"]
        assert not around.observer.failures, "nothing has failed"


async def test_what_has_changed_while_it_waits_is_taken_in():
    async with ready(turns=0) as (shard, around, kafka, _):
        around.source.put(REQUESTS, fetched(0, size=LARGE))
        await around.large.was_asked.wait()
        shard.set_policy(parse_policy("services: {pay: {requests_per_second: 0, overflow: reject}}"))
        around.large.release()
        await until(lambda: kafka.ids("gate.rejected.pay"))
        assert not kafka.ids(ADMITTED)


async def test_small_batches_wait_for_nobody():
    async with ready(turns=0) as (_, around, kafka, _):
        around.source.put(REQUESTS, fetched(0, size=LARGE_BYTES))
        await until(lambda: kafka.ids(ADMITTED))
        assert not around.large.was_asked.is_set()


async def test_large_ones_that_hang_stop_no_other_for_ever(monkeypatch):
    monkeypatch.setattr(shard_module, "PATIENCE", 0.01)
    async with ready(turns=0) as (_, around, kafka, _):
        around.source.put(REQUESTS, fetched(0, size=LARGE))
        await until(lambda: kafka.ids(ADMITTED))
        assert around.large.locked(), "what it did not get it does not give back"


def once(action: Callable[[], object]) -> Callable[[], float]:
    """Return how long the last batch takes to end: nothing, but something happens meanwhile, the first time."""
    left = [action]

    def settles() -> float:
        if left:
            left.pop()()
        return 0.0

    return settles


async def test_what_comes_while_the_last_batch_is_being_ended_joins_the_next():
    async with ready() as (_, around, kafka, session):
        session.settles = once(lambda: around.source.put(REQUESTS, fetched(1)))
        around.source.put(REQUESTS, fetched(0))
        await until(lambda: kafka.ids(ADMITTED))
        assert len(kafka.ids(ADMITTED)) == 2
        assert kafka.calls.count("commit") == 1


async def test_who_is_called_off_meanwhile_begins_no_batch():
    async with ready() as (shard, around, kafka, session):
        session.settles = once(shard.doubt)
        around.source.put(REQUESTS, fetched(0))
        await until(lambda: kafka.calls)
        assert kafka.calls[0] == "is settled"


async def test_large_batches_wait_for_no_end_of_the_last():
    """It has long been ended when they are decided."""
    async with ready() as (_, around, kafka, session):
        asked: list[float] = []
        session.settles = lambda: asked.append(0.0) or 0.0
        around.source.put(REQUESTS, fetched(0, size=LARGE))
        await until(lambda: kafka.ids(ADMITTED))
        assert not asked


async def test_what_is_due_waits_for_no_end_of_the_last():
    """It is stamped by its own time only if that has not passed when the batch begins."""
    async with ready("services: {pay: {requests_per_second: 100, burst_size: 1, max_delay: 1h}}") as run:
        _, around, kafka, session = run
        around.source.put(REQUESTS, fetched(0, 1))
        await until(lambda: kafka.ids("gate.delayed.pay"))
        session.settles = lambda: 3600.0
        around.source.put(REQUESTS, fetched(2))
        await until(lambda: len(kafka.ids(ADMITTED)) >= 2)


async def test_a_shard_that_reads_nothing_new_and_decides_what_is_parked_is_not_told_to_stand():
    """While brokers elect, a gate that still lets go what waits is no worse than any other."""
    async with ready() as (shard, around, kafka, _):
        around.source.unread = Blocked("nobody leads it", wholly=True)
        assert shard.hindered() == Blocked("nobody leads it", wholly=True)
        around.source.put(REQUESTS, fetched(0))
        await until(lambda: shard.hindered() == Blocked("nobody leads it", wholly=False))
        assert kafka.ids(ADMITTED)
        around.advance(4.0)
        assert shard.hindered() == Blocked("nobody leads it", wholly=True)


@pytest.mark.parametrize(
    ("hangs", "begin", "told"),
    [
        ("commit", lambda shard, session: None, "a batch is under way"),
        ("is settled", lambda shard, session: shard.doubt(), "whether its last batch stands as a whole is asked"),
        ("claim", lambda shard, session: setattr(session, "spent", "sent again"), "is being taken over anew"),
    ],
)
async def test_a_shard_that_was_ready_and_stands_for_seconds_is_told_to_stand(hangs, begin, told):
    """Whoever is asked: what no session waits for, as it is begun anew, holds requests up as well."""
    async with ready() as (shard, around, kafka, session):
        around.advance(3600.0)
        assert shard.hindered() is None, "it rests"
        kafka.hangs[hangs] = asyncio.Event()
        begin(shard, session)
        around.source.put(REQUESTS, fetched(0))
        await until(lambda: hangs in kafka.calls)
        assert shard.hindered() is None, "it has just begun"
        around.advance(4.0)
        assert shard.hindered() == Blocked(f"{told}, for 4.0 s", wholly=True)
        kafka.hangs[hangs].set()
        await until(lambda: shard.hindered() is None)


async def test_a_shard_that_is_paused_for_seconds_is_told_to_stand():
    async with ready() as (shard, around, _, _):
        shard.pause()
        await asyncio.sleep(0)  # it takes notice
        await until(lambda: around.advance(4.0) or shard.hindered())
        assert shard.hindered().why.startswith("waits for the group to assign it, for ")
        shard.start({"pay": 1})
        await until(lambda: shard.hindered() is None)


async def test_what_processes_share_does_not_keep_a_failure_from_being_over():
    """A shard that serves calls alone has a batch each second, and none of them is about requests."""
    async with ready() as (shard, around, kafka, _):
        leases = Partition("gate.leases", 1)
        kafka.fail["commit"] = 1
        for offset in range(20):
            report = encode(Report("h", 1, offset, lookups=(("pay", ""),)))
            before = around.observer.commits + len(around.observer.failures)
            around.source.put(leases, Fetched([Stored(offset, 0, b"h", report, ())], offset + 1, 100))
            await until(lambda: around.observer.commits + len(around.observer.failures) > before and shard.ready)  # noqa: B023
            around.advance(1.0)
        assert around.observer.failures
        assert shard.failures == 0


async def test_what_is_scheduled_is_read_ahead_before_it_is_due():
    async with ready() as (shard, around, kafka, _):
        start = NOW // MS + 60_000
        later = [Stored(offset, NOW // MS, b"k", b"v", [(START, b"%d" % start)]) for offset in range(2)]
        around.source.put(REQUESTS, Fetched(later, 2, 100))
        await until(lambda: kafka.calls.count("commit") == 1)
        kafka.calls.clear()
        around.advance(59.9)
        shard.heed()
        await until(lambda: "prefetch delayed.pay [0, 1]" in kafka.calls)
        assert "read delayed.pay" not in kafka.calls
        around.advance(0.2)
        shard.heed()
        await until(lambda: len(kafka.ids(ADMITTED)) == 2)
        assert kafka.calls.count("prefetch delayed.pay [0, 1]") == 1
