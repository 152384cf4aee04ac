"""A member is not expelled while its coordinator hears it and answers nothing."""

import asyncio
import gc
from types import SimpleNamespace

import pytest
from aiokafka.errors import KafkaConnectionError

from gate.kafka.aio import fast_client
from gate.kafka.aio.compat.shared import HeartbeatRequest
from gate.kafka.aio.heartbeats import MemberClient

BEAT = HeartbeatRequest("gate", 7, "member")


class Coordinator:
    """Hears heartbeats on any connection, and answers none before `answers` is set; `refused` can't connect."""

    def __init__(self, refused: int = 0) -> None:
        self.refused = refused
        self.heard: asyncio.Queue[str] = asyncio.Queue()
        self.answers = asyncio.Event()
        self.fails = False
        self.closed = 0

    async def answer(self, where: str) -> str:
        self.heard.put_nowait(where)
        await self.answers.wait()
        if self.fails and where == "kept":
            raise KafkaConnectionError("it ended")
        return where

    async def connect(self, _host, _port):
        if self.refused:
            self.refused -= 1
            raise KafkaConnectionError("refused")
        return SimpleNamespace(send=lambda _request: self.answer("apart"), close=self.close)

    def close(self):
        self.closed += 1


@pytest.fixture
def member(monkeypatch):
    """A member's client; `coordinator` is whom it asks."""
    made = MemberClient.__new__(MemberClient)
    made.coordinator, made.patience = Coordinator(), 0.01
    made.cluster = SimpleNamespace(broker_metadata=lambda _: SimpleNamespace(host="here", port=1))

    async def send(self, _node, _request, *, group):
        return await self.coordinator.answer("kept")

    monkeypatch.setattr(fast_client.Client, "send", send)
    monkeypatch.setattr(MemberClient, "_connect", lambda self, host, port: self.coordinator.connect(host, port))
    return made


async def heard(coordinator, count):
    async with asyncio.timeout(30):
        return [await coordinator.heard.get() for _ in range(count)]


async def test_what_is_not_answered_is_sent_again_on_connections_of_its_own(member):
    beat = asyncio.create_task(member.send(2, BEAT))
    assert await heard(member.coordinator, 4) == ["kept", "apart", "apart", "apart"]
    assert not beat.done()
    member.coordinator.answers.set()
    assert await beat in {"kept", "apart"}
    assert member.coordinator.closed >= 3, "none of them stays open"


async def test_one_that_can_not_be_sent_is_tried_again(member):
    member.coordinator.refused = 2
    beat = asyncio.create_task(member.send(2, BEAT))
    assert await heard(member.coordinator, 2) == ["kept", "apart"]
    member.coordinator.answers.set()
    await beat


async def test_an_end_of_the_kept_connection_is_told(member):
    member.coordinator.fails = True
    beat = asyncio.create_task(member.send(2, BEAT))
    await heard(member.coordinator, 1)
    member.patience = 60.0
    beat.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beat
    member.coordinator.answers.set()
    with pytest.raises(KafkaConnectionError):
        await member.send(2, BEAT)


async def test_other_requests_are_sent_once(member):
    member.coordinator.answers.set()
    assert await member.send(2, SimpleNamespace()) == "kept"
    assert await heard(member.coordinator, 1) == ["kept"]


async def test_an_answer_counts_though_the_kept_connection_ends_at_that_moment(member):
    member.coordinator.fails = True
    member.patience = 0.01
    for _ in range(20):
        member.coordinator.answers.clear()
        beat = asyncio.create_task(member.send(2, BEAT))
        await heard(member.coordinator, 2)
        member.coordinator.answers.set()
        assert await beat == "apart"
        while not member.coordinator.heard.empty():
            member.coordinator.heard.get_nowait()


async def test_what_could_not_be_sent_again_is_not_logged_as_forgotten(member, monkeypatch):
    logged = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context["message"]))
    begun: asyncio.Queue[None] = asyncio.Queue()

    async def refuse(self, _node, _request):
        begun.put_nowait(None)
        await self.coordinator.answers.wait()
        raise KafkaConnectionError("refused")

    monkeypatch.setattr(MemberClient, "_send_apart", refuse)
    for _ in range(20):
        member.coordinator.answers.clear()
        beat = asyncio.create_task(member.send(2, BEAT))
        await heard(member.coordinator, 1)
        await begun.get()
        member.coordinator.answers.set()
        assert await beat == "kept"
    del beat
    gc.collect()
    assert logged == []
