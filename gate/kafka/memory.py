"""Memory that is free goes back to the system: glibc keeps what large requests have left, in pieces, for ever."""

import asyncio
import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

EVERY: Final = 1.0  # seconds
GROWN: Final = 16 << 20  # bytes, since it was given back last: a few ms of work
STATM: Final = Path("/proc/self/statm")


def resident() -> int | None:
    """Return how many bytes this process holds in memory; None where the system does not tell."""
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def trim() -> bool:
    """Give back what is free. Tells whether the C library knows how to."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        return True
    return False


async def keep_small() -> None:
    """Give free memory back whenever the process has grown, until cancelled."""
    floor = resident()
    while floor is not None:
        await asyncio.sleep(EVERY)
        now = resident() or floor
        if now > floor + GROWN:
            if not trim():
                return
            now = resident() or now
            floor = now
        floor = min(floor, now)
