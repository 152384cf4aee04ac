"""What the watch for another generation waits for is told, and so is what fails."""

import asyncio
from types import SimpleNamespace

from aiokafka.errors import KafkaConnectionError
from structlog.testing import capture_logs

from gate.kafka import generation_watch
from gate.kafka.aio.pending_requests import PendingRequests
from gate.kafka.generation_watch import GenerationWatch
from gate.protocol.topics import Names


async def test_it_says_what_it_waits_for(monkeypatch):
    monkeypatch.setattr(generation_watch, "LONG", 0.01)
    monkeypatch.setattr(generation_watch, "POLL", 0.0)
    asked = PendingRequests()
    answers = asyncio.Queue()

    async def partitions():
        asked.failed("nobody leads gate.state-0")
        raise await answers.get()

    watch = GenerationWatch(SimpleNamespace(asked=asked), Names(), partitions, asyncio.Event())
    with capture_logs() as logs:
        running = asyncio.create_task(watch.run())
        watch.look()
        async with asyncio.timeout(30):
            while not any(line["event"].startswith("waiting to learn") for line in logs):
                await asyncio.sleep(0.01)
            answers.put_nowait(KafkaConnectionError("all brokers are away"))
            while not any(line["event"].startswith("it is not known which generation") for line in logs):
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [line["why"] for line in logs][:2] == [
        "nobody leads gate.state-0",
        "KafkaConnectionError: all brokers are away",
    ]


async def test_whatever_a_look_ends_with_it_is_looked_again(monkeypatch):
    """A description that a later gate has written, for one, may not be readable."""
    monkeypatch.setattr(generation_watch, "POLL", 0.0)
    looks = []

    async def partitions():
        looks.append(len(looks))
        await asyncio.sleep(0)
        raise ValueError("what is that?")

    watch = GenerationWatch(SimpleNamespace(asked=PendingRequests()), Names(), partitions, asyncio.Event())
    with capture_logs() as logs:
        running = asyncio.create_task(watch.run())
        watch.look()
        async with asyncio.timeout(30):
            while len(looks) < 3 and not running.done():
                await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert len(looks) >= 3
    assert logs[0]["why"] == "what is that?"
