"""What keeps a worker's word from being acted upon is told: what can pass is tried again, a fault is not."""

import asyncio
from types import SimpleNamespace

import pytest
import structlog

from gate.errors import GateError
from gate.protocol.feedback import Failed, encode
from gate.protocol.topics import Names
from gate.shard import feedback_listener
from gate.shard.buffer import MemoryPool
from gate.shard.feedback_listener import BUFFER_BYTES, FeedbackListener
from gate.shard.ports import UnavailableError
from gate.shard.records import Fetched, Partition
from tests.sim.log import Stored

HERE, OTHER = Partition("gate.feedback.pay", 0), Partition("gate.feedback.pay", 1)
FEW = 5  # times that something is tried again


class Kafka:
    """Where admitted requests are looked up; `errors` are by partition, and stay until they are taken away."""

    def __init__(self, errors):
        self.errors = dict(errors)
        self.looks = []
        self.looked = lambda: None

    async def look(self, admitted, offset):
        await asyncio.sleep(0)
        self.looks.append((admitted.number, offset))
        self.looked()
        if error := self.errors.get(admitted.number):
            raise error
        return Stored(offset, 1, b"k", b"v", ())

    def follow(self, partition, offset, buffer): ...

    def poke(self): ...


class Heard:
    """A listener that hears of two partitions, and what came of it."""

    def __init__(self, errors):
        self.kafka = Kafka(errors)
        self.woken = asyncio.Event()
        self.kafka.looked = self.woken.set
        environment = SimpleNamespace(
            names=Names(), pool=MemoryPool(1 << 30, 1 << 20), hearing=self.kafka, local=lambda: 7, widen=self.widen
        )
        self.listener = FeedbackListener(environment, self.woken.set)
        for partition in (HERE, OTHER):
            self.listener.follow(partition, 0)

    async def widen(self, service, stages):
        return stages

    def put(self, partition, first, count):
        told = encode(Failed(group="g", attempt=1, error="no"))
        place = f"{partition.topic.replace('feedback', 'admitted')}-{partition.number}"
        records = [Stored(at, 1, f"{place}@{at}".encode(), told, ()) for at in range(first, first + count)]
        self.listener.buffer.put(partition, Fetched(records, first + count, 10))

    async def until(self, condition):
        async with asyncio.timeout(30):
            while not condition():
                self.woken.clear()
                await self.woken.wait()

    def ready(self):
        return {
            (part.partition, entry.offset) for part in self.listener.take(frozenset(), {}) for entry in part.entries
        }


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(feedback_listener, "FIRST_PAUSE", 0)


@pytest.mark.parametrize(
    "error",
    [
        UnavailableError("no leader"),
        GateError("topics are missing", hint="create them"),
        TimeoutError(),
        OSError("gone"),
    ],
    ids=repr,
)
async def test_what_can_pass_is_tried_again_and_told_until_it_has(error):
    heard = Heard({0: error})
    heard.put(HERE, 0, 3)
    await heard.until(lambda: HERE in heard.listener.troubles)
    await heard.until(lambda: heard.kafka.looks.count((0, 0)) > FEW)
    assert heard.listener.troubles[HERE][1] == (str(error) or type(error).__name__)
    heard.kafka.errors.clear()
    await heard.until(lambda: heard.listener.waiting(HERE.topic))
    assert heard.ready() == {(HERE, 0), (HERE, 1), (HERE, 2)}
    assert not heard.listener.troubles


async def test_a_fault_is_told_by_its_name_and_not_tried_again_and_what_it_concerns_is_not_passed_over():
    heard = Heard({0: KeyError("slipped")})
    with structlog.testing.capture_logs() as logs:
        heard.put(HERE, 0, 3)
        heard.put(OTHER, 10, 2)
        await heard.until(lambda: HERE in heard.listener.troubles and heard.listener.waiting(OTHER.topic))
        heard.put(HERE, 3, 2)
        for _ in range(50):
            await asyncio.sleep(0)
    assert heard.kafka.looks.count((0, 0)) == 1
    assert heard.ready() == {(OTHER, 10), (OTHER, 11)}, "others are heard; to go on here would be to lose what was told"
    assert not heard.listener.buffer.wants(HERE), "nothing is read that nobody takes"
    assert heard.listener.buffer.wants(OTHER)
    since, why, remedy = heard.listener.troubles[HERE]
    assert (since, why) == (7, "a fault of the gate itself: KeyError: 'slipped'")
    assert "report it" in remedy
    (told,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert (told["topic"], told["partition"], told["why"]) == (HERE.topic, HERE.number, why)
    assert "test_feedback_listener.py" in told["where"]


async def test_feedback_of_a_service_that_is_not_acted_upon_now_holds_up_no_other():
    """As long as a topic is broken that its retries or rejections go to."""
    heard, broken = Heard({}), Partition("gate.feedback.broken", 0)
    heard.listener.follow(broken, 0)
    muted = frozenset({"broken"})
    for first in range(0, 2_000, 200):
        heard.put(broken, first, 200)
    await heard.until(lambda: not heard.listener.buffer.may_go(broken))
    heard.listener.buffer.put(broken, Fetched([], 2_000, BUFFER_BYTES))
    assert heard.listener.buffer.wants(HERE)
    heard.put(HERE, 0, 3)
    await heard.until(lambda: heard.listener.has_work(muted))
    assert [len(part.entries) for part in heard.listener.take(muted, {})] == [3]

    offsets, looks = [], 0
    while len(offsets) < 2_000:
        await heard.until(lambda: heard.listener.has_work(frozenset()))
        parts, looks = heard.listener.take(frozenset(), {}), looks + 1
        offsets += [entry.offset for part in parts for entry in part.entries]
    assert offsets == list(range(2_000)), "all of it is heard in the end, in order"
    assert looks > 1
    await heard.until(lambda: heard.listener.buffer.may_go(broken))
