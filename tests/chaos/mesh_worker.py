"""A process that hammers shared limits: `python -m tests.chaos.mesh_worker BROKER PREFIX FILE MODE SEED SERVICE...`.

Each call that is admitted becomes a line of FILE: service, unix ns before and after the call. SIGUSR1 has it fork, and
the child writes a file of its own. MODE "hoarder": it lets its part fill up, and spends all of it in one moment.
"""

import os
import random
import signal
import sys
import time
from typing import Final

from gate import SyncDistributedRateLimiter

_PAUSE: Final = 0.004  # seconds between the rounds of one that is steady
_CALLS: Final = 6  # of each service in a round
_HOARD: Final = 2.5  # seconds, at most, for which a hoarder waits


def main(bootstrap: str, prefix: str, path: str, mode: str, seed: str, *services: str) -> None:
    chance = random.Random(seed)
    wants_child = ended = False

    def fork(*_: object) -> None:
        nonlocal wants_child
        wants_child = True

    def end(*_: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGUSR1, fork)
    signal.signal(signal.SIGTERM, end)
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with SyncDistributedRateLimiter(bootstrap, prefix=prefix, patience=1.0) as limiter:
        while not ended:
            if wants_child:
                wants_child = False
                if os.fork() == 0:
                    out = os.open(f"{path}.child", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                    chance = random.Random(f"{seed} child")
            for service in services:
                for _ in range(500 if mode == "hoarder" else _CALLS):
                    before = time.time_ns()
                    allowed, _ = limiter.check_rate_limit(service)
                    if not allowed:
                        break
                    os.write(out, f"{service} {before} {time.time_ns()}\n".encode())
            time.sleep(chance.uniform(0, _HOARD) if mode == "hoarder" else _PAUSE)


if __name__ == "__main__":
    main(*sys.argv[1:])
