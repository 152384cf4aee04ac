"""Named points at which a test may kill the process, as `GATE_FAILPOINT=after-produce:3` (the third time).

Without the variable each is one comparison with None.
"""

import asyncio
import os
import signal
from collections.abc import Mapping
from typing import Final

from gate.errors import GateError

VARIABLE: Final = "GATE_FAILPOINT"

# in the order in which an owner comes to them: the first two once per take-over, the others in each batch
POINTS: Final = (
    "after-claim",  # the predecessor is fenced off, nothing is written
    "after-restore",
    "after-decide",
    "in-produce",
    "after-produce",  # only where a batch parks something: its state waits for the offsets of the parked requests
    "before-commit",  # outputs, state and offsets are with the broker
    "in-commit",
    "after-commit",
)
AT_LEAST_ONCE_POINTS: Final = ("after-state",)  # what follows from the state is not written
ALERT_POINTS: Final = (  # of a batch that ends alerts
    "alerts-ended",  # as before-commit
    "in-alerts-commit",
)
RESHARD_POINTS: Final = (  # of `gate reshard`
    "reshard-closing",  # some shards are closed
    "reshard-closed",
    "reshard-copying",  # some of the state is copied
    "in-flip",
    "reshard-flipped",  # gates were not told yet
)
SOON: Final = 0.001  # seconds: what was begun is with the broker then, and most likely not answered

_ALL: Final = (*POINTS, *AT_LEAST_ONCE_POINTS, *ALERT_POINTS, *RESHARD_POINTS)
_wanted: str | None = None
_left = 0


def arm(environment: Mapping[str, str]) -> None:
    """Take the point at which to die from the environment. Raises GateError for what is none."""
    global _wanted, _left
    if not (text := environment.get(VARIABLE, "")):
        return
    point, _, times = text.partition(":")
    if point not in _ALL or not (times or "1").isdecimal() or int(times or 1) < 1:
        raise GateError(
            f"{VARIABLE} is {text!r}, which is no point at which a gate can be killed",
            hint=f"POINT or POINT:TIMES, where POINT is one of {', '.join(_ALL)}",
        )
    _wanted, _left = point, int(times or 1)


def reach(point: str) -> None:
    """Die by SIGKILL if this point was asked for and has been reached often enough; at `in-...` points a bit later."""
    global _left  # noqa: PLW0603 - a process dies once
    if _wanted is None or point != _wanted:
        return
    _left -= 1
    if _left == 0 and point.startswith("in-"):
        asyncio.get_running_loop().call_later(SOON, os.kill, os.getpid(), signal.SIGKILL)
    elif _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
