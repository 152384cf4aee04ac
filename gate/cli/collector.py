"""Garbage collector of programs that run for long: records and calls come and go, and none of them is in a cycle."""

import gc


def tune_collector() -> None:
    """Look for garbage less often, and not through what is there now: that takes 70 ms, in which nothing goes on."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
