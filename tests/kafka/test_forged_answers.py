"""Answers to commands on a real topic, among which a stranger has written."""

import asyncio
from types import SimpleNamespace

from gate.client._answers import Answers
from gate.config import Connection
from gate.kafka.aio.client import Client
from gate.kafka.aio.reader import Reader
from gate.kafka.command_door import CommandDoor
from gate.protocol.answers import Answer, AnswerState, encode
from gate.protocol.control import Cancel, Selection
from tests.system.gates import create, send


async def test_what_no_gate_can_have_answered_is_passed_over(bootstrap, prefix):
    connection = Connection(bootstrap, prefix=prefix)
    topic = connection.names.answers
    await create(bootstrap, topic, partitions=1)
    done = Answer("c", "pay", AnswerState.DONE, 1_764_000_000_000, 3, 3, what="cancel")
    forged = [b"", b"[]", encode(done).replace(b'"done":3', b'"done":1%s' % (b"0" * 4_000)), encode(done)[:-1]]
    client = Client(**connection.access())
    await client.bootstrap()
    try:
        door = CommandDoor(connection.names, SimpleNamespace(), Reader(client), {})
        async with Answers.following(connection) as answers:
            await send(bootstrap, topic, [(b"c", value, []) for value in forged], 1)
            assert await door.answer("c") is None
            await send(bootstrap, topic, [(b"c", value, []) for value in (encode(done), *forged)], 1)
            async with asyncio.timeout(60):
                assert await answers.wait_for("pay", Cancel("pay", Selection(all=True)), "c", None) == done
        for service in ("pay", None):
            shown = await door.answer("c", service)
            assert shown is not None
            assert (shown["state"], shown["done"]) == ("done", 3)
    finally:
        await client.close()
