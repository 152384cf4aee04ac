"""One call for all who ask at the same time."""

import asyncio
from contextlib import suppress

import pytest

from gate.kafka.coalesced_call import CoalescedCall


class Calls:
    """A call that ends when it is let go, and counts its beginnings."""

    def __init__(self):
        self.begun = 0
        self.go = asyncio.Event()
        self.error = None

    async def __call__(self):
        self.begun += 1
        mine = self.begun
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return mine


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_asks_before_it_begins_shares_it_and_who_comes_later_gets_the_next():
    calls = Calls()
    call = CoalescedCall(calls)
    first = [asyncio.ensure_future(call()) for _ in range(3)]
    await settle()
    later = [asyncio.ensure_future(call()) for _ in range(3)]
    await settle()
    assert calls.begun == 1
    calls.go.set()
    assert await asyncio.gather(*first) == [1, 1, 1]
    assert await asyncio.gather(*later) == [2, 2, 2]


async def test_who_gives_up_leaves_the_others_waiting():
    calls = Calls()
    call = CoalescedCall(calls)
    gone, stays = asyncio.ensure_future(call()), asyncio.ensure_future(call())
    await settle()
    gone.cancel()
    with suppress(asyncio.CancelledError):
        await gone
    calls.go.set()
    assert await stays == 1


async def test_an_error_reaches_all_and_the_next_call_is_a_new_one():
    calls = Calls()
    calls.error = ConnectionError("gone")
    calls.go.set()
    call = CoalescedCall(calls)
    for answer in await asyncio.gather(call(), call(), return_exceptions=True):
        assert answer is calls.error
    calls.error = None
    assert await call() == 2
    with pytest.raises(asyncio.TimeoutError):
        calls.go.clear()
        await asyncio.wait_for(call(), 0.01)
