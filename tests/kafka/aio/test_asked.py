"""An error of a call names the broker that was waited for, and the request."""

import asyncio
import re
from types import SimpleNamespace

import pytest
from aiokafka.protocol.transaction import EndTxnRequest

from gate.kafka.aio.asked import Asked, within

END = EndTxnRequest("id", 1, 0, True)


async def error_of(asked: Asked, *, amid: str = "") -> str:
    with pytest.raises(TimeoutError) as caught:
        async with within(0.01, "committing a batch", [SimpleNamespace(asked=asked)]):
            if amid:
                asked.failed(amid)
            await asyncio.sleep(10)
    return str(caught.value)


async def test_who_is_waited_for_is_named():
    asked = Asked()
    asked.begin(2, END).began -= 9.8
    found = await error_of(asked)
    assert re.fullmatch(
        r"committing a batch took more than 0\.01 s; broker 2 did not answer EndTxn for \d+\.\d s", found
    ), found


async def test_what_was_answered_is_not():
    asked = Asked()
    request = asked.begin(2, END)
    request.began -= 9.8
    asked.answered(request)
    assert await error_of(asked) == "committing a batch took more than 0.01 s"
    assert not asked.unanswered


async def test_what_went_wrong_meanwhile_is_told_and_nothing_older():
    asked = Asked()
    asked.given_up(asked.begin(2, END), "the connection to broker 2 ended")
    assert asked.unanswered == {"EndTxn"}, "it may arrive yet"
    assert await error_of(asked) == "committing a batch took more than 0.01 s"
    assert (await error_of(asked, amid="broker 3 can't be connected to")).endswith("; broker 3 can't be connected to")


async def test_who_says_more_is_not_interrupted():
    with pytest.raises(TimeoutError, match=r"^it is full$"):
        async with within(1.0, "this"):
            raise TimeoutError("it is full")
