"""A process that asks before it acts: `python -m gate.cli.demo.caller SERVICE RATE FILE`, until SIGTERM.

Each call becomes a line of FILE: unix ns before and after it, and whether it was allowed.
"""

import signal
import sys
import time
from pathlib import Path

from gate import SyncDistributedRateLimiter
from gate.config import Connection


def main(service: str, rate: str, file: str) -> None:
    """Call `rate` times a second."""
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    with SyncDistributedRateLimiter(Connection.load()) as limiter, Path(file).open("w", buffering=1) as told:
        due = time.monotonic()
        while not ended:
            before = time.time_ns()
            allowed, _ = limiter.check_rate_limit(service)
            told.write(f"{before} {time.time_ns()} {int(allowed)}\n")
            due = max(due + 1 / float(rate), time.monotonic() - 1)
            time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main(*sys.argv[1:])
