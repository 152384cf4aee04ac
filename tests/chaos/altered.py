"""`gate` with something about its host altered: `python -m tests.chaos.altered --clock 3600 --deadline 1 run ...`.

`--clock`: the wall clock is off by so many seconds; the monotonic one is right, as on a host with a badly set clock.
`--deadline`: calls to the broker are given up after so many seconds, so that a test need not wait for ten.
"""

import argparse
import sys
import time
from collections.abc import Callable

from gate.cli import main
from gate.kafka import instance as gate


def _shift(seconds: int) -> None:
    real, real_ns = time.time, time.time_ns
    shifted: Callable[[], float] = lambda: real() + seconds  # noqa: E731
    time.time, time.time_ns = shifted, lambda: real_ns() + seconds * 1_000_000_000


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--clock", type=int, default=0)
    parser.add_argument("--deadline", type=float)
    options, rest = parser.parse_known_args()
    if options.clock:
        _shift(options.clock)
    if options.deadline:
        gate.CALL_DEADLINE = options.deadline  # type: ignore[misc]
    sys.argv[1:] = rest
    sys.exit(main())
