"""An error of a call names the broker that was waited for, and the request."""

import asyncio
import re
import time
from types import SimpleNamespace

import pytest
from aiokafka.protocol.transaction import EndTxnRequest

from gate.kafka.aio import pending_requests
from gate.kafka.aio.pending_requests import PendingRequests, Silent, within

END = EndTxnRequest("id", 1, 0, True)


async def error_of(asked: PendingRequests, *, amid: str = "") -> str:
    with pytest.raises(TimeoutError) as caught:
        async with within(0.01, "committing a batch", [SimpleNamespace(asked=asked)]):
            if amid:
                asked.failed(amid)
            await asyncio.sleep(10)
    return str(caught.value)


async def test_who_is_waited_for_is_named():
    asked = PendingRequests()
    asked.begin(2, END).began -= 9.8
    found = await error_of(asked)
    assert re.fullmatch(
        r"committing a batch took more than 0\.01 s; broker 2 did not answer EndTxn for \d+\.\d s", found
    ), found


async def test_what_was_answered_is_not():
    asked = PendingRequests()
    request = asked.begin(2, END)
    request.began -= 9.8
    asked.answered(request)
    assert await error_of(asked) == "committing a batch took more than 0.01 s"
    assert not asked.unanswered


async def test_what_went_wrong_meanwhile_is_told_and_nothing_older():
    asked = PendingRequests()
    asked.given_up(asked.begin(2, END), "the connection to broker 2 ended")
    assert asked.unanswered == {"EndTxn"}, "it may arrive yet"
    assert await error_of(asked) == "committing a batch took more than 0.01 s"
    assert (await error_of(asked, amid="broker 3 can't be connected to")).endswith("; broker 3 can't be connected to")


async def test_a_process_that_stood_still_says_so(monkeypatch):
    """A gate that was stopped, or whose machine was, has no broker to blame."""
    monkeypatch.setattr(pending_requests, "LONG", 0.02)
    with pytest.raises(TimeoutError, match=r"^writing took more than 0\.01 s; this process stood still for \d+ s mean"):
        async with within(0.01, "writing", [SimpleNamespace(asked=PendingRequests())]):
            time.sleep(0.1)
            await asyncio.sleep(10)


async def test_who_says_more_is_not_interrupted():
    with pytest.raises(TimeoutError, match=r"^it is full$"):
        async with within(1.0, "this"):
            raise TimeoutError("it is full")


async def call(asked: PendingRequests, seconds: float, if_away: float) -> None:
    async with within(0.05, "writing", [SimpleNamespace(asked=asked)], if_away=if_away):
        await asyncio.sleep(seconds)


@pytest.mark.parametrize("how", ["it can't be connected to", "the connection ends", "it is late", "others know"])
async def test_a_broker_that_is_away_is_waited_for_until_others_may_lead(how):
    silent = Silent()
    silent.add("elsewhere", 2)
    asked = PendingRequests(lambda since: silent.since("here", since))
    calling = asyncio.create_task(call(asked, 0.3, 60))
    await asyncio.sleep(0)
    if how == "others know":  # what is written to one broker may wait for another
        silent.add("here", 2)
    request = asked.begin(2, END)
    if how == "it can't be connected to":
        asked.away(how)
    elif how == "the connection ends":
        asked.ended(request)
    elif how == "it is late":
        request.began -= 5
    await calling


async def test_one_that_answers_is_not_and_none_for_ever():
    asked = PendingRequests()
    asked.away("before it began")
    await asyncio.sleep(0.01)
    with pytest.raises(TimeoutError, match=r"^writing took more than 0\.05 s; pay-0 takes nothing yet$"):
        calling = asyncio.create_task(call(asked, 60, 60))
        await asyncio.sleep(0)
        asked.failed("pay-0 takes nothing yet")
        await calling
    with pytest.raises(TimeoutError, match=r"^writing took more than 0\.1 s; it can't be connected to$"):
        calling = asyncio.create_task(call(asked, 60, 0.1))
        await asyncio.sleep(0)
        asked.away("it can't be connected to")
        await calling
