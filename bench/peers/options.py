"""The command line of the peers."""

import argparse
from dataclasses import dataclass
from datetime import timedelta

import limits

# Over such a time a limit grows by next to nothing, so that exactly `limit` are admitted in a run.
PERIOD = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Options:
    bootstrap: str
    group: str
    requests: str
    admitted: str
    delayed: str
    limit: int


def parse() -> Options:
    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "group", "requests", "admitted", "delayed"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--limit", type=int, required=True)
    return Options(**vars(parser.parse_args()))


class Window:
    """A fixed window of the library `limits`, its cheapest strategy: up to twice the limit passes around its edge."""

    def __init__(self, limit: int) -> None:
        self._item = limits.RateLimitItemPerYear(limit)
        self._hit = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage()).hit

    def admits(self) -> bool:
        return self._hit(self._item, "service")
