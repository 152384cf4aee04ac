"""Gates that are killed one after the other while a command is carried out."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from tests.system.gates import gate

POLL = 0.05


async def kill_amid(
    work: asyncio.Task[object], points: Sequence[str], folder: Path, bootstrap: str, prefix: str, policy: str
) -> list[int | None]:
    """Run a gate for each failpoint until it has killed itself or the work is done; return how each had ended by then.

    None: it ran on, as the work was done before it came to its point.
    """
    ends = []
    for number, point in enumerate(points):
        place = folder / f"{number}"
        place.mkdir()
        with gate(place, bootstrap, prefix, policy, env={"GATE_FAILPOINT": point}) as killed:
            while not work.done() and killed.process.poll() is None:
                await asyncio.sleep(POLL)
            ends.append(killed.process.poll())
    return ends
