"""What large requests have taken is given back, although small things lie in between."""

import asyncio
import platform

import pytest

from gate.kafka import memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is glibc's")


def test_what_is_free_goes_back():
    memory.trim()  # or what earlier tests have left free is taken first
    before = memory.resident()
    assert before is not None
    kept = []
    large = []
    for _ in range(2_000):  # below the threshold of mmap: from the heap
        large.append(bytearray(60_000))
        kept.append(bytearray(600))
    grown = memory.resident()
    assert grown > before + (80 << 20)
    del large
    assert memory.trim()
    assert memory.resident() < before + (40 << 20)


async def test_it_is_done_whenever_the_process_has_grown(monkeypatch):
    seen: list[str] = []
    size = 100 << 20

    def resident() -> int:
        seen.append("look")
        return size

    def trim() -> bool:
        nonlocal size
        seen.append("trim")
        size = 105 << 20
        return True

    monkeypatch.setattr(memory, "EVERY", 0)
    monkeypatch.setattr(memory, "resident", resident)
    monkeypatch.setattr(memory, "trim", trim)
    task = asyncio.create_task(memory.keep_small())
    while seen.count("look") < 5:
        await asyncio.sleep(0)
    assert "trim" not in seen
    size = 130 << 20
    while "trim" not in seen:
        await asyncio.sleep(0)
    looks = len(seen)
    while len(seen) < looks + 5:
        await asyncio.sleep(0)
    assert seen.count("trim") == 1
    task.cancel()
