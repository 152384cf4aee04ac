"""One rendering for all who look, none when nobody does."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gate.console import live
from gate.console.live import Live, event


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(live, "EVERY", 0.01)


class Counter:
    def __init__(self):
        self.rendered = 0

    async def __call__(self) -> str:
        self.rendered += 1
        return f"<p>{self.rendered}</p>"


async def take(events: AsyncIterator[bytes], count: int) -> list[bytes]:
    async with asyncio.timeout(30):
        return [await anext(events) for _ in range(count)]


def test_an_event_has_a_data_line_for_each_line():
    assert event("<p>\n  x\n</p>") == b"data: <p>\ndata:   x\ndata: </p>\n\n"


async def test_fifty_viewers_share_one_rendering():
    shown, render = Live(), Counter()
    viewers = [shown.events("list", render) for _ in range(50)]
    first = await asyncio.gather(*(take(viewer, 1) for viewer in viewers))
    assert len(shown) == 1
    assert render.rendered <= 3, "it is rendered by the clock, not for each"
    assert all(one[0].startswith(b"data: <p>") for one in first)
    later = await asyncio.gather(*(take(viewer, 2) for viewer in viewers))
    assert min(later) > [b"data: <p>1</p>\n\n"], "and all are sent what is new"
    for viewer in viewers:
        await viewer.aclose()
    assert len(shown) == 0
    seen = render.rendered
    await asyncio.sleep(0.05)
    assert render.rendered == seen, "nobody looks"


async def test_another_view_is_rendered_by_itself():
    shown = Live()
    one, other = shown.events("a", Counter()), shown.events("b", Counter())
    await take(one, 1)
    await take(other, 1)
    assert len(shown) == 2
    await one.aclose()
    await other.aclose()


async def test_what_is_as_before_is_not_sent_again(monkeypatch):
    monkeypatch.setattr(live, "_ALIVE", 0.05)
    shown = Live()

    async def render() -> str:
        return "<p>as ever</p>"

    events = shown.events("list", render)
    first, second = await take(events, 2)
    assert (first, second) == (b"data: <p>as ever</p>\n\n", b": nothing has changed\n\n")
    await events.aclose()


async def test_a_rendering_that_fails_ends_the_stream_and_the_next_one_tries_again():
    shown, broken = Live(), [True]

    async def render() -> str:
        if broken[0]:
            raise RuntimeError("no broker")
        return "<p>there</p>"

    assert [chunk async for chunk in shown.events("list", render)] == []
    broken[0] = False
    events = shown.events("list", render)
    assert await take(events, 1) == [b"data: <p>there</p>\n\n"]
    await events.aclose()


async def test_the_end_ends_all_streams():
    shown = Live()
    events = shown.events("list", Counter())
    await take(events, 1)
    shown.close()
    async with asyncio.timeout(30):
        assert all([chunk.startswith(b"data:") async for chunk in events])
    assert [chunk async for chunk in shown.events("list", Counter())] == []
