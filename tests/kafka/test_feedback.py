"""What is kept of the control topic: each command until its owner has it, whatever ids others give to theirs."""

import asyncio

from gate.kafka import feedback as kafka_feedback
from gate.kafka.feedback import Feedback
from gate.protocol import control
from gate.protocol.control import Cancel, PauseUntil, Resume, Selection, SetLimit
from gate.protocol.policies import LiveLimit
from gate.shard.owner_views import Lag, Watched
from gate.shard.records import Fetched, Partition
from tests.sim.log import Stored


class Topic:
    """A control topic that holds these."""

    def __init__(self, *given):
        self.records = [
            Stored(n, 1_700_000_000_000, known.encode(), control.encode(command), ((control.BY, control.OPERATOR),))
            for n, (known, command) in enumerate(given)
        ]

    async def offsets(self, partitions, moment):
        return dict.fromkeys(partitions, 0 if moment == -2 else len(self.records))

    async def fetch_one(self, _partition, position, **_options):
        if position >= len(self.records):
            await asyncio.Event().wait()
        return Fetched(self.records[position:], len(self.records), 100)


async def heard(*given):
    feedback = Feedback(Topic(*given), None, "gate.control", lambda: (), lambda: None)
    await feedback.start()
    await feedback.stop()
    return [(received.offset, received.service) for received in feedback.since(0)]


async def test_one_id_for_two_services_are_two_commands():
    everything = Selection(all=True)
    assert await heard(("mine", Cancel("pay", everything)), ("mine", Cancel("search", everything))) == [
        (0, "pay"), (1, "search"),
    ]  # fmt: skip
    pauses = ("mine", PauseUntil(2**52, service="pay")), ("mine", PauseUntil(2**52, service="search"))
    assert await heard(*pauses) == [(0, "pay"), (1, "search")]


async def test_a_pause_that_is_sent_again_after_a_resume_is_none():
    pause = ("mine", PauseUntil(2**52, service="pay"))
    assert await heard(pause, ("other", Resume(service="pay")), pause) == [(0, "pay"), (1, "pay")]


async def test_one_id_for_a_cancel_and_a_limit_are_two_commands():
    limit = SetLimit("pay", LiveLimit(requests_per_second="5"))
    cancel = Cancel("pay", Selection(all=True))
    assert await heard(("mine", cancel), ("mine", limit), ("mine", cancel)) == [(1, "pay"), (2, "pay")]


async def test_whatever_a_measurement_ends_with_workers_are_measured_again(monkeypatch):
    monkeypatch.setattr(kafka_feedback, "LAG_EVERY", 0)
    monkeypatch.setattr(kafka_feedback, "BACKOFF", 0)
    looks = []

    def watched():
        looks.append(len(looks))
        raise KeyError("slipped")

    feedback = Feedback(Topic(), None, "gate.control", watched, lambda: None)
    await feedback.start()
    async with asyncio.timeout(30):
        while len(looks) < 3 and not any(task.done() for task in feedback._tasks):
            await asyncio.sleep(0.001)
    await feedback.stop()
    assert len(looks) >= 3


async def test_a_lag_says_by_whose_count_it_was_measured():
    """The shard may be taken over while it is measured."""

    class Committed:
        async def offsets(self, _group, partitions):
            return dict.fromkeys(partitions, 0)

    count = object()
    feedback = Feedback(Topic(*[("mine", Resume(service="pay"))] * 3), Committed(), "gate.control", tuple, lambda: None)
    watched = Watched("pay", "workers", (Partition("gate.admitted.pay", 0),), 7, count)
    assert await feedback.measure([watched])
    assert feedback.lags == {"pay": Lag(3, 7, count)}
