"""Named points at which a test may kill the process, as `GATE_FAILPOINT=after-produce:3` (the third time).

Without the variable each is one comparison with None.
"""

import os
import signal
from typing import Final

POINTS: Final = ("after-decide", "after-produce", "before-commit", "after-commit")

_wanted, _, _times = os.environ.get("GATE_FAILPOINT", "").partition(":")
_left = int(_times or 1) if _wanted else None


def reach(point: str) -> None:
    """Die by SIGKILL if this point was asked for and has been reached often enough."""
    global _left  # noqa: PLW0603 - a process dies once
    if _left is None or point != _wanted:
        return
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
